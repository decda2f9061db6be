"""B170-B181, R39: one accepted transaction is one transaction at the upstream, in every reading of line ends.

Seen from both ends of a whole relay: what the client was promised, and the octets that left through the real driver.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.relay_rig import RelayRig, relaying
from tests.fakes.smtp_server import CAPABILITIES, Message, SmtpServer

ANY_LINE_END = rb"(?:\r\n|\r|\n)"
HIDDEN = b"MAIL FROM:<evil@x.example>\r\nRCPT TO:<victim@x.example>\r\nDATA\r\nSubject: evil\r\n\r\nevil\r\n.\r\n"

# What a message must not end at, and what an upstream must never see.
SEQUENCES = {
    "LF dot LF": b"\n.\n",
    "LF dot CRLF": b"\n.\r\n",
    "CRLF dot LF": b"\r\n.\n",
    "CR dot CR": b"\r.\r",
    "CR dot CRLF": b"\r.\r\n",
    "CRLF dot CR": b"\r\n.\rx",
    "LF dot CR": b"\n.\rx",
    "CR dot LF": b"\r.\n",
    "CRLF dot CR CRLF": b"\r\n.\r\r\n",
    "CR CRLF dot CR CRLF": b"\r\r\n.\r\r\n",
    "CRLF NUL dot CRLF": b"\r\n\0.\r\n",
    "CRLF dot NUL CRLF": b"\r\n.\0\r\n",
    "bare LF": b"a\nb",
    "bare CR": b"a\rb",
    "LF at the end": b"\r\nlast line\n",
    "CR at the end": b"\r\nlast line\r",
}
# Line ends to some programs, text to SMTP: it passes, and ends nothing.
TEXT = {
    "dot blank": b"\r\n.. \r\n",
    "dot tab": b"\r\n..\t\r\n",
    "dot VT": b"\r\n..\v\r\n",
    "NEL dot NEL": b"\x85.\x85",
    "LS dot LS": "\u2028.\u2028".encode(),
    "control Z": b"\r\n\x1a\r\n",
    "stuffed dot": b"\r\n..\r\n",
}


def assert_one_message(message: Message) -> None:
    """The octets of one DATA phase, ended once, also for a server that takes CR or LF for a line end or skips NUL."""
    raw = message.raw
    assert re.search(rb"\r(?!\n)|(?<!\r)\n|\0", raw) is None
    assert raw.endswith(b"\r\n.\r\n")
    assert len(re.findall(rb"%b\.(?=%b)" % (ANY_LINE_END, ANY_LINE_END), raw)) == 1


def ids_of(replies: str) -> list[str]:
    return re.findall(r"^250 2\.0\.0 Ok: queued as (\w+)", replies, re.MULTILINE)


def id_at(message: Message) -> str:
    found = re.search(rb"by relay\.example\.com with \w+ id (\w+)", message.content)
    assert found is not None
    return found[1].decode()


@pytest.mark.parametrize("endings", ["reject", "normalize"])
async def test_no_sequence_smuggles_in_or_out(endings: str, tmp_path: Path) -> None:
    """Each sequence with a whole transaction behind it, then a plain message in the same session."""
    async with SmtpServer() as sink, relaying(tmp_path, sink, line_endings=endings, limits={"errors": 100}) as rig:
        accepted = {}
        for name, sequence in (SEQUENCES | TEXT).items():
            async with rig.client() as client:
                await client.ehlo()
                await client.begin(f"{len(accepted)}@b.example")
                client.send(
                    b"Subject: x\r\n\r\nfirst" + sequence + HIDDEN.replace(b"\r\n.", b"\r\n..") + b"end\r\n.\r\n"
                )
                reply = await client.reply()
                if reply.startswith("250"):
                    accepted[ids_of(reply)[0]] = name
                else:
                    assert reply.startswith("554 5.6.0"), (name, reply)
                assert await client.codes("RCPT TO:<c@d.example>", "DATA") == ["503", "503"]
                accepted[ids_of(await client.message())[0]] = "plain"
        await rig.settled()
        assert {id_at(message): accepted[id_at(message)] for message in sink.messages} == accepted
        assert len(sink.messages) == len(accepted)
        for message in sink.messages:
            assert_one_message(message)
            assert message.recipients == ["c@d.example"]
        taken = set(accepted.values())
        assert set(TEXT) <= taken
        clean = set(SEQUENCES) & taken
        assert clean == (set() if endings == "reject" else {n for n in SEQUENCES if "NUL" not in n})
        assert "evil@x.example" not in {message.sender for message in sink.messages}


@pytest.mark.parametrize("pause_s", [0.0, 0.005], ids=["at once", "with pauses"])
@pytest.mark.parametrize("sequence", ["LF dot CRLF", "CRLF dot LF", "CRLF dot CR CRLF", "CR dot CR"])
async def test_packets_change_nothing(sequence: str, pause_s: float, tmp_path: Path) -> None:
    """B177: the stream cut at every octet of the sequence and of the real end."""
    stream = b"Subject: x\r\n\r\nfirst" + SEQUENCES[sequence] + HIDDEN[:-5] + b"\r\n.\r\n"
    at = stream.index(SEQUENCES[sequence])
    cuts = [*range(at - 1, at + len(SEQUENCES[sequence]) + 1), *range(len(stream) - 5, len(stream))]
    async with SmtpServer() as sink, relaying(tmp_path, sink, line_endings="reject") as rig, rig.client() as client:
        await client.ehlo()
        for cut in cuts:
            await client.begin()
            client.send(stream[:cut])
            await client.writer.drain()
            await asyncio.sleep(pause_s)
            client.send(stream[cut:])
            assert (await client.reply()).startswith("554 5.6.0")
        assert (await client.message()).startswith("250")
        client.send(b"QUIT\r\n")
        await client.rest()
        await rig.settled()
        assert len(sink.messages) == 1


async def test_a_message_the_client_signed_is_refused_rather_than_repaired(tmp_path: Path) -> None:
    """B181: `normalize` is for those who did not sign."""
    signed = b"DKIM-Signature: v=1; a=rsa-sha256; d=b.example; s=x; h=from; bh=; b=\r\nFrom: a@b.example\r\n\r\n"
    async with SmtpServer() as sink, relaying(tmp_path, sink, line_endings="normalize") as rig:
        assert (await rig.send(signed + b"one\ntwo\r\n")).startswith("554 5.6.0")
        assert (await rig.send(b"From: a@b.example\r\n\r\none\ntwo\r\n")).startswith("250")
        assert (await rig.send(signed + b"one\r\ntwo\r\n")).startswith("250")
        await rig.settled()
        assert (
            sorted(message.content.rpartition(b"\r\n\r\n")[2] for message in sink.messages) == [b"one\r\ntwo\r\n"] * 2
        )


# Any octets at all

TRANSACTION = b"\r\nMAIL FROM:<evil@x.example>\r\nRCPT TO:<victim@x.example>\r\nDATA\r\n"
ENDS = [b"\r", b"\n", b".", b"\0", b"\r\n", b"\r\n.", b"\r\n.\r\n", b"\n.\n", b"\r\n.\n", b"\r.\r"]
INSIDE = [b"\r\n\r\n", b"\r\n..\r\n", b"\r\n..", b"x", b"A: b"]
PIECES = st.sampled_from([*ENDS, *INSIDE, TRANSACTION])
STREAMS = st.lists(st.lists(PIECES, max_size=12).map(b"".join), min_size=1, max_size=4)


async def transfer(rig: RelayRig, streams: list[bytes]) -> list[str]:
    """Each stream in a DATA phase of its own session; ids of what was accepted."""

    async def one(number: int, stream: bytes) -> list[str]:
        async with rig.client() as client:
            client.send(b"EHLO x\r\nMAIL FROM:<s%d@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n" % number)
            client.send(stream + b"\r\n.\r\nNOOP\r\n")
            client.writer.write_eof()
            return ids_of(await client.rest())

    accepted = await asyncio.gather(*(one(number, stream) for number, stream in enumerate(streams)))
    return [message_id for ids in accepted for message_id in ids]


@pytest.mark.parametrize("capabilities", [CAPABILITIES, ("8BITMIME",)], ids=["pipelining", "one by one"])
@pytest.mark.parametrize("endings", ["reject", "normalize"])
def test_transactions_at_the_sink_are_those_that_were_accepted(
    endings: str, capabilities: tuple[str, ...], tmp_path: Path
) -> None:
    """R39, over random CR, LF, dots, NUL and commands."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        stack = contextlib.AsyncExitStack()

        async def begin() -> tuple[SmtpServer, RelayRig]:
            sink = await stack.enter_async_context(SmtpServer(capabilities=capabilities))
            return sink, await stack.enter_async_context(relaying(tmp_path, sink, line_endings=endings))

        sink, rig = runner.run(begin())
        seen = {"accepted": 0, "hidden": 0}

        async def check(streams: list[bytes]) -> None:
            sink.messages.clear()
            accepted = await transfer(rig, streams)
            await rig.settled()
            assert sorted(map(id_at, sink.messages)) == sorted(accepted)
            for message in sink.messages:
                assert_one_message(message)
            seen["accepted"] += len(accepted)
            seen["hidden"] += sum(b"victim" in message.content for message in sink.messages)

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
        @given(STREAMS)
        def any_streams(streams: list[bytes]) -> None:
            runner.run(check(streams))

        try:
            any_streams()
            assert seen["accepted"] > 10
            assert endings == "reject" or seen["hidden"] > 0
        finally:
            runner.run(stack.aclose())
