"""Holds and full nodes: who waits, for how long, at what cost, in what order."""

from __future__ import annotations

import asyncio

from relay.envelope import Facts
from relay.outcome import Outcome, Scope, Status
from relay.pools.pool import Rotation
from relay.router.router import Router
from tests.unit.delivery.rig import DOWN, TAKEN, Rig, hourly, ids, node, pool

ONE = (pool(node("n1")),)


async def test_a_saturated_node_gets_its_mail_in_order_of_age_and_never_more_than_its_places():
    async with Rig(pools=(pool(node("n1", connections=2)),)) as rig:
        rig.nodes["n1"].took_s = 0.1
        sent = [await rig.stored() for _ in range(300)]
        await rig.until(lambda: len(rig.calls) == 300)
        assert rig.nodes["n1"].most <= 4
        ranks = {message.id: rank for rank, message in enumerate(sent)}
        assert max(abs(ranks[call.id] - rank) for rank, call in enumerate(rig.calls)) <= 8


async def test_waiting_for_a_place_costs_few_decisions(monkeypatch):
    decisions = 0
    route = Router.route

    async def counted(self, *args, **more):
        nonlocal decisions
        decisions += 1
        return await route(self, *args, **more)

    monkeypatch.setattr(Router, "route", counted)
    for rotation in (Rotation.ROUND_ROBIN, Rotation.PRIORITY):
        decisions = 0
        members = (node("n1", connections=2, priority=1), node("n2", connections=2, priority=2))
        async with Rig(pools=(pool(*members, rotation=rotation),)) as rig:
            for scripted in rig.nodes.values():
                scripted.took_s = 0.1
            for _ in range(300):
                await rig.stored()
            await rig.until(lambda: len(rig.calls) == 300)
            assert decisions <= 4 * 300


async def test_a_capped_node_never_gets_more_at_once_than_its_places():
    async with Rig(pools=(pool(node("n1", connections=2, caps=hourly(10_000))),)) as rig:
        rig.nodes["n1"].took_s = 0.1
        for _ in range(200):
            await rig.stored()
        await rig.until(lambda: len(rig.calls) == 200)
        assert rig.nodes["n1"].most <= 4


async def test_a_full_node_after_a_hold_is_waited_for_and_not_for_ever():
    """A gate that had been closed by a hold must open again when a place is free."""
    async with Rig(pools=(pool(node("n1", connections=1, caps=hourly(2))),)) as rig:
        for _ in range(2):
            await rig.stored()
        await rig.until(lambda: len(rig.calls) == 2)
        await rig.stored()
        await rig.until(lambda: rig.seen.named("route.held"))
        rig.nodes["n1"].took_s = 5.0
        for _ in range(4):
            await rig.stored()
        await rig.until(lambda: len(rig.calls) == 7, within_s=4 * 3600, step_s=1.0)


async def test_recovery_opens_gates_at_once():
    async with Rig() as rig:
        for scripted in rig.nodes.values():
            scripted.always, scripted.well = DOWN, DOWN
        first = await rig.send()
        await rig.until(lambda: len(rig.seen.named("node.deactivated")) == 2)
        waiting = [await rig.send() for _ in range(200)]
        await asyncio.sleep(120)
        before = len(rig.calls)
        assert before < 10
        for scripted in rig.nodes.values():
            scripted.always = scripted.well = TAKEN
        await rig.keeper.test("n1")
        await rig.until(lambda: all(rig.copies(message) for message in waiting), within_s=5)
        order = [call.id for call in rig.calls[before:] if call.id != first.id]
        ranks = {message.id: rank for rank, message in enumerate(waiting)}
        assert max(abs(ranks[id_] - rank) for rank, id_ in enumerate(order)) <= 100


async def test_order_of_age_is_kept_over_holds():
    async with Rig(pools=(pool(node("n1", caps=hourly(10))),)) as rig:
        sent = [await rig.send() for _ in range(45)]
        await rig.until(lambda: len(rig.calls) == 45, within_s=6 * 3600, step_s=5.0)
        assert ids(rig.calls) == ids(sent)


