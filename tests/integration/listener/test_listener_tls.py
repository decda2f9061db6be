"""TLS: STARTTLS forgets everything said in clear, implicit TLS, handshakes that fail, what needs TLS."""

from __future__ import annotations

import asyncio
import ssl

import pytest
import trustme

from relay.events import Events
from relay.listener.counters import ProcessCounter
from relay.listener.options import ListenerOptions
from relay.listener.server import Listener
from tests.fakes.acceptor import RecordingAcceptor
from tests.fakes.listener_rig import client_context, listening, secure


async def test_starttls_then_auth_then_mail() -> None:
    async with secure() as rig, rig.client() as client:
        clear = await client.ehlo()
        assert "STARTTLS" in clear
        assert "AUTH" not in clear
        assert (await client.login()).startswith("538 5.7.11")
        assert (await client.ask("MAIL FROM:<a@b.example>")).startswith("530 5.7.0")
        assert (await client.ask("STARTTLS")).startswith("220 2.0.0")
        await client.start_tls(client_context())
        assert (await client.ask("MAIL FROM:<a@b.example>")).startswith("503 5.5.1")
        inside = await client.ask("EHLO client.example")
        assert "STARTTLS" not in inside
        assert "AUTH PLAIN LOGIN" in inside
        assert (await client.ask("STARTTLS")).startswith("503 5.5.1")
        assert (await client.login()).startswith("235")
        assert (await client.message()).startswith("250")
        session = rig.acceptor.messages[0].submission.session
        assert session.protocol == "ESMTPSA"
        assert session.tls.startswith("TLSv1.3 TLS_")


async def test_starttls_forgets_login_and_transaction() -> None:
    async with secure(network=True, auth_without_tls=True) as rig, rig.client() as client:
        await client.ehlo()
        assert (await client.login()).startswith("235")
        assert await client.codes("MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "STARTTLS") == [
            "250",
            "250",
            "220",
        ]
        await client.start_tls(client_context())
        assert await client.codes("RCPT TO:<c@d.example>", "DATA", "MAIL FROM:<a@b.example>") == ["503", "503", "503"]
        await client.ask("EHLO x")
        await client.message()
        submission = rig.acceptor.messages[0].submission
        assert submission.bridge.name == "open"
        assert submission.session.username == ""


async def test_starttls_forgets_a_login_where_nothing_else_opens_the_relay() -> None:
    async with secure(auth_without_tls=True) as rig, rig.client() as client:
        await client.ehlo()
        assert (await client.login()).startswith("235")
        await client.ask("STARTTLS")
        await client.start_tls(client_context())
        await client.ask("EHLO x")
        assert (await client.ask("MAIL FROM:<a@b.example>")).startswith("530 5.7.0")
        assert (await client.login()).startswith("235")


async def test_what_is_pipelined_behind_starttls_is_dropped() -> None:
    async with secure(network=True) as rig, rig.client() as client:
        await client.ehlo()
        assert (await client.ask("STARTTLS\r\nMAIL FROM:<evil@b.example>\r\nRCPT TO:<c@d.example>")).startswith("220")
        await client.start_tls(client_context())
        assert await client.ask("NOOP") == "250 2.0.0 Ok"
        assert (await client.ask("RCPT TO:<c@d.example>")).startswith("503")


async def test_starttls_takes_no_argument_and_needs_a_certificate() -> None:
    async with secure() as rig, rig.client() as client:
        await client.ehlo()
        assert (await client.ask("STARTTLS now")).startswith("501 5.5.4")
    async with listening() as rig, rig.client() as client:
        await client.ehlo()
        assert (await client.ask("STARTTLS")).startswith("502 5.5.1")


async def test_tls_can_be_required_of_clients_that_need_no_login() -> None:
    async with secure(network=True, require_tls=True) as rig, rig.client() as client:
        await client.ehlo()
        assert (await client.ask("MAIL FROM:<a@b.example>")).startswith("530 5.7.0")
        await client.ask("STARTTLS")
        await client.start_tls(client_context())
        await client.ask("EHLO x")
        assert (await client.message()).startswith("250")


