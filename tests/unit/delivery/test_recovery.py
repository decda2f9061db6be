"""After a crash: possible duplicates, suspects, poison; and messages whose delivery fails in unforeseen ways."""

from __future__ import annotations

import asyncio

import pytest

from relay.delivery.suspects import CERTAIN, POISON, SUSPECT, Verdict, judge
from relay.envelope import Content
from relay.errors import SpoolError
from relay.spool import Selection, Standing
from tests.unit.delivery.rig import BODY, DOWN, HEAD, TAKEN, FaultySpool, Rig, node, pool

ONE = (pool(node("n1")),)


@pytest.mark.parametrize(
    ("crashes", "open_attempts", "verdict"),
    [
        (1, 1, Verdict.BYSTANDER),
        (1, 500, Verdict.BYSTANDER),
        (SUSPECT, 500, Verdict.SUSPECT),
        (SUSPECT, 1, Verdict.SUSPECT),
        (POISON, 1, Verdict.POISON),
        (POISON, 2, Verdict.SUSPECT),
        (CERTAIN - 1, 500, Verdict.SUSPECT),
        (CERTAIN, 500, Verdict.POISON),
    ],
)
def test_who_is_blamed_for_a_crash(crashes, open_attempts, verdict):
    assert judge(crashes, open_attempts=open_attempts) is verdict


async def crash(spool: FaultySpool, poison: str) -> set[str]:
    """One life of a relay over this spool, as `app.worker` leads it: it dies when the poison is handed to a node.

    Returns what was set aside.
    """
    rig = Rig(pools=ONE, spool=spool, running=False)
    died = asyncio.Event()

    async def deliver(outbound, *, deadline):
        if outbound.id == poison:
            died.set()
            await asyncio.Event().wait()
        return await type(rig.nodes["n1"]).deliver(rig.nodes["n1"], outbound, deadline=deadline)

    rig.nodes["n1"].deliver = deliver
    left_open = await spool.recover(rig.clock())
    suspects, aside = [], set()
    for message in left_open:
        match judge(message.crashes, open_attempts=len(left_open)):
            case Verdict.POISON:
                await spool.hold(Selection(ids=(message.id,)), reason="poison", standing=Standing.QUARANTINED)
                aside.add(message.id)
            case Verdict.SUSPECT:
                suspects.append(message.id)

    async def live() -> None:
        await rig.dispatcher.try_alone(suspects)
        await rig.dispatcher.run()

    life = asyncio.ensure_future(live())
    waiting = asyncio.ensure_future(died.wait())
    await asyncio.wait([life, waiting], timeout=30, return_when=asyncio.FIRST_COMPLETED)
    # Dead: nothing more is written. What is open stays open.
    frozen = {key: (kept.message, kept.begun) for key, kept in spool._kept.items()}
    life.cancel()
    waiting.cancel()
    await asyncio.gather(life, waiting, return_exceptions=True)
    for task in rig.dispatcher._running.values():
        task.cancel()
    await asyncio.gather(*rig.dispatcher._running.values(), return_exceptions=True)
    for key, (message, begun) in frozen.items():
        kept = spool._kept[key]
        kept.message, kept.begun = message, begun
        kept.leases.clear()
    return aside


async def test_poison_is_found_in_three_crashes_and_no_bystander_is_set_aside():
    spool = FaultySpool()
    first = Rig(pools=ONE, spool=spool, running=False)
    sent = [await first.store() for _ in range(30)]
    poison = sent[11].id
    aside: set[str] = set()
    lives = 0
    while poison not in aside:
        aside |= await crash(spool, poison)
        lives += 1
        assert lives <= 4
    left = [entry.message.id for entry in await spool.entries(Selection(), limit=100)]
    assert aside == {poison}
    assert left == [poison]


