"""B150-B166, R04, R05, R14, R24, R32, R37: clients that leave, stores that fail, poison; over a whole relay."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from relay.delivery.suspects import CERTAIN
from relay.envelope import Content, Lane, Message, Recipient, Reply
from relay.errors import SpoolError, SpoolFull, SpoolUnhealthy
from relay.spool import Standing
from relay.spool.sqlite import SqliteSpool
from tests.fakes.relay_rig import RelayRig, relaying
from tests.fakes.smtp_server import CLOSE, Do, SmtpServer, reply

CONTENT = b"Subject: x\r\n\r\nhello\r\n"


# Clients that leave: B150-B152, R05


async def test_a_message_of_a_client_that_leaves_is_absent_or_whole_and_once(tmp_path: Path) -> None:
    """Sessions end at a random octet around their final dot, by FIN, RST or half-close, small and large."""
    rng = random.Random(150)
    async with SmtpServer() as sink, relaying(tmp_path, sink) as rig:

        async def session(number: int) -> bool:
            body = b"%d\r\n" % number * (60_000 if number % 10 == 0 else 50)
            stream = b"EHLO x\r\nMAIL FROM:<s%d@b.example>\r\nRCPT TO:<r%d@d.example>\r\nDATA\r\n" % (number, number)
            stream += f"Subject: {number}\r\n\r\n".encode() + body + b".\r\nQUIT\r\n"
            cut = rng.randrange(len(stream) - 20, len(stream) + 1)
            how = rng.choice(["close", "reset", "half-close"])
            async with rig.client() as client:
                client.send(stream[:cut])
                await client.writer.drain()
                if how == "half-close":
                    client.writer.write_eof()
                    return "250 2.0.0" in await client.rest()
                await asyncio.sleep(rng.random() * 0.02)
                getattr(client, how)()
                return False

        answered = await asyncio.gather(*(session(number) for number in range(100)))
        async with asyncio.timeout(10):
            while any(listener.sessions for listener in rig.worker.listeners):
                await asyncio.sleep(0.01)
        await rig.settled()
        seen = Counter(message.sender for message in sink.messages)
        assert set(seen.values()) == {1}
        assert {f"s{number}@b.example" for number, ok in enumerate(answered) if ok} <= set(seen)
        assert 5 < len(seen) < 100
        for message in sink.messages:
            number = int(message.sender[1:].partition("@")[0])
            assert message.recipients == [f"r{number}@d.example"]
            body = message.content.rpartition(b"\r\n\r\n")[2]
            assert body == b"%d\r\n" % number * (60_000 if number % 10 == 0 else 50)
        assert list((tmp_path / "var" / "incoming").iterdir()) == []


# Stores that fail: B164, R03, R04, R14


FAULTS = [
    (SpoolFull("no room"), "452 4.3.1", 0),
    (SpoolError("detail of ours"), "451 4.3.0", 1),
    (SpoolUnhealthy("detail of ours"), "451 4.3.0", 1),
    (RuntimeError("detail of ours"), "451 4.3.0", 1),
    (MemoryError(), "451 4.3.0", 1),
    (RecursionError(), "451 4.3.0", 1),
    (asyncio.CancelledError(), "451 4.3.0", 1),
    (TimeoutError(), "451 4.3.0", 1),
]


@pytest.mark.parametrize(("error", "expected", "faults"), FAULTS, ids=[type(error).__name__ for error, _, _ in FAULTS])
async def test_a_store_that_fails_takes_nothing_and_forgets_the_transaction(
    error: BaseException, expected: str, faults: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B157, B164, B165: 4xx without a word of ours, and the next message is not of the old sender."""
    bridges = [{"name": "local", "pool": "main", "networks": ["127.0.0.1/32"], "limits": {"hour": 2}}]
    async with SmtpServer() as sink, relaying(tmp_path, sink, bridges=bridges) as rig, rig.client() as client:
        rig.excused.append("listener.submit" if not isinstance(error, SpoolError) else "detail of ours")
        store = rig.worker.spool.store

        async def fail(*args: object, **kwargs: object) -> None:
            raise error

        await client.ehlo()
        for _ in range(3):  # what was not taken uses up nothing of the bridge's cap
            monkeypatch.setattr(rig.worker.spool, "store", fail)
            answer = await client.message(sender="first@b.example")
            assert answer.startswith(expected)
            assert "ours" not in answer
            if not isinstance(error, SpoolError):
                break
        monkeypatch.setattr(rig.worker.spool, "store", store)
        assert await client.codes("RCPT TO:<x@y.example>", "DATA") == ["503", "503"]
        assert (await client.message(sender="second@b.example")).startswith("250")
        await rig.settled()
        assert [message.sender for message in sink.messages] == ["second@b.example"]
        assert len(rig.told("relay.fault")) >= faults


