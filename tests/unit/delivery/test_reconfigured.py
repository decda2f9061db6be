"""Other pools under delivery that goes on: what waits is sorted anew, what runs ends, what is told stays true."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from relay.envelope import Facts
from relay.pools.health import HealthPolicy, NodeStatus
from relay.pools.pool import Node, Pool
from tests.unit.delivery.rig import DOWN, SUSPENDED, TAKEN, Rig, ScriptedNode, hourly, node, pool


def swap(rig: Rig, pools: Sequence[Pool], fresh: Sequence[str] = ()) -> None:
    """As `app.plant` does it. `fresh`: nodes that get a new driver."""
    names = [member.name for each in pools for member in each.nodes]
    drivers = {
        name: ScriptedNode(name, rig.clock, rig.calls) if name in fresh or name not in rig.nodes else rig.nodes[name]
        for name in names
    }
    gone = [name for name in rig.nodes if name not in names]
    rig.nodes = drivers
    rig.keeper.replaced(rig.health, [*fresh, *gone])
    rig.fleet.replace({each.name: each for each in pools}, drivers)
    rig.router.replace_pools(pools)
    rig.dispatcher.replaced()


def waits(rig: Rig) -> list[tuple[str, int]]:
    return [(waiting.pool, waiting.messages) for waiting in rig.dispatcher.waiting()]


async def test_what_was_parked_goes_when_a_node_is_added() -> None:
    async with Rig(pools=(pool(node("a", caps=hourly(1))),)) as rig:
        for _ in range(50):
            await rig.stored()
        await rig.until(lambda: len(rig.calls) == 1 and waits(rig) == [("p", 49)])
        swap(rig, (pool(node("a", caps=hourly(1)), node("b")),))
        await rig.until(lambda: len(rig.calls) == 50)
        assert {call.node for call in rig.calls[1:]} == {"b"}


async def test_classes_are_made_anew_when_nodes_differ_in_what_they_take() -> None:
    """Parked as one class, then of two: the one that a node can take goes, the other waits for its own reason."""
    async with Rig(pools=(pool(node("a", caps=hourly(0))),)) as rig:
        for number in range(40):
            domain = "acme.example" if number % 2 else "other.example"
            await rig.stored(facts=Facts(from_domain=domain))
        await rig.until(lambda: waits(rig) == [("p", 40)])
        only = node("b", sender_domains=frozenset({"acme.example"}))
        swap(rig, (pool(node("a", caps=hourly(0)), only),))
        await rig.until(lambda: len(rig.calls) == 20)
        await rig.until(lambda: waits(rig) == [("p", 20)])
        swap(rig, (pool(node("a"), only),))
        await rig.until(lambda: len(rig.calls) == 40)
        assert [call.node for call in rig.calls[20:]] == ["a"] * 20


async def test_mail_of_a_pool_that_goes_waits_for_it_and_leaves_when_it_is_back() -> None:
    first, second = pool(node("a", connections=2)), pool(node("z"), name="q")
    async with Rig(pools=(first, second)) as rig:
        rig.nodes["a"].hangs = asyncio.Event()
        held = rig.nodes["a"]
        for _ in range(10):
            await rig.stored()
        await rig.until(lambda: held.busy == 4)
        swap(rig, (second,))
        held.hangs.set()
        await rig.until(lambda: waits(rig) == [("p", 6)])
        assert len(rig.calls) == 4  # what ran was finished
        assert "relay queue drop --pool p" in rig.dispatcher.waiting()[0].why[0]
        swap(rig, (first, second))
        await rig.until(lambda: len(rig.calls) == 10)
        assert not [event for event in rig.seen.events if event.level == "error"]


async def test_a_node_that_fails_while_it_goes_hands_its_mail_to_the_others_of_the_pool() -> None:
    async with Rig(pools=(pool(node("a")),)) as rig:
        rig.nodes["a"].hangs = asyncio.Event()
        rig.nodes["a"].always = DOWN
        old = rig.nodes["a"]
        await rig.stored()
        await rig.until(lambda: old.busy == 1)
        swap(rig, (pool(node("b")),))
        old.hangs.set()
        await rig.until(lambda: [call.node for call in rig.calls] == ["a", "b"])
        assert not rig.seen.named("relay.fault")


async def test_a_fault_of_an_attempt_with_the_driver_of_before_says_nothing_about_the_node() -> None:
    one = (pool(node("a"), node("b")),)
    async with Rig(pools=one) as rig:
        old = rig.nodes["a"]
        old.hangs, old.always = asyncio.Event(), SUSPENDED
        rig.nodes["b"].hangs = asyncio.Event()
        await rig.stored()
        await rig.stored()
        await rig.until(lambda: old.busy == 1)
        await asyncio.sleep(1)
        swap(rig, one, fresh=["a"])
        old.hangs.set()
        rig.nodes["b"].hangs.set()
        await rig.until(lambda: len(rig.calls) == 3)
        assert rig.router.health_of("a").status is NodeStatus.ACTIVE
        assert not rig.seen.named("node.deactivated")


async def test_a_node_that_was_put_right_is_tested_at_once_and_one_that_is_well_is_not() -> None:
    policy = HealthPolicy(recheck_every_s=3600.0)
    one = (pool(node("a"), node("b")),)
    async with Rig(pools=one, health=policy) as rig:
        rig.nodes["a"].always = rig.nodes["a"].well = DOWN
        await rig.stored()
        await rig.stored()
        await rig.until(lambda: rig.seen.named("node.deactivated"))
        swap(rig, one, fresh=["a", "b"])
        await rig.keeper.look_anew(["a", "b"])
        before = asyncio.get_running_loop().time()
        await rig.until(lambda: rig.seen.named("node.recovered"))
        assert asyncio.get_running_loop().time() - before < 2
        assert (rig.nodes["a"].probes, rig.nodes["b"].probes) == (1, 0)


async def test_a_test_that_runs_is_broken_off_when_its_node_changes() -> None:
    policy = HealthPolicy(recheck_every_s=1.0)
    one = (pool(node("a")),)
    async with Rig(pools=one, health=policy) as rig:
        stuck = asyncio.Event()
        old = rig.nodes["a"]
        old.always = DOWN

        async def probe() -> Any:
            old.probes += 1
            await stuck.wait()
            raise AssertionError("nobody waits for this any more")

        old.probe = probe  # type: ignore[method-assign]
        await rig.stored()
        await rig.until(lambda: old.probes == 1)
        swap(rig, one, fresh=["a"])
        await rig.until(lambda: rig.nodes["a"].probes == 1)
        await rig.until(lambda: len(rig.calls) == 2)
        assert not rig.seen.named("relay.fault")


async def test_fewer_connections_hold_from_now_on() -> None:
    wide: Node = node("a", connections=10)
    async with Rig(pools=(pool(wide),)) as rig:
        rig.nodes["a"].hangs = asyncio.Event()
        for _ in range(100):
            await rig.stored()
        await rig.until(lambda: rig.nodes["a"].busy == 20)
        swap(rig, (pool(replace(wide, connections=1)),))
        rig.nodes["a"].always = TAKEN
        rig.nodes["a"].most = 0
        rig.nodes["a"].hangs.set()
        await rig.until(lambda: len(rig.calls) == 100)
        assert rig.nodes["a"].most <= 2
        await rig.until(lambda: rig.fleet.free("p") == 2)
