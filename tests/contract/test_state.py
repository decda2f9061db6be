"""What every state promises, run over each implementation; then what only a shared and durable one can show."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.errors import StateUnavailable
from relay.pools.health import HealthPolicy, NodeHealth, NodeStatus, fault
from relay.pools.pool import Cap
from relay.redisdb.address import parse
from relay.state import Candidate, CapBlock, CountKey, Denied, Permit, PermitRequest, State, Usage
from relay.state.memory import MemoryState
from relay.state.redis_store import RedisState
from relay.state.sqlite import MAX_BLOCK, SqliteState
from tests.contract.state_fixtures import HAMMER_CAPS, Crew

NOW = 1_800_000_000.0
HOUR = 3600.0

Open = Callable[[], Coroutine[Any, Any, State]]


@pytest.fixture
async def open_sqlite(tmp_path: Path) -> AsyncIterator[Open]:
    """Opens the one file; each call is another door to it."""
    opened: list[SqliteState] = []

    async def open_one() -> State:
        opened.append(await SqliteState.open(tmp_path / "state.db"))
        return opened[-1]

    yield open_one
    for state in opened:
        await state.close()


@pytest.fixture
def redis_url(fresh_url: Callable[[], str]) -> str:
    return fresh_url()


@pytest.fixture
async def open_redis(redis_url: str) -> AsyncIterator[Open]:
    """Another door to one shared store at each call."""
    opened: list[RedisState] = []
    address = parse(redis_url)

    async def open_one() -> State:
        opened.append(await RedisState.open(address, server_clock=False, grace_s=0))
        return opened[-1]

    yield open_one
    for state in opened:
        await state.close()


@pytest.fixture(params=["sqlite", "redis"])
def open_shared(request: pytest.FixtureRequest, open_sqlite: Open, open_redis: Open) -> Open:
    """Doors to one state that outlives them."""
    return open_sqlite if request.param == "sqlite" else open_redis


class Place(NamedTuple):
    """A shared state by the name that other processes know it by."""

    name: str
    open: Open


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path, open_sqlite: Open, open_redis: Open, redis_url: str) -> Place:
    if request.param == "sqlite":
        return Place(str(tmp_path / "state.db"), open_sqlite)
    return Place(redis_url, open_redis)


@pytest.fixture(params=["memory", "sqlite", "redis"])
async def state(request: pytest.FixtureRequest, open_sqlite: Open, open_redis: Open) -> State:
    if request.param == "memory":
        return MemoryState()
    return await (open_sqlite if request.param == "sqlite" else open_redis)()


def candidate(key: str, *caps: tuple[float, int]) -> Candidate:
    return Candidate(key, tuple(Cap(window_s=window_s, limit=limit) for window_s, limit in caps))


async def ask(state: State, now: float, cost: int, *candidates: Candidate, least: int = 1) -> Permit | Denied:
    (given,) = await state.reserve([PermitRequest(candidates, cost, least)], now=now)
    return given


async def take(state: State, now: float, cost: int, *candidates: Candidate) -> Permit:
    given = await ask(state, now, cost, *candidates, least=cost)
    assert isinstance(given, Permit)
    assert given.granted == cost
    return given


async def used(state: State, now: float, of: Candidate) -> list[int]:
    return [fill.used for fill in (await state.usage([of], now=now))[of.key]]


def busiest(grants: list[tuple[float, ...]], window_s: float) -> int:
    """Most recipients in any closed span; the worst ends at a grant. `grants`: (at, recipients)."""
    grants = sorted(grants)
    worst = inside = start = 0
    for at, count in grants:
        inside += int(count)
        while grants[start][0] < at - window_s:
            inside -= int(grants[start][1])
            start += 1
        worst = max(worst, inside)
    return worst


# Permits


async def test_a_permit_is_counted_in_all_windows_or_in_none(state: State) -> None:
    node = candidate("node:a", (1.0, 10), (HOUR, 15))
    permit = await take(state, NOW, 10, node)
    assert (permit.index, permit.key, permit.at) == (0, "node:a", NOW)
    later = NOW + 2
    refused = await ask(state, later, 10, node, least=10)
    assert isinstance(refused, Denied)
    assert await used(state, later, node) == [0, 10]
    await take(state, later, 5, node)
    assert await used(state, later, node) == [5, 15]


async def test_a_candidate_without_caps_always_has_room(state: State) -> None:
    for _ in range(3):
        assert (await take(state, NOW, 10**6, candidate("node:free"))).blocks == ()


async def test_the_first_candidate_with_room_wins_and_the_caps_of_earlier_ones_are_told(state: State) -> None:
    first, second, third = candidate("node:a", (1.0, 5), (HOUR, 9)), candidate("node:b", (HOUR, 9)), candidate("node:c")
    await take(state, NOW, 5, first)
    await take(state, NOW, 9, second)
    permit = await take(state, NOW, 3, first, second, third)
    assert permit.index == 2
    assert [(b.key, b.window_s, b.limit, b.used) for b in permit.blocks] == [
        ("node:a", 1.0, 5, 5),
        ("node:b", HOUR, 9, 9),
    ]
    assert all(block.free_at > NOW for block in permit.blocks)
    assert (await take(state, NOW + 2, 3, first, second, third)).index == 0


async def test_when_none_has_room_for_all_the_roomiest_gives_what_it_has(state: State) -> None:
    nodes = candidate("node:a", (HOUR, 2)), candidate("node:b", (HOUR, 6)), candidate("node:c", (HOUR, 6))
    permit = await ask(state, NOW, 10, *nodes)
    assert isinstance(permit, Permit)
    assert (permit.index, permit.granted) == (1, 6)
    assert [block.key for block in permit.blocks] == ["node:a"]
    assert isinstance(await ask(state, NOW, 10, *nodes, least=7), Denied)
    rest = await ask(state, NOW, 10, *nodes, least=6)
    assert isinstance(rest, Permit)
    assert (rest.index, rest.granted) == (2, 6)


async def test_a_request_that_will_not_be_split_waits_although_there_is_some_room(state: State) -> None:
    node = candidate("node:a", (HOUR, 10))
    await take(state, NOW, 7, node)
    assert isinstance(await ask(state, NOW, 5, node, least=5), Denied)
    assert await used(state, NOW, node) == [7]


async def test_requests_are_answered_in_order_and_see_each_other(state: State) -> None:
    node = candidate("node:a", (HOUR, 5))
    given = await state.reserve([PermitRequest((node,), 2)] * 4, now=NOW)
    assert [g.granted if isinstance(g, Permit) else None for g in given] == [2, 2, 1, None]


@pytest.mark.parametrize("least", [1, 4])
async def test_denied_until_is_exact(state: State, least: int) -> None:
    slow = candidate("node:slow", (1.0, 5), (HOUR, 8))
    quick = candidate("node:quick", (60.0, 4))
    await take(state, NOW, 4, slow)
    await take(state, NOW + 10, 4, slow)
    await take(state, NOW + 11, 4, quick)
    denied = await ask(state, NOW + 12, 4, slow, quick, least=least)
    assert isinstance(denied, Denied)
    assert denied.until == min(block.free_at for block in denied.blocks)
    assert NOW + 71 < denied.until <= NOW + 71.2
    early = await ask(state, math.nextafter(denied.until, 0), 4, slow, quick, least=least)
    assert isinstance(early, Denied)
    assert early.until == denied.until
    assert (await take(state, denied.until, 4, slow, quick)).key == "node:quick"


async def test_denied_waits_for_the_last_of_a_candidates_windows(state: State) -> None:
    node = candidate("node:a", (1.0, 3), (60.0, 3))
    await take(state, NOW, 3, node)
    denied = await ask(state, NOW, 1, node)
    assert isinstance(denied, Denied)
    assert {block.window_s for block in denied.blocks} == {1.0, 60.0}
    assert denied.until == max(block.free_at for block in denied.blocks) > NOW + 60


async def test_blocks_name_the_cap_its_fill_and_when_it_opens(state: State) -> None:
    node = candidate("node:a", (HOUR, 3))
    await take(state, NOW, 3, node)
    denied = await ask(state, NOW, 1, node)
    assert isinstance(denied, Denied)
    assert denied.blocks == (CapBlock("node:a", HOUR, 3, 3, denied.until),)


async def test_a_request_beyond_the_whole_cap_is_told_when_all_of_it_is_free(state: State) -> None:
    node = candidate("node:a", (60.0, 3))
    await take(state, NOW, 2, node)
    denied = await ask(state, NOW, 9, node, least=9)
    assert isinstance(denied, Denied)
    assert NOW + 60 < denied.until < NOW + 61


async def test_a_refund_makes_the_room_it_took(state: State) -> None:
    node = candidate("node:a", (1.0, 6), (HOUR, 6))
    permit = await take(state, NOW, 6, node)
    await state.refund([(permit, 4)])
    assert await used(state, NOW, node) == [2, 2]
    again = await take(state, NOW, 4, node)
    await state.refund([(again, 4), (permit, 2)])
    assert await used(state, NOW, node) == [0, 0]


async def test_a_refund_gives_back_at_most_what_was_granted_and_only_where_it_was_counted(state: State) -> None:
    hour_only, both = candidate("node:a", (HOUR, 9)), candidate("node:a", (HOUR, 9), (60.0, 9))
    permit = await take(state, NOW, 2, hour_only)
    await take(state, NOW, 3, both)
    await state.refund([(permit, 99)])
    assert await used(state, NOW, both) == [3, 3]


async def test_a_late_refund_of_what_has_expired_changes_nothing(state: State) -> None:
    node = candidate("node:a", (1.0, 5), (HOUR, 9))
    permit = await take(state, NOW, 5, node)
    await take(state, NOW + 2, 3, node)
    await state.refund([(permit, 5)])
    assert await used(state, NOW + 2, node) == [3, 3]


async def test_an_advance_counts_until_it_goes_back(state: State) -> None:
    """A store may give none; what it gives is counted like all else."""
    node = candidate("node:a", (HOUR, 100_000), (60.0, 100_000))
    (given,) = await state.reserve([PermitRequest((node,), 3, ahead=20)], now=NOW)
    assert isinstance(given, Permit)
    ahead = given.advance.granted if given.advance else 0
    assert await used(state, NOW, node) == [3 + ahead, 3 + ahead]
    if given.advance is not None:
        await state.refund([(replace(given, granted=ahead, at=given.advance.at), ahead - 5)])
        assert await used(state, NOW, node) == [8, 8]
    scarce = candidate("node:b", (HOUR, 100))
    (given,) = await state.reserve([PermitRequest((scarce,), 3, ahead=20)], now=NOW)
    assert await used(state, NOW, scarce) == [3]


async def test_usage_tells_the_fill_in_the_order_of_the_caps(state: State) -> None:
    node = candidate("node:a", (HOUR, 9), (1.0, 4))
    await take(state, NOW, 4, node)
    fill = await state.usage([node, candidate("node:new", (HOUR, 7))], now=NOW)
    hour, second = fill["node:a"]
    assert (hour.window_s, hour.limit, hour.used, hour.free_at) == (HOUR, 9, 4, NOW)
    assert (second.window_s, second.limit, second.used) == (1.0, 4, 4)
    assert NOW + 1 < second.free_at < NOW + 1.02
    assert fill["node:new"] == (Usage(HOUR, 7, 0, NOW),)


async def test_a_cap_with_room_is_free_now_for_a_caller_whose_clock_is_a_little_behind(state: State) -> None:
    """The state's time never runs backwards; a node that is not full must not look full for the difference."""
    node = candidate("node:a", (HOUR, 9))
    await take(state, NOW, 4, node)
    (fill,) = (await state.usage([node], now=NOW - 0.5))["node:a"]
    assert (fill.used, fill.free_at) == (4, NOW - 0.5)


