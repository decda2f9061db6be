"""The shared state when its server is away, slow, full, restarted empty, or loses answers (R21)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from relay.errors import StateUnavailable
from relay.pools.health import HealthPolicy, NodeHealth, NodeStatus, fault, pause
from relay.pools.pool import Cap
from relay.redisdb.address import parse
from relay.state import Candidate, CountKey, Denied, Permit, PermitRequest
from relay.state import redis_store as store
from relay.state.redis_store import RedisState
from tests.fakes.redis_proxy import LossyProxy
from tests.fakes.redis_server import RedisServer

NODE = Candidate("node:a", (Cap(window_s=3600.0, limit=100), Cap(window_s=86400.0, limit=1000)))
Open = Callable[..., Coroutine[Any, Any, RedisState]]


@pytest.fixture
async def open_state() -> AsyncIterator[Open]:
    opened: list[RedisState] = []

    async def open_one(url: str, **options: Any) -> RedisState:
        opened.append(await RedisState.open(parse(url), **{"grace_s": 0.0, **options}))
        return opened[-1]

    yield open_one
    for state in opened:
        await state.close()


async def take(state: RedisState, cost: int, least: int | None = None) -> Permit | Denied:
    request = PermitRequest((NODE,), cost, cost if least is None else least)
    (answer,) = await state.reserve([request], now=0.0)
    return answer


async def back(state: RedisState) -> None:
    """Until it is not away."""
    async with asyncio.timeout(10):
        while state.away_reason():
            await asyncio.sleep(0.02)


async def used(state: RedisState) -> list[int]:
    return [cap.used for cap in (await state.usage([NODE], now=0.0))[NODE.key]]


async def test_permits_are_dated_by_the_server(server: RedisServer, open_state: Open) -> None:
    permit = await take(await open_state(server.url), 1)
    assert isinstance(permit, Permit)
    assert abs(permit.at - time.time()) < 5  # this machine's clock, although `now` was the epoch


@pytest.mark.parametrize("lost", [1, 2])
async def test_a_lost_answer_takes_no_permit_twice(server: RedisServer, open_state: Open, lost: int) -> None:
    async with LossyProxy(server.port) as proxy:
        state = await open_state(f"redis://127.0.0.1:{proxy.port}")
        assert isinstance(await take(state, 10), Permit)
        proxy.lose = lost
        permit = await take(state, 7)
        assert proxy.lost == lost
        assert isinstance(permit, Permit)
        assert await used(state) == [17, 17]
        proxy.lose = lost
        await state.refund([(permit, 5)])
        assert await used(state) == [12, 12]


async def test_permits_whose_answer_never_came_are_given_back(
    server: RedisServer, open_state: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "PATIENCE_S", 0.0)
    async with LossyProxy(server.port) as proxy:
        state = await open_state(f"redis://127.0.0.1:{proxy.port}")
        await take(state, 10)
        proxy.lose = 2
        with pytest.raises(StateUnavailable):
            await take(state, 50)
        other = await open_state(server.url)
        assert await used(other) == [60, 60]
        await back(state)
        assert isinstance(await take(state, 1), Permit)
        assert await used(other) == [11, 11]


async def test_counts_are_added_once_whatever_becomes_of_the_answer(server: RedisServer, open_state: Open) -> None:
    key = CountKey("shop", "", "a", "sent")
    async with LossyProxy(server.port) as proxy:
        state = await open_state(f"redis://127.0.0.1:{proxy.port}")
        other = await open_state(server.url)
        for number in range(6):
            proxy.lose = number % 3
            await state.count({key: 2})
            await back(state)
        await state.count({key: 1})
        assert await other.counts() == {key: 13}


async def test_while_it_is_away_nothing_is_granted_and_afterwards_what_was_used_still_is(
    server: RedisServer, open_state: Open
) -> None:
    told: list[str] = []
    state = await open_state(server.url, on_change=told.append)
    await take(state, 60)
    server.kill()
    for _ in range(3):
        with pytest.raises(StateUnavailable):
            await take(state, 1)
    assert state.away_reason()
    server.start()
    began = time.monotonic()
    await back(state)
    assert time.monotonic() - began < 5
    assert isinstance(await take(state, 41), Denied)
    assert isinstance(await take(state, 40), Permit)
    assert [bool(text) for text in told] == [True, False]


async def test_a_state_can_begin_while_its_server_is_away(server: RedisServer, open_state: Open) -> None:
    server.kill()
    state = await open_state(server.url)
    with pytest.raises(StateUnavailable):
        await state.health()
    server.start()
    assert isinstance(await take(state, 1), Permit)


async def test_a_server_that_came_back_empty_is_told_what_was_known(server: RedisServer, open_state: Open) -> None:
    """Caps are never `0 used`, pauses and faults hold, turns go on; also for a replica that is new."""
    one, other = await open_state(server.url), await open_state(server.url)
    await take(one, 30)
    await take(other, 40)  # `one` does not know of these when it asks next; `other` does
    down = await one.update_health("a", lambda h: fault(h, 5.0, "535 refused", HealthPolicy()))
    paused = await other.update_health("b", lambda h: pause(h, 5.0, by="ann", reason="works"))
    await one.health()
    version = await one.health_version()
    turns = await other.turns("pool", 32)
    server.kill()
    server.wipe()
    server.start()
    stranger = await open_state(server.url)
    assert await one.health_version() > version
    assert await other.health_version() > version
    assert await used(stranger) == [70, 70]
    assert isinstance(await take(stranger, 31), Denied)
    assert isinstance(await take(one, 30), Permit)
    assert await stranger.health() == {"a": down, "b": paused}
    assert down.status is NodeStatus.INACTIVE
    assert await stranger.turns("pool", 1) >= turns + 32


async def test_after_a_loss_nothing_is_granted_until_all_have_told(server: RedisServer, open_state: Open) -> None:
    state = await open_state(server.url, grace_s=0.3)
    while isinstance(await take(state, 1), Denied):  # a state that is new waits too: it may be an old one's heir
        await asyncio.sleep(0.02)
    server.ask("FLUSHALL")
    denied = await take(state, 1)
    assert isinstance(denied, Denied)
    assert denied.blocks == ()
    assert 0 < denied.until - time.time() <= 0.3
    await asyncio.sleep(max(0.0, denied.until - time.time()) + 0.01)
    assert isinstance(await take(state, 1), Permit)
    assert await used(state) == [2, 2]


async def test_a_full_server_still_grants_and_counts(new_server: Callable[..., RedisServer], open_state: Open) -> None:
    server = new_server("--maxmemory", "6mb", "--maxmemory-policy", "noeviction")
    state = await open_state(server.url)
    await take(state, 1)
    number = 0
    while server.ask("SET", f"ballast{number}", "x" * 100_000).startswith("+"):
        number += 1
    assert isinstance(await take(state, 99), Permit)
    assert isinstance(await take(state, 1), Denied)
    assert (await state.update_health("a", lambda h: replace(h, failures=3))).failures == 3


async def test_a_slow_server_holds_up_nobody_for_long(server: RedisServer, open_state: Open) -> None:
    state = await open_state(f"{server.url}?timeout=200ms")
    await take(state, 1)
    server.freeze()
    began = time.monotonic()
    with pytest.raises(StateUnavailable):
        await take(state, 1)
    with pytest.raises(StateUnavailable):
        await state.health()
    assert time.monotonic() - began < 10
    server.thaw()
    async with asyncio.timeout(10):
        while True:
            try:
                answer = await take(state, 1)
                break
            except StateUnavailable:
                await asyncio.sleep(0.05)
    assert isinstance(answer, Permit)
    assert (await used(state))[0] <= 3


async def test_a_node_taken_out_by_one_replica_is_out_everywhere_within_a_second(
    server: RedisServer, open_state: Open
) -> None:
    one, other = await open_state(server.url), await open_state(server.url)
    version = await other.health_version()
    began = time.monotonic()
    await one.update_health("a", lambda h: fault(h, time.time(), "421 go away", HealthPolicy()))
    while await other.health_version() == version:
        await asyncio.sleep(0.25)  # the keeper's tick
    assert (await other.health())["a"].status is NodeStatus.INACTIVE
    assert time.monotonic() - began < 1
    claims = [await s.claim("check:a", owner=o, ttl_s=60, now=0.0) for s, o in ((one, "1"), (other, "2"))]
    assert claims == [True, False]
    assert await other.update_health("a", lambda _: NodeHealth()) == NodeHealth()
