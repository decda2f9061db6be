"""The cap arithmetic against brute force over every window."""

from __future__ import annotations

import json
import math
from array import array
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.pools.caps import MAX_SKEW_S, Book, Ledger, slot_width
from relay.pools.pool import Cap

EPOCH = 1_800_000_000.0


def busiest(grants: list[tuple[float, int]], window_s: float) -> int:
    """Most recipients in any closed span of `window_s`; the worst span ends at a grant."""
    return max((sum(n for at, n in grants if end - window_s <= at <= end) for end, _ in grants), default=0)


WINDOWS = st.sampled_from([0.1, 0.5, 1.0, 3.0, 7.7, 60.0, 3600.0, 86400.0]) | st.floats(0.05, 1e6)


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[float, list[tuple[float, int]]]:
    """A window and callers (time, cost) whose gaps are near what matters: slots, and parts and wholes of the window."""
    window_s = draw(WINDOWS)
    width = slot_width(window_s)
    gap = st.sampled_from([0.0, 1e-6, width / 2, width, window_s / 7, window_s - width, window_s, window_s + width])
    gap |= st.floats(0, 1.5 * window_s)
    now = EPOCH + draw(st.floats(0, 1000))
    calls = []
    for step, cost in draw(st.lists(st.tuples(gap, st.integers(1, 8)), max_size=60)):
        now += step
        calls.append((now, cost))
    return window_s, calls


@given(arrivals(), st.integers(1, 20), st.booleans())
def test_no_window_ever_holds_more_than_the_limit(
    drawn: tuple[float, list[tuple[float, int]]], limit: int, spread: bool
) -> None:
    window_s, calls = drawn
    ledger = Ledger(window_s)
    grants = []
    for now, cost in calls:
        ledger.expire(now)
        taken = min(cost, ledger.room(limit, now, spread=spread))
        if taken:
            ledger.take(taken, limit, now, spread=spread)
            grants.append((now, taken))
    assert busiest(grants, window_s) <= limit


@given(arrivals(), st.integers(1, 20))
def test_room_is_refused_only_when_the_window_and_its_rounding_are_full(
    drawn: tuple[float, list[tuple[float, int]]], limit: int
) -> None:
    window_s, calls = drawn
    late = 2 * slot_width(window_s)
    ledger = Ledger(window_s)
    grants: list[tuple[float, int]] = []
    for now, cost in calls:
        ledger.expire(now)
        counted = sum(n for at, n in grants if now - at < window_s + late)
        room = ledger.room(limit, now)
        assert room >= limit - counted
        if room >= cost:
            ledger.take(cost, limit, now)
            grants.append((now, cost))


@given(arrivals(), st.integers(1, 20), st.integers(1, 8), st.booleans())
def test_free_at_is_the_very_moment_room_appears(
    drawn: tuple[float, list[tuple[float, int]]], limit: int, cost: int, spread: bool
) -> None:
    window_s, calls = drawn
    cost = min(cost, limit)
    ledger = Ledger(window_s)
    now = EPOCH
    for now, wanted in calls:
        ledger.expire(now)
        if taken := min(wanted, ledger.room(limit, now, spread=spread)):
            ledger.take(taken, limit, now, spread=spread)
    at = ledger.free_at(cost, limit, now, spread=spread)
    assert (at == now) == (ledger.room(limit, now, spread=spread) >= cost)
    if at > now:
        before = math.nextafter(at, 0)
        ledger.expire(before)
        assert ledger.room(limit, before, spread=spread) < cost
        ledger.expire(at)
        assert ledger.room(limit, at, spread=spread) >= cost


@given(arrivals(), st.integers(1, 20), st.booleans(), st.data())
def test_a_ledger_that_went_through_json_answers_the_same(
    drawn: tuple[float, list[tuple[float, int]]], limit: int, spread: bool, data: st.DataObject
) -> None:
    window_s, calls = drawn
    kept, travelled = Ledger(window_s), Ledger(window_s)
    for now, cost in calls:
        for ledger in (kept, travelled):
            ledger.expire(now)
        assert kept.room(limit, now, spread=spread) == travelled.room(limit, now, spread=spread)
        assert kept.free_at(1, limit, now, spread=spread) == travelled.free_at(1, limit, now, spread=spread)
        if taken := min(cost, kept.room(limit, now, spread=spread)):
            for ledger in (kept, travelled):
                ledger.take(taken, limit, now, spread=spread)
        if data.draw(st.booleans()):
            first, counts, used, paced_at, paced_until = travelled.dump()
            text = json.dumps([first, list(counts), used, paced_at, paced_until])
            travelled = Ledger.load(window_s, *json.loads(text))


