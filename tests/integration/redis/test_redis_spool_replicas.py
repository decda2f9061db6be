"""The shared spool between replicas: who has what, what comes back, and what a lost answer may not do."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from relay.envelope import BodyFile, Content
from relay.errors import SpoolError, SpoolFull, SpoolUnhealthy
from relay.redisdb.address import parse
from relay.spool import Lease, LeaseLost, Selection, Standing
from relay.spool import redis_store as store
from relay.spool.redis_store import RedisSpool
from relay.spool.redis_tenure import Tenure
from tests.contract.spool_fixtures import CONTENT, HEAD, KEY, NOW, delivered, message
from tests.fakes.redis_proxy import LossyProxy
from tests.fakes.redis_server import RedisServer

Open = Callable[..., Coroutine[Any, Any, RedisSpool]]


@pytest.fixture
async def open_spool(server: RedisServer, tmp_path: Path) -> AsyncIterator[Open]:
    """Replicas of one relay, with a lease of a second."""
    opened: list[RedisSpool] = []
    numbers = itertools.count()

    async def open_one(url: str = "", lease: str = "1s", place: str = "", **options: Any) -> RedisSpool:
        number = next(numbers)
        address = parse(f"{url or server.url}?lease={lease}&timeout=2s")
        spool = RedisSpool(address, tmp_path / f"own{number}", place=place or f"r{number}", **options)
        opened.append(spool)
        await spool.start()
        return spool

    yield open_one
    for spool in opened:
        await spool.close()


def fall_silent(spool: RedisSpool) -> None:
    """As if its process were stopped: it says nothing more."""
    assert spool._beating is not None
    spool._beating.cancel()


async def taken_over(spool: RedisSpool, seconds: float = 8.0) -> list[str]:
    """Ids of open attempts, once something was taken over."""
    async with asyncio.timeout(seconds):
        while True:
            left_open = await spool.take_over(NOW)
            if left_open:
                return [each.id for each in left_open]
            await asyncio.sleep(0.05)


async def test_a_silent_replica_loses_everything_and_sends_nothing_more(open_spool: Open) -> None:
    one, other = await open_spool(), await open_spool()
    begun, waiting = message(), message()
    lease = await one.store(begun, CONTENT, lease=True)
    assert lease is not None
    await one.store(waiting, CONTENT, lease=False)
    (untouched,) = await one.lease_due(KEY, now=NOW, limit=10)
    await one.confirm(lease)
    fall_silent(one)
    assert await taken_over(other) == [begun.id]
    leases = {each.message.id: each for each in await other.lease_due(KEY, now=NOW, limit=10)}
    assert set(leases) == {begun.id, waiting.id}
    assert leases[begun.id].message.crashes == 1
    assert leases[waiting.id].message.crashes == 0
    for each in (lease, untouched):
        for call in (
            one.confirm(each),
            one.begin([each]),
            one.progress(each, each.message),
            one.settle(each, delivered(each.message), due=NOW),
        ):
            with pytest.raises(LeaseLost):
                await call
    await one.release([lease, untouched])
    for each in leases.values():
        await other.settle(each, delivered(each.message), due=NOW)
    assert await other.depths() == []


async def test_who_was_taken_for_dead_begins_anew_and_knows_it(open_spool: Open) -> None:
    lost: list[None] = []
    one, other = await open_spool(on_lost=lambda: lost.append(None)), await open_spool()
    first = message()
    await one.store(first, CONTENT, lease=True)
    fall_silent(one)
    await taken_over(other)
    second = message()
    lease = await one.store(second, CONTENT, lease=True)  # its first word after it woke up
    assert lost == [None]
    assert lease is not None
    await one.confirm(lease)
    await one.settle(lease, delivered(lease.message), due=NOW)
    (again,) = await other.lease_due(KEY, now=NOW, limit=9)
    assert again.message.id == first.id


async def test_a_process_that_slept_confirms_nothing_before_it_has_asked(open_spool: Open) -> None:
    lost: list[None] = []
    one = await open_spool(on_lost=lambda: lost.append(None), lease="60s")
    made = message()
    lease = await one.store(made, CONTENT, lease=True)
    assert lease is not None
    one.look_at_clock()
    one._tenure._looked -= 100.0  # type: ignore[operator]
    one.look_at_clock()  # as SIGCONT does
    with pytest.raises(LeaseLost):
        await one.confirm(lease)
    await asyncio.sleep(0)
    assert lost == [None]
    assert await taken_over(one) == [made.id]  # nobody else need come for it


def test_a_tenure_ends_here_before_it_ends_there() -> None:
    tenure = Tenure("a.0", 10.0)
    assert not tenure.is_sure(0.0)
    tenure.beaten(100.0)
    assert tenure.is_sure(108.9)
    assert not tenure.is_sure(109.1)
    assert not tenure.slept(100.0)
    assert not tenure.slept(105.0)
    assert tenure.slept(120.0)
    token = f"{tenure.owner}/7"
    assert tenure.is_ours(token)
    old = tenure.renew()
    assert token.startswith(old)
    assert not tenure.is_ours(token)
    assert not tenure.is_sure(100.0)
    assert tenure.owner.startswith("a.0.")


async def test_a_server_that_was_away_for_long_makes_nobody_look_dead(server: RedisServer, open_spool: Open) -> None:
    one, other = await open_spool(), await open_spool()
    lease = await one.store(message(), CONTENT, lease=True)
    assert lease is not None
    await asyncio.sleep(1.2)  # both have been in touch for a whole lease
    server.kill()
    await asyncio.sleep(1.5)
    server.start()
    async with asyncio.timeout(10):
        while other.link.reason or one.link.reason:
            await asyncio.sleep(0.02)
    for _ in range(30):
        assert await other.take_over(NOW) == []
        await asyncio.sleep(0.05)
    await one.settle(lease, delivered(lease.message), due=NOW)


async def test_a_replica_that_leaves_hands_over_at_once(open_spool: Open) -> None:
    one, other = await open_spool(lease="60s"), await open_spool(lease="60s")
    made = message()
    await one.store(made, CONTENT, lease=True)
    await one.close()
    assert await taken_over(other, 2.0) == [made.id]


async def test_a_restart_takes_back_what_it_held_without_waiting(open_spool: Open) -> None:
    one = await open_spool(lease="60s", place="replica.0")
    made = message()
    await one.store(made, CONTENT, lease=True)
    fall_silent(one)
    again = await open_spool(lease="60s", place="replica.0")
    neighbour = await open_spool(lease="60s", place="replica.1")
    assert await neighbour.recover(NOW) == []
    assert [each.id for each in await again.recover(NOW)] == [made.id]


@pytest.mark.parametrize("lost", [1, 2, 3])
async def test_lost_answers_change_nothing_twice(server: RedisServer, open_spool: Open, lost: int) -> None:
    async with LossyProxy(server.port) as proxy:
        one, other = await open_spool(f"redis://127.0.0.1:{proxy.port}", lease="30s"), await open_spool(lease="30s")
        made = message("a@x.example", "b@x.example")
        proxy.lose = lost
        lease = await one.store(made, CONTENT, lease=True)
        assert lease is not None
        (depth,) = await other.depths()
        assert (depth.queued, depth.size) == (1, made.size)
        proxy.lose = lost
        lease = await one.progress(lease, delivered(lease.message, 1))
        proxy.lose = lost
        (lease,) = await one.begin([lease])
        assert lease.message.attempts == 2
        entry = await other.find(made.id)
        assert entry is not None
        assert entry.message.attempts == 2
        proxy.lose = lost
        await one.settle(lease, delivered(lease.message), due=NOW)
        assert await other.depths() == []
        proxy.lose = lost
        await one.store(message(), CONTENT, lease=False)
        assert [depth.queued for depth in await other.depths()] == [1]


async def test_a_message_that_was_delivered_meanwhile_is_not_stored_again(
    server: RedisServer, open_spool: Open
) -> None:
    async with LossyProxy(server.port) as proxy:
        one, other = await open_spool(f"redis://127.0.0.1:{proxy.port}", lease="30s"), await open_spool(lease="30s")
        proxy.lose = 1
        storing = asyncio.create_task(one._store_once(message(), CONTENT, False, "n1", one._tenure.owner))
        async with asyncio.timeout(5):
            while not (leases := await other.lease_due(KEY, now=NOW, limit=1)):
                await asyncio.sleep(0)
        await other.settle(leases[0], delivered(leases[0].message), due=NOW)
        await storing
        assert await other.depths() == []


async def test_what_could_not_be_stored_for_certain_is_unmade(
    server: RedisServer, open_spool: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "STORE_S", 0.0)
    unpromised: list[str] = []
    async with LossyProxy(server.port) as proxy:
        one = await open_spool(f"redis://127.0.0.1:{proxy.port}", on_unpromised=unpromised.append)
        other = await open_spool()
        proxy.lose = 2
        with pytest.raises(SpoolUnhealthy):
            await one.store(message(), CONTENT, lease=True)
        async with asyncio.timeout(5):
            while await other.depths():
                await asyncio.sleep(0.05)
        assert unpromised == []


async def test_leases_whose_answer_never_came_go_back(server: RedisServer, open_spool: Open) -> None:
    async with LossyProxy(server.port) as proxy:
        one, other = await open_spool(f"redis://127.0.0.1:{proxy.port}", lease="30s"), await open_spool(lease="30s")
        for _ in range(3):
            await other.store(message(), CONTENT, lease=False)
        proxy.lose = 1
        known = await one.lease_due(KEY, now=NOW, limit=1)
        async with asyncio.timeout(8):
            while len(found := await other.lease_due(KEY, now=NOW, limit=9)) < 1 or len(known) + len(found) < 2:
                await other.release(found)
                await asyncio.sleep(0.1)
        assert not {each.message.id for each in found} & {each.message.id for each in known}
        await other.release(found)
        async with asyncio.timeout(8):
            while len(found := await other.lease_due(KEY, now=NOW, limit=9)) + len(known) < 3:
                await other.release(found)
                await asyncio.sleep(0.1)


async def test_a_full_server_takes_no_mail_and_lets_mail_go(
    new_server: Callable[..., RedisServer], open_spool: Open
) -> None:
    server = new_server("--maxmemory", "12mb", "--maxmemory-policy", "noeviction")
    spool = await open_spool(server.url)
    leases: list[Lease | None] = []

    async def fill() -> None:
        while len(leases) < 200:
            leases.append(await spool.store(message(), Content(HEAD, b"x" * 100_000), lease=True))

    with pytest.raises(SpoolFull):
        await fill()
    assert spool.unhealthy_reason() == ""
    for lease in leases:
        assert lease is not None
        await spool.settle(lease, delivered(lease.message), due=NOW)
    assert await spool.depths() == []
    await spool.store(message(), Content(HEAD, b"x" * 100_000), lease=False)


async def test_bodies_in_pieces_are_whole_or_absent_and_leave_nothing_behind(
    server: RedisServer, open_spool: Open, tmp_path: Path
) -> None:
    one, other = await open_spool(), await open_spool()
    path = tmp_path / "incoming"
    body = bytes(range(256)) * 4 * 1024 + b"\r\n"
    path.write_bytes(body)
    made = message(size=len(body))
    await one.store(made, Content(HEAD, BodyFile(path, len(body))), lease=False)
    assert not path.exists()
    (lease,) = await other.lease_due(KEY, now=NOW, limit=1)
    content = await other.content(made.id)
    assert isinstance(content.body, BodyFile)
    assert content.body.path.read_bytes() == body
    await other.settle(lease, delivered(lease.message), due=NOW)
    assert not content.body.path.exists()
    left = await other._command("KEYS", "*:b:*")
    assert left == []


async def test_what_was_changed_where_it_is_kept_is_set_aside(server: RedisServer, open_spool: Open) -> None:
    told: list[tuple[str, str]] = []
    spool = await open_spool(on_quarantine=lambda *what: told.append(what))
    head, row, piece = message(), message(), message(size=700_000)
    await spool.store(head, CONTENT, lease=False)
    await spool.store(row, CONTENT, lease=False)
    await spool.store(piece, Content(HEAD, b"x" * 700_000), lease=False)
    await spool._command("HSET", spool.link.key("c", head.id), "head", b"Subject: other\r\n")
    await spool._command("HSET", spool.link.key("m", row.id), "d", b'{"id": 1}')
    await spool._command("DEL", (await spool._command("KEYS", f"*:b:{piece.id}:*"))[0])
    assert [lease.message.id for lease in await spool.lease_due(KEY, now=NOW, limit=9)] == [head.id, piece.id]
    for each in (head, piece):
        with pytest.raises(SpoolError, match="damaged"):
            await spool.content(each.id)
    assert sorted(each for each, _ in told) == sorted(each.id for each in (head, row, piece))
    entries = await spool.entries(Selection(standing=Standing.QUARANTINED), limit=9)
    assert [entry.message.id for entry in entries] == sorted(each.id for each in (head, row, piece))
    assert len(await spool.drop(Selection())) == 3
    assert await spool.depths() == []


async def test_an_operator_reaches_what_waits_in_another_replica(open_spool: Open) -> None:
    one, other = await open_spool(), await open_spool()
    waiting, sending = message(), message()
    await one.store(waiting, CONTENT, lease=False)
    (lease,) = await one.lease_due(KEY, now=NOW, limit=1)
    begun = await one.store(sending, CONTENT, lease=True)
    assert await other.hold(Selection(), reason="stop") == 0
    with other.taking_back():
        assert await other.hold(Selection(), reason="stop") == 1
    with pytest.raises(LeaseLost):
        await one.begin([lease])
    assert begun is not None
    await one.confirm(begun)


async def test_replicas_never_work_on_the_same_message(open_spool: Open) -> None:
    spools = [await open_spool(lease="30s") for _ in range(3)]
    made = [message() for _ in range(120)]
    for number, each in enumerate(made):
        await spools[number % 3].store(each, CONTENT, lease=False)
    done: list[str] = []

    async def work(spool: RedisSpool) -> None:
        while leases := await spool.lease_due(KEY, now=NOW, limit=7):
            for lease in await spool.begin(leases):
                done.append(lease.message.id)
                await spool.settle(lease, delivered(lease.message), due=NOW)

    await asyncio.gather(*(work(spool) for spool in spools for _ in range(2)))
    assert sorted(done) == sorted(each.id for each in made)


async def test_the_books_of_each_replica_balance_at_every_step(open_spool: Open) -> None:
    one, other = await open_spool(), await open_spool()

    def balance() -> list[int]:
        for spool in (one, other):
            book = spool.ledger
            done = book.delivered + book.failed + book.expired + book.dropped + book.withdrawn
            assert book.found + book.accepted == done + book.pending, book
        return [one.ledger.pending, other.ledger.pending]

    lease = await one.store(message("a@x.example", "b@x.example"), CONTENT, lease=True)
    assert lease is not None
    assert balance() == [2, 0]
    lease = await one.progress(lease, delivered(lease.message, 1))
    assert balance() == [1, 0]
    await one.settle(lease, lease.message, due=NOW)
    assert balance() == [0, 0]
    await other.store(message(), CONTENT, lease=False)
    assert balance() == [0, 0]
    leases = await other.lease_due(KEY, now=NOW, limit=9)
    assert balance() == [0, 2]
    await other.settle(leases[0], delivered(leases[0].message), due=NOW)
    assert balance() == [0, 1]
    fall_silent(other)
    async with asyncio.timeout(8):
        while not (again := await one.lease_due(KEY, now=NOW, limit=9)):
            await one.take_over(NOW)
            await asyncio.sleep(0.05)
    assert balance() == [1, 1]
    with pytest.raises(LeaseLost):
        await other.settle(leases[1], delivered(leases[1].message), due=NOW)
    assert balance() == [1, 0]
    await one.release(again)
    assert len(await one.drop(Selection())) == 1
    assert balance() == [0, 0]
    assert (one.ledger.delivered, other.ledger.delivered, one.ledger.dropped) == (1, 1, 1)