async def test_implicit_tls_offers_auth_and_takes_mail() -> None:
    async with secure("implicit") as rig, rig.client(tls=client_context()) as client:
        offered = await client.ehlo()
        assert "STARTTLS" not in offered
        assert "AUTH PLAIN LOGIN" in offered
        assert (await client.login()).startswith("235")
        assert (await client.message(b"A: b\r\n\r\n" + b"x\r\n" * 200_000)).startswith("250")
        assert (await client.ask("STARTTLS")).startswith("503 5.5.1")


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_old_versions_of_tls_are_refused(tls: str) -> None:
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old = client_context(maximum_version=ssl.TLSVersion.TLSv1_1)
    old.set_ciphers("ALL:@SECLEVEL=0")
    async with secure(tls) as rig:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await shake_hands(rig, old, tls)
        await rig.idle()
        await told(rig, "tls_handshake_failed")


async def shake_hands(rig, context: ssl.SSLContext, tls: str) -> None:
    async with rig.client(tls=context if tls == "implicit" else None) as client:
        await client.ehlo()
        await client.ask("STARTTLS")
        await client.start_tls(context)


async def told(rig, why: str) -> None:
    async with asyncio.timeout(5):
        while not any(why in event["why"] for event in rig.records.named("session.refused")):
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_garbage_instead_of_a_handshake_closes_and_is_told(tls: str) -> None:
    async with secure(tls) as rig:
        async with rig.client() as client:
            if tls == "starttls":
                await client.ehlo()
                await client.ask("STARTTLS")
            client.send(b"\x16garbage that is no ClientHello\r\n" * 4)
            await client.rest_octets()
        await told(rig, "tls_handshake_failed")
        async with rig.client(tls=client_context() if tls == "implicit" else None) as client:
            assert (await client.ehlo()).startswith("250")


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_a_handshake_that_never_ends_is_cut(tls: str) -> None:
    async with secure(tls, tls_timeout=0.1) as rig:
        async with rig.client() as client:
            if tls == "starttls":
                await client.ehlo()
                await client.ask("STARTTLS")
            await client.rest_octets()
        await told(rig, "tls_handshake_failed")


async def test_a_new_certificate_serves_new_handshakes() -> None:
    async with secure("implicit") as rig:
        other = trustme.CA()
        renewed = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        other.issue_cert("localhost").configure_cert(renewed)
        async with rig.client(tls=client_context()) as before:
            await before.ehlo()
            rig.listener.use(ListenerOptions(hostname="relay.example", tls="implicit"), renewed)
            assert await before.ask("NOOP") == "250 2.0.0 Ok"
        with pytest.raises(ssl.SSLError):
            async with rig.client(tls=client_context()):
                pass
        trusting = ssl.create_default_context()
        other.configure_trust(trusting)
        async with rig.client(tls=trusting) as after:
            assert (await after.ehlo()).startswith("250")


async def test_a_client_that_closes_inside_tls_during_its_commit_has_its_message_kept() -> None:
    async with secure("implicit") as rig:
        rig.acceptor.gate = asyncio.Event()
        async with rig.client(tls=client_context()) as client:
            await client.ehlo()
            await client.login()
            await client.begin()
            client.send(b"A: b\r\n\r\nx\r\n.\r\n")
            await rig.acceptor.committing.wait()
            client.reset()
        rig.acceptor.gate.set()
        await rig.idle()
        assert len(rig.acceptor.messages) == 1


def test_a_listener_with_tls_needs_a_certificate() -> None:
    with pytest.raises(ValueError, match="certificate"):
        Listener(
            ListenerOptions(hostname="x", tls="implicit"),
            RecordingAcceptor(),
            Events([], lambda: 0.0),
            ProcessCounter(),
        )
