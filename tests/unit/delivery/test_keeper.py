"""Node health from a fault to its end, over one shared state: who sees what, who tests, and when."""

from __future__ import annotations

import asyncio

import pytest

from relay.delivery import keeper as module
from relay.errors import StateUnavailable
from relay.pools import health as machine
from relay.pools.health import HealthPolicy, NodeStatus
from tests.unit.delivery.rig import DOWN, GREYLISTED, HUNG_UP, SLOWER, SUSPENDED, TAKEN, FaultyState, Rig, node, pool

AWAY = StateUnavailable("the state is away")
ONE = (pool(node("n1")),)


def status(rig: Rig, name: str = "n1") -> NodeStatus:
    return rig.router.health_of(name).status


@pytest.mark.parametrize("answer", [DOWN, HUNG_UP, SUSPENDED], ids=["down", "hung up", "suspended"])
async def test_a_fault_takes_the_node_out_at_once_and_names_the_reason(answer):
    async with Rig() as rig:
        rig.nodes["n1"].always = rig.nodes["n1"].well = answer
        await rig.send()
        await rig.turn()
        (event,) = rig.seen.named("node.deactivated")
        assert event.data["node"] == "n1"
        assert answer.text in event.data["test_status"]
        assert event.data["next_check"] == pytest.approx(rig.clock() + 900, abs=5)
        for _ in range(10):
            await rig.send()
        await rig.turn()
        assert len(rig.nodes["n1"].calls) == 1


async def test_many_attempts_that_fail_together_take_a_node_out_once():
    async with Rig() as rig:
        rig.nodes["n1"].always = rig.nodes["n1"].well = HUNG_UP
        rig.nodes["n1"].took_s = 1.0
        for _ in range(40):
            await rig.send()
        await asyncio.sleep(5)
        assert len(rig.nodes["n1"].calls) == 20
        assert len(rig.seen.named("node.deactivated")) == 1
        assert rig.router.health_of("n1").failures == 1


async def test_a_recheck_brings_a_node_back_and_its_mail_goes():
    async with Rig(pools=ONE) as rig:
        rig.nodes["n1"].answers = [DOWN]
        rig.nodes["n1"].well = DOWN
        message = await rig.send()
        await asyncio.sleep(1000)
        assert rig.nodes["n1"].probes == 1
        assert [event.name for event in rig.seen.events if event.name.startswith("node.")] == [
            "node.deactivated",
            "node.check_failed",
        ]
        rig.nodes["n1"].well = TAKEN
        await asyncio.sleep(1000)
        assert status(rig) is NodeStatus.ACTIVE
        (recovered,) = rig.seen.named("node.recovered")
        assert recovered.data["down_s"] == pytest.approx(1800, abs=10)
        assert rig.copies(message) == 2


async def test_checking_ends_after_its_time_and_only_an_operator_brings_the_node_back():
    policy = HealthPolicy(recheck_every_s=60.0, recheck_for_s=600.0)
    async with Rig(pools=ONE, health=policy) as rig:
        rig.nodes["n1"].always = rig.nodes["n1"].well = DOWN
        message = await rig.send()
        await asyncio.sleep(1200)
        probes = rig.nodes["n1"].probes
        assert 9 <= probes <= 11
        assert rig.seen.named("node.check_failed")[-1].data["next_check"] == 0
        await asyncio.sleep(3600)
        assert rig.nodes["n1"].probes == probes
        rig.nodes["n1"].always = rig.nodes["n1"].well = TAKEN
        await rig.state.update_health("n1", lambda h: machine.resume(h, rig.clock()))
        await rig.until(lambda: rig.events_of(message)[-1] == "attempt.delivered", within_s=90)


async def test_of_two_workers_one_tests_the_node_and_both_see_the_result():
    state = FaultyState()
    async with Rig(pools=ONE, state=state) as one, Rig(pools=ONE, state=state, owner="worker-1") as two:
        for rig in (one, two):
            rig.nodes["n1"].always = rig.nodes["n1"].well = DOWN
        await one.send()
        await one.until(lambda: status(two) is NodeStatus.INACTIVE, within_s=1)
        await asyncio.sleep(910)
        assert one.nodes["n1"].probes + two.nodes["n1"].probes == 1
        for rig in (one, two):
            rig.nodes["n1"].always = rig.nodes["n1"].well = TAKEN
        waiting = await two.send()
        await asyncio.sleep(905)
        assert one.nodes["n1"].probes + two.nodes["n1"].probes == 2
        assert status(one) is status(two) is NodeStatus.ACTIVE
        assert two.copies(waiting) == 1
        told = one.seen.named("node.recovered") + two.seen.named("node.recovered")
        assert len(told) == 1


async def test_a_claimed_recheck_is_not_asked_for_all_the_time(monkeypatch):
    async with Rig(pools=ONE) as rig:
        rig.nodes["n1"].always = rig.nodes["n1"].well = DOWN
        await rig.send()
        await rig.turn()
        await rig.state.claim("check:n1", owner="somebody else", ttl_s=10_000, now=rig.clock())
        await asyncio.sleep(890)
        rig.state.log.clear()
        await asyncio.sleep(60)
        assert 2 <= rig.state.log.count("claim") <= 15
        assert rig.nodes["n1"].probes == 0