async def test_looking_at_the_usage_counts_nothing(state: State) -> None:
    node = candidate("node:a", (HOUR, 1))
    for _ in range(3):
        await state.usage([node], now=NOW)
    await take(state, NOW, 1, node)


async def test_a_changed_limit_keeps_what_was_used_and_a_removed_window_holds_nothing_back(state: State) -> None:
    await take(state, NOW, 8, candidate("node:a", (HOUR, 10), (60.0, 8)))
    wider = candidate("node:a", (HOUR, 12))
    assert await used(state, NOW, wider) == [8]
    await take(state, NOW, 4, wider)
    narrower = candidate("node:a", (HOUR, 5))
    assert isinstance(await ask(state, NOW, 1, narrower), Denied)
    assert await used(state, NOW + HOUR + 5, narrower) == [0]


async def test_a_new_window_starts_empty(state: State) -> None:
    await take(state, NOW, 8, candidate("node:a", (60.0, 8)))
    assert await used(state, NOW, candidate("node:a", (60.0, 8), (HOUR, 9))) == [8, 0]


async def test_a_spread_cap_is_handed_out_evenly(state: State) -> None:
    node = Candidate("node:a", (Cap(window_s=HOUR, limit=100, spread=True),))
    now, grants = NOW, []
    while now < NOW + 2 * HOUR:
        permit = await take(state, now, 1, node)
        grants.append((permit.at, 1.0))
        denied = await ask(state, now, 1, node)
        assert isinstance(denied, Denied)
        assert denied.until >= now + 36.0
        now = denied.until
    assert 198 <= len(grants) <= 200
    assert busiest(grants, HOUR) <= 100