async def test_suspects_are_tried_one_at_a_time_before_all_others():
    async with Rig(pools=ONE, running=False) as rig:
        rig.nodes["n1"].took_s = 0.2
        suspects = [await rig.store() for _ in range(3)]
        others = [await rig.store() for _ in range(10)]
        trial = asyncio.ensure_future(rig.dispatcher.try_alone([message.id for message in suspects]))
        await asyncio.sleep(0.1)
        assert not rig.dispatcher.takes_fresh(rig.message())
        rig.dispatcher.changed()
        await trial
        assert rig.nodes["n1"].most == 1
        assert [call.id for call in rig.calls] == [message.id for message in suspects]
        rig.start()
        await rig.until(lambda: all(rig.copies(message) == 1 for message in others))


async def test_a_suspect_that_takes_long_holds_the_others_up_for_a_moment_only():
    async with Rig(pools=ONE, running=False) as rig:
        rig.nodes["n1"].hangs = asyncio.Event()
        suspects = [await rig.store() for _ in range(100)]
        await rig.dispatcher.try_alone([message.id for message in suspects])
        assert rig.clock() - rig.calls[0].at <= 12
        rig.start()
        rig.nodes["n1"].hangs.set()
        await rig.until(lambda: not rig.spool._kept)


async def test_a_suspect_that_is_gone_or_cannot_be_leased_stops_nothing():
    async with Rig(pools=ONE, running=False) as rig:
        message = await rig.store()
        real, failures = rig.spool.lease, [SpoolError("busy")]

        async def lease(message_id):
            if failures:
                raise failures.pop()
            return await real(message_id)

        rig.spool.lease = lease
        await rig.dispatcher.try_alone(["01MCC5RM00BJY000F6F93Q62YD", "01MCC5RM00BJY000F6F93Q62YE", message.id])
        assert rig.copies(message) == 1


async def test_a_message_that_makes_delivery_raise_again_and_again_is_set_aside_and_the_rest_goes():
    async with Rig(pools=ONE) as rig:
        bad = await rig.stored()
        real = rig.router.route

        async def route(message, **more):
            if message.id == bad.id:
                raise RecursionError("a bug")
            return await real(message, **more)

        rig.router.route = route
        good = [await rig.send() for _ in range(5)]
        await rig.until(lambda: rig.seen.named("message.quarantined"), within_s=600, step_s=1)
        assert all(rig.copies(message) == 1 for message in good)
        standing, _, reason = await rig.standing(bad)
        assert standing is Standing.QUARANTINED
        assert "RecursionError: a bug" in reason
        assert len([e for e in rig.seen.named("relay.fault") if bad.id in e.data["error"]]) == 3
        assert await rig.spool.retry(Selection(ids=(bad.id,)), now=rig.clock()) == 1
        rig.router.route = real
        rig.dispatcher.changed()
        await rig.until(lambda: rig.copies(bad) == 1)


async def test_a_bug_after_the_attempt_does_not_make_it_happen_again():
    async with Rig(pools=ONE) as rig:
        real = rig.keeper.delivered
        failures = [KeyError("bug")]

        async def delivered(name):
            if failures:
                raise failures.pop()
            await real(name)

        rig.keeper.delivered = delivered
        message = await rig.send()
        await rig.until(lambda: not rig.spool._kept, within_s=200)
        assert rig.copies(message) == 1


async def test_an_attempt_open_at_a_crash_is_tried_again_at_once():
    async with Rig(pools=ONE, running=False) as rig:
        message = rig.message()
        await rig.spool.store(message, Content(HEAD, BODY), lease=True)
        (recovered,) = await rig.spool.recover(rig.clock())
        assert recovered.crashes == 1
        rig.start()
        await rig.until(lambda: rig.copies(message) == 1, within_s=2)


async def test_nodes_that_are_down_do_not_hold_a_suspect_for_ever():
    async with Rig(pools=ONE, running=False) as rig:
        rig.nodes["n1"].always = rig.nodes["n1"].well = DOWN
        message = await rig.store()
        await rig.dispatcher.try_alone([message.id])
        rig.start()
        rig.nodes["n1"].always = rig.nodes["n1"].well = TAKEN
        await rig.until(lambda: rig.copies(message) == 2, within_s=1000, step_s=1)
