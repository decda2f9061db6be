"""What becomes of a message, its sender and its node, for each way an attempt can end: seen from outside."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from relay.outcome import Outcome
from relay.pools.health import NodeStatus
from relay.schedule import RetryPolicy
from relay.spool import Standing
from tests.unit.delivery.rig import (
    DOWN,
    GREYLISTED,
    HUNG_UP,
    LOST,
    SLOWER,
    SPAM,
    SUSPENDED,
    TAKEN,
    UNKNOWN_USER,
    Rig,
    each,
    hourly,
    node,
    pool,
)


@dataclass(frozen=True)
class Case:
    """The first node's answer, and what is to be seen when nothing more happens without time passing.

    Attributes:
        handed: how many nodes were handed the message.
        due_s: when it is looked at again, from now; None when it is gone.
        first: status of the first node.
        cooled: the first node is left alone for a while.
        reported: the sender was told.
    """

    answer: Outcome
    handed: int
    due_s: tuple[float, float] | None = None
    first: NodeStatus = NodeStatus.ACTIVE
    cooled: bool = False
    reported: bool = False


CASES = {
    "delivered": Case(TAKEN, handed=1),
    "recipient deferred": Case(GREYLISTED, handed=1, due_s=(48, 72)),
    "recipient refused": Case(UNKNOWN_USER, handed=1, reported=True),
    "message refused": Case(SPAM, handed=1, reported=True),
    "node down": Case(DOWN, handed=2, first=NodeStatus.INACTIVE),
    "node hung up": Case(HUNG_UP, handed=2, first=NodeStatus.INACTIVE),
    "account suspended": Case(SUSPENDED, handed=2, first=NodeStatus.INACTIVE),
    "slow down": Case(SLOWER, handed=2, cooled=True),
    "answer lost": Case(LOST, handed=1, due_s=(48, 72)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_an_answer_of_the_first_node(case: Case):
    async with Rig() as rig:
        rig.nodes["n1"].always = rig.nodes["n1"].well = case.answer
        message = await rig.send()
        await rig.turn(200)
        assert rig.copies(message) == case.handed
        standing = await rig.standing(message)
        if case.due_s is None:
            assert standing is None
        else:
            low, high = case.due_s
            assert low <= standing[1] - rig.clock() <= high
            assert standing[2]
        health = rig.router.health_of("n1")
        assert health.status is case.first
        assert (health.cool_until > rig.clock()) is case.cooled
        assert bool(rig.seen.named("dsn.created")) is case.reported
        assert ("node.deactivated" in rig.seen.names()) is (case.first is NodeStatus.INACTIVE)


async def test_a_greylisted_message_goes_by_the_schedule_and_is_delivered():
    async with Rig(pools=(pool(node("n1")),)) as rig:
        rig.nodes["n1"].answers = [GREYLISTED] * 3
        message = await rig.send()
        await rig.until(lambda: not rig.spool._kept, within_s=3600, step_s=1)
        waits = [later.at - earlier.at for earlier, later in zip(rig.calls, rig.calls[1:], strict=False)]
        for wait, interval in zip(waits, (60, 300, 900), strict=True):
            assert 0.8 * interval - 2 <= wait <= 1.2 * interval + 2
        assert rig.events_of(message).count("attempt.deferred") == 3
        assert (await rig.kept(message)) is None


async def test_a_lost_answer_keeps_the_message_with_its_node_and_then_another_may_have_it():
    async with Rig() as rig:
        rig.nodes["n1"].always = LOST
        message = await rig.send()
        await rig.until(lambda: not rig.spool._kept, within_s=7200, step_s=1)
        nodes = [call.node for call in rig.calls if call.id == message.id]
        assert nodes[-1] == "n2"
        assert set(nodes[:-1]) == {"n1"}
        first_elsewhere = next(call.at for call in rig.calls if call.node == "n2")
        assert first_elsewhere - rig.calls[0].at >= 1800


async def test_each_recipient_has_its_own_fate():
    async with Rig() as rig:
        rig.nodes["n1"].answers = [each(bad=UNKNOWN_USER, later=GREYLISTED, node=HUNG_UP)]
        rig.nodes["n2"].always = TAKEN
        addresses = [f"{name}@dest.example" for name in ("ok", "bad", "later", "node")]
        message = await rig.send(*addresses)
        await rig.until(lambda: not rig.spool._kept, within_s=600, step_s=0.5)
        assert [rig.copies(message, address) for address in addresses] == [1, 1, 2, 2]
        (report,) = rig.seen.named("dsn.created")
        assert report.data["recipients"] == ["bad@dest.example"]


async def test_a_recipient_refused_before_a_failover_is_reported_too():
    """R35: only the last attempt's failures were told of."""
    async with Rig() as rig:
        rig.nodes["n1"].answers = [each(a=UNKNOWN_USER, b=HUNG_UP)]
        message = await rig.send("a@dest.example", "b@dest.example")
        await rig.until(lambda: not rig.spool._kept, within_s=60)
        assert rig.copies(message, "b@dest.example") == 2
        assert [event.data["recipients"] for event in rig.seen.named("dsn.created")] == [["a@dest.example"]]