async def test_a_spread_cap_makes_a_batch_pay_for_its_size(state: State) -> None:
    node = Candidate("node:a", (Cap(window_s=60.0, limit=60, spread=True),))
    permit = await take(state, NOW, 5, node)
    denied = await ask(state, NOW, 1, node)
    assert isinstance(denied, Denied)
    assert denied.until == NOW + 5
    await state.refund([(permit, 5)])
    await take(state, NOW, 1, node)


async def test_many_callers_at_once_share_exactly_the_cap(state: State) -> None:
    node = candidate("node:a", (HOUR, 37))
    given = await asyncio.gather(*(ask(state, NOW, 1, node) for _ in range(100)))
    assert sum(isinstance(g, Permit) for g in given) == 37


async def test_a_slow_clock_gets_nothing_a_quick_one_has_used_up(state: State) -> None:
    node = candidate("node:a", (1.0, 5))
    await take(state, NOW + 0.9, 5, node)
    assert isinstance(await ask(state, NOW, 1, node), Denied)
    assert (await take(state, NOW + 2, 5, node)).at == NOW + 2
    assert isinstance(await ask(state, NOW + 0.5, 1, node), Denied)


async def test_a_clock_set_back_by_years_shuts_a_cap_for_one_window(state: State) -> None:
    node = candidate("node:a", (60.0, 5))
    await take(state, NOW, 5, node)
    back = NOW - 3e8
    for step in range(0, 60, 10):
        assert isinstance(await ask(state, back + step, 1, node), Denied)
    await take(state, back + 61, 5, node)


