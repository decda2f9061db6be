from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from relay.pools.pool import Cap
from relay.router.permits import MOST_AHEAD, Permits
from relay.state import Candidate, Denied, Permit, PermitRequest
from relay.state.memory import MemoryState
from tests.unit.router.values import NOW

PLENTY = Candidate("node:a", (Cap(window_s=3600.0, limit=1_000_000),))
SCARCE = Candidate("node:b", (Cap(window_s=3600.0, limit=100),))


class CountingState(MemoryState):
    calls = 0

    async def reserve(self, requests: Sequence[PermitRequest], *, now: float) -> list[Permit | Denied]:
        self.calls += 1
        return await super().reserve(requests, now=now)


@pytest.fixture
def state() -> CountingState:
    return CountingState()


async def take(permits: Permits, candidate: Candidate, cost: int = 1) -> Permit | Denied:
    return permits.at_once(candidate, cost) or await permits.ask(PermitRequest((candidate,), cost), NOW)


async def used(state: MemoryState, candidate: Candidate) -> int:
    return (await state.usage([candidate], now=NOW + 1))[candidate.key][0].used


async def test_under_load_few_calls_serve_many(state: CountingState) -> None:
    permits = Permits(state)
    for _ in range(1000):
        given = await take(permits, PLENTY)
        assert isinstance(given, Permit)
        assert given.granted == 1
    assert state.calls < 40
    await permits.close()
    assert await used(state, PLENTY) == 1000


async def test_one_now_and_then_takes_nothing_in_advance(state: CountingState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.router.permits.BUSY_S", 0.0)
    permits = Permits(state)
    for number in range(1, 4):
        await take(permits, PLENTY)
        assert await used(state, PLENTY) == number
    assert state.calls == 3


async def test_what_is_left_of_an_advance_goes_back_by_itself(state: CountingState) -> None:
    permits = Permits(state)
    for _ in range(5):
        await take(permits, PLENTY)
    assert await used(state, PLENTY) > 5
    async with asyncio.timeout(5):
        while await used(state, PLENTY) != 5:
            await asyncio.sleep(0.01)
    assert permits.at_once(PLENTY, 1) is None


async def test_a_permit_out_of_an_advance_can_be_given_back(state: CountingState) -> None:
    permits = Permits(state)
    given = [await take(permits, PLENTY) for _ in range(10)]
    for permit in given[4:]:
        assert isinstance(permit, Permit)
        permits.refund(permit, 1)
    await permits.close()
    assert await used(state, PLENTY) == 4


async def test_a_scarce_cap_is_used_to_the_last_recipient(state: CountingState) -> None:
    workers = [Permits(state) for _ in range(3)]
    given = await asyncio.gather(*(take(workers[number % 3], SCARCE) for number in range(150)))
    assert sum(isinstance(answer, Permit) for answer in given) == 100


async def test_other_caps_under_the_same_name_begin_anew(state: CountingState) -> None:
    permits = Permits(state)
    for _ in range(10):
        await take(permits, PLENTY)
    tighter = Candidate(PLENTY.key, SCARCE.caps)
    assert permits.at_once(tighter, 1) is None
    assert isinstance(await take(permits, tighter), Permit)
    assert permits.at_once(PLENTY, 1) is None
    await permits.close()
    assert await used(state, tighter) == 11


async def test_an_advance_is_bounded(state: CountingState) -> None:
    permits = Permits(state)
    for _ in range(20):
        await take(permits, PLENTY, cost=500)
    assert await used(state, PLENTY) <= 20 * 500 + MOST_AHEAD
