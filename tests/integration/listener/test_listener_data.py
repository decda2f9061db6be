"""DATA over real sockets: smuggling in every cut, large bodies, limits, and an acceptor that fails in every way."""

from __future__ import annotations

import asyncio
import errno
import random
import resource
from pathlib import Path

import pytest

from relay.envelope import BodyFile, Reply
from relay.errors import AcceptanceError, SpoolError, SpoolFull, SpoolUnhealthy
from relay.listener.data import BodyWriter
from tests.fakes.listener_rig import listening

SMALL = b"Subject: x\r\n\r\nhello\r\n"


async def send_slowly(client, data: bytes, cuts: list[int]) -> None:
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        client.send(data[start:end])
        await client.writer.drain()
        await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    "sequence",
    [
        b"\n.\n",
        b"\n.\r\n",
        b"\r\n.\n",
        b"\r.\r",
        b"\r.\r\n",
        b"\r\n.\rx",
        b"\r\n\0.\r\n",
        b"\r\n.\0\r\n",
        b"\r\n.\r\r\n",
    ],
    ids=repr,
)
async def test_smuggled_commands_are_never_run_however_the_packets_fall(sequence: bytes) -> None:
    hidden = b"MAIL FROM:<evil@x.example>\r\nRCPT TO:<v@x.example>\r\nDATA\r\nSubject: evil\r\n\r\n"
    data = b"Subject: x\r\n\r\nx" + sequence + hidden + b"end\r\n.\r\n"
    middle = data.index(sequence)
    async with listening() as rig, rig.client() as client:
        await client.ehlo()
        for cut in range(middle - 1, middle + len(sequence) + 1):
            await client.begin()
            await send_slowly(client, data, [cut])
            assert (await client.reply()).startswith("554 5.6.0")
        assert (await client.message()).startswith("250")
        assert rig.acceptor.offered == 1


@pytest.mark.parametrize("step", [1, 3, 4, 5, 7])
async def test_a_body_that_looks_like_commands_is_a_body_in_any_packets(step: int) -> None:
    content = b"Subject: x\r\n\r\nRSET\r\nQUIT\r\nMAIL FROM:<>\r\n. \r\n.x\r\n"
    async with listening() as rig, rig.client() as client:
        await client.ehlo()
        await client.begin()
        stuffed = content.replace(b"\r\n.", b"\r\n..") + b".\r\n"
        await send_slowly(client, stuffed, list(range(step, len(stuffed), step)))
        assert (await client.reply()).startswith("250")
        assert rig.acceptor.messages[0].content == content


@pytest.mark.parametrize("content", [b"", b"\r\n", b"A: b\r\n", b"body only\r\n", b"\r\nbody\r\n"], ids=repr)
async def test_short_messages_are_taken(content: bytes) -> None:
    async with listening() as rig, rig.client() as client:
        await client.ehlo()
        assert (await client.message(content)).startswith("250")
        assert rig.acceptor.messages[0].content.strip() == content.strip()


@pytest.mark.parametrize("ending", [b"", b"\r\n.", b"\r\n.\r"], ids=repr)
async def test_a_client_that_goes_away_inside_data_has_sent_nothing(ending: bytes, tmp_path: Path) -> None:
    async with listening(body_dir=tmp_path) as rig:
        for size in (10, 1_000_000):
            for leave in ("close", "reset"):
                async with rig.client() as client:
                    await client.ehlo()
                    await client.begin()
                    client.send(b"Subject: x\r\n\r\n" + b"x" * size + ending)
                    await client.writer.drain()
                    getattr(client, leave)()
                await rig.idle()
        assert rig.acceptor.offered == 0
        assert list(tmp_path.iterdir()) == []


# Size