@given(arrivals(), st.integers(1, 20), st.data())
def test_what_was_given_back_is_as_if_never_taken(
    drawn: tuple[float, list[tuple[float, int]]], limit: int, data: st.DataObject
) -> None:
    window_s, calls = drawn
    ledger = Ledger(window_s)
    grants: list[tuple[float, int]] = []
    for now, cost in calls:
        ledger.expire(now)
        if taken := min(cost, ledger.room(limit, now)):
            ledger.take(taken, limit, now)
            grants.append((now, taken))
        if grants and data.draw(st.booleans()):
            place = data.draw(st.integers(0, len(grants) - 1))
            at, granted = grants.pop(place)
            back = data.draw(st.integers(1, granted))
            ledger.give_back(back, granted, at)
            if granted > back:
                grants.append((at, granted - back))
        ledger.expire(now)
        live = sum(n for at, n in grants if now - at <= window_s)
        rounded = sum(n for at, n in grants if now - at < window_s + 2 * slot_width(window_s))
        assert live <= ledger.used <= rounded
    assert busiest(grants, window_s) <= limit


@given(arrivals(), st.integers(1, 20), st.data())
def test_no_clock_step_frees_anything_early(
    drawn: tuple[float, list[tuple[float, int]]], limit: int, data: st.DataObject
) -> None:
    """True time only runs forward; what callers read is off by an offset that is set back now and then."""
    window_s, calls = drawn
    caps = (Cap(window_s=window_s, limit=limit),)
    book = Book()
    grants = []
    offset = 0.0
    for true_time, cost in calls:
        if data.draw(st.booleans()):
            offset -= data.draw(st.sampled_from([0.001, 1.0, MAX_SKEW_S, 3600.0, 1e6, 3e8]))
        at = book.arrive(true_time + offset)
        if taken := book.room(caps, cost, at):
            book.take(caps, taken, at)
            grants.append((true_time, taken))
    # The offset itself costs the floats a few bits.
    assert busiest(grants, window_s * (1 - 1e-9) - 1e-6) <= limit


@pytest.mark.parametrize("back_s", [61.0, 3600.0, 86400.0, 3e8])
@pytest.mark.parametrize("window_s", [1.0, 3600.0, 86400.0])
def test_a_clock_set_back_shuts_a_cap_for_one_window_at_most(window_s: float, back_s: float) -> None:
    caps = (Cap(window_s=window_s, limit=5),)
    book = Book()
    book.take(caps, book.room(caps, 5, EPOCH), EPOCH)
    now = EPOCH - back_s
    assert book.room(caps, 1, book.arrive(now)) == 0
    assert book.changed
    later = now + window_s + 2 * slot_width(window_s)
    assert book.room(caps, 5, book.arrive(later)) == 5


def test_a_caller_with_a_slow_clock_comes_at_the_latest_time_seen() -> None:
    book = Book()
    book.take((Cap(window_s=1.0, limit=5),), 5, EPOCH)
    assert book.arrive(EPOCH - 0.5) == EPOCH
    assert book.arrive(EPOCH + 0.5) == EPOCH + 0.5


@pytest.mark.parametrize(
    ("window_s", "width", "late"),
    [
        (0.1, 1 / 1024, 0.0197),
        (1.0, 1 / 64, 0.0157),
        (10.0, 1 / 64, 0.0016),
        (60.0, 1 / 16, 0.00105),
        (3600.0, 4.0, 0.00112),
        (86400.0, 128.0, 0.00149),
        (30 * 86400.0, 4096.0, 0.0032),
    ],
)
def test_room_comes_back_as_late_as_documented(window_s: float, width: float, late: float) -> None:
    assert slot_width(window_s) == width
    worst = 0.0
    for part in range(20):
        at = EPOCH + width * part / 20
        ledger = Ledger(window_s)
        ledger.take(1, 1, at)
        worst = max(worst, ledger.free_at(1, 1, at) - at - window_s)
    assert 0 < worst <= late * window_s


@pytest.mark.parametrize(("window_s", "share"), [(1.0, 0.984), (10.0, 0.998), (3600.0, 0.998), (86400.0, 0.998)])
def test_a_cap_drained_as_soon_as_it_fills_gives_nearly_all_of_its_rate(window_s: float, share: float) -> None:
    limit, windows = 14, 200
    ledger = Ledger(window_s)
    now, granted = EPOCH + 0.3 * slot_width(window_s), 0
    end = now + windows * window_s
    while now < end:
        ledger.expire(now)
        taken = ledger.room(limit, now)
        ledger.take(taken, limit, now)
        granted += taken
        now = ledger.free_at(1, limit, now)
    assert share * limit * windows <= granted <= limit * (windows + 1)


