"""Dot-stuffing: what arrives after un-stuffing is what was sent, and nothing inside can end the content."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.upstreams.dots import Stuffer, stuffed

LINE = st.sampled_from([b"", b".", b"..", b".a", b"a.", b"text", b"\xff.", b" ."])
CANONICAL = st.lists(LINE).map(lambda lines: b"".join(line + b"\r\n" for line in lines))
ANY = st.lists(st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"a", b"\r\n.\r\n", b"\n.\n"])).map(b"".join)


def in_pieces(content: bytes, cuts: list[int]) -> bytes:
    borders = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    stuffer = Stuffer()
    pieces = [stuffer.piece(content[a:b]) for a, b in itertools.pairwise(borders)]
    return b"".join(pieces) + stuffer.end()


def received(wire: bytes) -> bytes:
    """What a server of RFC 5321 §4.5.2 makes of it; it reads exactly to the end of content."""
    lines = wire.split(b"\r\n")
    end = lines.index(b".")
    assert lines[end + 1 :] == [b""], "the content ended before its end"
    return b"".join((line[1:] if line.startswith(b".") else line) + b"\r\n" for line in lines[:end])


@given(CANONICAL, st.lists(st.integers(0, 80), max_size=6))
@example(b".\r\n.\r\n", [1, 2, 3, 4, 5])
def test_content_arrives_as_it_was_wherever_it_is_cut(content: bytes, cuts: list[int]) -> None:
    assert received(stuffed(content)) == content
    assert in_pieces(content, cuts) == stuffed(content)


@given(ANY, st.lists(st.integers(0, 80), max_size=6))
def test_no_reading_of_line_ends_finds_an_end_inside(content: bytes, cuts: list[int]) -> None:
    wire = stuffed(content)
    assert in_pieces(content, cuts) == wire
    assert wire.endswith(b"\r\n.\r\n") or wire == b".\r\n"
    inside = b"\r\n" + wire[:-3]
    assert not re.search(rb"\n\.(\r|\n)", inside), "a server that takes a bare LF for a line end would stop here"


@pytest.mark.parametrize(("content", "wire"), [(b"", b".\r\n"), (b"a", b"a\r\n.\r\n"), (b"a\r\n", b"a\r\n.\r\n")])
def test_the_last_line_gets_its_end(content: bytes, wire: bytes) -> None:
    assert stuffed(content) == wire
    assert in_pieces(content, []) == wire
