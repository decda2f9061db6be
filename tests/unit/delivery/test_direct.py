"""`delivery: direct`: the client hears the upstream's verdict, and nothing is stored unless it must be."""

from __future__ import annotations

import asyncio

import pytest

from relay.bridges.bridge import Bridge
from relay.envelope import RecipientStatus
from relay.errors import SpoolFull
from relay.pools.health import NodeStatus
from tests.unit.delivery.rig import (
    BODY,
    DOWN,
    GREYLISTED,
    HUNG_UP,
    LOST,
    SLOWER,
    SPAM,
    TAKEN,
    UNKNOWN_USER,
    Rig,
    each,
    hourly,
    node,
    pool,
)

DIRECT = Bridge(name="app", pool="p", direct=True)
A, B = "a@dest.example", "b@dest.example"


@pytest.mark.parametrize(
    ("answer", "code", "handed"),
    [
        (TAKEN, 250, 1),
        (UNKNOWN_USER, 550, 1),
        (SPAM, 554, 1),
        (GREYLISTED, 451, 1),
        (LOST, 451, 1),
        (DOWN, 250, 2),
        (HUNG_UP, 250, 2),
        (SLOWER, 250, 2),
    ],
    ids=["taken", "unknown", "spam", "greylisted", "lost", "down", "hung up", "slow down"],
)
async def test_the_reply_says_what_the_upstreams_did(answer, code, handed):
    async with Rig() as rig:
        rig.nodes["n1"].answers = [answer]
        reply = await rig.submit(DIRECT, A)
        assert reply.code == code
        assert len(rig.calls) == handed
        assert await rig.in_spool() == []
        assert bool(rig.seen.named("message.accepted")) is (code == 250)
        assert "n1" not in reply.text
        assert not rig.seen.named("dsn.created")


async def test_no_node_at_all_is_a_temporary_refusal():
    async with Rig() as rig:
        for scripted in rig.nodes.values():
            scripted.always = DOWN
        assert (await rig.submit(DIRECT, A)).code == 451
        assert (await rig.submit(DIRECT, A)).code == 451
        assert len(rig.calls) == 2


async def test_what_some_have_taken_is_not_refused_and_the_rest_waits_its_turn():
    async with Rig() as rig:
        rig.nodes["n1"].answers = [each(b=GREYLISTED)]
        reply = await rig.submit(DIRECT, A, B)
        assert reply.code == 250
        (rest,) = await rig.in_spool()
        assert [r.status for r in rest.recipients] == [RecipientStatus.DELIVERED, RecipientStatus.PENDING]
        await asyncio.sleep(30)
        assert len(rig.calls) == 1, "the upstream asked for patience"
        await rig.until(lambda: not rig.spool._kept, within_s=120)
        assert [call.recipients for call in rig.calls] == [(A, B), (B,)]


async def test_who_was_refused_beside_others_that_were_taken_is_reported_with_the_content():
    async with Rig() as rig:
        rig.nodes["n1"].answers = [each(b=UNKNOWN_USER)]
        assert (await rig.submit(DIRECT, A, B)).code == 250
        await rig.until(lambda: len(rig.calls) == 2)
        (report,) = rig.seen.named("dsn.created")
        assert report.data["recipients"] == [B]
        assert rig.calls[1].recipients == ("shop@acme.example",)
        assert BODY.strip() in rig.calls[1].content


async def test_when_the_rest_cannot_be_kept_the_client_keeps_it():
    async with Rig() as rig:
        rig.nodes["n1"].answers = [each(b=GREYLISTED)]
        rig.spool.fail["store"] = [SpoolFull("full")]
        assert (await rig.submit(DIRECT, A, B)).code == 451
        assert await rig.in_spool() == []


async def test_when_the_report_cannot_be_kept_the_client_is_not_told_that_all_is_well():
    async with Rig() as rig:
        rig.nodes["n1"].answers = [each(b=UNKNOWN_USER)]
        rig.spool.fail["store"] = [SpoolFull("full")]
        assert (await rig.submit(DIRECT, A, B)).code == 451


async def test_the_rest_is_not_lost_when_settling_it_fails_after_it_was_stored():
    async with Rig() as rig:
        rig.nodes["n1"].answers = [each(b=GREYLISTED)]
        rig.spool.fail["settle"] = [SpoolFull("full"), SpoolFull("full")]
        assert (await rig.submit(DIRECT, A, B)).code == 250
        await rig.until(lambda: not rig.spool._kept, within_s=300)
        assert [call.recipients for call in rig.calls] == [(A, B), (B,)]


async def test_a_full_node_is_waited_for_beside_queued_mail():
    async with Rig(pools=(pool(node("n1", connections=1)),)) as rig:
        rig.nodes["n1"].took_s = 0.5
        for _ in range(50):
            await rig.stored()
        await rig.until(lambda: rig.nodes["n1"].busy == 2)
        reply = await asyncio.wait_for(rig.submit(DIRECT, A, within_s=10.0), 5)
        assert reply.code == 250


async def test_a_client_in_a_hurry_does_not_take_a_slow_node_out():
    async with Rig() as rig:

        async def deliver(outbound, *, deadline):
            await asyncio.sleep(deadline - asyncio.get_running_loop().time())
            return each(a=HUNG_UP)(outbound)

        rig.nodes["n1"].deliver = deliver
        reply = await rig.submit(DIRECT, A, within_s=5.0)
        assert reply.code == 451
        assert rig.router.health_of("n1").status is NodeStatus.ACTIVE
        assert not rig.nodes["n2"].calls, "no time was left for another"


async def test_permits_that_were_not_used_go_back():
    async with Rig(pools=(pool(node("n1", caps=hourly(1))),)) as rig:
        rig.nodes["n1"].answers = [DOWN]
        assert (await rig.submit(DIRECT, A)).code == 451
        await rig.keeper.test("n1")
        assert (await rig.submit(DIRECT, A)).code == 250
        assert (await rig.submit(DIRECT, A)).code == 451