async def test_a_request_for_nobody_or_from_nobody_is_a_bug(state: State) -> None:
    with pytest.raises(ValueError, match="one recipient"):
        await state.reserve([PermitRequest((candidate("node:a"),), 0)], now=NOW)
    with pytest.raises(ValueError, match="a candidate"):
        await state.reserve([PermitRequest((), 1)], now=NOW)


KEYS = ("node:a", "node:b", "bridge:c")
CAPS = st.lists(
    st.builds(
        Cap,
        window_s=st.sampled_from([1.0, 60.0, HOUR]),
        limit=st.integers(0, 12) | st.just(5000),
        spread=st.booleans(),
    ),
    max_size=3,
    unique_by=lambda cap: cap.window_s,
).map(tuple)
STEPS = st.tuples(
    st.sampled_from([0.0, 0.001, 0.5, 1.0, 1.02, 30.0, 61.0, 3700.0]),
    st.permutations(KEYS),
    st.integers(1, 3),
    st.integers(1, 15),
    st.integers(1, 15),
    st.sampled_from(["refund", "reopen", "twice", "-"]),
)


@settings(max_examples=30, deadline=None)
@given(caps=st.tuples(CAPS, CAPS, CAPS), steps=st.lists(STEPS, min_size=1, max_size=25))
def test_the_file_and_the_memory_answer_alike(
    tmp_path_factory: pytest.TempPathFactory, caps: tuple[tuple[Cap, ...], ...], steps: list[Any]
) -> None:
    path = tmp_path_factory.mktemp("alike") / "state.db"
    asyncio.run(compare(lambda: SqliteState.open(path), caps, steps))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(caps=st.tuples(CAPS, CAPS, CAPS), steps=st.lists(STEPS, min_size=1, max_size=25))