async def test_nothing_reachable_is_a_hold_and_no_attempt():
    async with Rig() as rig:
        for scripted in rig.nodes.values():
            scripted.always = scripted.well = DOWN
        message = await rig.send()
        await rig.turn(200)
        kept = await rig.kept(message)
        assert kept.attempts == 0
        assert (await rig.standing(message))[0] is Standing.QUEUED
        assert rig.copies(message) == 2


async def test_caps_grant_what_they_have_and_the_rest_follows():
    """Twelve recipients, ten an hour: ten go now and two in an hour, in one message each."""
    async with Rig(pools=(pool(node("n1", caps=hourly(10))),)) as rig:
        addresses = [f"r{n}@dest.example" for n in range(12)]
        message = await rig.send(*addresses)
        await rig.turn(200)
        assert [len(call.recipients) for call in rig.calls] == [10]
        await rig.until(lambda: not rig.spool._kept, within_s=2 * 3600, step_s=1)
        assert [len(call.recipients) for call in rig.calls] == [10, 2]
        assert all(rig.copies(message, address) == 1 for address in addresses)
        assert rig.calls[1].at - rig.calls[0].at >= 3600


async def test_more_recipients_than_a_node_takes_at_once_go_in_portions():
    async with Rig(pools=(pool(node("n1", max_recipients=10)),)) as rig:
        addresses = [f"r{n}@dest.example" for n in range(25)]
        message = await rig.send(*addresses)
        await rig.turn(300)
        assert sorted(len(call.recipients) for call in rig.calls) == [5, 10, 10]
        assert all(rig.copies(message, address) == 1 for address in addresses)
        assert await rig.kept(message) is None


async def test_a_message_no_node_can_take_waits_and_says_why():
    async with Rig(pools=(pool(node("n1", max_size=10)),)) as rig:
        message = await rig.send()
        await rig.turn(100)
        held = rig.seen.named("route.held")[0]
        assert held.message_id == message.id
        assert "10 octets" in held.data["why"][0]
        assert rig.dispatcher.waits(message).why == tuple(held.data["why"])
        assert not rig.calls


async def test_a_message_of_a_pool_that_is_gone_waits_and_says_why():
    async with Rig() as rig:
        message = await rig.stored(pool="removed")
        await rig.until(lambda: rig.seen.named("route.held"), within_s=10)
        assert "removed is not configured" in rig.seen.named("route.held")[0].data["why"][0]
        assert (await rig.standing(message))[0] is Standing.QUEUED


HOUR = RetryPolicy(intervals_s=(60.0, 300.0), max_age_s=3600.0)


@pytest.mark.parametrize("answer", [GREYLISTED, DOWN, LOST], ids=["deferred", "down", "uncertain"])
async def test_a_message_is_given_up_at_its_maximum_age_and_the_sender_is_told_once(answer):
    async with Rig(retry=HOUR) as rig:
        for scripted in rig.nodes.values():
            scripted.always = scripted.well = answer
        message = await rig.send()
        begun = rig.clock()
        await rig.until(lambda: rig.seen.named("message.expired"), within_s=4000, step_s=5)
        (expired,) = rig.seen.named("message.expired")
        assert 3600 <= expired.at - begun <= 3600 + 120
        await rig.turn(100)
        assert await rig.kept(message) is None
        assert [event.message_id for event in rig.seen.named("dsn.created")] == [message.id]


async def test_mail_behind_a_gate_is_given_up_at_its_maximum_age_wherever_it_waits():
    """700 messages of one queue, of which memory holds 500."""
    async with Rig(pools=(pool(node("n1", caps=hourly(1))),), retry=HOUR, reports_enabled=False) as rig:
        rig.nodes["n1"].always = rig.nodes["n1"].well = DOWN
        await rig.send()
        await rig.until(lambda: rig.seen.named("node.deactivated"))
        for _ in range(700):
            await rig.store()
        await asyncio.sleep(3500)
        assert not rig.seen.named("message.expired")
        await rig.until(lambda: len(rig.seen.named("message.expired")) == 701, within_s=300, step_s=1)
        assert not rig.spool._kept


async def test_after_a_long_outage_of_the_relay_itself_mail_gets_one_last_try():
    async with Rig(pools=(pool(node("n1")),), running=False) as rig:
        message = await rig.store(received_at=rig.clock() - 10 * 86400)
        late = await rig.store("late@dest.example", received_at=rig.clock() - 10 * 86400)
        rig.nodes["n1"].always = each(late=GREYLISTED)
        rig.start()
        await rig.until(lambda: rig.seen.named("dsn.created"))
        assert rig.events_of(message) == ["attempt.delivered"]
        assert rig.events_of(late) == ["attempt.deferred", "message.expired", "dsn.created"]
