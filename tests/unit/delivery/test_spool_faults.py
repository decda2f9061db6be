"""What happens to mail, results and other mail when the spool fails in the middle of a delivery."""

from __future__ import annotations

import asyncio

import pytest

from relay.envelope import RecipientStatus
from relay.errors import SpoolError, SpoolFull
from relay.spool import Standing
from tests.unit.delivery.rig import (
    DOWN,
    GREYLISTED,
    HUNG_UP,
    UNKNOWN_USER,
    Rig,
    each,
    hourly,
    node,
    pool,
)

FULL = SpoolFull("no space left on device")
ONE = (pool(node("n1")),)


async def test_a_result_that_could_not_be_settled_is_settled_later_and_sends_no_second_copy():
    async with Rig(pools=ONE) as rig:
        rig.spool.fail["settle"] = [FULL, FULL, FULL]
        message = await rig.send()
        await rig.until(lambda: rig.spool.fail["settle"] == [])
        await rig.until(lambda: not rig.spool._kept)
        assert rig.copies(message) == 1


async def test_partial_results_survive_a_spool_that_fails_between_two_nodes():
    async with Rig() as rig:
        for scripted in rig.nodes.values():
            scripted.answers = [each(b=HUNG_UP)]
        rig.spool.fail["progress"] = [FULL]
        message = await rig.send("a@dest.example", "b@dest.example")
        await rig.until(lambda: not rig.spool._kept, within_s=3600, step_s=1.0)
        assert rig.copies(message, "a@dest.example") == 1
        assert rig.copies(message, "b@dest.example") >= 2


async def test_nothing_new_starts_while_results_cannot_be_recorded():
    async with Rig(pools=ONE) as rig:
        rig.spool.fail_all["settle"] = FULL
        await rig.send()
        await rig.until(lambda: rig.seen.named("relay.fault"))
        before = len(rig.calls)
        await rig.send()
        await asyncio.sleep(3)
        assert len(rig.calls) == before
        rig.spool.fail_all.clear()
        await rig.until(lambda: not rig.spool._kept)
        assert len(rig.calls) == before + 1


async def test_a_report_that_finds_no_room_leaves_the_failure_unsettled_and_the_delivered_alone():
    async with Rig(pools=ONE) as rig:
        rig.nodes["n1"].always = each(b=UNKNOWN_USER)
        real_store, failures = rig.spool.store, [FULL, FULL]

        async def store(message, content, *, lease):
            if not message.sender and failures:
                raise failures.pop()
            return await real_store(message, content, lease=lease)

        rig.spool.store = store
        message = await rig.send("a@dest.example", "b@dest.example")
        await rig.until(lambda: len(failures) == 1)
        await rig.turn()
        kept = await rig.kept(message)
        assert [r.status for r in kept.recipients] == [RecipientStatus.DELIVERED, RecipientStatus.PENDING]
        await rig.until(lambda: rig.seen.named("dsn.created"), within_s=300)
        await rig.until(lambda: not rig.spool._kept)
        assert rig.copies(message, "a@dest.example") == 1
        assert len(rig.seen.named("dsn.created")) == 1


async def test_a_report_without_room_does_not_stop_other_mail():
    async with Rig(pools=ONE) as rig:
        rig.nodes["n1"].always = each(b=UNKNOWN_USER)
        real_store = rig.spool.store

        async def store(message, content, *, lease):
            if not message.sender:
                raise FULL
            return await real_store(message, content, lease=lease)

        rig.spool.store = store
        failed = await rig.send("b@dest.example")
        await rig.until(lambda: rig.copies(failed, "b@dest.example"))
        await rig.turn()
        other = await rig.send()
        await rig.turn()
        assert rig.copies(other) == 1


async def test_damaged_content_costs_one_message_and_no_pause():
    async with Rig(pools=ONE) as rig:
        damaged = await rig.stored()

        async def content(message_id):
            if message_id == damaged.id:
                kept = rig.spool._kept[message_id]
                kept.standing, kept.begun = Standing.QUARANTINED, False
                kept.leases.clear()
                raise SpoolError("damaged and quarantined")
            return await type(rig.spool).content(rig.spool, message_id)

        rig.spool.content = content
        await rig.until(lambda: rig.spool._kept[damaged.id].standing is Standing.QUARANTINED)
        other = await rig.send()
        await rig.turn()
        assert rig.copies(other) == 1
        assert rig.copies(damaged) == 0


async def test_content_that_cannot_be_read_now_is_tried_again_later():
    async with Rig(pools=ONE) as rig:
        rig.spool.fail["content"] = [SpoolError("too many open files")]
        message = await rig.stored()
        await rig.until(lambda: rig.copies(message) == 1, within_s=120)
        await rig.until(lambda: not rig.spool._kept)


async def test_the_permit_goes_back_when_the_attempt_could_not_be_begun():
    async with Rig(pools=(pool(node("n1", caps=hourly(1))),)) as rig:
        rig.spool.fail["begin"] = [FULL]
        message = await rig.stored()
        await rig.until(lambda: rig.copies(message) == 1, within_s=120)


@pytest.mark.parametrize("method", ["begin", "content", "progress", "settle", "release"])
async def test_no_message_is_lost_from_delivery_when_one_call_fails_anywhere(method):
    async with Rig(pools=(pool(node("n1"), node("n2", caps=hourly(3))),)) as rig:
        for number in range(6):
            rig.nodes["n1"].answers += [DOWN if number % 3 == 0 else GREYLISTED]
        for after in range(4):
            failures = rig.spool.fail.setdefault(method, [])
            await rig.stored()
            await rig.send()
            await asyncio.sleep(after)
            failures.append(FULL)
        await rig.until(lambda: not rig.spool._kept, within_s=4 * 3600, step_s=1.0)


@pytest.mark.parametrize("method", ["lease_due", "depths"])
async def test_a_queue_that_could_not_be_read_is_read_again(method):
    async with Rig(pools=ONE) as rig:
        rig.spool.fail[method] = [SpoolError("busy"), SpoolError("busy")]
        message = await rig.stored()
        await rig.until(lambda: rig.copies(message) == 1)