@pytest.mark.parametrize("size", [131_000, 140_000, 300_000, 3_000_000])
async def test_a_large_body_goes_through_a_file_that_is_gone_afterwards(size: int, tmp_path: Path) -> None:
    line = bytes(range(32, 127)) * 7 + b"\r\n"
    content = b"Subject: x\r\n\r\n" + line * (size // len(line))
    async with listening(body_dir=tmp_path) as rig, rig.client() as client:
        await client.ehlo()
        assert (await client.message(content)).startswith("250")
        (taken,) = rig.acceptor.messages
        assert taken.content == content
        body = taken.submission.content.body
        assert isinstance(body, BodyFile) == (len(content) > 128 * 1024)
        if isinstance(body, BodyFile):
            assert body.size == len(content) - len(b"Subject: x\r\n\r\n")
    assert list(tmp_path.iterdir()) == []


async def test_a_body_file_can_be_adopted_by_renaming(tmp_path: Path) -> None:
    (tmp_path / "incoming").mkdir()
    async with listening(body_dir=tmp_path / "incoming") as rig, rig.client() as client:
        submit = rig.acceptor.submit

        async def adopt(submission, *, deadline):
            submission.content.body.path.rename(tmp_path / "kept")
            rig.acceptor.submit = submit
            return Reply(250, "2.0.0", "Ok")

        rig.acceptor.submit = adopt
        await client.ehlo()
        assert (await client.message(b"A: b\r\n\r\n" + b"x\r\n" * 100_000)) == "250 2.0.0 Ok"
        assert (tmp_path / "kept").stat().st_size == 300_000
        assert list((tmp_path / "incoming").iterdir()) == []
        assert (await client.message()).startswith("250")


async def test_too_much_is_refused_after_the_dot_and_its_inside_is_not_run(tmp_path: Path) -> None:
    async with listening(max_size=100_000, body_in_memory=1000, body_dir=tmp_path) as rig, rig.client() as client:
        await client.ehlo()
        await client.begin()
        client.send(b"A: b\r\n\r\n" + b"x" * 150_000 + b"\r\n.\nRSET\r\nNOOP\r\n" + b"x" * 50_000 + b"\r\n.\r\n")
        assert (await client.reply()).startswith("55")
        assert (await client.ask("RCPT TO:<c@d.example>")).startswith("503")
        assert (await client.message()).startswith("250")
        assert rig.acceptor.offered == 1
        (event,) = rig.records.named("message.rejected")
        assert event["stage"] == "data"
    assert list(tmp_path.iterdir()) == []


async def test_an_endless_message_is_given_up() -> None:
    async with listening(max_size=10_000) as rig, rig.client() as client:
        await client.ehlo()
        await client.begin()
        client.send(b"A: b\r\n\r\n" + b"x" * 50_000)
        assert (await client.rest()).startswith("421 4.7.0")


async def test_a_refused_message_that_trickles_on_is_given_up() -> None:
    async with listening(discard_timeout=0.1) as rig, rig.client() as client:
        await client.ehlo()
        await client.begin()
        client.send(b"A: b\r\n\r\nx\0\r\n")
        assert (await client.rest()).startswith("421 4.7.0")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"A: b\r\n" * 1001 + b"\r\nx\r\n", "552 5.3.4"),
        (b"A: " + b"b" * 270_000 + b"\r\n\r\nx\r\n", "552 5.3.4"),
        (b"Received: x\r\n" * 51 + b"\r\nx\r\n", "554 5.4.6"),
        (b"A: b\r\n\r\n" + b"x" * 998 + b"\r\n", "250 2.0.0"),
        (b"A: b\r\n\r\n" + b"x" * 999 + b"\r\n", "250 2.0.0"),
        (b"A: b\r\n\r\nx\ny\r\n", "554 5.6.0"),
        (b"A: b\r\n\r\nx\ry\r\n", "554 5.6.0"),
        (b"A: b\r\n\r\nx\0y\r\n", "554 5.6.0"),
    ],
    ids=["fields", "header", "loop", "998", "999", "LF", "CR", "NUL"],
)
async def test_contents_that_are_refused_and_taken(content: bytes, expected: str) -> None:
    async with listening() as rig, rig.client() as client:
        await client.ehlo()
        assert (await client.message(content)).startswith(expected)
        if expected.startswith("250"):
            assert rig.acceptor.messages[0].submission.long_lines == (b"x" * 999 in content)


