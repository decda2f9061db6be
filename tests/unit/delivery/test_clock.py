"""Clocks that are set while mail waits (R27)."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import SpoolFull
from relay.schedule import STEP_S, ClockSteps, RetryPolicy
from tests.unit.delivery.rig import DOWN, GREYLISTED, TAKEN, Rig, hourly, node, pool

ONE = (pool(node("n1")),)
SHORT = RetryPolicy(intervals_s=(60.0, 300.0), max_age_s=3600.0)
HOUR, DAY, DECADE = 3600.0, 86400.0, 10 * 365 * 86400.0


@pytest.mark.parametrize("step_s", [HOUR, 4 * DAY, DECADE, -HOUR, -DECADE])
async def test_a_clock_that_is_set_makes_no_message_old(step_s):
    async with Rig(pools=ONE) as rig:
        rig.nodes["n1"].always = GREYLISTED
        waiting = [await rig.send() for _ in range(20)]
        await rig.turn(200)
        rig.clock.set_by(step_s)
        await asyncio.sleep(900)
        assert not rig.seen.named("message.expired")
        rig.nodes["n1"].always = TAKEN
        await rig.until(lambda: not rig.spool._kept, within_s=5 * HOUR, step_s=5)
        assert all(rig.events_of(message)[-1] == "attempt.delivered" for message in waiting)


async def test_a_message_of_after_the_step_has_its_own_age():
    async with Rig(pools=ONE, retry=SHORT) as rig:
        rig.nodes["n1"].always = GREYLISTED
        await asyncio.sleep(1)
        rig.clock.set_by(DECADE)
        message = await rig.send()
        received = rig.clock()
        await rig.until(lambda: rig.seen.named("message.expired"), within_s=2 * HOUR, step_s=5)
        assert rig.seen.named("message.expired")[0].message_id == message.id
        assert rig.seen.named("message.expired")[0].at - received == pytest.approx(HOUR, abs=120)


async def test_mail_of_before_the_step_still_expires_at_its_real_age():
    async with Rig(pools=ONE, retry=SHORT) as rig:
        rig.nodes["n1"].always = GREYLISTED
        await rig.send()
        await asyncio.sleep(1200)
        rig.clock.set_by(30 * DAY)
        await asyncio.sleep(2300)
        assert not rig.seen.named("message.expired")
        await asyncio.sleep(200)
        assert rig.seen.named("message.expired")


async def test_a_clock_set_back_delays_neither_retries_nor_gates():
    async with Rig(pools=(pool(node("n1", caps=hourly(2))),)) as rig:
        rig.nodes["n1"].answers = [GREYLISTED]
        deferred = await rig.send()
        await rig.send()
        parked = await rig.send()
        await rig.turn(100)
        assert rig.dispatcher.waits(parked)
        rig.clock.set_by(-DECADE)
        await asyncio.sleep(2 * HOUR)
        assert rig.copies(deferred) == 2
        assert rig.copies(parked) == 1


async def test_a_clock_set_back_does_not_prolong_a_pause_after_trouble():
    async with Rig(pools=ONE) as rig:
        rig.spool.fail["settle"] = [SpoolFull("full")]
        await rig.send()
        await rig.turn()
        rig.clock.set_by(-DECADE)
        other = await rig.send()
        await rig.until(lambda: rig.copies(other) == 1, within_s=15)


async def test_a_node_that_is_down_when_the_clock_is_set_comes_back():
    for step_s in (DECADE, -DECADE):
        async with Rig(pools=ONE) as rig:
            rig.nodes["n1"].answers = [DOWN]
            message = await rig.send()
            await asyncio.sleep(10)
            rig.clock.set_by(step_s)
            await rig.until(lambda rig=rig, message=message: rig.copies(message) == 2, within_s=1000, step_s=1)


def test_what_drifts_is_no_step():
    steps = ClockSteps()
    for n in range(100_000):
        assert steps.look(n * 1.0005, float(n)) == 0.0
    assert steps.lead_s(-1e9) == 0.0


def test_a_step_counts_for_what_was_received_before_it():
    steps = ClockSteps()
    steps.look(1000.0, 0.0)
    assert steps.look(1010.0 + 500.0, 10.0) == 500.0
    assert steps.lead_s(1005.0) == 500.0
    assert steps.lead_s(1510.0) == 0.0


def test_a_step_there_and_back_cancels_out():
    steps = ClockSteps()
    steps.look(1000.0, 0.0)
    steps.look(1e9, 10.0)
    steps.look(1020.0, 20.0)
    assert steps.lead_s(1005.0) == pytest.approx(0.0)


def _is_clear(step: float) -> bool:
    """Not so near to the border that rounding decides on which side it is."""
    return abs(abs(step) - STEP_S) > 1e-3


@given(st.lists(st.tuples(st.floats(0.1, 1e4), st.floats(-1e6, 1e6).filter(_is_clear)), max_size=20))
def test_real_age_is_found_whatever_the_clock_does(moves):
    """For a message received before all steps; between looks the clock runs, then it may be set."""
    steps, steady, wall = ClockSteps(), 0.0, 1e9
    steps.look(wall, steady)
    received = wall - 1e7  # older than any step goes back
    silent = 0.0
    for passes, step in moves:
        steady += passes
        wall += passes + step
        if abs(step) < STEP_S:
            silent += step
        steps.look(wall, steady)
    assert wall - received - steps.lead_s(received) == pytest.approx(1e7 + steady + silent, abs=1e-3)
