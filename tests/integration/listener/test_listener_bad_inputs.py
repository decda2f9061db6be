"""What the other files of this folder leave: B003, B006, B008, B043, B050, B057-B061."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import ssl

import pytest
import trustme

from relay.listener import connection
from tests.fakes.listener_rig import HOST, client_context, listening, secure, server_context

DATA = b"A: b\r\n\r\nx\r\n.\r\n"


async def test_a_thousand_clients_that_reset_at_once_leave_nothing() -> None:
    """B003."""
    async with listening(max_per_peer=0) as rig:
        for _ in range(20):
            async with contextlib.AsyncExitStack() as stack:
                for client in [await stack.enter_async_context(rig.client()) for _ in range(50)]:
                    client.reset()
        await rig.idle()
        assert len(rig.records.events) <= 2
        async with rig.client() as client:
            await client.ehlo()
            assert (await client.message()).startswith("250")


async def test_a_client_that_closes_after_the_greeting_is_gone_within_a_second() -> None:
    """B006."""
    async with listening() as rig, rig.client() as client:
        await client.greeting()
        client.writer.write_eof()
        async with asyncio.timeout(1):
            await rig.idle()


async def test_replies_that_nobody_reads_are_bounded() -> None:
    """B008: what waits for a client is some replies, not the answers to all it ever sends."""
    async with listening(write_timeout=0.5, max_idle_commands=0, max_errors=0, idle_timeout=30) as rig:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect((HOST, rig.port))
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            largest = 0

            async def flood() -> None:
                while True:
                    await loop.sock_sendall(sock, b"HELP\r\n" * 2000)

            flooding = asyncio.ensure_future(flood())
            async with asyncio.timeout(10):
                while not flooding.done():
                    for session in tuple(rig.listener._service.sessions):
                        waiting = session.transport.get_write_buffer_size() + session._out_size
                        largest = max(largest, waiting)
                    await asyncio.sleep(0.01)
            assert isinstance(flooding.exception(), ConnectionError)
            assert 0 < largest < 2 * connection.OUTPUT_HIGH + 64 * 1024


async def test_a_hundred_thousand_pipelined_recipients_cost_no_memory() -> None:
    """B043."""
    async with listening(max_recipients=1000) as rig, rig.client() as client:
        await client.ehlo()
        stream = b"MAIL FROM:<a@b.example>\r\n" + b"".join(b"RCPT TO:<r%d@d.example>\r\n" % n for n in range(100_000))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        client.send(stream)
        replies = (await client.rest()).splitlines()
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert replies[-1].startswith("421 4.7.0")
        assert len(replies) < 2100
        assert grown_kib < 3 * len(stream) // 1024  # the client's own copies are among it
    assert len(rig.records.events) <= 3


# TLS


async def shake(port: int, hello: bytes) -> bytes:
    """What a server says to octets where a ClientHello belongs."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(hello)
    try:
        return await asyncio.wait_for(reader.read(), 5)
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    "hello",
    [
        b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + bytes(40),
        b"\x16\x03\x00\x00\x2f\x01\x00\x00\x2b\x03\x00" + bytes(41),
    ],
    ids=["SSLv2", "SSLv3"],
)
async def test_hellos_of_the_last_century_get_an_alert_at_most(hello: bytes) -> None:
    """B057."""
    async with secure("implicit") as rig:
        answer = await shake(rig.port, hello)
        assert not answer.startswith(b"220")
        assert len(answer) <= 7  # one alert record
        await rig.idle()


async def test_renegotiation_and_compression_are_off() -> None:
    """B057."""
    context = server_context()
    async with listening(tls="implicit", tls_context=context) as rig:
        used = rig.listener._service.tls_context
        assert used.options & ssl.OP_NO_RENEGOTIATION
        assert used.options & ssl.OP_NO_COMPRESSION
        assert used.minimum_version >= ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("kind", ["expired", "unknown authority"])
