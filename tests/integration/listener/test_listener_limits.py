"""How many, how long, how slow; draining; and that misuse by some leaves the others alone."""

from __future__ import annotations

import asyncio
import random
import socket
from ipaddress import ip_network

import pytest

from relay.bridges.bridge import Bridge, BridgeLimits
from relay.events import Events
from relay.listener.counters import ProcessCounter
from relay.listener.options import ListenerOptions
from relay.listener.server import Listener
from tests.fakes.acceptor import RecordingAcceptor
from tests.fakes.listener_rig import HOST, OPEN, client_context, listening, server_context

MESSAGE = b"A: b\r\n\r\nx\r\n.\r\n"


# How many


async def test_connections_over_the_total_hear_421_and_room_is_given_back() -> None:
    async with listening(max_connections=2) as rig:
        async with rig.client() as first, rig.client() as second:
            await first.greeting()
            await second.greeting()
            async with rig.client() as third:
                assert (await third.rest()).startswith("421 4.3.2")
            assert await first.ask("NOOP") == "250 2.0.0 Ok"
        await rig.idle()
        async with rig.client() as fourth:
            assert (await fourth.greeting()).startswith("220")


async def test_one_address_has_its_own_limit() -> None:
    async with listening(max_per_peer=1) as rig, rig.client() as first:
        await first.greeting()
        async with rig.client() as second:
            assert (await second.rest()).startswith("421 4.7.0")
        other = socket.socket()
        other.bind(("127.0.0.2", 0))
        other.connect((HOST, rig.port))
        reader, writer = await asyncio.open_connection(sock=other)
        assert (await reader.readline()).startswith(b"220")
        writer.close()


async def test_a_bridge_of_a_network_has_its_own_limit() -> None:
    bridge = Bridge(name="b", pool="p", networks=OPEN.networks, limits=BridgeLimits(connections=1))
    async with listening(bridge=bridge) as rig, rig.client() as first:
        await first.greeting()
        async with rig.client() as second:
            assert (await second.rest()).startswith("421 4.7.0")


async def test_a_limit_is_shared_by_listeners_that_share_a_counter() -> None:
    counters = ProcessCounter()
    async with (
        listening(max_connections=1, counters=counters, faults=True) as one,
        listening(max_connections=1, counters=counters, faults=True) as two,
        one.client() as first,
    ):
        await first.greeting()
        async with two.client() as second:
            assert (await second.rest()).startswith("421 4.3.2")
        first.send(b"QUIT\r\n")
        await first.rest()
        await one.idle()


async def test_a_flood_of_refused_connections_is_no_flood_of_events() -> None:
    async with listening(max_connections=1) as rig, rig.client() as first:
        await first.greeting()
        for _ in range(30):
            async with rig.client() as client:
                await client.rest()
        assert len(rig.records.named("session.refused")) <= 3


async def test_connections_that_come_and_go_leave_nothing_behind() -> None:
    async with listening() as rig:
        for _ in range(50):
            async with rig.client() as client:
                client.reset()
        await rig.idle()
        assert rig.records.events == []


def test_the_counter_counts_keys_apart_and_forgets_them() -> None:
    counter = ProcessCounter()
    assert counter.take("a", 2)
    assert counter.take("a", 2)
    assert not counter.take("a", 2)
    assert counter.take("b", 1)
    assert counter.take("c", 0)
    counter.give_back("a")
    assert counter.open("a") == 1
    counter.give_back("a")
    assert counter.take("a", 1)


# How long


async def test_silence_is_421() -> None:
    async with listening(idle_timeout=0.05) as rig, rig.client() as client:
        await client.greeting()
        assert (await client.rest()).startswith("421 4.4.2")


async def test_an_octet_now_and_then_does_not_prolong_a_command() -> None:
    async with listening(idle_timeout=0.2) as rig, rig.client() as client:
        await client.greeting()
        ended = asyncio.ensure_future(client.rest())
        for _ in range(200):
            if ended.done():
                break
            client.send(b"N")
            await asyncio.sleep(0.02)
        else:
            pytest.fail("the session went on")
        assert (await ended).startswith("421 4.4.2")


