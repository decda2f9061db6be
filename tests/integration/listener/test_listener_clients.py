"""The clients people have: smtplib and aiosmtplib, in clear, with STARTTLS and with implicit TLS."""

from __future__ import annotations

import asyncio
import smtplib
from email.message import EmailMessage

import aiosmtplib
import pytest

from tests.fakes.listener_rig import HOST, PASSWORD, client_context, listening, secure


def mail(text: str = "hello\n.dot\n..dots\n") -> EmailMessage:
    message = EmailMessage()
    message["From"] = "Shop <shop@b.example>"
    message["To"] = "c@d.example"
    message["Subject"] = "Grüße"
    message.set_content(text)
    return message


def assert_taken(rig, count: int = 1) -> None:
    assert len(rig.acceptor.messages) == count
    for taken in rig.acceptor.messages:
        assert taken.sender == "shop@b.example"
        assert taken.recipients == ("c@d.example",)
        assert b"\r\n.dot\r\n..dots\r\n" in taken.content


@pytest.mark.parametrize("tls", ["none", "starttls", "implicit"])
async def test_smtplib(tls: str) -> None:
    async with listening(auth_without_tls=True) if tls == "none" else secure(tls) as rig:

        def send() -> None:
            if tls == "implicit":
                client = smtplib.SMTP_SSL("localhost", rig.port, context=client_context())
            else:
                client = smtplib.SMTP("localhost", rig.port)
            with client:
                if tls == "starttls":
                    client.starttls(context=client_context())
                client.login("shop", PASSWORD)
                client.send_message(mail())
                client.send_message(mail())

        await asyncio.to_thread(send)
        assert_taken(rig, 2)


@pytest.mark.parametrize("tls", ["none", "starttls", "implicit"])
async def test_aiosmtplib(tls: str) -> None:
    async with listening(auth_without_tls=True) if tls == "none" else secure(tls) as rig:
        client = aiosmtplib.SMTP(
            hostname="localhost",
            port=rig.port,
            use_tls=tls == "implicit",
            start_tls=tls == "starttls",
            tls_context=client_context() if tls != "none" else None,
            username="shop",
            password=PASSWORD,
        )
        async with client:
            await client.send_message(mail())
            await client.send_message(mail())
        assert_taken(rig, 2)


async def test_smtplib_sees_refusals_recipient_by_recipient() -> None:
    async with listening() as rig:

        def send() -> dict[str, tuple[int, bytes]]:
            with smtplib.SMTP(HOST, rig.port) as client:
                return client.sendmail("shop@b.example", ["c@d.example", "a@b_c.example"], mail().as_string())

        refused = await asyncio.to_thread(send)
        assert {address: code for address, (code, _) in refused.items()} == {"a@b_c.example": 501}
        assert_taken(rig)


async def test_smtplib_sends_bytes_as_they_are_so_bare_lf_needs_the_normalising_switch() -> None:
    """smtplib stuffs dots behind bare LF too; they come out again."""
    async with listening(line_endings="normalize") as rig:
        await asyncio.to_thread(send_bytes, rig.port)
        assert_taken(rig)
    async with listening() as rig:
        with pytest.raises(smtplib.SMTPDataError, match=r"5\.6\.0"):
            await asyncio.to_thread(send_bytes, rig.port)


def send_bytes(port: int) -> None:
    with smtplib.SMTP(HOST, port) as client:
        client.sendmail("shop@b.example", ["c@d.example"], mail().as_bytes())


async def test_aiosmtplib_sends_utf8_addresses() -> None:
    async with listening() as rig:
        message = mail()
        client = aiosmtplib.SMTP(hostname=HOST, port=rig.port, use_tls=False, start_tls=False)
        async with client:
            await client.send_message(message, sender="shop@b.example", recipients=["jörg@d.example"])
        (taken,) = rig.acceptor.messages
        assert taken.recipients == ("jörg@d.example",)
        assert taken.submission.smtputf8
