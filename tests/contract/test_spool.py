"""What every spool does, whatever it keeps messages in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relay.envelope import BodyFile, Content, Facts, Lane, Message
from relay.errors import SpoolError, SpoolFull, SpoolUnhealthy
from relay.redisdb.address import parse
from relay.spool import Lease, LeaseLost, QueueKey, Selection, Spool, Standing
from relay.spool.memory import MemorySpool
from relay.spool.redis_store import RedisSpool
from relay.spool.sqlite import SqliteSpool
from tests.contract.spool_fixtures import CONTENT, HEAD, KEY, NOW, delivered, folder_of, message, sqlite_options

AnySpool = MemorySpool | SqliteSpool | RedisSpool
Opener = Callable[..., Awaitable[AnySpool]]


@pytest.fixture(params=["memory", "sqlite", "redis"])
async def open_spool(
    request: pytest.FixtureRequest, tmp_path: Path, fresh_url: Callable[[], str]
) -> AsyncIterator[Opener]:
    opened: list[AnySpool] = []

    async def opener(**options: Any) -> AnySpool:
        spool: AnySpool
        if request.param == "memory":
            spool = MemorySpool(**options)
        elif request.param == "redis":
            spool = RedisSpool(parse(fresh_url()), folder_of(tmp_path), **options)
        else:
            spool = SqliteSpool(folder_of(tmp_path), **sqlite_options(**options))
        opened.append(spool)
        await spool.start()
        await spool.recover(NOW)
        return spool

    yield opener
    for spool in opened:
        await spool.close()


@pytest.fixture
async def spool(open_spool: Opener) -> AnySpool:
    return await open_spool()


async def leased(spool: Spool, made: Message | None = None) -> Lease:
    lease = await spool.store(made or message(), CONTENT, lease=True)
    assert lease is not None
    return lease


async def due_ids(spool: Spool, now: float = NOW, limit: int = 100, key: QueueKey = KEY) -> list[str]:
    """Ids that are due, taken and given back."""
    leases = await spool.lease_due(key, now=now, limit=limit)
    await spool.release(leases)
    return [lease.message.id for lease in leases]


# Store and lease


async def test_a_stored_message_is_due_at_once_and_comes_back_as_it_was(spool: AnySpool) -> None:
    made = message(
        "ann@customer.example",
        "bøb@kunde.example",
        sender="",
        facts=Facts(subject='Søndag "tilbud" \\ \u2028', smtputf8=True, from_domain="acme.example"),
        campaign="spring",
        ret="HDRS",
        envid="x+y",
        bound_node="n1",
        bound_until=NOW + 5,
    )
    assert await spool.store(made, CONTENT, lease=False) is None
    (lease,) = await spool.lease_due(KEY, now=NOW, limit=10)
    assert lease.message == made
    assert await spool.content(made.id) == CONTENT


async def test_storing_with_a_lease_begins_the_first_attempt(spool: AnySpool) -> None:
    lease = await leased(spool)
    assert lease.message.attempts == 1
    assert await due_ids(spool) == []
    entry = await spool.find(lease.message.id)
    assert entry is not None
    assert entry.leased
    assert entry.message.attempts == 1


async def test_due_messages_come_smallest_due_first_then_by_id(spool: AnySpool) -> None:
    made = [message(received_at=NOW - age) for age in (1, 3, 3, 2)]
    for each in made:
        await spool.store(each, CONTENT, lease=False)
    assert await due_ids(spool) == [made[1].id, made[2].id, made[3].id, made[0].id]
    assert await due_ids(spool, limit=2) == [made[1].id, made[2].id]
    assert await due_ids(spool, now=NOW - 2) == [made[1].id, made[2].id, made[3].id]
    assert await due_ids(spool, now=NOW - 4) == []
    assert await due_ids(spool, limit=0) == []


async def test_nobody_else_gets_a_leased_message(spool: AnySpool) -> None:
    made = [message() for _ in range(3)]
    for each in made:
        await spool.store(each, CONTENT, lease=False)
    first = await spool.lease_due(KEY, now=NOW, limit=2)
    assert await due_ids(spool) == [made[2].id]
    await spool.release(first)
    assert await due_ids(spool) == [each.id for each in made]


async def test_one_can_look_behind_those_at_the_front(spool: AnySpool) -> None:
    made = [message() for _ in range(10)]
    for each in made:
        await spool.store(each, CONTENT, lease=False)
    behind = await spool.lease_due(KEY, now=NOW, limit=3, skip=4)
    assert [lease.message.id for lease in behind] == [each.id for each in made[4:7]]
    assert await spool.lease_due(KEY, now=NOW, limit=3, skip=10) == []
    await spool.release(behind)
    assert await due_ids(spool) == [each.id for each in made]


async def test_simultaneous_leases_never_overlap(spool: AnySpool) -> None:
    made = {(await spool.store(each, CONTENT, lease=False), each.id)[1] for each in [message() for _ in range(30)]}
    batches = await asyncio.gather(*(spool.lease_due(KEY, now=NOW, limit=7) for _ in range(9)))
    got = [lease.message.id for batch in batches for lease in batch]
    assert len(got) == len(set(got))
    rest = [lease.message.id for lease in await spool.lease_due(KEY, now=NOW, limit=100)]
    assert set(got) | set(rest) == made
    assert len(got) + len(rest) == 30


async def test_queues_are_apart(spool: AnySpool) -> None:
    mine, other = message(), message(lane=Lane.BULK)
    await spool.store(mine, CONTENT, lease=False)
    await spool.store(other, CONTENT, lease=False)
    assert await due_ids(spool) == [mine.id]
    assert await due_ids(spool, key=QueueKey("acme-pool", Lane.BULK, "shop")) == [other.id]
    assert await due_ids(spool, key=QueueKey("acme-pool", Lane.BULK, "nobody")) == []


async def test_an_id_is_taken_once(spool: AnySpool) -> None:
    made = message()
    await spool.store(made, CONTENT, lease=False)
    with pytest.raises(SpoolError, match="already"):
        await spool.store(replace(made, sender="other@acme.example"), Content(HEAD, b"other"), lease=False)
    entry = await spool.find(made.id)
    assert entry is not None
    assert entry.message.sender == made.sender
    assert await spool.content(made.id) == CONTENT


async def test_ids_that_share_a_row_key_are_kept_apart(spool: AnySpool) -> None:
    first = message()
    twins = [replace(first, id=first.id[:-1] + digit) for digit in "ABCDE"]
    twins = [each for each in twins if each.id != first.id]
    await asyncio.gather(*(spool.store(each, Content(HEAD, each.id.encode()), lease=False) for each in [first, *twins]))
    for each in [first, *twins]:
        assert (await spool.content(each.id)).body == each.id.encode()
        found = await spool.find(each.id)
        assert found is not None
        assert found.message.id == each.id
    assert set(await due_ids(spool)) == {first.id, *(each.id for each in twins)}


async def test_what_is_no_id_is_refused_and_never_found(spool: AnySpool) -> None:
    with pytest.raises(SpoolError):
        await spool.store(message(id="../../etc/passwd"), CONTENT, lease=False)
    assert await spool.find("../../etc/passwd") is None
    with pytest.raises(SpoolError):
        await spool.content("nothing")


async def test_workers_in_each_others_way_do_each_message_once(spool: AnySpool) -> None:
    """What a slow reader found may be leased, settled or gone by the time it is looked at."""
    total = 400
    for _ in range(total // 100):
        await asyncio.gather(*(spool.store(message(), CONTENT, lease=False) for _ in range(100)))
    done: list[str] = []
    deferred: set[str] = set()

    async def worker(number: int) -> None:
        while len(done) < total:
            leases = await spool.lease_due(KEY, now=NOW, limit=1 + number)
            for lease in leases:
                assert lease.message.id not in done
            if number % 2:
                leases = await spool.begin(leases)
            for lease in leases:
                if lease.message.id in deferred or number % 3:
                    done.append(lease.message.id)
                    await spool.settle(lease, delivered(lease.message), due=NOW)
                else:
                    deferred.add(lease.message.id)
                    await spool.settle(lease, lease.message, due=NOW)
            for depth in await spool.depths():
                assert 0 < depth.queued <= total - len(done) + 8 * 8
            await asyncio.sleep(0)

    await asyncio.gather(*(worker(number) for number in range(8)))
    assert sorted(done) == sorted(set(done))
    assert len(done) == total
    assert await spool.depths() == []


# Bodies


@pytest.mark.parametrize("size", [0, 1, 128 * 1024, 128 * 1024 + 1, 700_000])
async def test_bodies_of_any_size_come_back(spool: AnySpool, size: int) -> None:
    content = Content(HEAD, b"x" * size)
    made = message(size=content.size)
    await spool.store(made, content, lease=False)
    kept = await spool.content(made.id)
    assert b"".join(kept.chunks()) == b"".join(content.chunks())
    assert kept.size == content.size


async def test_a_body_file_is_adopted_and_goes_with_its_message(spool: AnySpool, tmp_path: Path) -> None:
    incoming = tmp_path / "incoming"
    incoming.write_bytes(b"large body\r\n" * 30_000)
    content = Content(HEAD, BodyFile(incoming, incoming.stat().st_size))
    expected = b"".join(content.chunks())
    lease = await spool.store(message(size=content.size), content, lease=True)
    assert lease is not None
    kept = await spool.content(lease.message.id)
    assert isinstance(kept.body, BodyFile)
    assert b"".join(kept.chunks()) == expected
    await spool.settle(lease, delivered(lease.message), due=0.0)
    await spool.close()
    assert not incoming.exists()
    assert not kept.body.path.exists()


# Settle, progress, release, begin


async def test_a_finished_message_is_gone(spool: AnySpool) -> None:
    lease = await leased(spool)
    await spool.settle(lease, delivered(lease.message), due=NOW, standing=Standing.HELD)
    assert await spool.find(lease.message.id) is None
    assert await spool.depths() == []
    with pytest.raises(SpoolError):
        await spool.content(lease.message.id)


async def test_a_deferred_message_waits_until_it_is_due(spool: AnySpool) -> None:
    lease = await leased(spool, message("a@x.example", "b@x.example"))
    partly = delivered(lease.message, 1)
    await spool.settle(lease, partly, due=NOW + 60, reason="451 later")
    assert await due_ids(spool, now=NOW + 59) == []
    (again,) = await spool.lease_due(KEY, now=NOW + 60, limit=5)
    assert again.message == partly
    assert [recipient.address for recipient in again.message.pending] == ["b@x.example"]
    entry = await spool.find(lease.message.id)
    assert entry is not None
    assert (entry.reason, entry.due, entry.standing) == ("451 later", NOW + 60, Standing.QUEUED)


@pytest.mark.parametrize("standing", [Standing.HELD, Standing.QUARANTINED])
async def test_a_message_set_aside_is_not_leased(spool: AnySpool, standing: Standing) -> None:
    lease = await leased(spool)
    await spool.settle(lease, lease.message, due=NOW, standing=standing, reason="poison")
    assert await due_ids(spool, now=NOW + 1e6) == []
    entry = await spool.find(lease.message.id)
    assert entry is not None
    assert (entry.standing, entry.reason, entry.leased) == (standing, "poison", False)


async def test_an_ended_lease_is_good_for_nothing(spool: AnySpool) -> None:
    lease = await leased(spool)
    await spool.settle(lease, lease.message, due=NOW)
    for call in (
        lambda: spool.settle(lease, delivered(lease.message), due=NOW),
        lambda: spool.progress(lease, lease.message),
        lambda: spool.begin([lease]),
    ):
        with pytest.raises(LeaseLost):
            await call()
    await spool.release([lease])
    assert await due_ids(spool) == [lease.message.id]


async def test_of_two_settlements_at_once_one_counts(spool: AnySpool) -> None:
    lease = await leased(spool)
    done = await asyncio.gather(
        spool.settle(lease, delivered(lease.message), due=NOW),
        spool.settle(lease, delivered(lease.message), due=NOW),
        return_exceptions=True,
    )
    assert sorted(map(repr, map(type, done))) == sorted(map(repr, [type(None), LeaseLost]))
    assert await spool.depths() == []


async def test_progress_keeps_results_and_the_lease(spool: AnySpool) -> None:
    lease = await leased(spool, message("a@x.example", "b@x.example"))
    lease = await spool.progress(lease, delivered(lease.message, 1))
    assert await due_ids(spool) == []
    entry = await spool.find(lease.message.id)
    assert entry is not None
    assert len(entry.message.pending) == 1
    await spool.release([lease])
    (again,) = await spool.lease_due(KEY, now=NOW, limit=1)
    assert len(again.message.pending) == 1
    assert again.message.attempts == 1, "an attempt with results stays one"


async def test_begin_counts_attempts_and_release_takes_them_back(spool: AnySpool) -> None:
    for _ in range(2):
        await spool.store(message(), CONTENT, lease=False)
    leases = await spool.lease_due(KEY, now=NOW, limit=2)
    begun = await spool.begin(leases)
    assert [lease.message.attempts for lease in begun] == [1, 1]
    assert [lease.message.id for lease in begun] == [lease.message.id for lease in leases]
    await spool.release(begun, due=NOW + 9, reason="over the cap")
    assert await due_ids(spool, now=NOW + 8) == []
    again = await spool.lease_due(KEY, now=NOW + 9, limit=2)
    assert [lease.message.attempts for lease in again] == [0, 0]
    entry = await spool.find(again[0].message.id)
    assert entry is not None
    assert entry.reason == "over the cap"


async def test_releasing_what_was_stored_with_a_lease_leaves_an_untried_message(spool: AnySpool) -> None:
    lease = await leased(spool)
    await spool.release([lease])
    (again,) = await spool.lease_due(KEY, now=NOW, limit=1)
    assert again.message.attempts == 0
    assert await spool.begin([]) == []


async def test_a_second_attempt_released_leaves_one(spool: AnySpool) -> None:
    lease = await leased(spool)
    lease = await spool.progress(lease, lease.message)
    (lease,) = await spool.begin([lease])
    assert lease.message.attempts == 2
    await spool.release([lease])
    (again,) = await spool.lease_due(KEY, now=NOW, limit=1)
    assert again.message.attempts == 1


@pytest.mark.parametrize("due", [float("nan"), float("inf")])
async def test_a_due_time_that_never_comes_is_refused(spool: AnySpool, due: float) -> None:
    lease = await leased(spool)
    with pytest.raises(ValueError, match="no time"):
        await spool.settle(lease, lease.message, due=due)
    await spool.settle(lease, lease.message, due=NOW)


async def test_text_from_a_peer_cannot_break_the_record(spool: AnySpool) -> None:
    lease = await leased(spool)
    nasty = 'x\n\x00","status":"delivered\udc80'
    recipient = replace(lease.message.recipients[0], text=nasty)
    await spool.settle(lease, replace(lease.message, recipients=(recipient,)), due=NOW)
    (again,) = await spool.lease_due(KEY, now=NOW, limit=1)
    assert again.message.recipients == (recipient,)


# Cancellation


async def test_a_cancelled_store_is_whole_or_absent_and_its_lease_comes_back(spool: AnySpool) -> None:
    for rounds in range(6):
        made = message()
        task = asyncio.create_task(spool.store(made, CONTENT, lease=True))
        for _ in range(rounds):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if not task.cancelled():
            lease = task.result()
            assert lease is not None
            await spool.release([lease])
    await asyncio.sleep(0.05)
    ids = await due_ids(spool)
    for found in ids:
        assert await spool.content(found) == CONTENT
    assert {entry.message.id for entry in await spool.entries(Selection(), limit=100)} == set(ids)


async def test_a_write_after_a_cancelled_write_comes_after_it(spool: AnySpool) -> None:
    lease = await leased(spool, message("a@x.example", "b@x.example"))
    task = asyncio.create_task(spool.progress(lease, delivered(lease.message, 1)))
    await asyncio.sleep(0)
    task.cancel()
    await spool.settle(lease, delivered(lease.message), due=NOW)
    assert await spool.find(lease.message.id) is None
    await asyncio.gather(task, return_exceptions=True)


# Depths


async def test_depths_tell_what_each_queue_holds(spool: AnySpool) -> None:
    sizes = [CONTENT.size] * 4
    leases = [await leased(spool, message(received_at=NOW - 100 + n * 20)) for n in range(4)]
    bulk = message(lane=Lane.BULK)
    await spool.store(bulk, CONTENT, lease=False)
    await spool.settle(leases[0], leases[0].message, due=NOW + 30)
    await spool.settle(leases[1], leases[1].message, due=NOW + 10)
    await spool.settle(leases[2], leases[2].message, due=NOW, standing=Standing.HELD)
    depths = {depth.key.lane: depth for depth in await spool.depths()}
    depth = depths[Lane.TRANSACTIONAL]
    assert (depth.queued, depth.held, depth.quarantined) == (3, 1, 0)
    assert depth.size == sum(sizes)
    assert depth.next_due == NOW + 10
    assert depth.oldest == NOW - 100
    assert depths[Lane.BULK].next_due == NOW


async def test_next_due_passes_over_what_is_leased_or_gone(spool: AnySpool) -> None:
    for offset in (0, 1, 2):
        await spool.store(message(received_at=NOW + offset), CONTENT, lease=False)

    async def next_due() -> float | None:
        (depth,) = await spool.depths()
        return depth.next_due

    assert await next_due() == NOW
    (first,) = await spool.lease_due(KEY, now=NOW, limit=1)
    assert await next_due() == NOW + 1
    await spool.release([first])
    assert await next_due() == NOW
    taken = await spool.lease_due(KEY, now=NOW + 5, limit=5)
    assert len(taken) == 3
    assert await next_due() is None
    taken = await spool.begin(taken)
    await spool.settle(taken[2], taken[2].message, due=NOW + 50)
    assert await next_due() == NOW + 50
    await spool.release(taken[:2], due=NOW + 40)
    assert await next_due() == NOW + 40


# Operators


async def stored_many(spool: Spool, count: int, **changes: Any) -> list[str]:
    made = [message(**changes) for _ in range(count)]
    for each in made:
        await spool.store(each, CONTENT, lease=False)
    return [each.id for each in made]


async def test_entries_come_in_pages_by_id(spool: AnySpool) -> None:
    ids = await stored_many(spool, 7)
    seen: list[str] = []
    after = ""
    while page := await spool.entries(Selection(), limit=3, after=after):
        seen += [entry.message.id for entry in page]
        after = seen[-1]
    assert seen == ids


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(), {"a", "b", "c"}),
        (Selection(pool="pool-b"), {"b"}),
        (Selection(bridge="web"), {"c"}),
        (Selection(pool="pool-b", bridge="web"), set()),
        (Selection(pool="unknown"), set()),
        (Selection(standing=Standing.HELD), {"c"}),
        (Selection(text="ANN@"), {"a"}),
        (Selection(text="invoice"), {"b"}),
        (Selection(text="boss@"), {"c"}),
        (Selection(text='%_"'), set()),
    ],
    ids=lambda value: "".join(sorted(value)) or "none" if isinstance(value, set) else repr(value),
)
async def test_a_selection_means_what_it_says(spool: AnySpool, selection: Selection, expected: set[str]) -> None:
    made = {
        "a": message("ann@customer.example"),
        "b": message("bob@customer.example", pool="pool-b", facts=Facts(subject="Your INVOICE")),
        "c": message("carl@customer.example", bridge="web", sender="boss@acme.example"),
    }
    for each in made.values():
        await spool.store(each, CONTENT, lease=False)
    await spool.hold(Selection(ids=(made["c"].id,)), reason="look")
    found = {entry.message.id for entry in await spool.entries(selection, limit=10)}
    assert found == {made[name].id for name in expected}
    if expected:
        by_id = Selection(ids=tuple(each.id for each in made.values()), **_fields(selection))
        assert {entry.message.id for entry in await spool.entries(by_id, limit=10)} == found


def _fields(selection: Selection) -> dict[str, Any]:
    return {name: getattr(selection, name) for name in ("pool", "bridge", "standing", "text")}


async def test_held_messages_wait_until_they_are_retried(spool: AnySpool) -> None:
    ids = await stored_many(spool, 3)
    (lease,) = await spool.lease_due(KEY, now=NOW, limit=1)
    assert await spool.hold(Selection(), reason="maintenance") == 2
    assert await spool.hold(Selection(), reason="again") == 0
    assert await due_ids(spool) == []
    (depth,) = await spool.depths()
    assert (depth.queued, depth.held, depth.next_due) == (1, 2, None)
    assert await spool.retry(Selection(), now=NOW + 5) == 2
    assert await due_ids(spool, now=NOW + 4) == []
    assert await due_ids(spool, now=NOW + 5) == ids[1:]
    await spool.release([lease])
    assert await due_ids(spool) == ids[:1]


async def test_retry_makes_waiting_messages_due_and_forgets_crashes(spool: AnySpool) -> None:
    lease = await leased(spool, message(crashes=2))
    await spool.settle(lease, lease.message, due=NOW + 500, standing=Standing.QUARANTINED, reason="poison")
    assert await spool.retry(Selection(standing=Standing.QUARANTINED), now=NOW) == 1
    (again,) = await spool.lease_due(KEY, now=NOW, limit=1)
    assert (again.message.crashes, again.message.attempts) == (0, 1)


async def test_dropped_messages_are_told_and_gone(spool: AnySpool) -> None:
    ids = await stored_many(spool, 3)
    (lease,) = await spool.lease_due(KEY, now=NOW, limit=1)
    assert [each.id for each in await spool.drop(Selection())] == ids[1:]
    (depth,) = await spool.depths()
    assert (depth.queued, depth.next_due) == (1, None)
    await spool.settle(lease, delivered(lease.message), due=NOW)
    assert await spool.depths() == []


# Recovery, bounds, end


async def test_recovery_returns_open_attempts_and_makes_them_due(spool: AnySpool) -> None:
    lease = await leased(spool)
    waiting = await stored_many(spool, 1)
    (recovered,) = await spool.recover(NOW + 7)
    assert recovered.id == lease.message.id
    assert (recovered.crashes, recovered.attempts) == (1, 1)
    entry = await spool.find(recovered.id)
    assert entry is not None
    assert (entry.message, entry.due) == (recovered, NOW + 7)
    assert await spool.recover(NOW + 8) == []
    assert set(await due_ids(spool, now=NOW + 8)) >= set(waiting)


async def test_due_times_no_clock_meant_are_clamped(spool: AnySpool) -> None:
    wanted = {}
    for due in (-5.0, 253402300800.0, NOW + 3600):
        lease = await leased(spool)
        await spool.settle(lease, lease.message, due=due)
        wanted[lease.message.id] = due if due == NOW + 3600 else NOW + 1
    await spool.recover(NOW + 1)
    for message_id, due in wanted.items():
        entry = await spool.find(message_id)
        assert entry is not None
        assert entry.due == due


async def test_the_bounds_on_the_queue_hold_and_ease(open_spool: Opener) -> None:
    spool = await open_spool(max_messages=2, max_bytes=10 * CONTENT.size)
    leases = [await leased(spool), await leased(spool)]
    assert spool.full_reason()
    with pytest.raises(SpoolFull, match="2 messages"):
        await spool.store(message(), CONTENT, lease=False)
    await spool.settle(leases[0], delivered(leases[0].message), due=NOW)
    assert spool.full_reason() == ""
    with pytest.raises(SpoolFull, match="octets"):
        await spool.store(message(size=10 * CONTENT.size), CONTENT, lease=False)
    await spool.store(message(), CONTENT, lease=False)


async def test_a_full_queue_has_room_for_reports(open_spool: Opener) -> None:
    """Each failed message needs one before it can leave."""
    spool = await open_spool(max_messages=1)
    await leased(spool)
    assert spool.full_reason()
    await spool.store(message(sender=""), CONTENT, lease=False)


async def test_a_closed_spool_takes_nothing(spool: AnySpool) -> None:
    assert spool.unhealthy_reason() == ""
    await spool.close()
    await spool.close()
    assert spool.unhealthy_reason()
    with pytest.raises(SpoolUnhealthy):
        await spool.store(message(), CONTENT, lease=False)


async def test_one_message_can_be_leased_by_its_id_before_it_is_due(spool: AnySpool) -> None:
    first = await leased(spool)
    await spool.settle(first, first.message, due=NOW + 3600)
    again = await spool.lease(first.message.id)
    assert again is not None
    assert again.message == first.message
    assert await spool.lease(first.message.id) is None  # leased already
    assert await due_ids(spool, now=NOW + 7200) == []
    await spool.release([again])
    assert await due_ids(spool, now=NOW + 7200) == [first.message.id]
    assert await spool.lease("01ARZ3NDEKTSV4RRFFQ69G5FAV") is None


async def test_a_message_can_be_set_aside_as_poison_and_released_again(spool: AnySpool) -> None:
    made = message()
    await spool.store(made, CONTENT, lease=False)
    chosen = Selection(ids=(made.id,))
    assert await spool.hold(chosen, reason="poison", standing=Standing.QUARANTINED) == 1
    entry = await spool.find(made.id)
    assert entry is not None
    assert (entry.standing, entry.reason) == (Standing.QUARANTINED, "poison")
    (depth,) = await spool.depths()
    assert (depth.queued, depth.held, depth.quarantined) == (0, 0, 1)
    assert await spool.lease(made.id) is None
    assert await spool.retry(chosen, now=NOW) == 1
    assert await due_ids(spool) == [made.id]