async def test_mail_behind_a_cap_writes_and_tells_little():
    async with Rig(pools=(pool(node("n1", caps=hourly(10))),)) as rig:
        for _ in range(500):
            await rig.send()
        await asyncio.sleep(60)
        writes = sum(rig.spool.log.count(name) for name in ("begin", "settle", "release", "progress"))
        told = len(rig.seen.named("route.held"))
        rig.spool.log.clear()
        await asyncio.sleep(1800)
        assert len(rig.calls) == 10
        assert writes < 700
        assert told < 250
        assert sum(rig.spool.log.count(name) for name in ("begin", "settle", "release", "progress")) < 100


async def test_unroutable_mail_is_parked_as_a_class():
    async with Rig(pools=(pool(node("n1", max_size=10)),)) as rig:
        for _ in range(500):
            await rig.stored()
        await asyncio.sleep(1200)
        assert len(rig.seen.named("route.held")) < 30
        assert rig.spool.log.count("release") < 30


async def test_a_pool_without_nodes_says_so():
    async with Rig(pools=(pool(), pool(node("n2"), name="q"))) as rig:
        await rig.stored()
        await rig.until(lambda: rig.seen.named("route.held"), within_s=10)


async def test_a_health_change_while_a_decision_waits_for_its_permit_is_not_missed():
    """The node comes back while the state is asked: the old answer must not close the gate for a quarter of an hour."""
    async with Rig(pools=(pool(node("n1"), node("n2", caps=hourly(1))),)) as rig:
        await rig.send()
        await rig.send()
        await rig.until(lambda: len(rig.calls) == 2)
        rig.nodes["n1"].always, rig.nodes["n1"].well = DOWN, DOWN
        await rig.send()
        await rig.until(lambda: rig.seen.named("node.deactivated"))
        await asyncio.sleep(70)
        real = rig.state.reserve
        asked = asyncio.Event()
        go = asyncio.Event()

        async def slow(requests, *, now):
            answer = await real(requests, now=now)
            asked.set()
            await go.wait()
            return answer

        rig.state.reserve = slow
        rig.dispatcher.changed()
        message = await rig.send()
        await asked.wait()
        rig.nodes["n1"].always = rig.nodes["n1"].well = TAKEN
        await rig.keeper.test("n1")
        go.set()
        await rig.until(lambda: rig.copies(message), within_s=5)


async def test_one_class_of_a_queue_that_waits_keeps_no_other_class_waiting():
    """A bridge sends for two domains, each with a node of its own; one node is capped for an hour."""
    members = (
        node("n1", sender_domains=frozenset({"one.example"}), caps=hourly(1)),
        node("n2", sender_domains=frozenset({"two.example"})),
    )
    one, two = Facts(from_domain="one.example"), Facts(from_domain="two.example")
    async with Rig(pools=(pool(*members),)) as rig:
        for _ in range(2000):
            await rig.store(facts=one)
        behind = [await rig.store(facts=two) for _ in range(20)]
        await rig.until(lambda: all(rig.copies(message) for message in behind), within_s=30)
        fresh = await rig.send(facts=two)
        await rig.until(lambda: rig.copies(fresh), within_s=0.1)
        assert len(rig.nodes["n1"].calls) == 1
        assert rig.dispatcher.in_memory <= 1000


async def test_a_message_that_tried_the_free_node_does_not_park_the_others():
    """It waits for a place with the other node, which is full; its class can go through the first."""
    async with Rig(pools=(pool(node("n1"), node("n2", connections=1)),)) as rig:
        rig.nodes["n2"].hangs = asyncio.Event()
        for _ in range(4):
            await rig.send()
        await rig.until(lambda: rig.nodes["n2"].busy == 2)
        too_large = Outcome(status=Status.REFUSED, scope=Scope.MESSAGE, code=552, enhanced="5.3.4", attempted=True)
        rig.nodes["n1"].answers = [too_large]
        large = await rig.send()
        await rig.turn()
        others = [await rig.send() for _ in range(5)]
        await rig.until(lambda: all(rig.copies(message) for message in others), within_s=1)
        rig.nodes["n2"].hangs.set()
        await rig.until(lambda: rig.copies(large) == 2, within_s=1)