def test_the_scripts_of_the_server_and_the_memory_answer_alike(
    fresh_url: Callable[[], str], caps: tuple[tuple[Cap, ...], ...], steps: list[Any]
) -> None:
    address = parse(fresh_url())
    asyncio.run(compare(lambda: RedisState.open(address, server_clock=False, grace_s=0), caps, steps))


async def compare(open_other: Open, caps: tuple[tuple[Cap, ...], ...], steps: list[Any]) -> None:
    everyone = [Candidate(key, its) for key, its in zip(KEYS, caps, strict=True)]
    by_key = {one.key: one for one in everyone}
    memory, other = MemoryState(), await open_other()
    now = NOW
    try:
        for step, order, number, cost, least, then in steps:
            now += step
            candidates = tuple(by_key[key] for key in order[:number])
            ahead = 20 if then == "twice" else 0
            requests = [PermitRequest(candidates, cost, least, ahead)] * (2 if then == "twice" else 1)
            expected = await memory.reserve(requests, now=now)
            assert await other.reserve(requests, now=now) == expected
            if then == "refund" and isinstance(permit := expected[0], Permit):
                await memory.refund([(permit, permit.granted)])
                await other.refund([(permit, permit.granted)])
            if then == "reopen":
                await other.close()
                other = await open_other()
            assert await other.usage(everyone, now=now) == await memory.usage(everyone, now=now)
    finally:
        await other.close()


# Turns


async def test_turns_follow_each_other(state: State) -> None:
    hands = [(await state.turns("pool", count), count) for count in (1, 1, 3, 1, 2, 5, 1, 1, 1)]
    taken = [first + step for first, count in hands for step in range(count)]
    assert len(set(taken)) == len(taken)
    assert taken == sorted(taken)


async def test_at_a_low_rate_no_turn_is_skipped(open_shared: Open) -> None:
    one, other = await open_shared(), await open_shared()
    taken = []
    for door in (one, other, other, one, one, other):
        taken.append(await door.turns("pool", 1))
        await asyncio.sleep(0.06)  # longer than turns are leased ahead
    assert taken == list(range(6))


async def test_cursors_are_apart(state: State) -> None:
    assert [await state.turns("a", 1), await state.turns("b", 1)] == [0, 0]


async def test_many_callers_at_once_get_different_turns(state: State) -> None:
    for _ in range(3):
        firsts = await asyncio.gather(*(state.turns("pool", 2) for _ in range(50)))
        assert len({turn for first in firsts for turn in (first, first + 1)}) == 100


# Health, claims, counts


async def test_health_is_kept_by_node_and_raises_the_version(state: State) -> None:
    assert await state.health() == {}
    before = await state.health_version()
    down = await state.update_health("a", lambda h: fault(h, NOW, "535 refused — naïve", HealthPolicy()))
    assert down.status is NodeStatus.INACTIVE
    assert await state.health() == {"a": down}
    assert await state.health_version() > before


async def test_an_unchanged_health_is_not_written(state: State) -> None:
    assert await state.update_health("a", lambda h: h) == NodeHealth()
    assert await state.health() == {}
    assert await state.health_version() == 0


async def test_changes_of_one_health_at_once_are_all_kept(state: State) -> None:
    await asyncio.gather(*(state.update_health("a", lambda h: replace(h, failures=h.failures + 1)) for _ in range(50)))
    assert (await state.health())["a"].failures == 50