async def test_a_pause_is_seen_by_others_within_a_tick_and_a_resume_lets_mail_go_at_once():
    state = FaultyState()
    async with Rig(pools=ONE, state=state) as rig:
        await state.update_health("n1", lambda h: machine.pause(h, rig.clock(), by="anna", reason="maintenance"))
        await asyncio.sleep(2 * module.TICK_S)
        message = await rig.send()
        await rig.turn()
        assert rig.copies(message) == 0
        assert "paused by anna: maintenance" in rig.dispatcher.waits(message).why[0]
        await asyncio.sleep(3600)
        assert rig.copies(message) == 0
        await state.update_health("n1", lambda h: machine.resume(h, rig.clock()))
        await asyncio.sleep(2 * module.TICK_S)
        assert rig.copies(message) == 1


async def test_a_quota_reply_cools_the_node_for_as_long_as_it_asked():
    async with Rig(pools=ONE) as rig:
        rig.nodes["n1"].answers = [SLOWER]
        message = await rig.send()
        await rig.turn()
        others = [await rig.send() for _ in range(5)]
        assert status(rig) is NodeStatus.ACTIVE
        (cooled,) = rig.seen.named("node.cooled")
        assert cooled.data["until"] == pytest.approx(rig.clock() + 30, abs=2)
        await asyncio.sleep(25)
        assert len(rig.calls) == 1
        await asyncio.sleep(7)
        assert all(rig.copies(other) == 1 for other in others)
        await rig.until(lambda: rig.copies(message) == 2, within_s=120)


async def test_refusals_of_messages_say_nothing_about_the_node():
    async with Rig(pools=ONE) as rig:
        rig.nodes["n1"].always = GREYLISTED
        for _ in range(50):
            await rig.send()
        await rig.turn(300)
        assert status(rig) is NodeStatus.ACTIVE
        assert rig.router.health_of("n1").failures == 0


async def test_a_driver_whose_test_raises_is_tested_by_the_schedule_and_harms_no_other():
    async with Rig() as rig:
        rig.nodes["n1"].answers = [DOWN]
        rig.nodes["n1"].well = ValueError("bug")
        await rig.send()
        await asyncio.sleep(2000)
        assert rig.nodes["n1"].probes == 2
        assert "internal fault" in rig.router.health_of("n1").test_status
        assert len(rig.seen.named("relay.fault")) == 2


async def test_a_test_that_hangs_ends_and_is_a_failure():
    async with Rig(pools=ONE) as rig:
        rig.nodes["n1"].answers = [DOWN]
        rig.nodes["n1"].probe = asyncio.Event().wait
        await rig.send()
        await asyncio.sleep(900 + 70)
        assert "did not end within 60 s" in rig.router.health_of("n1").test_status


async def test_a_fault_seen_while_the_state_is_away_counts_here_and_is_forgotten_when_nobody_else_knows_of_it():
    async with Rig(pools=ONE) as rig:
        await asyncio.sleep(1)
        rig.state.away = AWAY
        rig.nodes["n1"].answers = [DOWN]
        message = await rig.send()
        await asyncio.sleep(10)
        assert status(rig) is NodeStatus.INACTIVE
        rig.state.away = None
        await asyncio.sleep(880)
        assert status(rig) is NodeStatus.INACTIVE
        await rig.until(lambda: rig.copies(message) == 2, within_s=120)
        assert status(rig) is NodeStatus.ACTIVE


async def test_a_state_that_is_away_is_told_once_and_noticed_when_it_is_back():
    async with Rig(pools=ONE) as rig:
        rig.state.away = AWAY
        await asyncio.sleep(600)
        assert len(rig.seen.named("relay.fault")) == 1
        rig.state.away = None
        await asyncio.sleep(5)
        rig.state.away = AWAY
        await asyncio.sleep(600)
        assert len(rig.seen.named("relay.fault")) == 2


async def test_an_operators_test_decides_like_a_recheck():
    async with Rig(pools=ONE) as rig:
        rig.nodes["n1"].well = DOWN
        probe = await rig.keeper.test("n1")
        assert probe.outcome is DOWN
        assert status(rig) is NodeStatus.INACTIVE
        rig.nodes["n1"].well = TAKEN
        await rig.keeper.test("n1")
        assert status(rig) is NodeStatus.ACTIVE


async def test_without_automatic_deactivation_faults_are_recorded_and_mail_keeps_to_its_schedule():
    async with Rig(pools=ONE, health=HealthPolicy(auto_deactivate=False)) as rig:
        rig.nodes["n1"].answers = [DOWN]
        message = await rig.send()
        await rig.turn()
        assert status(rig) is NodeStatus.ACTIVE
        assert rig.router.health_of("n1").failures == 1
        assert rig.copies(message) == 1
        await rig.until(lambda: rig.copies(message) == 2, within_s=120)
        assert rig.router.health_of("n1").failures == 0
