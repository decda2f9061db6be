"""AUTH over real sockets: mechanisms, malformed responses, failures, what is never told."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest

from relay.bridges.bridge import Bridge, BridgeLimits
from relay.envelope import Reply
from relay.errors import AcceptanceError
from relay.listener.auth import decode_base64
from tests.fakes.acceptor import RecordingAcceptor
from tests.fakes.listener_rig import PASSWORD, SHOP, listening


def b64(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def strict(**logins: Bridge):
    """A listener where AUTH is the only way in."""
    known = {("shop", PASSWORD): SHOP}
    return listening(RecordingAcceptor(logins=known), auth_without_tls=True)


PLAIN = f"\0shop\0{PASSWORD}"
RIGHT = {
    "plain with initial response": [f"AUTH PLAIN {b64(PLAIN)}"],
    "plain in two steps": ["AUTH PLAIN", b64(PLAIN)],
    "lower case": [f"auth plain {b64(PLAIN)}"],
    "authzid equal": [f"AUTH PLAIN {b64('shop' + PLAIN)}"],
    "login": ["AUTH LOGIN", b64("shop"), b64(PASSWORD)],
    "login with initial response": [f"AUTH login {b64('shop')}", b64(PASSWORD)],
}


@pytest.mark.parametrize("lines", RIGHT.values(), ids=RIGHT.keys())
async def test_the_right_password_opens_the_bridge(lines: list[str]) -> None:
    async with strict() as rig, rig.client() as client:
        assert "AUTH PLAIN LOGIN" in await client.ehlo()
        replies = [await client.ask(line) for line in lines]
        assert all(reply.startswith("334 ") for reply in replies[:-1])
        assert replies[-1].startswith("235 2.7.0")
        assert "AUTH" not in await client.ask("EHLO again")
        assert (await client.message()).startswith("250")
        submission = rig.acceptor.messages[0].submission
        assert submission.bridge is SHOP
        assert (submission.session.username, submission.session.protocol) == ("shop", "ESMTPA")
        assert len(rig.records.named("session.authenticated")) == 1


async def test_login_asks_in_the_words_devices_know() -> None:
    async with strict() as rig, rig.client() as client:
        await client.ehlo()
        assert await client.ask("AUTH LOGIN") == f"334 {b64('Username:')}"
        assert await client.ask(b64("shop")) == f"334 {b64('Password:')}"


WRONG = {
    "wrong password": (["AUTH PLAIN " + b64("\0shop\0wrong")], "535 5.7.8"),
    "unknown user": (["AUTH PLAIN " + b64(f"\0nobody\0{PASSWORD}")], "535 5.7.8"),
    "empty user": (["AUTH PLAIN " + b64(f"\0\0{PASSWORD}")], "535 5.7.8"),
    "empty password": (["AUTH PLAIN " + b64("\0shop\0")], "535 5.7.8"),
    "both empty": (["AUTH PLAIN " + b64("\0\0")], "535 5.7.8"),
    "other authzid": (["AUTH PLAIN " + b64("admin" + PLAIN)], "535 5.7.8"),
    "no NUL": (["AUTH PLAIN " + b64("shop")], "501 5.5.2"),
    "one NUL": (["AUTH PLAIN " + b64("shop\0x")], "501 5.5.2"),
    "three NULs": (["AUTH PLAIN " + b64(PLAIN + "\0")], "501 5.5.2"),
    "four NULs": (["AUTH PLAIN " + b64(PLAIN + "\0\0")], "501 5.5.2"),
    "empty response": (["AUTH PLAIN ="], "501 5.5.2"),
    "CR in password": (["AUTH PLAIN " + b64("\0shop\0a\rb")], "535 5.7.8"),
    "invalid UTF-8": (["AUTH PLAIN " + b64(b"\0shop\0\xff")], "535 5.7.8"),
    "trailing blank in name": (["AUTH PLAIN " + b64(f"\0shop \0{PASSWORD}")], "535 5.7.8"),
    "other case in name": (["AUTH PLAIN " + b64(f"\0SHOP\0{PASSWORD}")], "535 5.7.8"),
    "not base64": (["AUTH PLAIN !!!!"], "501 5.5.2"),
    "URL alphabet": (["AUTH PLAIN AHNob3AA-_-_"], "501 5.5.2"),
    "padding missing": (["AUTH PLAIN " + b64("\0shop\0ab").rstrip("=")], "501 5.5.2"),
    "text behind padding": (["AUTH PLAIN " + b64("\0shop\0ab") + "AAAA"], "501 5.5.2"),
    "blank inside": (["AUTH PLAIN AHNo b3AA"], "501 5.5.2"),
    "bad second step": (["AUTH LOGIN", b64("shop"), "!"], "501 5.5.2"),
    "cancelled": (["AUTH PLAIN", "*"], "501 5.7.0"),
    "cancelled later": (["AUTH LOGIN", b64("shop"), "*"], "501 5.7.0"),
    "no mechanism": (["AUTH"], "501 5.5.4"),
    "unknown mechanism": (["AUTH CRAM-MD5"], "504 5.5.4"),
    "external": (["AUTH EXTERNAL ="], "504 5.5.4"),
    "12288 octets": (["AUTH PLAIN", b64("\0shop\0" + "x" * 9210)], "535 5.7.8"),
    "20 kB": (["AUTH PLAIN", "A" * 20_000], "500 5.5.6"),
    "13 kB at once": (["AUTH PLAIN " + "A" * 12_500], "500 5.5.6"),
}


@pytest.mark.parametrize(("lines", "expected"), WRONG.values(), ids=WRONG.keys())
async def test_everything_else_is_refused_and_the_session_goes_on(lines: list[str], expected: str) -> None:
    async with strict() as rig, rig.client() as client:
        await client.ehlo()
        replies = [await client.ask(line) for line in lines]
        assert replies[-1].startswith(expected)
        assert (await client.ask("MAIL FROM:<a@b.example>")).startswith("530 5.7.0")
        assert (await client.login()).startswith("235")


async def test_wrong_password_and_unknown_user_sound_the_same() -> None:
    async with strict() as rig, rig.client() as client:
        await client.ehlo()
        assert await client.login("shop", "wrong") == await client.login("nobody", "wrong")
        assert [name for name, _ in rig.acceptor.attempts] == ["shop", "nobody"]


async def test_hopeless_credentials_are_not_looked_up() -> None:
    async with strict() as rig, rig.client() as client:
        await client.ehlo()
        await client.login("", PASSWORD)
        await client.login("shop", "x" * 1025)
        assert rig.acceptor.attempts == []


async def test_three_failures_end_the_session() -> None:
    async with strict() as rig, rig.client() as client:
        await client.ehlo()
        for _ in range(2):
            assert (await client.login("shop", "wrong")).startswith("535")
        client.send(f"AUTH PLAIN {b64(chr(0) + 'shop' + chr(0) + 'wrong')}\r\nNOOP\r\n")
        assert [line[:9] for line in (await client.rest()).splitlines()] == ["535 5.7.8", "421 4.7.0"]
    assert len(rig.records.named("session.auth_failed")) == 3


async def test_a_throttled_check_is_454_and_no_failure_of_the_client() -> None:
    async with strict() as rig, rig.client() as client:
        await client.ehlo()
        rig.acceptor.raises["authenticate"] = AcceptanceError(Reply(454, "4.7.0", "Too many failures, try later"))
        for _ in range(4):
            assert (await client.login()).startswith("454 4.7.0")
        rig.acceptor.raises.clear()
        assert (await client.login()).startswith("235")


async def test_auth_where_it_does_not_belong() -> None:
    async with strict() as rig, rig.client() as client:
        await client.greeting()
        assert (await client.login()).startswith("503 5.5.1")
        await client.ask("HELO x")
        assert (await client.login()).startswith("503 5.5.1")
        await client.ask("EHLO x")
        assert (await client.login()).startswith("235")
        assert (await client.login()).startswith("503 5.5.1")
        await client.ask("MAIL FROM:<a@b.example>")
        assert (await client.login()).startswith("503 5.5.1")


async def test_a_client_of_a_network_may_log_in_to_another_bridge_but_not_inside_a_transaction() -> None:
    async with listening(auth_without_tls=True) as rig, rig.client() as client:
        await client.ehlo()
        await client.ask("MAIL FROM:<a@b.example>")
        assert (await client.login()).startswith("503 5.5.1")
        await client.ask("RSET")
        assert (await client.login()).startswith("235")
        await client.message()
        assert rig.acceptor.messages[0].submission.bridge is SHOP


@pytest.mark.parametrize("line", ["MAIL FROM:<a@b.example>", "RCPT TO:<a@b.example>", "DATA", "VRFY x"])
async def test_nothing_is_possible_before_auth(line: str) -> None:
    async with strict() as rig, rig.client() as client:
        await client.ehlo()
        assert (await client.ask(line)).startswith("530 5.7.0")


async def test_a_login_that_is_revoked_ends_at_the_next_mail() -> None:
    async with strict() as rig, rig.client() as client:
        await client.ehlo()
        await client.login()
        await client.message()
        rig.acceptor.revoked.add("shop")
        client.send(b"MAIL FROM:<a@b.example>\r\n")
        assert (await client.rest()).startswith("421 4.7.0")


async def test_a_bridge_can_be_limited_in_connections() -> None:
    shop = replace(SHOP, limits=BridgeLimits(connections=1))
    acceptor = RecordingAcceptor(logins={("shop", PASSWORD): shop})
    async with listening(acceptor, auth_without_tls=True) as rig:
        async with rig.client() as first, rig.client() as second:
            await first.ehlo()
            await second.ehlo()
            assert (await first.login()).startswith("235")
            second.send(f"AUTH PLAIN {b64(PLAIN)}\r\n")
            assert (await second.rest()).startswith("421 4.7.0")
        await rig.idle()
        async with rig.client() as third:
            await third.ehlo()
            assert (await third.login()).startswith("235")
        await rig.idle()
        assert rig.counters.open("bridge shop") == 0


async def test_the_password_is_in_no_event_and_no_repr(caplog, capsys) -> None:
    async with listening(auth_without_tls=True, faults=True) as rig, rig.client() as client:
        await client.ehlo()
        await client.login("shop", PASSWORD + "x")
        rig.acceptor.raises["authenticate"] = ValueError(f"could not check {PASSWORD}")
        assert (await client.login()).startswith("451 4.3.0")
        rig.acceptor.raises.clear()
        assert (await client.ask("AUTH PLAIN")).startswith("334")
        assert (await client.ask(b64(PLAIN))).startswith("235")
        await client.message()
        sessions = repr(rig.listener._service.sessions) + repr([vars(s) for s in rig.listener._service.sessions])
        sessions += repr([vars(s.session) for s in rig.listener._service.sessions])
    told = repr(rig.records.events) + caplog.text + "".join(capsys.readouterr())
    assert rig.faults
    assert "session.auth_failed" in told
    for secret in (PASSWORD, b64(PASSWORD), b64(PLAIN)):
        assert secret not in told
        assert secret not in sessions.replace(repr(rig.acceptor.logins), "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", b""),
        (b"YQ==", b"a"),
        (b"YWI=", b"ab"),
        (b"YWJj", b"abc"),
        (b"YQ=", None),
        (b"YQ", None),
        (b"YR==", None),
        (b"=", None),
        (b"YQ==YQ==", None),
        (b" YQ==", None),
        (b"Y Q==", None),
        (b"YQ==\n", None),
        (b"_w==", None),
        (b"\xff\xff\xff\xff", None),
    ],
)
async def test_only_canonical_base64_is_read(text: bytes, expected: bytes | None) -> None:
    assert decode_base64(text) == expected
