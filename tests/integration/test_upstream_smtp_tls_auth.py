"""TLS and AUTH: nothing goes in clear that should not, certificates are checked, and a password is tried once."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from pathlib import Path

import pytest
import trustme

from relay.errors import UpstreamError
from relay.outcome import Scope, Status
from relay.upstreams.base import Setting
from relay.upstreams.smtp import SmtpUpstream
from relay.upstreams.smtp_options import SmtpOptions
from tests.fakes.smtp_server import CAPABILITIES, Do, SmtpServer, reply
from tests.fakes.upstream import kinds, send, smtp_node

OK = (Status.DELIVERED, Scope.RECIPIENT)
NODE = (Status.DEFERRED, Scope.NODE)
ACCOUNT = (Status.REFUSED, Scope.ACCOUNT)
USERS = {"relay": "s3cret-word"}
LOGIN = {"username": "relay", "password": "s3cret-word"}


class Authority:
    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.file = folder / "ca.pem"
        self.ca.cert_pem.write_to_path(self.file)

    def server(self, *names: str, **more: object) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(*names, **more).configure_cert(context)  # type: ignore[arg-type]
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


MODES = pytest.mark.parametrize("mode", ["starttls", "implicit"])


@MODES
async def test_a_good_certificate_of_an_own_authority(authority: Authority, mode: str) -> None:
    tls = authority.server("127.0.0.1")
    async with SmtpServer(tls=tls, implicit=mode == "implicit", users=USERS) as server:
        async with smtp_node(server, tls=mode, verify={"ca_file": str(authority.file)}, **LOGIN) as node:
            assert kinds(await send(node)) == [OK]
            assert kinds(await send(node)) == [OK]
        assert [(m.tls, m.user, m.connection) for m in server.messages] == [(True, "relay", 1)] * 2
        assert server.said("EHLO") == ["EHLO relay.example"] * (2 if mode == "starttls" else 1)


@MODES
async def test_the_certificate_may_carry_another_configured_name(authority: Authority, mode: str) -> None:
    tls = authority.server("smtp.vendor.example")
    async with SmtpServer(tls=tls, implicit=mode == "implicit") as server:
        verify = {"ca_file": str(authority.file), "hostname": "smtp.vendor.example"}
        async with smtp_node(server, tls=mode, verify=verify) as node:
            assert kinds(await send(node)) == [OK]
        assert server.messages[0].tls


@MODES
@pytest.mark.parametrize("fault", ["wrong name", "expired", "unknown authority", "self-signed"])
async def test_a_bad_certificate_gets_neither_login_nor_mail(authority: Authority, mode: str, fault: str) -> None:
    verify: object = {"ca_file": str(authority.file)}
    match fault:
        case "wrong name":
            tls = authority.server("other.example")
        case "expired":
            past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
            tls = authority.server("127.0.0.1", not_before=past, not_after=past + datetime.timedelta(days=1))
        case "unknown authority":
            tls = authority.server("127.0.0.1")
            verify = True
        case _:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            lone = trustme.CA()
            lone.issue_cert("127.0.0.1").configure_cert(tls)
    async with SmtpServer(tls=tls, implicit=mode == "implicit", users=USERS) as server:
        async with smtp_node(server, tls=mode, verify=verify, **LOGIN) as node:
            [outcome] = await send(node)
        assert (outcome.status, outcome.scope, outcome.phase, outcome.attempted) == (*NODE, "tls", False)
        assert "TLS" in outcome.text
        assert server.logins == []
        assert server.said("MAIL") == []


@MODES
async def test_an_unchecked_certificate_still_encrypts(authority: Authority, mode: str) -> None:
    async with SmtpServer(tls=authority.server("other.example"), implicit=mode == "implicit") as server:
        async with smtp_node(server, tls=mode, verify=False) as node:
            assert kinds(await send(node)) == [OK]
        assert server.messages[0].tls


async def test_starttls_that_is_not_offered_gets_nothing() -> None:
    async with SmtpServer(users=USERS) as server:
        async with smtp_node(server, tls="starttls", **LOGIN) as node:
            [outcome] = await send(node)
        assert (outcome.status, outcome.scope, outcome.phase) == (*NODE, "tls")
        assert "STARTTLS" in outcome.text
        assert [line.split()[0] for _, line in server.commands] == ["EHLO"]


async def test_starttls_that_is_refused_gets_nothing(authority: Authority) -> None:
    async with SmtpServer(tls=authority.server("127.0.0.1"), users=USERS) as server:
        server.at("starttls", reply("454 4.7.0 TLS not available"))
        for mode in ("starttls", "opportunistic"):
            async with smtp_node(server, tls=mode, verify=False, **LOGIN) as node:
                [outcome] = await send(node)
            assert (outcome.status, outcome.scope, outcome.phase, outcome.code) == (*NODE, "tls", 454)
        assert server.logins == []
        assert server.said("MAIL") == []


async def test_plain_text_behind_the_starttls_answer_ends_the_connection(authority: Authority) -> None:
    async with SmtpServer(tls=authority.server("127.0.0.1")) as server:
        server.at("starttls", Do(say=b"220 go\r\n250-evil\r\n250 AUTH PLAIN\r\n"), times=1)
        async with smtp_node(server, tls="starttls", verify=False) as node:
            assert kinds(await send(node)) == [NODE]
            assert server.said("MAIL") == []
            assert kinds(await send(node)) == [OK]


@pytest.mark.parametrize("answer", [b"220 go\r\nnot TLS at all, sorry\r\n", b"220 go\r\n"])
async def test_no_tls_behind_the_starttls_answer(authority: Authority, answer: bytes) -> None:
    async with SmtpServer(capabilities=[*CAPABILITIES, "STARTTLS"]) as server:
        server.at("starttls", Do(say=answer, then="close"))
        async with smtp_node(server, tls="starttls", verify=False) as node:
            [outcome] = await send(node)
        assert (outcome.status, outcome.scope, outcome.phase) == (*NODE, "tls")
        assert server.said("MAIL") == []


async def test_a_handshake_that_hangs_ends_in_time(authority: Authority) -> None:
    loop = asyncio.get_running_loop()
    async with SmtpServer(capabilities=[*CAPABILITIES, "STARTTLS"]) as server:
        server.at("starttls", Do(say=b"220 go\r\n", then="hang"))
        async with smtp_node(server, tls="starttls", verify=False, timeouts={"ehlo": 0.3}) as node:
            began = loop.time()
            [outcome] = await send(node)
            assert (outcome.status, outcome.scope, outcome.phase) == (*NODE, "tls")
            assert loop.time() - began < 1.5
    async with SmtpServer() as server:
        server.at("connect", Do(say=b"", then="hang"))
        async with smtp_node(server, tls="implicit", verify=False, timeouts={"connect": 0.3}) as node:
            began = loop.time()
            assert kinds(await send(node)) == [NODE]
            assert loop.time() - began < 1.5


async def test_opportunistic_takes_tls_unchecked_where_offered_and_clear_where_not(authority: Authority) -> None:
    async with SmtpServer(tls=authority.server("other.example"), users=USERS) as server:
        async with smtp_node(server, tls="opportunistic", **LOGIN) as node:
            assert kinds(await send(node)) == [OK]
        assert (server.messages[0].tls, server.messages[0].user) == (True, "relay")
    async with SmtpServer() as server, smtp_node(server, tls="opportunistic") as node:
        assert kinds(await send(node)) == [OK]
        assert not server.messages[0].tls


async def test_no_login_in_clear_unless_tls_none_is_configured() -> None:
    async with SmtpServer(users=USERS) as server:
        async with smtp_node(server, tls="opportunistic", **LOGIN) as node:
            assert kinds(await send(node)) == [NODE]
        assert server.logins == []
        async with smtp_node(server, tls="none", **LOGIN) as node:
            assert kinds(await send(node)) == [OK]
        assert server.logins == [("PLAIN", "relay", True)]


@pytest.mark.parametrize("auth", ["plain", "login", "cram-md5"])
async def test_each_mechanism_logs_in_and_a_wrong_password_counts_once(auth: str) -> None:
    async with SmtpServer(users=USERS) as server:
        async with smtp_node(server, auth=auth, **LOGIN) as node:
            assert kinds(await send(node)) == [OK]
        assert server.logins == [(auth.upper(), "relay", True)]
        server.logins.clear()
        async with smtp_node(server, auth=auth, username="relay", password="wrong-word") as node:
            results = await asyncio.gather(*[send(node) for _ in range(10)])
        assert server.logins == [(auth.upper(), "relay", False)]
    outcomes = [o for r in results for o in r]
    assert {(o.status, o.scope, o.phase, o.code, o.enhanced, o.attempted) for o in outcomes} == {
        (*ACCOUNT, "auth", 535, "5.7.8", False)
    }


@pytest.mark.parametrize(
    ("offered", "auth", "used"),
    [
        (["PLAIN", "LOGIN"], "auto", "PLAIN"),
        (["LOGIN"], "auto", "LOGIN"),
        (["LOGIN", "PLAIN", "CRAM-MD5"], "auto", "PLAIN"),
        (["CRAM-MD5"], "auto", None),
        (["PLAIN"], "login", None),
        ([], "auto", None),
    ],
)
async def test_one_mechanism_is_chosen_and_a_missing_one_is_not_replaced(
    offered: list[str], auth: str, used: str | None
) -> None:
    async with SmtpServer(users=USERS, mechanisms=offered) as server:
        async with smtp_node(server, auth=auth, **LOGIN) as node:
            [outcome] = await send(node)
        if used is None:
            assert (outcome.status, outcome.scope, outcome.phase) == (*ACCOUNT, "auth")
            assert server.logins == []
        else:
            assert [mechanism for mechanism, _, _ in server.logins] == [used]


async def test_the_old_form_of_the_auth_offer_is_understood() -> None:
    async with SmtpServer(capabilities=["AUTH=LOGIN"]) as server, smtp_node(server, **LOGIN) as node:
        server.at("auth", reply("235 2.7.0 welcome"))
        assert kinds(await send(node)) == [OK]
        assert [mechanism for mechanism, _, _ in server.logins] == ["LOGIN"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (reply("454 4.7.0 Temporary authentication failure"), NODE),
        (reply("454 4.7.0 Too many login attempts"), (Status.DEFERRED, Scope.QUOTA)),
        (reply("530 5.7.0 Must issue STARTTLS first"), ACCOUNT),
        (reply("535 5.7.8 no"), ACCOUNT),
        (reply("334 bm8="), NODE),
        (reply("250 fine"), NODE),
        (Do(say=b"334 " + b"A" * 2**20 + b"\r\n", then="close"), NODE),
        (Do(say=b"235 yes\r\n235 yes\r\n"), NODE),
    ],
)
async def test_other_answers_to_auth(answer: Do, expected: tuple[Status, Scope]) -> None:
    async with SmtpServer(users=USERS) as server:
        server.at("auth", answer)
        async with smtp_node(server, **LOGIN) as node:
            assert kinds(await send(node)) == [expected]
        assert server.said("MAIL") == []


async def test_no_outcome_and_no_probe_shows_the_password() -> None:
    async with SmtpServer(users=USERS) as server, smtp_node(server, **LOGIN) as node:
        probe = await node.probe()
        blob = server.said("AUTH PLAIN")[0].split()[2]
        server.at("auth", reply(f"535 5.7.8 relay / s3cret-word / {blob} refused"))
        refused = await node.probe()
    assert probe.outcome.status is Status.DELIVERED
    assert "AUTH PLAIN ****" in probe.steps
    assert refused.outcome.text == "relay / **** / **** refused"
    shown = repr((probe, refused))
    assert "s3cret-word" not in shown
    assert blob not in shown


async def test_a_probe_goes_all_the_way_without_mail(authority: Authority) -> None:
    async with SmtpServer(tls=authority.server("127.0.0.1"), users=USERS) as server:
        async with smtp_node(server, tls="starttls", verify={"ca_file": str(authority.file)}, **LOGIN) as node:
            probe = await node.probe()
        assert (probe.outcome.status, probe.outcome.code) == (Status.DELIVERED, 250)
        assert [line.split()[0] for _, line in server.commands] == [
            "EHLO",
            "STARTTLS",
            "EHLO",
            "AUTH",
            "MAIL",
            "RSET",
            "QUIT",
        ]
        assert server.messages == []
        assert probe.steps[0] == f"connect 127.0.0.1:{server.port}"
        assert any(step.startswith("TLSv1") for step in probe.steps)
        assert "MAIL FROM:<>" in probe.steps


@pytest.mark.parametrize(
    ("step", "answer", "expected"),
    [
        ("connect", "421 4.3.2 restarting", NODE),
        ("mail", "550 5.1.7 the null sender is not welcome", OK),
        ("mail", "421 4.3.2 restarting", NODE),
        ("mail", "454 4.7.1 Your account is temporarily suspended", (Status.DEFERRED, Scope.QUOTA)),
        ("mail", "554 5.7.1 Your account is suspended", ACCOUNT),
        ("quit", "500 what", OK),
    ],
)
async def test_a_probe_gives_the_exact_answer(step: str, answer: str, expected: tuple[Status, Scope]) -> None:
    async with SmtpServer() as server:
        server.at(step, reply(answer))
        async with smtp_node(server) as node:
            outcome = (await node.probe()).outcome
    assert outcome.status is expected[0]
    if expected != OK:
        assert outcome.scope is expected[1]
    if step != "quit":
        assert f"{outcome.code} {outcome.enhanced} {outcome.text}" == answer
    assert not outcome.attempted


async def test_a_missing_authority_file_stops_the_start(tmp_path: Path) -> None:
    options = SmtpOptions(host="127.0.0.1", verify={"ca_file": str(tmp_path / "none.pem")})  # type: ignore[arg-type]
    with pytest.raises(UpstreamError, match=r"none\.pem"):
        SmtpUpstream("node-1", options, Setting(ehlo="relay.example"))