async def test_a_client_certificate_that_nobody_asked_for_is_ignored(kind: str) -> None:
    """B059."""
    from datetime import UTC, datetime, timedelta

    context = client_context()
    past = datetime.now(UTC) - timedelta(days=2)
    more = {"not_before": past, "not_after": past + timedelta(days=1)} if kind == "expired" else {}
    trustme.CA().issue_cert("client.example", **more).configure_cert(context)
    async with secure("implicit", network=True) as rig, rig.client(tls=context) as client:
        await client.ehlo()
        assert (await client.message()).startswith("250")


@pytest.mark.parametrize("name", ["other.example", "x" * 60 + ".example", "1.example.", "_._.example"])
async def test_any_server_name_gets_the_one_certificate(name: str) -> None:
    """B060."""
    context = client_context()
    context.check_hostname = False
    async with secure("implicit") as rig:
        reader, writer = await asyncio.open_connection(HOST, rig.port, ssl=context, server_hostname=name)
        assert (await reader.readline()).startswith(b"220")
        writer.close()


async def test_a_server_name_of_ten_thousand_octets_harms_nobody() -> None:
    """B060: written out by hand, because no library sends it."""
    name = b"a" * 10_000 + b"\0.example"
    entry = b"\0" + len(name).to_bytes(2, "big") + name
    names = len(entry).to_bytes(2, "big") + entry
    extension = b"\0\0" + len(names).to_bytes(2, "big") + names
    body = (
        b"\x03\x03" + bytes(32) + b"\0" + b"\0\x02\x13\x01" + b"\x01\0" + len(extension).to_bytes(2, "big") + extension
    )
    handshake = b"\x01" + len(body).to_bytes(3, "big") + body
    async with secure("implicit", network=True) as rig:
        answer = await shake(rig.port, b"\x16\x03\x01" + len(handshake).to_bytes(2, "big") + handshake)
        assert not answer.startswith(b"220")
        async with rig.client(tls=client_context()) as client:
            await client.ehlo()
            assert (await client.message()).startswith("250")


async def test_a_session_ticket_of_one_listener_opens_no_other() -> None:
    """B061 (Postfix 20260805): each listener has a context, and so ticket keys, of its own."""
    context = client_context(maximum_version=ssl.TLSVersion.TLSv1_2)
    async with secure("implicit", network=True) as one, secure("implicit") as other:
        ticket = await asyncio.to_thread(first_session, context, one.port)
        assert await asyncio.to_thread(resumed, context, one.port, ticket)
        assert not await asyncio.to_thread(resumed, context, other.port, ticket)


def first_session(context: ssl.SSLContext, port: int) -> ssl.SSLSession:
    with (
        socket.create_connection((HOST, port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        assert tls.recv(4).startswith(b"220")
        assert tls.session is not None
        return tls.session


def resumed(context: ssl.SSLContext, port: int, ticket: ssl.SSLSession) -> bool:
    with (
        socket.create_connection((HOST, port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost", session=ticket) as tls,
    ):
        assert tls.recv(4).startswith(b"220")
        return bool(tls.session_reused)


async def test_octets_behind_starttls_in_one_packet_never_become_commands() -> None:
    """B050 (CVE-2011-0411): also when the handshake itself comes in the same packet as the injected commands."""
    async with secure(network=True) as rig:
        reader, writer = await asyncio.open_connection(HOST, rig.port)
        await reader.readline()
        writer.write(b"EHLO x\r\n")
        while (line := await reader.readline())[3:4] == b"-":
            pass
        assert line.startswith(b"250 ")
        injected = b"MAIL FROM:<evil@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nevil\r\n.\r\n"
        writer.write(b"STARTTLS\r\n" + injected)
        assert (await reader.readline()).startswith(b"220")
        await writer.start_tls(client_context(), server_hostname="localhost")
        writer.write(
            b"NOOP\r\nEHLO x\r\nMAIL FROM:<good@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n" + DATA + b"QUIT\r\n"
        )
        text = (await reader.read()).decode()
        codes = [line[:3] for line in text.splitlines() if line[3:4] == " "]
        assert codes == ["250", "250", "250", "250", "354", "250", "221"]
        assert [taken.sender for taken in rig.acceptor.messages] == ["good@b.example"]
        writer.close()
