"""A node that takes messages and never says so is taken out, after a few; one lost answer is nothing."""

from __future__ import annotations

from relay.delivery.keeper import UNANSWERED
from relay.pools.health import NodeStatus
from tests.unit.delivery.rig import LOST, TAKEN, Rig, node, pool


async def test_a_node_that_loses_every_answer_is_taken_out():
    async with Rig(pools=[pool(node("n1"))]) as rig:
        rig.nodes["n1"].always = LOST
        for _ in range(UNANSWERED):
            assert rig.router.health_of("n1").status is NodeStatus.ACTIVE
            calls = len(rig.calls)
            await rig.send()
            await rig.until(lambda calls=calls: len(rig.calls) > calls)
            await rig.turn()
        health = rig.router.health_of("n1")
        assert health.status is NodeStatus.INACTIVE
        assert "answers in a row were lost" in health.test_status


async def test_a_delivery_between_them_starts_the_count_anew():
    async with Rig(pools=[pool(node("n1"))]) as rig:
        rig.nodes["n1"].answers = ([LOST] * (UNANSWERED - 1) + [TAKEN]) * 3
        for _ in range(3 * UNANSWERED):
            calls = len(rig.calls)
            await rig.send()
            await rig.until(lambda calls=calls: len(rig.calls) > calls)
            await rig.turn()
        assert rig.router.health_of("n1").status is NodeStatus.ACTIVE
