"""Fleet: other nodes and drivers while attempts run."""

from __future__ import annotations

import asyncio
from typing import Any

from relay.delivery.fleet import Fleet
from relay.pools.pool import Pool
from tests.unit.delivery.rig import node, pool


class Driver:
    def __init__(self) -> None:
        self.closed = 0

    async def close(self) -> None:
        self.closed += 1


def fleet(*pools: Pool, **drivers: Any) -> tuple[Fleet, list[str]]:
    freed: list[str] = []
    return Fleet(pools, drivers, on_free=freed.append), freed


def by_name(*pools: Pool) -> dict[str, Pool]:
    return {each.name: each for each in pools}


async def test_a_driver_is_closed_after_its_last_attempt_and_its_places_count_until_then() -> None:
    old, new = Driver(), Driver()
    one = pool(node("n", connections=1))
    places, _ = fleet(one, n=old)
    first, second = places.enter("n"), places.enter("n")
    places.replace(by_name(one), {"n": new})
    assert not places.has_place("n")  # the server has two connections of ours, whoever holds them
    assert places.full("p") == {"n"}
    places.leave("n", first)
    third = places.enter("n")
    assert third is new
    await asyncio.sleep(0)
    assert old.closed == 0
    places.leave("n", second)
    await asyncio.sleep(0)
    assert old.closed == 1
    places.leave("n", third)
    assert (places.free("p"), places.running("n"), new.closed) == (2, 0, 0)
    await places.close()
    assert (old.closed, new.closed) == (1, 1)


async def test_an_idle_driver_is_closed_at_once_and_one_that_stays_is_not() -> None:
    gone, kept = Driver(), Driver()
    places, _ = fleet(pool(node("a"), node("b")), a=gone, b=kept)
    places.replace(by_name(pool(node("b"))), {"b": kept})
    await asyncio.sleep(0)
    assert (gone.closed, kept.closed) == (1, 0)
    assert places.names() == ["b"]
    assert "a" not in places


async def test_a_node_that_is_gone_is_known_to_its_attempts_and_forgotten_later() -> None:
    driver = Driver()
    places, freed = fleet(pool(node("a", connections=1)), a=driver)
    held = places.enter("a")
    places.enter("a")
    empty = pool()
    for _ in range(3):
        places.replace(by_name(empty), {})
        assert places.pool_of("a").name == "p"
    places.leave("a", held)
    places.leave("a", held)
    await asyncio.sleep(0)
    assert driver.closed == 1
    assert freed == []
    places.replace(by_name(empty), {})
    assert places.pool_of("a").name == "p"  # what has just ended is still being told of
    places.replace(by_name(empty), {})
    assert not places._gone


async def test_a_node_that_comes_back_counts_the_attempts_it_had() -> None:
    old, new = Driver(), Driver()
    one = pool(node("a", connections=1))
    places, _ = fleet(one, a=old)
    held = places.enter("a")
    places.replace(by_name(pool()), {})
    places.replace(by_name(one), {"a": new})
    assert (places.running("a"), places.free("p")) == (1, 1)
    assert places.enter("a") is new
    assert places.full("p") == {"a"}
    places.leave("a", held)
    places.leave("a", new)
    await asyncio.sleep(0)
    assert (places.free("p"), places.running("a"), old.closed, new.closed) == (2, 0, 1, 0)


async def test_a_node_that_moves_takes_its_places_with_it() -> None:
    driver = Driver()
    places, freed = fleet(pool(node("a", connections=1)), pool(name="q"), a=driver)
    held = places.enter("a")
    places.enter("a")
    places.replace(by_name(pool(), pool(node("a", connections=1), name="q")), {"a": driver})
    assert (places.full("p"), places.full("q"), places.free("q")) == (set(), {"a"}, 0)
    places.leave("a", held)
    assert freed == ["q"]
    assert (places.free("q"), places.pool_of("a").name, driver.closed) == (1, "q", 0)


async def test_a_test_keeps_its_driver_open() -> None:
    old, new = Driver(), Driver()
    one = pool(node("a"))
    places, _ = fleet(one, a=old)
    with places.testing("a") as upstream:
        assert upstream is old
        places.replace(by_name(one), {"a": new})
        await asyncio.sleep(0)
        assert old.closed == 0
    await asyncio.sleep(0)
    assert old.closed == 1
    with places.testing("a"):
        pass
    await asyncio.sleep(0)
    assert new.closed == 0