async def test_each_command_has_the_whole_idle_time() -> None:
    async with listening(idle_timeout=0.3) as rig, rig.client() as client:
        await client.ehlo()
        for _ in range(4):
            await asyncio.sleep(0.15)
            assert await client.ask("NOOP") == "250 2.0.0 Ok"


async def test_a_session_ends_after_its_time_however_busy() -> None:
    async with listening(session_timeout=0.15, max_idle_commands=0) as rig, rig.client() as client:
        await client.ehlo()
        for _ in range(1000):
            client.send(b"NOOP\r\n")
            reply = await client.reply()
            if reply.startswith("421"):
                break
            await asyncio.sleep(0.005)
        assert reply.startswith("421 4.4.2")


async def test_a_body_that_trickles_is_421_and_one_that_flows_may_take_its_time() -> None:
    async with listening(data_window=0.1, data_rate=1000) as rig:
        async with rig.client() as slow, rig.client() as steady:
            await slow.ehlo()
            await steady.ehlo()
            await slow.begin()
            await steady.begin()
            steady.send(b"A: b\r\n\r\n")
            ended = asyncio.ensure_future(slow.rest())
            for _ in range(50):
                if not ended.done():
                    slow.send(b"x")
                steady.send(b"x" * 70 + b"\r\n")
                await asyncio.sleep(0.01)
            assert (await ended).startswith("421 4.4.2")
            steady.send(b".\r\n")
            assert (await steady.reply()).startswith("250")
        assert len(rig.acceptor.messages) == 1


async def send_for_ever(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10):
        while True:
            await loop.sock_sendall(sock, b"EHLO x\r\n" * 1000)


async def test_a_client_that_never_reads_is_cut() -> None:
    async with listening(write_timeout=0.1, max_idle_commands=0, idle_timeout=30) as rig:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect((HOST, rig.port))
            sock.setblocking(False)
            with pytest.raises(ConnectionError):
                await send_for_ever(sock)
        await rig.idle()
        assert [event["why"] for event in rig.records.named("session.refused")] == ["client does not read"]


async def test_an_acceptor_that_hangs_at_mail_does_not_hold_the_session_for_ever() -> None:
    async with listening(idle_timeout=0.05, accept_deadline=0.05) as rig:
        hang = asyncio.Event()

        async def check_sender(bridge, sender):
            await hang.wait()

        rig.acceptor.check_sender = check_sender
        async with rig.client() as client:
            await client.ehlo()
            client.send(b"MAIL FROM:<a@b.example>\r\n")
            assert (await client.rest()).startswith("421 4.3.0")
        hang.set()


# Draining


async def test_draining_sends_the_idle_away_and_lets_transactions_finish() -> None:
    async with listening() as rig, rig.client() as idle, rig.client() as busy:
        loop = asyncio.get_running_loop()
        await idle.ehlo()
        await busy.ehlo()
        await busy.begin()
        draining = asyncio.ensure_future(rig.listener.drain(loop.time() + 5))
        assert (await idle.rest()).startswith("421 4.3.2")
        with pytest.raises(OSError):
            await asyncio.open_connection(HOST, rig.port)
        assert not draining.done()
        busy.send(MESSAGE)
        answers = (await busy.rest()).splitlines()
        assert [answer[:9] for answer in answers] == ["250 2.0.0", "421 4.3.2"]
        assert await draining == 0
        assert rig.listener.sessions == 0


async def test_draining_ends_at_its_deadline() -> None:
    async with listening() as rig, rig.client() as client:
        await client.ehlo()
        await client.begin()
        assert await rig.listener.drain(asyncio.get_running_loop().time() + 0.05) == 1
        assert (await client.rest()).startswith("421 4.3.2")
        assert rig.acceptor.offered == 0


async def test_closing_waits_for_a_commit_that_is_under_way() -> None:
    async with listening() as rig, rig.client() as client:
        rig.acceptor.gate = asyncio.Event()
        await client.ehlo()
        await client.begin()
        client.send(MESSAGE)
        await rig.acceptor.committing.wait()
        closing = asyncio.ensure_future(rig.listener.close())
        await asyncio.sleep(0.01)
        assert not closing.done()
        rig.acceptor.gate.set()
        await closing
        assert (await client.rest()).startswith("250")
        assert len(rig.acceptor.messages) == 1


