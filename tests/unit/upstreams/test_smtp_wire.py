"""The reply parser: what is a reply, what is a fault, and that borders between reads do not matter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.upstreams.smtp_wire import LINE_LIMIT, REPLY_LIMIT, ReplyParser, WireFault, WireReply

GOOD = [
    (b"250 Ok\r\n", [WireReply(250, "Ok")]),
    (b"250\r\n", [WireReply(250, "")]),
    (b"250 \r\n", [WireReply(250, "")]),
    (b"250-a\r\n250-b\r\n250 c\r\n", [WireReply(250, "a\nb\nc")]),
    (b"250-a\r\n250\r\n", [WireReply(250, "a\n")]),
    (b"571 Blocked\r\n", [WireReply(571, "Blocked")]),
    (b"250 a\r\n550-b\r\n550 c\r\n354 go\r\n", [WireReply(250, "a"), WireReply(550, "b\nc"), WireReply(354, "go")]),
    (b"250 \xc3\xa4\xff\r\n", [WireReply(250, "\u00e4\udcff")]),
]

BAD = {
    "other codes in one reply": b"250-a\r\n550 b\r\n",
    "separator": b"250_x\r\n",
    "class 0": b"099 x\r\n",
    "class 1": b"150 x\r\n",
    "class 9": b"999 x\r\n",
    "two digits": b"25 x\r\n",
    "letters": b"abc x\r\n",
    "sign": b"+25 x\r\n",
    "blank before": b" 250 x\r\n",
    "bare LF": b"250 x\n",
    "CR inside": b"250 x\ry\r\n",
    "CR only": b"250 x\r250 y\r",
    "NUL": b"250 x\0y\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "empty line": b"\r\n",
    "long line": b"250 " + b"x" * LINE_LIMIT + b"\r\n",
    "long line without end": b"250 " + b"x" * LINE_LIMIT,
    "a megabyte": b"x" * 2**20,
    "endless continuation": b"250-again\r\n" * (REPLY_LIMIT // 8),
    "other Unicode digits": "25\u0664 x\r\n".encode(),
}


def fed(pieces: list[bytes]) -> list[WireReply]:
    parser = ReplyParser()
    return [reply for piece in pieces for reply in parser.feed(piece)]


@pytest.mark.parametrize(("data", "expected"), GOOD, ids=[repr(g[0])[:40] for g in GOOD])
def test_replies_are_read_whole_and_octet_by_octet(data: bytes, expected: list[WireReply]) -> None:
    assert fed([data]) == expected
    assert fed([data[i : i + 1] for i in range(len(data))]) == expected


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_what_is_no_reply_is_a_fault_however_it_arrives(data: bytes) -> None:
    with pytest.raises(WireFault):
        fed([data])
    with pytest.raises(WireFault):
        fed([data[i : i + 1000] for i in range(0, len(data), 1000)])
    if len(data) < 100:
        with pytest.raises(WireFault):
            fed([data[i : i + 1] for i in range(len(data))])


def test_half_a_reply_is_not_a_reply() -> None:
    parser = ReplyParser()
    assert parser.feed(b"250-a\r\n250 b") == []
    assert parser.partial
    assert parser.feed(b"\r\n") == [WireReply(250, "a\nb")]
    assert not parser.partial


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_any_octets_give_replies_or_a_fault(pieces: list[bytes]) -> None:
    try:
        for reply in fed(pieces):
            assert 200 <= reply.code <= 599
    except WireFault:
        pass


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_border_between_reads_does_not_matter(first: int, second: int) -> None:
    data = b"250-mx.example\r\n250-SIZE 1000\r\n250 8BITMIME\r\n250 Ok\r\n354 go\r\n"
    a, b = sorted((first, second))
    assert fed([data[:a], data[a:b], data[b:]]) == fed([data])
