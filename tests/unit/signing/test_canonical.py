"""Canonical forms equal dkimpy's on any octets, whole or in pieces."""

from __future__ import annotations

import hashlib
import time

import pytest
from dkim.canonicalization import Relaxed, Simple
from hypothesis import given
from hypothesis import strategies as st

from relay.signing.canonical import BodyHash, body_digest, relaxed_body, relaxed_value, simple_body

pieces = st.sampled_from(
    [b"\r\n", b"\r\n\r\n", b"\r", b"\n", b" ", b"\t", b"  \t", b"a", b"word", b"\x0b", b"\xff", b"\0"]
)
bodies = st.lists(pieces, max_size=30).map(b"".join) | st.binary(max_size=80)


@given(bodies)
def test_bodies_equal_dkimpy(body):
    assert relaxed_body(body) == Relaxed.canonicalize_body(body)
    assert simple_body(body) == Simple.canonicalize_body(body)


@given(bodies)
def test_header_values_equal_dkimpy(value):
    ((_, theirs),) = Relaxed.canonicalize_headers([(b"X-A", value)])
    assert relaxed_value(value) + b"\r\n" == theirs


@given(st.lists(bodies, max_size=8), st.sampled_from(["relaxed", "simple"]))
def test_a_body_in_pieces_hashes_as_the_whole(parts, form):
    assert body_digest(iter(parts), form) == body_digest(b"".join(parts), form)


@given(bodies, st.sampled_from(["relaxed", "simple"]))
def test_a_body_byte_by_byte_hashes_as_dkimpy(body, form):
    theirs = (Relaxed if form == "relaxed" else Simple).canonicalize_body(body)
    assert body_digest([body[i : i + 1] for i in range(len(body))], form) == hashlib.sha256(theirs).digest()


@pytest.mark.parametrize(
    ("body", "relaxed", "simple"),
    [
        (b"", b"", b"\r\n"),
        (b"\r\n", b"", b"\r\n"),
        (b"\r\n\r\n", b"", b"\r\n"),
        (b" \r\n", b"", b" \r\n"),
        (b"a", b"a\r\n", b"a\r\n"),
        (b" C \r\nD \t E\r\n\r\n\r\n", b" C\r\nD E\r\n", b" C \r\nD \t E\r\n"),  # RFC 6376 §3.4.5
    ],
)
def test_known_bodies(body, relaxed, simple):
    assert relaxed_body(body) == relaxed
    assert simple_body(body) == simple


@pytest.mark.parametrize("piece", [b"\r\n" * 500_000, b" " * 1_000_000, b" \r\n" * 300_000, b"\r" * 1_000_000])
def test_hostile_bodies_take_linear_time_and_no_memory_between_pieces(piece):
    state = BodyHash("relaxed")
    started = time.thread_time()
    for _ in range(4):
        state.update(piece)
        assert len(state._held) <= 2
    state.digest()
    assert time.thread_time() - started < 2