async def test_a_change_that_raises_leaves_everything_as_it_was(state: State) -> None:
    def broken(health: NodeHealth) -> NodeHealth:
        raise LookupError("a bug in the caller")

    node = candidate("node:a", (HOUR, 9))
    ended = await asyncio.gather(
        state.update_health("a", broken), ask(state, NOW, 4, node), state.turns("pool", 1), return_exceptions=True
    )
    assert isinstance(ended[0], LookupError)
    assert await state.health() == {}
    assert await used(state, NOW, node) == [4]


async def test_a_claim_is_exclusive_until_it_expires_or_is_given_up(state: State) -> None:
    assert await state.claim("check:a", owner="one", ttl_s=60, now=NOW)
    assert not await state.claim("check:a", owner="two", ttl_s=60, now=NOW + 59)
    assert await state.claim("check:a", owner="one", ttl_s=60, now=NOW + 59)
    assert not await state.claim("check:a", owner="two", ttl_s=60, now=NOW + 61)
    await state.unclaim("check:a", owner="two")
    assert not await state.claim("check:a", owner="two", ttl_s=60, now=NOW + 61)
    assert await state.claim("check:b", owner="two", ttl_s=60, now=NOW + 61)
    await state.unclaim("check:a", owner="one")
    assert await state.claim("check:a", owner="two", ttl_s=60, now=NOW + 61)
    assert await state.claim("check:a", owner="one", ttl_s=60, now=NOW + 121)


async def test_a_claim_from_before_the_clock_was_set_back_does_not_hold_for_years(state: State) -> None:
    assert await state.claim("check:a", owner="one", ttl_s=60, now=NOW)
    assert await state.claim("check:a", owner="two", ttl_s=60, now=NOW - 3e8)


async def test_counts_add_up_by_key(state: State) -> None:
    key = CountKey(pool="shop", campaign="", node="a", what="sent")
    other = replace(key, pool="news", campaign="spring")
    await asyncio.gather(*(state.count({key: 2, other: 1}) for _ in range(5)), state.count({}))
    assert await state.counts() == {key: 10, other: 5}
    assert await state.counts(pool="news") == {other: 5}


# Durable and shared


async def test_everything_survives_a_restart(open_shared: Open) -> None:
    node = Candidate("node:a", (Cap(window_s=HOUR, limit=9), Cap(window_s=60.0, limit=60, spread=True)))
    state = await open_shared()
    permit = await take(state, NOW, 6, node)
    turn = await state.turns("pool", 1)
    down = await state.update_health("a", lambda h: fault(h, NOW, "535 refused", HealthPolicy()))
    version = await state.health_version()
    assert await state.claim("check:a", owner="one", ttl_s=60, now=NOW)
    await state.count({CountKey("shop", "", "a", "sent"): 3})
    await state.close()
    state = await open_shared()
    assert await used(state, NOW, node) == [6, 6]
    denied = await ask(state, NOW, 1, node)
    assert isinstance(denied, Denied)
    assert denied.until == NOW + 6
    await state.refund([(permit, 6)])
    assert await used(state, NOW, node) == [0, 0]
    assert await state.turns("pool", 1) > turn
    assert await state.health() == {"a": down}
    assert await state.health_version() == version
    assert not await state.claim("check:a", owner="two", ttl_s=60, now=NOW)
    assert await state.counts() == {CountKey("shop", "", "a", "sent"): 3}


async def test_two_doors_show_one_truth(open_shared: Open) -> None:
    node = candidate("node:a", (HOUR, 10))
    one, other = await open_shared(), await open_shared()
    for step in range(5):
        await take(one, NOW + step, 1, node)
        await take(other, NOW + step, 1, node)
    assert isinstance(await ask(one, NOW + 5, 1, node), Denied)
    await one.update_health("a", lambda h: replace(h, failures=7))
    assert (await other.health_version(), (await other.health())["a"].failures) == (1, 7)