@pytest.mark.parametrize("cost", [1, 3, 10])
def test_a_spread_cap_hands_out_evenly(cost: int) -> None:
    window_s, limit = 3600.0, 100
    ledger = Ledger(window_s)
    now, grants = EPOCH, []
    while now < EPOCH + 10 * window_s:
        ledger.expire(now)
        taken = min(cost, ledger.room(limit, now, spread=True))
        ledger.take(taken, limit, now, spread=True)
        grants.append((now, taken))
        now = ledger.free_at(1, limit, now, spread=True)
    gaps = [(after - at) / n for (at, n), (after, _) in pairwise(grants)]
    assert min(gaps) >= 36.0 * (1 - 1e-9)
    assert sum(n for _, n in grants) >= 0.99 * 10 * limit
    assert busiest(grants, window_s) <= limit


def test_giving_back_the_last_paced_permit_hands_its_moment_on() -> None:
    ledger = Ledger(60.0)
    ledger.take(6, 60, EPOCH, spread=True)
    assert ledger.free_at(1, 60, EPOCH, spread=True) == EPOCH + 6
    ledger.give_back(4, 6, EPOCH)
    assert ledger.free_at(1, 60, EPOCH, spread=True) == pytest.approx(EPOCH + 2)
    ledger.expire(EPOCH + 3)
    ledger.take(1, 60, EPOCH + 3, spread=True)
    ledger.give_back(2, 6, EPOCH)  # too late: someone else has been paced since
    assert ledger.free_at(1, 60, EPOCH + 3, spread=True) == EPOCH + 4


def test_a_changed_limit_keeps_what_was_used() -> None:
    ledger = Ledger(3600.0)
    ledger.take(80, 100, EPOCH)
    assert ledger.room(200, EPOCH) == 120
    assert ledger.room(50, EPOCH) == 0
    at = ledger.free_at(1, 50, EPOCH)
    ledger.expire(at)
    assert ledger.room(50, at) == 50


def test_a_cap_of_zero_lets_nothing_through_and_names_a_time_to_look_again() -> None:
    ledger = Ledger(60.0)
    assert ledger.room(0, EPOCH) == 0
    assert ledger.free_at(1, 0, EPOCH) == EPOCH + 60.0


def test_removed_windows_stay_until_what_they_hold_has_expired() -> None:
    day, hour = Cap(window_s=86400.0, limit=10), Cap(window_s=3600.0, limit=10)
    book = Book()
    book.room((day, hour), 4, EPOCH)
    book.take((day, hour), 4, EPOCH)
    assert set(book.ledgers(EPOCH + 1800)) == {86400.0, 3600.0}
    assert set(book.ledgers(EPOCH + 7200)) == {86400.0}
    assert book.room((day,), 10, EPOCH + 7200) == 6
    assert not book.ledgers(EPOCH + 2 * 86400)
    assert book.free_from < EPOCH + 2 * 86400


def test_a_sealed_book_is_full_and_opens_one_window_later() -> None:
    caps = (Cap(window_s=60.0, limit=10**9), Cap(window_s=3600.0, limit=5))
    book = Book.sealed(EPOCH)
    assert book.changed
    assert book.room(caps, 1, EPOCH) == 0
    at = book.free_at(caps, 1, EPOCH)
    assert EPOCH + 3600 < at <= EPOCH + 3604
    assert book.room(caps, 5, at) == 5


@pytest.mark.parametrize(
    ("counts", "used", "paced_at"),
    [
        pytest.param([1] * 1000, 1000, 0.0, id="more slots than the window has"),
        pytest.param([0, 1], 1, 0.0, id="an empty first slot"),
        pytest.param([], 1, 0.0, id="a sum without counts"),
        pytest.param([2], 0, 0.0, id="counts without a sum"),
        pytest.param([1], 1, math.nan, id="not a time"),
    ],
)
def test_what_was_never_dumped_is_not_loaded(counts: list[int], used: int, paced_at: float) -> None:
    with pytest.raises(ValueError):
        Ledger.load(3600.0, 5, array("I", counts), used, paced_at, 0.0)


@pytest.mark.parametrize("window_s", [0.0, -1.0, math.inf, math.nan])
def test_a_window_is_a_positive_time(window_s: float) -> None:
    with pytest.raises(ValueError):
        Ledger(window_s)


def test_a_clock_set_back_keeps_the_pace_without_waiting_for_the_old_time() -> None:
    caps = (Cap(window_s=60.0, limit=60, spread=True),)
    book = Book()
    book.take(caps, 4, EPOCH)
    now = EPOCH - 3600
    assert book.room(caps, 1, book.arrive(now)) == 0
    assert book.free_at(caps, 1, now) == now + 4
