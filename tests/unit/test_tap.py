"""Listening in: what is shown, what never is, and what it costs when nobody listens."""

from __future__ import annotations

import asyncio
import base64

import pytest

from relay.tap import KEPT, LISTENERS, Heard, NodeTalk, Side, Tap, Wanted, command_text, reply_texts

ALL = Wanted()
SECRET = base64.b64encode(b"\0user\0hunter2-word")


async def heard(tap: Tap, wanted: Wanted = ALL, name: str = "me") -> list[str]:
    lines, _ = await tap.read(name, wanted, wait_s=0.0)
    return [f"{line.side} {'<>'[line.ours]} {line.text}" for line in lines]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"MAIL FROM:<a@b.example> SIZE=3", "MAIL FROM:<a@b.example> SIZE=3"),
        (b"ehlo client", "ehlo client"),
        (b"AUTH PLAIN " + SECRET, "AUTH PLAIN (credentials)"),
        (b"auth login " + SECRET, "AUTH LOGIN (credentials)"),
        (b"AUTH " + SECRET, "AUTH … (credentials)"),
        (b"AUTH", "AUTH … (credentials)"),
        (SECRET, f"({len(SECRET)} octets that are no command)"),
        (b"PASS hunter2-word", "(17 octets that are no command)"),
        (b"", "(0 octets that are no command)"),
    ],
)
def test_a_command_is_shown_without_what_may_be_secret(line: bytes, shown: str) -> None:
    assert command_text(line) == shown


def test_replies_are_shown_but_challenges() -> None:
    assert reply_texts(b"250-a\r\n250 b\r\n") == ["250-a", "250 b"]
    assert reply_texts(b"334 VXNlcm5hbWU6\r\n") == ["334 (challenge)"]


async def test_the_content_for_a_node_is_counted_and_never_shown() -> None:
    tap = Tap()
    await tap.read("me", ALL, wait_s=0.0)
    talk = NodeTalk(tap, "1", "n", "192.0.2.1:25")
    talk.told(b"HELP this is the middle of a message\r\n")
    talk.said(250, "ok")
    talk.told(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n")
    for code in (250, 250, 354):
        talk.said(code, "x")
    for piece in (b"QUIT\r\n", b"DATA secret\r\n", b".\r\n"):
        talk.told(piece)
    talk.said(250, "2.0.0 taken\nas 1")
    talk.told(b"AUTH PLAIN " + SECRET + b"\r\n")
    talk.told(SECRET + b"\r\n")
    talk.said(334, "PDEyMz4=")
    talk.told(b"QUIT\r\n")
    assert await heard(tap) == [
        "node > (38 octets that are not shown)",
        "node < 250 ok",
        "node > MAIL FROM:<a@b>",
        "node > RCPT TO:<c@d>",
        "node > DATA",
        "node < 250 x",
        "node < 250 x",
        "node < 354 x",
        "node > (6 octets that are not shown)",
        "node > (13 octets that are not shown)",
        "node > (3 octets that are not shown)",
        "node < 250-2.0.0 taken",
        "node < 250 as 1",
        "node > AUTH PLAIN (credentials)",
        f"node > ({len(SECRET) + 2} octets that are not shown)",
        "node < 334 (challenge)",
        "node > QUIT",
    ]


WHO = {
    "all": (ALL, "bcn"),
    "a bridge": (Wanted(bridge="b"), "b"),
    "a node": (Wanted(node="n"), "n"),
    "a peer": (Wanted(peer="192.0.2.2"), "c"),
    "a bridge and a node": (Wanted(bridge="b", node="n"), "bn"),
    "a bridge at another peer": (Wanted(bridge="b", peer="192.0.2.2"), ""),
}


@pytest.mark.parametrize(("wanted", "expected"), WHO.values(), ids=WHO.keys())
def test_who_is_heard(wanted: Wanted, expected: str) -> None:
    lines = {
        "b": Heard(0, Side.CLIENT, "1", "b", "192.0.2.1", False, ""),
        "c": Heard(0, Side.CLIENT, "2", "c", "192.0.2.2", False, ""),
        "n": Heard(0, Side.NODE, "3", "n", "192.0.2.9:25", False, ""),
    }
    assert "".join(name for name, line in lines.items() if wanted.fits(line)) == expected


async def test_what_is_not_read_in_time_is_dropped_oldest_first_and_counted() -> None:
    tap = Tap()
    await tap.read("me", ALL, wait_s=0.0)
    for number in range(KEPT + 10):
        tap.client_said("1", "b", "192.0.2.1", b"NOOP %d" % number)
    lines, dropped = await tap.read("me", ALL, wait_s=0.0)
    assert (len(lines), dropped, lines[0].text) == (KEPT, 10, "NOOP 10")
    assert await tap.read("me", ALL, wait_s=0.0) == ([], 0)


async def test_who_does_not_come_back_stops_listening(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.tap.FORGET_S", 0.05)
    tap = Tap()
    assert not tap.open
    await tap.read("me", ALL, wait_s=0.0)
    assert tap.open
    async with asyncio.timeout(5):
        while tap.open:
            await asyncio.sleep(0.01)
    await tap.read("me", ALL, wait_s=0.0)
    assert (tap.open, tap.opened) == (True, 2)


async def test_a_reader_waits_for_the_first_line_and_there_are_not_too_many() -> None:
    tap = Tap()
    reading = asyncio.create_task(tap.read("me", ALL, wait_s=5.0))
    await asyncio.sleep(0)
    tap.client_told("1", "", "192.0.2.1", b"220 hello\r\n")
    lines, _ = await reading
    assert [line.text for line in lines] == ["220 hello"]
    for number in range(LISTENERS - 1):
        await tap.read(f"other {number}", ALL, wait_s=0.0)
    with pytest.raises(ValueError, match="traces are open already"):
        await tap.read("one too many", ALL, wait_s=0.0)
