"""AUTH with access tokens against an SMTP server that checks every octet of it, tokens from a real token endpoint."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from pydantic import ValidationError

from relay.oauth.desk import TokenDesk
from relay.oauth.store import FileTokenStore
from relay.outcome import Scope, Status
from relay.upstreams.base import Setting
from relay.upstreams.smtp import SmtpUpstream
from relay.upstreams.smtp_options import SmtpOptions
from tests.fakes.smtp_server import SmtpServer, reply
from tests.fakes.token_server import Say, TokenServer, error
from tests.fakes.upstream import kinds, send

ME = "news@acme.example"
OK = (Status.DELIVERED, Scope.RECIPIENT)
MECHANISMS = pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    file = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(file)
    return context, str(file)


class Mailbox:
    def __init__(self, smtp: SmtpServer, tokens: TokenServer, node: SmtpUpstream, users: dict[str, str]) -> None:
        self.smtp, self.tokens, self.node, self.users = smtp, tokens, node, users
        self.told: list[str] = []


@asynccontextmanager
async def mailbox(
    authority: tuple[ssl.SSLContext, str],
    folder: Path,
    *,
    mechanisms: tuple[str, ...] = ("PLAIN", "XOAUTH2"),
    **keys: object,
) -> AsyncIterator[Mailbox]:
    users = {ME: "access-1"}
    async with TokenServer() as tokens, SmtpServer(tls=authority[0], users=users, mechanisms=mechanisms) as smtp:
        options = SmtpOptions.model_validate(
            {
                "preset": "gmail",
                "host": smtp.host,
                "port": smtp.port,
                "verify": {"ca_file": authority[1]},
                "username": ME,
                "oauth": {"client_id": "client-1", "refresh_token": "r0", "token_url": f"{tokens.url}/token"},
                **keys,
            }
        )
        told: list[str] = []
        desk = TokenDesk(FileTokenStore(folder), lambda _node, text, _account: told.append(text))
        plan = options.token_plan()
        assert plan is not None
        node = SmtpUpstream("box", options, Setting(ehlo="relay.example", tokens=lambda name: desk.source(name, plan)))
        made = Mailbox(smtp, tokens, node, users)
        made.told = told
        try:
            yield made
        finally:
            await node.close()
            await desk.close()


@MECHANISMS
async def test_mail_goes_with_a_token(authority: tuple[ssl.SSLContext, str], tmp_path: Path, mechanism: str) -> None:
    async with mailbox(authority, tmp_path, mechanisms=("PLAIN", mechanism)) as box:
        assert kinds(await send(box.node)) == [OK]
        assert box.smtp.logins == [(mechanism, ME, True)]
        assert box.smtp.messages[0].tls


@MECHANISMS
async def test_a_token_that_was_withdrawn_is_replaced_over_a_new_connection(
    authority: tuple[ssl.SSLContext, str], tmp_path: Path, mechanism: str
) -> None:
    async with mailbox(authority, tmp_path, mechanisms=(mechanism,)) as box:
        box.users[ME] = "access-2"
        assert kinds(await send(box.node)) == [OK]
        assert box.smtp.logins == [(mechanism, ME, False), (mechanism, ME, True)]
        assert box.smtp.connections == 2
        assert len(box.tokens.forms) == 2


@MECHANISMS
async def test_an_account_that_takes_no_token_is_told_in_the_server_s_words(
    authority: tuple[ssl.SSLContext, str], tmp_path: Path, mechanism: str
) -> None:
    async with mailbox(authority, tmp_path, mechanisms=(mechanism,)) as box:
        box.users[ME] = "never"
        box.smtp.at("auth", reply("535 5.7.8 Username and Password not accepted"))
        [outcome] = await send(box.node)
        assert (outcome.status, outcome.scope, outcome.code) == (Status.REFUSED, Scope.ACCOUNT, 535)
        assert outcome.text == (
            "Username and Password not accepted (status=400 schemes=Bearer scope=https://mail.google.com/)"
        )
        assert not outcome.attempted
        assert len(box.smtp.logins) == 2
        assert box.smtp.said("MAIL") == []


async def test_the_test_of_the_connection_shows_each_step_and_no_token(
    authority: tuple[ssl.SSLContext, str], tmp_path: Path
) -> None:
    async with mailbox(authority, tmp_path) as box:
        box.users[ME] = "never"
        box.smtp.at("auth", reply("535 5.7.8 bad access-2"))
        box.smtp.at("auth", reply("535 5.7.8 bad access-1"), times=1)
        probe = await box.node.probe()
        text = "\n".join(probe.steps) + probe.outcome.text
        assert probe.outcome.scope is Scope.ACCOUNT
        assert "AUTH XOAUTH2 ****" in probe.steps
        assert "334 status=400 schemes=Bearer scope=https://mail.google.com/" in probe.steps
        assert "access-" not in text


async def test_a_temporary_refusal_costs_no_new_token(authority: tuple[ssl.SSLContext, str], tmp_path: Path) -> None:
    async with mailbox(authority, tmp_path) as box:
        box.smtp.at("auth", reply("454 4.7.0 Temporary authentication failure"))
        [outcome] = await send(box.node)
        assert outcome.status is Status.DEFERRED
        assert len(box.smtp.logins) == len(box.tokens.forms) == 1


async def test_without_a_token_nobody_connects(authority: tuple[ssl.SSLContext, str], tmp_path: Path) -> None:
    async with mailbox(authority, tmp_path) as box:
        box.tokens.script(error("invalid_grant", "Token has been expired or revoked."))
        [outcome] = await send(box.node)
        assert (outcome.status, outcome.scope, outcome.phase) == (Status.REFUSED, Scope.ACCOUNT, "auth")
        assert outcome.text.startswith("invalid_grant: Token has been expired or revoked.")
        assert box.smtp.connections == 0
        assert len(box.told) == 1


async def test_a_token_endpoint_that_hangs_ends_with_the_delivery(
    authority: tuple[ssl.SSLContext, str], tmp_path: Path
) -> None:
    async with mailbox(authority, tmp_path) as box:
        box.tokens.script(Say(delay=2.0, body=b'{"access_token": "access-1"}'))
        [outcome] = await send(box.node, within=0.4)
        assert (outcome.status, outcome.scope, outcome.attempted) == (Status.DEFERRED, Scope.NODE, False)
        assert outcome.text == "no access token in time"
        assert kinds(await send(box.node)) == [OK]  # the question went on, and is answered now
        assert len(box.tokens.forms) == 1


async def test_a_server_without_the_mechanism(authority: tuple[ssl.SSLContext, str], tmp_path: Path) -> None:
    async with mailbox(authority, tmp_path, mechanisms=("PLAIN", "LOGIN")) as box:
        [outcome] = await send(box.node)
        assert outcome.scope is Scope.ACCOUNT
        assert "does not offer AUTH XOAUTH2" in outcome.text
        assert box.smtp.logins == []


OPTIONS = {
    "password too": ({"password": "p", "oauth": {"client_id": "c"}}, "password and oauth are two ways"),
    "no mailbox": ({"username": None, "oauth": {"client_id": "c"}}, "oauth needs username"),
    "another mechanism": ({"auth": "plain", "oauth": {"client_id": "c"}}, "auth plain needs a password"),
    "xoauth2 alone": ({"auth": "xoauth2"}, "auth xoauth2 needs oauth"),
    "in clear": ({"tls": "none", "oauth": {"client_id": "c"}}, "a token is not sent in clear"),
    "no client": ({"oauth": {}}, "needs client_id"),
    "no key file": ({"oauth": {"flow": "service-account"}}, "needs key_file"),
    "no tenant": (
        {"preset": "outlook", "oauth": {"flow": "client-credentials", "client_id": "c", "client_secret": "s"}},
        "needs tenant",
    ),
    "no such flow": ({"oauth": {"flow": "client-credentials", "client_id": "c", "client_secret": "s"}}, "has no flow"),
    "unknown provider": (
        {"preset": None, "host": "a.example", "oauth": {"client_id": "c"}},
        "needs provider or token_url",
    ),
    "clear endpoint": ({"oauth": {"client_id": "c", "token_url": "http://id.example/token"}}, "not an https:// URL"),
}


@pytest.mark.parametrize(("keys", "words"), OPTIONS.values(), ids=list(OPTIONS))
def test_options_that_cannot_work(keys: dict[str, object], words: str) -> None:
    facts = {"preset": "gmail", "username": ME, **keys}
    with pytest.raises(ValidationError, match=words):
        SmtpOptions.model_validate({key: value for key, value in facts.items() if value is not None})


PLANS = {
    "gmail": (
        {"preset": "gmail", "oauth": {"client_id": "c"}},
        "https://oauth2.googleapis.com/token",
        ("https://mail.google.com/",),
    ),
    "microsoft": (
        {"preset": "outlook", "oauth": {"client_id": "c"}},
        "https://login.microsoftonline.com/common/oauth2/v2.0/token",
        ("https://outlook.office.com/SMTP.Send", "offline_access"),
    ),
    "microsoft application": (
        {
            "preset": "outlook",
            "oauth": {"flow": "client-credentials", "client_id": "c", "client_secret": "s", "tenant": "acme.example"},
        },
        "https://login.microsoftonline.com/acme.example/oauth2/v2.0/token",
        ("https://outlook.office365.com/.default",),
    ),
    "sovereign cloud": (
        {
            "preset": "outlook",
            "oauth": {"client_id": "c", "token_url": "https://login.microsoftonline.us/t/oauth2/v2.0/token"},
        },
        "https://login.microsoftonline.us/t/oauth2/v2.0/token",
        ("https://outlook.office.com/SMTP.Send", "offline_access"),
    ),
}


@pytest.mark.parametrize(("keys", "url", "scopes"), PLANS.values(), ids=list(PLANS))
def test_what_follows_from_the_preset(keys: dict[str, object], url: str, scopes: tuple[str, ...]) -> None:
    plan = SmtpOptions.model_validate({"username": ME, **keys}).token_plan()
    assert plan is not None
    assert (plan.token_url, plan.scopes, plan.account) == (url, scopes, ME)
