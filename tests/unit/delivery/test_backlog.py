"""Many messages, many bridges, many pools: fair, in order, in bounded memory, and nobody stops the others."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from relay.delivery import dispatcher as dispatching
from relay.delivery import intake
from relay.envelope import Content, Lane
from relay.errors import SpoolFull
from relay.spool import Selection
from tests.unit.delivery.rig import BODY, DOWN, GREYLISTED, HEAD, TAKEN, Rig, ids, node, pool

ONE = (pool(node("n1")),)


async def test_bridges_share_a_saturated_node_by_weight():
    async with Rig(pools=(pool(node("n1", connections=1)),), shares={"big": 3}, running=False) as rig:
        rig.nodes["n1"].took_s = 0.1
        for number in range(300):
            for bridge in ("big", "small"):
                await rig.store(bridge=bridge, sender=f"{bridge}-{number}@acme.example")
        rig.start()
        await rig.until(lambda: len(rig.calls) >= 200)
        bridge_of = {message.id: message.bridge for message in [k.message for k in rig.spool._kept.values()]}
        left = Counter(bridge_of.values())
        assert left["small"] - left["big"] == pytest.approx(100, abs=10)


async def test_transactional_mail_passes_a_bulk_backlog_and_bulk_goes_on():
    async with Rig(pools=(pool(node("n1", connections=1)),), running=False) as rig:
        rig.nodes["n1"].took_s = 0.1
        for _ in range(800):
            await rig.store(bridge="news", lane=Lane.BULK)
        rig.start()
        await asyncio.sleep(2)
        urgent = [await rig.send(bridge="shop") for _ in range(40)]
        sent_at = rig.clock()
        await rig.until(lambda: all(rig.copies(message) for message in urgent))
        took = rig.clock() - sent_at
        assert took <= 3.0, "forty messages at twenty a second, beside one of bulk for each eight"
        during = [call for call in rig.calls if call.at >= sent_at]
        assert len(during) - 40 >= 3


async def test_a_message_of_a_quiet_bridge_is_not_behind_a_flood():
    async with Rig(pools=(pool(node("n1", connections=1)),), running=False) as rig:
        rig.nodes["n1"].took_s = 0.1
        for _ in range(2000):
            await rig.store(bridge="flood")
        rig.start()
        await asyncio.sleep(5)
        quiet = await rig.send(bridge="quiet")
        await rig.until(lambda: rig.copies(quiet), within_s=2.5)


async def test_two_bridges_with_a_backlog_get_their_mail_in_order_of_age():
    async with Rig(pools=(pool(node("n1", connections=1)),), running=False) as rig:
        rig.nodes["n1"].took_s = 0.01
        sent = {bridge: [await rig.store(bridge=bridge) for _ in range(600)] for bridge in ("a", "b")}
        rig.start()
        await rig.until(lambda: not rig.spool._kept, step_s=0.1)
        for messages in sent.values():
            own = set(ids(messages))
            order = [call.id for call in rig.calls if call.id in own]
            ranks = {id_: rank for rank, id_ in enumerate(ids(messages))}
            assert max(abs(ranks[id_] - rank) for rank, id_ in enumerate(order)) <= 4


async def test_fresh_mail_goes_behind_older_mail_of_its_bridge_that_lies_in_the_spool():
    async with Rig(pools=(pool(node("n1", connections=1)),), running=False) as rig:
        rig.nodes["n1"].took_s = 0.05
        old = [await rig.store() for _ in range(700)]
        rig.start()
        await asyncio.sleep(1)
        assert not rig.dispatcher.takes_fresh(rig.message())
        young = await rig.send()
        await rig.until(lambda: rig.copies(young), within_s=60)
        assert all(rig.copies(message) for message in old)


async def test_a_dead_pool_full_of_mail_keeps_no_other_pool_waiting(monkeypatch):
    """400 queues of a dead pool once filled the memory that all shared."""
    monkeypatch.setattr(intake, "WINDOW", 2000)
    pools = (pool(node("n1")), pool(node("n2"), name="q"))
    async with Rig(pools=pools, running=False) as rig:
        rig.nodes["n1"].always = rig.nodes["n1"].well = DOWN
        for number in range(1200):
            for _ in range(2):
                await rig.store(bridge=f"bridge-{number}")
        rig.start()
        await rig.until(lambda: rig.seen.named("node.deactivated"))
        await asyncio.sleep(5)
        stored = [await rig.stored(pool="q", bridge="other") for _ in range(300)]
        fresh = await rig.send(pool="q", bridge="fresh")
        await rig.until(lambda: all(rig.copies(message) for message in [*stored, fresh]), within_s=3)
        assert rig.dispatcher.in_memory <= 4000


async def test_memory_is_bounded_with_thousands_of_queues(monkeypatch):
    monkeypatch.setattr(intake, "WINDOW", 200)
    async with Rig(pools=ONE, running=False) as rig:
        rig.nodes["n1"].always = rig.nodes["n1"].well = DOWN
        for number in range(150):
            for _ in range(6):
                await rig.store(bridge=f"bridge-{number}")
        rig.start()
        most = 0
        for _ in range(20):
            await asyncio.sleep(1)
            most = max(most, rig.dispatcher.in_memory)
        assert 0 < most <= 400
        rig.nodes["n1"].always = rig.nodes["n1"].well = TAKEN
        await rig.keeper.test("n1")
        await rig.until(lambda: not rig.spool._kept, within_s=120, step_s=0.5)


async def test_pools_whose_nodes_hang_leave_room_for_the_others(monkeypatch):
    monkeypatch.setattr(dispatching, "RUNNING", 50)
    monkeypatch.setattr(dispatching, "GUARANTEED", 5)
    pools = (pool(node("n1", connections=100)), pool(node("n2"), name="q"))
    async with Rig(pools=pools) as rig:
        rig.nodes["n1"].hangs = asyncio.Event()
        for _ in range(150):
            await rig.stored()
        await rig.until(lambda: rig.nodes["n1"].busy == 50)
        others = [await rig.stored(pool="q") for _ in range(40)]
        await rig.until(lambda: all(rig.copies(message) for message in others), within_s=5)
        assert rig.nodes["n1"].busy == 50
        rig.nodes["n1"].hangs.set()
        await rig.until(lambda: not rig.spool._kept)


async def test_waiting_mail_costs_nothing_while_it_waits(monkeypatch):
    """R25: a thousand parked messages are asked once a quarter of an hour, by one of them."""
    async with Rig(pools=ONE) as rig:
        rig.nodes["n1"].always = rig.nodes["n1"].well = DOWN
        await rig.send()
        await rig.until(lambda: rig.seen.named("node.deactivated"))
        for _ in range(1000):
            await rig.store()
        await asyncio.sleep(10)
        routed = 0
        real = rig.router.route

        async def counted(*args, **more):
            nonlocal routed
            routed += 1
            return await real(*args, **more)

        rig.router.route = counted
        await asyncio.sleep(850)
        assert routed <= 5


async def test_deferred_mail_of_one_bridge_does_not_push_its_fresh_mail_to_the_disk():
    async with Rig(pools=ONE) as rig:
        rig.nodes["n1"].answers = [GREYLISTED]
        await rig.send()
        await rig.turn()
        assert rig.dispatcher.takes_fresh(rig.message())


async def test_what_is_stored_while_the_spool_is_surveyed_is_not_overlooked():
    async with Rig(pools=ONE) as rig:
        real = rig.spool.depths
        stored = []

        async def depths():
            rows = await real()
            if not stored:
                stored.append(await rig.stored())
                await asyncio.sleep(0)
            return rows

        rig.spool.depths = depths
        await rig.until(lambda: stored)
        await rig.until(lambda: rig.copies(stored[0]), within_s=0.5)


async def test_an_operator_reaches_what_waits_here_and_nothing_is_taken_meanwhile():
    async with Rig(pools=ONE) as rig:
        rig.nodes["n1"].always = rig.nodes["n1"].well = DOWN
        await rig.send()
        await rig.until(lambda: rig.seen.named("node.deactivated"))
        parked = [await rig.send() for _ in range(20)]
        await asyncio.sleep(3)
        chosen = {message.id for message in parked[:10]}
        async with rig.dispatcher.set_aside(lambda message: message.id in chosen):
            await asyncio.sleep(3)
            held = await rig.spool.hold(Selection(ids=tuple(chosen)), reason="by hand")
        assert held == 10
        rig.nodes["n1"].always = rig.nodes["n1"].well = TAKEN
        await rig.keeper.test("n1")
        await rig.until(lambda: all(rig.copies(message) for message in parked[10:]))
        assert not any(rig.copies(message) for message in parked[:10])


async def test_a_stop_lets_attempts_end_and_gives_the_rest_back_untouched():
    async with Rig(pools=(pool(node("n1", connections=1)),)) as rig:
        rig.nodes["n1"].took_s = 0.5
        sent = [await rig.send() for _ in range(30)]
        await asyncio.sleep(0.1)
        cut = await rig.dispatcher.stop(asyncio.get_running_loop().time() + 10)
        assert cut == 0
        assert len(rig.calls) == 2
        left = await rig.in_spool()
        assert len(left) == 28
        assert {message.attempts for message in left} == {0}
        assert not any(kept.begun for kept in rig.spool._kept.values())
        assert not rig.dispatcher.takes_fresh(sent[0])


async def test_a_stop_cuts_what_does_not_end_and_names_it():
    async with Rig(pools=ONE) as rig:
        rig.nodes["n1"].hangs = asyncio.Event()
        await rig.send()
        await rig.turn()
        assert await rig.dispatcher.stop(asyncio.get_running_loop().time() + 1) == 1
        assert [kept.begun for kept in rig.spool._kept.values()] == [True]


async def test_an_attempt_that_was_answered_is_recorded_even_when_it_is_cut():
    async with Rig(pools=ONE) as rig:
        slow = asyncio.Event()
        real = rig.keeper.delivered

        async def delivered(name):
            await slow.wait()
            await real(name)

        rig.keeper.delivered = delivered
        await rig.send()
        await rig.until(lambda: rig.seen.named("attempt.delivered"))
        await rig.dispatcher.stop(asyncio.get_running_loop().time() + 1)
        assert not rig.spool._kept


async def test_a_message_offered_too_late_is_given_back_unattempted():
    async with Rig(pools=ONE) as rig:
        message = rig.message()
        lease = await rig.spool.store(message, Content(HEAD, BODY), lease=True)
        stopping = asyncio.ensure_future(rig.dispatcher.stop(asyncio.get_running_loop().time() + 1))
        await asyncio.sleep(0)
        rig.dispatcher.offer(lease, Content(HEAD, BODY))
        await stopping
        await rig.turn()
        assert (await rig.kept(message)).attempts == 0
        assert not rig.spool._kept[message.id].begun


async def test_results_that_wait_for_the_spool_are_given_to_it_at_the_stop():
    async with Rig(pools=ONE) as rig:
        rig.spool.fail["settle"] = [SpoolFull("full")] * 2
        message = await rig.send()
        await rig.until(lambda: rig.spool.fail["settle"] == [])
        await rig.dispatcher.stop(asyncio.get_running_loop().time())
        assert rig.copies(message) == 1
        assert not rig.spool._kept


async def test_one_message_the_spool_never_takes_back_does_not_stop_the_rest():
    async with Rig(pools=ONE) as rig:
        bad = rig.message()
        real = rig.spool.settle

        async def settle(lease, message, **more):
            if message.id == bad.id:
                raise SpoolFull("always")
            await real(lease, message, **more)

        rig.spool.settle = settle
        lease = await rig.spool.store(bad, Content(HEAD, BODY), lease=True)
        rig.dispatcher.offer(lease, Content(HEAD, BODY))
        await asyncio.sleep(90)
        good = await rig.send()
        await rig.until(lambda: rig.copies(good), within_s=30)
        assert rig.copies(bad) == 1