@pytest.mark.parametrize("killed", [False, True], ids=["all live", "one is killed"])
async def test_three_processes_together_never_exceed_a_cap(place: Place, tmp_path: Path, killed: bool) -> None:
    second, hour = HAMMER_CAPS
    state = await place.open()
    crew = Crew("hammer", place.name, tmp_path, 3, "3")
    crew.go()
    if killed:
        await asyncio.sleep(0.7)
        crew.members[0].kill()
    codes = await asyncio.to_thread(crew.wait)
    assert codes == [-9 if killed else 0, 0, 0]
    grants = [line for log in crew.lines() for line in log]
    assert busiest(grants, second.window_s) <= second.limit
    assert busiest(grants, hour.window_s) <= hour.limit
    # Not by being timid: the second's cap was drained as soon as it filled, and then all of the hour's.
    first = min(at for at, _ in grants)
    assert sum(count for at, count in grants if at <= first + 0.7) >= second.limit - 20
    total = int(sum(count for _, count in grants))
    counted = (await used(state, time.time(), Candidate("node:a", HAMMER_CAPS)))[1]
    assert counted == hour.limit
    # What the killed one was granted and could not tell: at most one answer to each of its four callers.
    assert counted - 2 * (1 + 2 + 3 + 5) * killed <= total <= counted


async def test_processes_never_share_a_turn_and_every_node_gets_its_share(place: Place, tmp_path: Path) -> None:
    crew = Crew("turns", place.name, tmp_path, 3, "150")
    crew.go()
    assert await asyncio.to_thread(crew.wait) == [0, 0, 0]
    taken = [int(first) + step for log in crew.lines() for first, count in log for step in range(int(count))]
    assert len(taken) == 3 * 150 * 4
    assert len(set(taken)) == len(taken)
    share = [sum(turn % 3 == node for turn in taken) / len(taken) for node in range(3)]
    assert min(share) > 0.30
    assert max(share) < 0.37


async def test_failures_counted_by_two_processes_are_all_kept(place: Place, tmp_path: Path) -> None:
    state = await place.open()
    crew = Crew("fail", place.name, tmp_path, 2, "100")
    crew.go()
    assert await asyncio.to_thread(crew.wait) == [0, 0]
    assert (await state.health())["a"].failures == 400
    assert await state.health_version() == 400


async def test_each_claim_is_won_by_one_process(place: Place, tmp_path: Path) -> None:
    crew = Crew("claim", place.name, tmp_path, 3, "50")
    crew.go()
    assert await asyncio.to_thread(crew.wait) == [0, 0, 0]
    won = sorted(line[0] for log in crew.lines() for line in log)
    assert won == list(range(50))


def test_what_a_crash_may_skip_is_bounded() -> None:
    assert MAX_BLOCK <= 64


async def test_a_state_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    await (await SqliteState.open(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(StateUnavailable, match="newer version"):
        await SqliteState.open(path)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (99,)
    connection.close()


@pytest.mark.parametrize("method", ["reserve", "refund", "usage", "turns", "health", "update", "version", "count"])
async def test_a_state_that_is_away_says_so(tmp_path: Path, method: str) -> None:
    state = await SqliteState.open(tmp_path / "state.db")
    node = candidate("node:a", (HOUR, 9))
    permit = await take(state, NOW, 1, node)
    await state.close()
    calls: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
        "reserve": lambda: ask(state, NOW, 1, node),
        "refund": lambda: state.refund([(permit, 1)]),
        "usage": lambda: state.usage([node], now=NOW),
        "turns": lambda: state.turns("pool", 1),
        "health": state.health,
        "update": lambda: state.update_health("a", lambda h: replace(h, failures=1)),
        "version": state.health_version,
        "count": lambda: state.count({CountKey("shop", "", "a", "sent"): 1}),
    }
    with pytest.raises(StateUnavailable):
        await calls[method]()


async def test_a_place_that_cannot_hold_a_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"not a database, but long enough to look at" * 100)
    for path in (tmp_path / "state.db", tmp_path, tmp_path / "absent" / "state.db"):
        with pytest.raises(StateUnavailable):
            await SqliteState.open(path)