async def test_what_is_kept_is_answered_250_whatever_fails_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal after the commit would bring a second copy with every new try of the client."""
    async with SmtpServer() as sink:
        async with relaying(tmp_path, sink) as rig:
            rig.excused.append("acceptance")

            def fail(*_: object) -> None:
                raise RuntimeError("bug")

            monkeypatch.setattr(rig.worker.dispatcher, "offer", fail)
            assert (await rig.send(CONTENT)).startswith("250")
            assert len(await rig.entries()) == 1
            (fault,) = rig.told("relay.fault")
            assert "kept" in fault["error"]
        async with relaying(tmp_path, sink) as rig:
            await rig.settled()
        assert len(sink.messages) == 1


async def test_a_commit_that_takes_too_long_is_451_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R04 with the real store: durable after the deadline, and removed again."""
    async with SmtpServer() as sink, relaying(tmp_path, sink, accept_deadline="1s") as rig, rig.client() as client:
        rig.excused.append("stored after the accept deadline")
        store = rig.worker.spool.store

        async def slowly(*args, **kwargs):
            lease = await store(*args, **kwargs)
            await asyncio.sleep(1.3)
            return lease

        monkeypatch.setattr(rig.worker.spool, "store", slowly)
        await client.ehlo()
        assert (await client.message(sender="late@b.example")).startswith("451 4.4.5")
        monkeypatch.setattr(rig.worker.spool, "store", store)
        assert (await client.message(sender="next@b.example")).startswith("250")
        await rig.settled()
        assert [message.sender for message in sink.messages] == ["next@b.example"]


async def test_room_that_comes_back_is_used_at_once(tmp_path: Path) -> None:
    """R14, B164: full means 452, queued mail goes on leaving, and that is what makes room."""
    async with SmtpServer() as sink, relaying(tmp_path, sink, spool={"max_messages": 3}) as rig:
        sink.at("mail", reply("451 4.3.0 later"))
        for _ in range(3):
            assert (await rig.send(CONTENT)).startswith("250")
        async with rig.client() as client:
            await client.ehlo()
            assert (await client.ask("MAIL FROM:<a@b.example>")).startswith("452 4.3.1")
            sink.forget()
            await rig.settled()
            assert (await client.message()).startswith("250")
        await rig.settled()
        assert len(sink.messages) == 4


async def test_equal_messages_are_two(tmp_path: Path) -> None:
    """B166, R12."""
    async with SmtpServer() as sink, relaying(tmp_path, sink) as rig:
        content = b"Message-ID: <same@b.example>\r\n" + CONTENT
        answers = await asyncio.gather(rig.send(content), rig.send(content))
        assert len({answer for answer in answers if answer.startswith("250")}) == 2
        await rig.settled()
        assert len(sink.messages) == 2


# Upstreams: R09, R24


async def test_a_lost_answer_is_tried_again_with_the_same_node_and_named(tmp_path: Path) -> None:
    """R09: copies are at most one more than uncertain ends, and none through the other node."""
    async with SmtpServer() as one, SmtpServer() as two:
        for server in (one, two):
            server.at("dot", Do(say=b"", then="close", store=True), times=1)
        async with relaying(tmp_path, one, two, uncertain={"wait": "1h"}) as rig:
            await rig.send(CONTENT)
            await rig.settled()
            (uncertain,) = rig.told("attempt.uncertain")
            (delivered,) = rig.told("attempt.delivered")
            assert delivered["node"] == uncertain["node"]
        assert sorted((len(one.messages), len(two.messages))) == [0, 2]


