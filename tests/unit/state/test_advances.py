"""Advances: recipients counted before their messages are there."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.pools.caps import MAX_LENT_S, Book
from relay.pools.pool import Cap
from relay.state import Candidate, Denied, Permit, PermitRequest
from relay.state.granting import ADVANCE_S, SPARE, SPARE_LEAST, answer
from relay.state.sqlite_books import pack, unpack

NOW = 1_800_000_000.0


def of(*caps: tuple[float, int], spread: bool = False) -> Candidate:
    return Candidate("node:n", tuple(Cap(window_s=window_s, limit=limit, spread=spread) for window_s, limit in caps))


def reserve(book: Book, candidate: Candidate, cost: int, now: float, ahead: int = 0) -> Permit | Denied:
    return answer(PermitRequest((candidate,), cost, ahead=ahead), lambda _: book, now)


def give_back(book: Book, permit: Permit, count: int) -> None:
    assert permit.advance is not None
    book.give_back(permit.windows, count, permit.advance.granted, permit.advance.at)


def room(book: Book, candidate: Candidate, now: float) -> int:
    return book.room(candidate.caps, 10**9, book.arrive(now))


def test_an_advance_uses_up_room_until_it_is_given_back() -> None:
    node, book = of((3600.0, 10_000)), Book()
    permit = reserve(book, node, 5, NOW, ahead=50)
    assert isinstance(permit, Permit)
    assert permit.advance is not None
    assert (permit.granted, permit.advance.granted, permit.advance.lasts_s) == (5, 50, ADVANCE_S)
    assert room(book, node, NOW) == 10_000 - 55
    give_back(book, permit, 20)
    assert room(book, node, NOW) == 10_000 - 35


@pytest.mark.parametrize(
    ("candidate", "granted"),
    [
        pytest.param(of((3600.0, 100_000)), 100, id="plenty of room"),
        pytest.param(of((3600.0, 100_000), (1.0, SPARE_LEAST + 41)), 16, id="the scarcest window decides"),
        pytest.param(of((3600.0, SPARE_LEAST + 3)), 2, id="what others may need stays"),
        pytest.param(of((3600.0, SPARE_LEAST)), 0, id="scarce"),
        pytest.param(of((3600.0, 14)), 0, id="small cap"),
        pytest.param(of((3600.0, 100_000), spread=True), 0, id="handed out evenly"),
    ],
)
def test_an_advance_is_given_only_where_nobody_goes_without(candidate: Candidate, granted: int) -> None:
    permit = reserve(Book(), candidate, 1, NOW, ahead=100)
    assert isinstance(permit, Permit)
    assert (permit.advance.granted if permit.advance else 0) == granted
    assert SPARE * granted <= max(cap.limit for cap in candidate.caps)


def test_a_book_with_an_advance_is_kept_and_read_back() -> None:
    node, book = of((1.0, 100_000), (60.0, 100_000), (0.5, 100_000)), Book()
    for step in range(2000):  # every slot of the shortest windows has a count
        reserve(book, node, 1, NOW + step / 1000, ahead=10)
    again = unpack(pack(book, book.latest))
    assert room(again, node, NOW + 2) == room(book, node, NOW + 2)
    assert ADVANCE_S < MAX_LENT_S


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 0.4),  # seconds since the step before
            st.integers(1, 700),  # recipients
            st.integers(0, 300),  # in advance
            st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3),  # when the advance is used, as part of its time
            st.booleans(),  # what is left goes back
        ),
        max_size=60,
    ),
    st.sampled_from([1.0, 2.5, 10.0]),
)
def test_no_window_ever_holds_more_than_the_limit_whenever_advances_are_used(
    steps: list[tuple[float, int, int, list[float], bool]], window_s: float
) -> None:
    limit = 2500
    node, book, now = of((window_s, limit)), Book(), NOW
    sent: list[tuple[float, int]] = []
    returns: list[tuple[float, Permit, int]] = []
    for pause_s, cost, ahead, moments, gives_back in steps:
        now += pause_s
        for due, permit, count in [entry for entry in returns if entry[0] <= now]:
            give_back(book, permit, count)
            returns.remove((due, permit, count))
        given = reserve(book, node, cost, now, ahead)
        if isinstance(given, Denied):
            continue
        sent.append((now, given.granted))
        if given.advance is not None:
            third = given.advance.granted // 3
            sent += [(now + moment * given.advance.lasts_s, third) for moment in moments]
            if gives_back:
                returns.append((now + given.advance.lasts_s, given, given.advance.granted - 3 * third))
    sent.sort()
    for end, _ in sent:
        assert sum(count for at, count in sent if end - window_s <= at <= end) <= limit