async def test_many_large_uploads_at_once_stay_small_in_memory(tmp_path: Path) -> None:
    """20 uploads of 10 MB: nothing near 200 MB may be held, so the peak rises by less than a fifth of that."""
    line = b"x" * 998 + b"\r\n"
    total = 10 * 1024 * 1024
    async with listening(body_dir=tmp_path) as rig:
        rig.acceptor.submit = count_bytes(rig.acceptor)

        async def upload() -> str:
            async with rig.client() as client:
                await client.ehlo()
                await client.begin()
                client.send(b"A: b\r\n\r\n")
                for _ in range(total // (len(line) * 64)):
                    client.send(line * 64)
                    await client.writer.drain()
                client.send(b".\r\n")
                return await client.reply()

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        replies = await asyncio.gather(*(upload() for _ in range(20)))
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert {reply[:3] for reply in replies} == {"250"}
        assert grown_kib < 40 * 1024
    assert list(tmp_path.iterdir()) == []


def count_bytes(acceptor):
    async def submit(submission, *, deadline):
        acceptor.offered += 1
        assert submission.content.body.path.stat().st_size == submission.content.body.size
        return Reply(250, "2.0.0", "Ok")

    return submit


# Trouble of our own


TROUBLES = [
    (RuntimeError("secret detail"), "451 4.3.0"),
    (RecursionError(), "451 4.3.0"),
    (MemoryError(), "451 4.3.0"),
    (asyncio.CancelledError(), "451 4.3.0"),
    (TimeoutError(), "451 4.3.0"),
    (ConnectionResetError(), "451 4.3.0"),
    (SpoolError("x"), "451 4.3.0"),
    (SpoolFull("x"), "452 4.3.1"),
    (AcceptanceError(Reply(550, "5.7.1", "No")), "550 5.7.1"),
]


@pytest.mark.parametrize(("error", "expected"), TROUBLES, ids=[type(error).__name__ for error, _ in TROUBLES])
async def test_an_acceptor_that_raises_is_4xx_without_its_text_and_the_state_is_reset(error, expected: str) -> None:
    async with listening(faults=True) as rig, rig.client() as client:
        await client.ehlo()
        rig.acceptor.raises["submit"] = error
        reply = await client.message(sender="first@b.example")
        assert reply.startswith(expected)
        assert "secret" not in reply
        assert await client.codes("RCPT TO:<x@y.example>", "DATA") == ["503", "503"]
        del rig.acceptor.raises["submit"]
        assert (await client.message(sender="second@b.example")).startswith("250")
        assert [taken.sender for taken in rig.acceptor.messages] == ["second@b.example"]
        assert len(rig.faults) == (0 if isinstance(error, (SpoolError, AcceptanceError)) else 1)


async def test_an_unhealthy_store_ends_the_session() -> None:
    async with listening() as rig, rig.client() as client:
        await client.ehlo()
        rig.acceptor.raises["submit"] = SpoolUnhealthy("fsync")
        await client.begin()
        client.send(SMALL + b".\r\n")
        assert (await client.rest()).startswith("421 4.3.0")


@pytest.mark.parametrize("method", ["admits", "check_open", "check_sender"])
async def test_an_acceptor_that_raises_at_mail_is_451_and_no_transaction_is_open(method: str) -> None:
    async with listening(faults=True) as rig, rig.client() as client:
        await client.ehlo()
        rig.acceptor.raises[method] = ValueError("secret detail")
        reply = await client.ask("MAIL FROM:<a@b.example>")
        assert reply.startswith("451 4.3.0")
        assert "secret" not in reply
        assert (await client.ask("RCPT TO:<c@d.example>")).startswith("503")
        rig.acceptor.raises.clear()
        assert (await client.message()).startswith("250")
        assert len(rig.faults) == 1


@pytest.mark.parametrize(("number", "expected"), [(errno.ENOSPC, "452 4.3.1"), (errno.EIO, "451 4.3.0")])
async def test_a_body_that_cannot_be_written_is_4xx(number: int, expected: str, tmp_path: Path, monkeypatch) -> None:
    def fail(self, pieces):
        raise OSError(number, "no")

    monkeypatch.setattr(BodyWriter, "_write", fail)
    async with listening(body_dir=tmp_path, faults=True) as rig, rig.client() as client:
        await client.ehlo()
        assert (await client.message(b"A: b\r\n\r\n" + b"x\r\n" * 300_000)).startswith(expected)
        assert (await client.message()).startswith("250")
        assert len(rig.faults) == (number == errno.EIO)


async def test_an_acceptors_refusal_is_passed_on_and_told() -> None:
    async with listening() as rig, rig.client() as client:
        await client.ehlo()
        rig.acceptor.replies.append(Reply(550, "5.7.1", "Two\nlines \u2028 and \x07 more"))
        assert await client.message() == "550-5.7.1 Two\n550 5.7.1 lines ? and ? more"
        assert (await client.message()).startswith("250")
    (event,) = rig.records.named("message.rejected")
    assert event["stage"] == "data"


# The commit


async def test_no_250_after_the_deadline_and_the_message_is_not_kept() -> None:
    async with listening(accept_deadline=0.1) as rig, rig.client() as client:
        rig.acceptor.gate = asyncio.Event()
        await client.ehlo()
        await client.begin("late@b.example")
        client.send(SMALL + b".\r\nMAIL FROM:<next@b.example>\r\n")
        assert (await client.reply()).startswith("451 4.4.5")
        rig.acceptor.gate.set()
        assert (await client.reply()).startswith("250 2.1.0")
        assert await client.codes("RCPT TO:<c@d.example>", "DATA") == ["250", "354"]
        client.send(SMALL + b".\r\n")
        assert (await client.reply()).startswith("250")
        assert [taken.sender for taken in rig.acceptor.messages] == ["next@b.example"]


async def test_an_acceptor_that_keeps_a_message_after_the_deadline_is_a_fault() -> None:
    async with listening(accept_deadline=0.05, faults=True) as rig, rig.client() as client:
        gate = asyncio.Event()

        async def submit(submission, *, deadline):
            await gate.wait()
            return Reply(250, "2.0.0", "Ok")

        rig.acceptor.submit = submit
        await client.ehlo()
        assert (await client.message()).startswith("451 4.4.5")
        gate.set()
        assert await client.ask("NOOP") == "250 2.0.0 Ok"
        assert len(rig.faults) == 1


async def test_a_commit_that_never_ends_does_not_hold_its_session_for_ever() -> None:
    async with listening(accept_deadline=0.05) as rig, rig.client() as client:
        rig.acceptor.gate = asyncio.Event()
        await client.ehlo()
        await client.begin()
        client.send(SMALL + b".\r\n")
        assert (await client.rest()).startswith("451 4.4.5")


async def test_a_slow_commit_is_not_timed_by_the_idle_timer() -> None:
    async with listening(idle_timeout=0.05, session_timeout=0.1, accept_deadline=5) as rig, rig.client() as client:
        rig.acceptor.gate = asyncio.Event()
        await client.ehlo()
        await client.begin()
        client.send(SMALL + b".\r\n")
        await rig.acceptor.committing.wait()
        await asyncio.sleep(0.3)
        rig.acceptor.gate.set()
        assert (await client.reply()).startswith("250")
        assert (await client.rest()).startswith("421 4.4.2")


@pytest.mark.parametrize("leave", ["close", "reset", "half-close"])
async def test_a_commit_is_finished_when_its_client_leaves(leave: str) -> None:
    async with listening() as rig:
        rig.acceptor.gate = asyncio.Event()
        async with rig.client() as client:
            await client.ehlo()
            await client.begin()
            client.send(SMALL + b".\r\n")
            await rig.acceptor.committing.wait()
            if leave == "half-close":
                client.writer.write_eof()
            else:
                getattr(client, leave)()
        await asyncio.sleep(0.02)
        rig.acceptor.gate.set()
        await rig.idle()
        assert len(rig.acceptor.messages) == 1
        (event,) = rig.records.named("session.ended")
        assert event["accepted"] == 1
        assert event["replies_lost"] == (leave == "reset")  # close and half-close look alike from here


async def test_random_closes_leave_each_message_absent_or_whole_and_once() -> None:
    """R05: 200 sessions end at a random octet of their last message, by FIN, RST or half-close."""
    rng = random.Random(5)
    async with listening(max_per_peer=0) as rig:

        async def session(number: int) -> bool:
            content = f"Subject: {number}\r\n\r\n".encode() + b"%d\r\n" % number * 50
            stream = (
                b"EHLO x\r\nMAIL FROM:<s%d@b.example>\r\nRCPT TO:<r%d@d.example>\r\nDATA\r\n" % (number, number)
                + content
                + b".\r\nQUIT\r\n"
            )
            cut = rng.randrange(len(stream) - 60, len(stream) + 1)
            how = rng.choice(["close", "reset", "half-close"])
            async with rig.client() as client:
                client.send(stream[:cut])
                if how == "half-close":
                    client.writer.write_eof()
                    return "250 2.0.0" in await client.rest()
                await asyncio.sleep(rng.random() * 0.02)
                getattr(client, how)()
                return False

        answered = await asyncio.gather(*(session(number) for number in range(200)))
        await rig.idle()
        seen = [taken.sender for taken in rig.acceptor.messages]
        assert len(seen) == len(set(seen))
        assert {f"s{number}@b.example" for number, ok in enumerate(answered) if ok} <= set(seen)
        assert 5 < len(seen) < 200
        for taken in rig.acceptor.messages:
            number = int(taken.sender[1:].partition("@")[0])
            assert taken.recipients == (f"r{number}@d.example",)
            assert taken.content == f"Subject: {number}\r\n\r\n".encode() + b"%d\r\n" % number * 50
