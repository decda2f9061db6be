"""Drivers that break their contract, and the bounds that hold for all of them."""

from __future__ import annotations

import asyncio

import pytest

from relay.delivery.attempt import ATTEMPT_S, GRACE_S
from relay.errors import StateUnavailable
from relay.outcome import RecipientOutcome
from relay.state import CountKey
from tests.unit.delivery.rig import DOWN, GREYLISTED, TAKEN, UNKNOWN_USER, Rig, each, hourly, node, pool

ONE = (pool(node("n1")),)
A, B, C = "a@dest.example", "b@dest.example", "c@dest.example"


def taken(*addresses: str) -> list[RecipientOutcome]:
    return [RecipientOutcome(address, TAKEN) for address in addresses]


async def test_a_recipient_without_an_outcome_may_have_it_and_stays_with_the_node():
    async with Rig() as rig:
        rig.nodes["n1"].answers = [lambda outbound: taken(A)]
        message = await rig.send(A, B)
        await rig.turn(100)
        assert rig.copies(message, B) == 1
        kept = await rig.kept(message)
        assert kept.bound_node == "n1"
        assert [e.data["recipients"] for e in rig.seen.named("attempt.uncertain")] == [[B]]
        await rig.until(lambda: rig.copies(message, B) == 2, within_s=120)
        assert rig.copies(message, A) == 1


async def test_an_answer_of_nothing_at_all_is_uncertain():
    async with Rig() as rig:
        rig.nodes["n1"].answers = [lambda outbound: []]
        message = await rig.send(A)
        await rig.turn(100)
        assert rig.events_of(message) == ["attempt.uncertain"]
        assert len(rig.calls) == 1


async def test_outcomes_too_many_or_of_strangers_are_ignored():
    async with Rig() as rig:
        rig.nodes["n1"].answers = [lambda outbound: [*taken(A, B, "stranger@dest.example"), *taken(A)]]
        message = await rig.send(A, B)
        await rig.turn(100)
        assert await rig.kept(message) is None
        assert rig.seen.named("attempt.delivered")[0].data["recipients"] == [A, B]


async def test_outcomes_in_another_order_reach_their_recipients():
    async with Rig() as rig:
        rig.nodes["n1"].answers = [lambda outbound: [RecipientOutcome(B, UNKNOWN_USER), *taken(A)]]
        await rig.send(A, B)
        await rig.until(lambda: rig.seen.named("dsn.created"))
        assert rig.seen.named("dsn.created")[0].data["recipients"] == [B]


async def test_the_same_address_twice_has_one_fate_and_counts_twice():
    async with Rig(pools=(pool(node("n1", caps=hourly(2))),)) as rig:
        rig.nodes["n1"].answers = [DOWN]
        message = await rig.send(A, A)
        await rig.turn(100)
        await rig.keeper.test("n1")
        await rig.until(lambda: not rig.spool._kept, within_s=120)
        assert rig.calls[-1].recipients == (A, A)
        assert rig.events_of(message)[-1] == "attempt.delivered"


async def test_a_driver_that_raises_may_have_delivered():
    async with Rig() as rig:
        rig.nodes["n1"].answers = [ValueError("bug")]
        message = await rig.send(A)
        await rig.turn(100)
        assert rig.events_of(message) == ["attempt.uncertain"]
        assert "ValueError" in rig.seen.named("relay.fault")[0].data["error"]
        assert len(rig.calls) == 1
        await rig.until(lambda: not rig.spool._kept, within_s=120)


async def test_a_driver_that_never_comes_back_is_left_and_others_are_not_disturbed():
    async with Rig() as rig:
        rig.nodes["n1"].hangs = asyncio.Event()
        stuck = await rig.send(A)
        others = [await rig.send(B) for _ in range(60)]
        await asyncio.sleep(1)
        done = [other for other in others if rig.copies(other, B)]
        assert len(done) == 60
        assert rig.nodes["n2"].calls
        await asyncio.sleep(ATTEMPT_S + GRACE_S)
        assert "attempt.uncertain" in rig.events_of(stuck)
        assert rig.dispatcher.running == 0


async def test_unused_permits_go_back_to_the_last_recipient():
    async with Rig(
        pools=(
            pool(
                node("n1", caps=hourly(10)),
            ),
        )
    ) as rig:
        rig.nodes["n1"].answers = [each(), DOWN]
        await rig.send(*[f"r{n}@dest.example" for n in range(7)])
        await rig.turn(100)
        failed = await rig.send(A, B, C)
        await rig.turn(100)
        await rig.keeper.test("n1")
        await rig.until(lambda: not rig.spool._kept, within_s=120)
        assert rig.copies(failed, A) == 2
        over = await rig.send(A)
        await asyncio.sleep(60)
        assert rig.copies(over, A) == 0


async def test_counts_tell_what_was_offered_and_what_came_of_it():
    async with Rig(pools=ONE) as rig:
        rig.nodes["n1"].answers = [each(b=GREYLISTED, c=UNKNOWN_USER), each(), DOWN]
        await rig.send(A, B, C, campaign="spring")
        await rig.until(lambda: len(rig.calls) == 2)
        await rig.tally.flush()
        counts = await rig.state.counts()

        def count(what: str) -> int:
            return counts.get(CountKey("p", "spring", "n1", what), 0)

        assert count("sent") == 3
        assert count("delivered") == count("deferred") == count("refused") == 1


async def test_an_attempt_that_reached_nobody_was_not_sent():
    async with Rig(pools=ONE) as rig:
        rig.nodes["n1"].answers = [DOWN]
        await rig.send(A)
        await rig.turn()
        await rig.tally.flush()
        counts = await rig.state.counts()
        assert {key.what for key in counts} == {"deferred"}


async def test_counts_are_kept_for_a_state_that_is_away():
    async with Rig(pools=ONE) as rig:
        await rig.send(A)
        await rig.turn()
        rig.state.away = StateUnavailable("away")
        await rig.tally.flush()
        rig.state.away = None
        await rig.tally.flush()
        await rig.tally.flush()
        assert sum((await rig.state.counts()).values()) == 2


@pytest.mark.parametrize("caps", [(), hourly(1000)], ids=["free", "capped"])
async def test_no_event_tells_content_or_secrets(caps):
    async with Rig(pools=(pool(node("n1", caps=caps), node("n2")),)) as rig:
        rig.nodes["n1"].always = each(b=UNKNOWN_USER)
        rig.nodes["n2"].always = GREYLISTED
        for _ in range(4):
            await rig.send(A, B)
        await asyncio.sleep(600)
        told = repr([event.data for event in rig.seen.events])
        assert "hello" not in told


async def test_without_the_state_nodes_without_caps_go_on_and_capped_ones_wait():
    async with Rig(pools=(pool(node("n1")), pool(node("n2", caps=hourly(100)), name="q"))) as rig:
        await asyncio.sleep(1)
        rig.state.away = StateUnavailable("away")
        free = [await rig.send() for _ in range(50)]
        capped = await rig.send(pool="q")
        await asyncio.sleep(62)
        assert all(rig.copies(message) == 1 for message in free)
        assert rig.copies(capped) == 0
        assert [waiting.pool for waiting in rig.dispatcher.waiting()] == ["q"]
        rig.state.away = None
        await rig.until(lambda: rig.copies(capped) == 1, within_s=15)