async def test_an_idle_connection_that_died_costs_no_attempt(tmp_path: Path) -> None:
    """R24, B418."""
    async with SmtpServer() as sink, relaying(tmp_path, sink) as rig:
        await rig.send(CONTENT)
        await rig.settled()
        sink.disconnect()
        await rig.send(CONTENT)
        await rig.settled()
        sink.at("mail", CLOSE, times=1)
        await rig.send(CONTENT)
        await rig.settled()
        assert [event["attempt"] for event in rig.told("attempt.delivered")] == [1, 1, 1]
        assert not rig.told("attempt.deferred")
        assert not rig.told("node.deactivated")


# Poison: R32


async def crashed(directory: Path, number: int, crashes: int) -> str:
    """A spool as a process leaves it that died while delivering; the id of the message."""
    directory.mkdir(exist_ok=True)
    spool = SqliteSpool(directory, shard="0")
    await spool.start()
    message = Message(
        id=f"01H0000000000000000000000{number}",
        bridge="local",
        pool="main",
        lane=Lane.TRANSACTIONAL,
        sender="a@b.example",
        recipients=(Recipient(address=f"r{number}@d.example"),),
        received_at=time.time(),
        size=100,
        crashes=crashes,
    )
    await spool.store(message, Content(b"Subject: x\r\n", b"x\r\n"), lease=True)
    await spool.close()
    return message.id


async def test_a_message_that_saw_the_process_die_too_often_is_set_aside_and_the_rest_goes(tmp_path: Path) -> None:
    poison = await crashed(tmp_path / "var", 1, crashes=CERTAIN - 1)
    await crashed(tmp_path / "var", 2, crashes=1)
    await crashed(tmp_path / "var", 3, crashes=0)
    async with SmtpServer() as sink, relaying(tmp_path, sink) as rig:
        await rig.settled(left=1)
        (entry,) = await rig.entries()
        assert (entry.message.id, entry.standing) == (poison, Standing.QUARANTINED)
        assert f"died {CERTAIN} times" in entry.reason
        assert sorted(r for message in sink.messages for r in message.recipients) == ["r2@d.example", "r3@d.example"]
        assert len(rig.told("message.recovered")) == 3
        assert (await rig.send(CONTENT)).startswith("250")


# Isolation: R37


async def test_interleaved_sessions_never_mix_up_to_the_upstream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every transaction at the sink carries the number of one client transaction in sender, recipients and body."""
    rng = random.Random(37)
    async with SmtpServer() as sink, relaying(tmp_path, sink, limits={"per_address": 100, "errors": 1000}) as rig:
        rig.excused.append("injected")
        submit = rig.worker.acceptance.submit

        async def flaky(submission, *, deadline) -> Reply:
            await asyncio.sleep(rng.random() * 0.002)
            if rng.random() < 0.2:
                raise RuntimeError("injected")
            return await submit(submission, deadline=deadline)

        monkeypatch.setattr(rig.worker.acceptance, "submit", flaky)
        promised = await asyncio.gather(*(one_session(rig, number, rng) for number in range(30)))
        await rig.settled()
        expected = sorted(key for keys in promised for key in keys)
        assert len(expected) > 60
        assert sorted(message.sender[1:].partition("@")[0] for message in sink.messages) == expected
        for message in sink.messages:
            key = message.sender[1:].partition("@")[0]
            assert message.content.endswith(f"Subject: {key}\r\n\r\n{key}\r\n".encode())
            assert {recipient.partition("@")[0].partition("-")[2] for recipient in message.recipients} == {key}


async def one_session(rig: RelayRig, number: int, rng: random.Random) -> list[str]:
    """Numbers of the transactions that were promised."""
    promised = []
    async with rig.client() as client:
        await client.ehlo()
        for turn in range(6):
            key = f"{number}x{turn}"
            await client.ask(f"MAIL FROM:<s{key}@b.example>")
            for recipient in range(rng.randrange(4)):
                await client.ask(f"RCPT TO:<r{recipient}-{key}@d.example>")
            if rng.random() < 0.2:
                await client.ask(rng.choice(["RSET", "EHLO again", "MAIL FROM:<bad", "RCPT TO:<>"]))
            if (await client.ask("DATA")).startswith("354"):
                client.send(f"Subject: {key}\r\n\r\n{key}\r\n.\r\n")
                if (await client.reply()).startswith("250"):
                    promised.append(key)
            else:
                await client.ask("RSET")
    return promised