async def test_a_given_socket_is_served(tmp_path) -> None:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((HOST, 0))
    port = sock.getsockname()[1]
    listener = Listener(
        ListenerOptions(hostname="x", body_dir=tmp_path / "new"),
        RecordingAcceptor(),
        Events([], lambda: 0.0),
        ProcessCounter(),
    )
    await listener.start(sock=sock)
    assert [s.getsockname()[1] for s in listener.sockets] == [port]
    assert (tmp_path / "new").is_dir()
    _, writer = await asyncio.open_connection(HOST, port)
    writer.close()
    await listener.close()
    assert listener.sockets == ()


# The others


async def test_slow_and_silent_clients_do_not_slow_the_others() -> None:
    async with listening(max_per_peer=0) as rig:
        crowd = [await asyncio.open_connection(HOST, rig.port) for _ in range(200)]
        for number, (_, writer) in enumerate(crowd):
            writer.write(b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nx"[: number % 70])
        async with rig.client() as client, asyncio.timeout(1):
            await client.ehlo()
            assert (await client.message()).startswith("250")
        for _, writer in crowd:
            writer.close()
        await rig.idle()
        assert len(rig.acceptor.messages) == 1


async def test_fifty_interleaved_sessions_never_mix_whatever_fails_between_them() -> None:
    """R37: each message's sender, recipients and content carry the number of one client transaction."""
    rng = random.Random(37)
    async with listening(faults=True, max_per_peer=0, max_errors=0, max_idle_commands=0) as rig:
        submit, check = rig.acceptor.submit, rig.acceptor.check_sender

        async def flaky_submit(submission, *, deadline):
            await asyncio.sleep(rng.random() * 0.002)
            if rng.random() < 0.2:
                raise RuntimeError("injected")
            return await submit(submission, deadline=deadline)

        async def flaky_check(bridge, sender):
            if rng.random() < 0.2:
                raise RuntimeError("injected")
            return await check(bridge, sender)

        rig.acceptor.submit, rig.acceptor.check_sender = flaky_submit, flaky_check
        promised = set()

        async def session(number: int) -> None:
            async with rig.client() as client:
                await client.ehlo()
                for turn in range(12):
                    key = f"{number}x{turn}"
                    await client.ask(f"MAIL FROM:<s{key}@b.example>")
                    for recipient in range(rng.randrange(4)):
                        await client.ask(f"RCPT TO:<r{recipient}x{key}@d.example>")
                    if rng.random() < 0.2:
                        await client.ask(rng.choice(["RSET", "EHLO again", "MAIL FROM:<bad", "RCPT TO:<>"]))
                    if (await client.ask("DATA")).startswith("354"):
                        client.send(f"Subject: {key}\r\n\r\n{key}\r\n.\r\n")
                        if (await client.reply()).startswith("250"):
                            promised.add(f"s{key}@b.example")
                    else:
                        await client.ask("RSET")

        await asyncio.gather(*(session(number) for number in range(50)))
        seen = [taken.sender for taken in rig.acceptor.messages]
        assert set(seen) == promised
        assert len(seen) == len(promised) > 100
        for taken in rig.acceptor.messages:
            key = taken.sender[1:].partition("@")[0]
            assert taken.content == f"Subject: {key}\r\n\r\n{key}\r\n".encode()
            assert all(recipient.partition("@")[0].endswith(f"x{key}") for recipient in taken.recipients)
        assert rig.faults


# PROXY

TRUSTED = (ip_network("127.0.0.1/32"),)
V2 = b"\r\n\r\n\0\r\nQUIT\n"


def v2(command: int, family: int, payload: bytes) -> bytes:
    return V2 + bytes((0x20 | command, family)) + len(payload).to_bytes(2, "big") + payload


ADDRESSES = socket.inet_aton("192.0.2.9") + socket.inet_aton("192.0.2.1") + (40000).to_bytes(2, "big") + b"\0\x19"
GOOD_HEADERS = {
    "v1": (b"PROXY TCP4 192.0.2.9 192.0.2.1 40000 25\r\n", "192.0.2.9", 40000),
    "v1 IPv6": (b"PROXY TCP6 2001:db8::9 2001:db8::1 40000 25\r\n", "2001:db8::9", 40000),
    "v1 unknown": (b"PROXY UNKNOWN\r\n", "127.0.0.1", None),
    "v2": (v2(1, 0x11, ADDRESSES), "192.0.2.9", 40000),
    "v2 local": (v2(0, 0x00, b""), "127.0.0.1", None),
    "v2 with TLV": (v2(1, 0x11, ADDRESSES + b"\x04\0\x03abc"), "192.0.2.9", 40000),
    "v2 mapped": (
        v2(1, 0x21, socket.inet_pton(socket.AF_INET6, "::ffff:192.0.2.9") * 2 + b"\x9c\x40\0\x19"),
        "192.0.2.9",
        40000,
    ),
}


@pytest.mark.parametrize(("header", "peer", "port"), GOOD_HEADERS.values(), ids=GOOD_HEADERS.keys())
async def test_a_trusted_proxy_tells_the_client(header: bytes, peer: str, port: int | None) -> None:
    bridge = Bridge(name="b", pool="p", networks=(ip_network("0.0.0.0/0"), ip_network("::/0")))
    async with listening(bridge=bridge, proxy_from=TRUSTED) as rig, rig.client() as client:
        client.send(header + b"EHLO x\r\n")
        assert (await client.greeting()).startswith("220")
        assert (await client.reply()).startswith("250")
        await client.message()
        session = rig.acceptor.messages[0].submission.session
        assert session.peer == peer
        assert port is None or session.port == port


BAD_HEADERS = {
    "no header": b"EHLO x\r\n",
    "truncated": b"PROXY TCP4 192.0.2.9",
    "v1 over 107": b"PROXY TCP4 " + b"1" * 120 + b"\r\n",
    "v1 junk address": b"PROXY TCP4 300.0.2.9 192.0.2.1 1 2\r\n",
    "v1 wrong family": b"PROXY TCP6 192.0.2.9 192.0.2.1 1 2\r\n",
    "v2 unix": v2(1, 0x31, b"x" * 216),
    "v2 unspecified": v2(1, 0x00, b""),
    "v2 short": v2(1, 0x11, b"abc"),
    "v2 lying length": V2 + b"\x21\x11\xff\xff" + ADDRESSES,
    "v2 wrong version": V2 + b"\x11\x11\0\x0c" + ADDRESSES,
}


@pytest.mark.parametrize("header", BAD_HEADERS.values(), ids=BAD_HEADERS.keys())
async def test_a_bad_proxy_header_closes_before_the_greeting(header: bytes) -> None:
    async with listening(proxy_from=TRUSTED, proxy_timeout=0.2) as rig, rig.client() as client:
        client.send(header)
        assert await client.rest() == ""
        (event,) = rig.records.named("session.refused")
        assert event["why"].startswith("proxy_header_rejected")


@pytest.mark.parametrize("header", [GOOD_HEADERS["v1"][0], GOOD_HEADERS["v2"][0]], ids=["v1", "v2"])
async def test_a_header_from_a_peer_that_is_not_trusted_closes(header: bytes) -> None:
    async with listening(proxy_from=(ip_network("192.0.2.0/24"),)) as rig, rig.client() as client:
        client.send(header + b"EHLO x\r\nMAIL FROM:<a@b.example>\r\n")
        text = await client.rest()
        assert not any(line.startswith("250") for line in text.splitlines())
        await rig.idle()
        assert [e["why"] for e in rig.records.named("session.refused")] == [
            "proxy_header_rejected: peer is not trusted"
        ]


async def test_a_direct_client_of_a_proxy_listener_is_served() -> None:
    async with listening(proxy_from=(ip_network("192.0.2.0/24"),)) as rig, rig.client() as client:
        await client.ehlo()
        assert (await client.message()).startswith("250")


async def test_proxy_header_and_implicit_tls_in_one_packet() -> None:
    bridge = Bridge(name="b", pool="p", networks=(ip_network("192.0.2.0/24"),))
    async with listening(bridge=bridge, proxy_from=TRUSTED, tls="implicit", tls_context=server_context()) as rig:
        reader, writer = await asyncio.open_connection(HOST, rig.port)
        writer.write(GOOD_HEADERS["v1"][0])
        await writer.start_tls(client_context(), server_hostname="localhost")
        assert (await reader.readline()).startswith(b"220")
        writer.write(b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nQUIT\r\n")
        assert b"250 2.1.0" in await reader.read()
        writer.close()
