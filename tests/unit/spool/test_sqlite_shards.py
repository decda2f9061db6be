"""One owner for each shard, and what becomes of a shard whose owner is gone (R11, R30, B379)."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from relay.envelope import Content, Lane, Message
from relay.errors import SpoolError
from relay.group_commit import StoreFull
from relay.spool import QueueKey, Selection, Standing
from relay.spool import sqlite_adopt as adoption
from relay.spool.sqlite import SqliteSpool
from relay.spool.sqlite_claim import Shard, shards
from tests.contract.spool_fixtures import CONTENT, HEAD, KEY, NOW, delivered, folder_of, message, sqlite_options

LARGE = Content(HEAD, b"large body\r\n" * 20_000)

Opener = Callable[..., Awaitable[SqliteSpool]]


@pytest.fixture
async def open_shard(tmp_path: Path) -> AsyncIterator[Opener]:
    opened: list[SqliteSpool] = []

    async def opener(shard: str = "0", **options: Any) -> SqliteSpool:
        spool = SqliteSpool(folder_of(tmp_path), shard, **sqlite_options(**options))
        opened.append(spool)
        await spool.start()
        await spool.recover(NOW)
        return spool

    yield opener
    for spool in opened:
        await spool.close()


async def kept_ids(spool: SqliteSpool) -> set[str]:
    return {entry.message.id for entry in await spool.entries(Selection(), limit=10_000)}


# Claims


async def test_a_second_owner_is_refused_by_name_of_the_first(open_shard: Opener, tmp_path: Path) -> None:
    first = await open_shard()
    with pytest.raises(SpoolError, match=f"shard 0 .* in use by process {os.getpid()}"):
        await open_shard()
    await open_shard("1")
    assert shards(folder_of(tmp_path)) == [Shard("0", os.getpid()), Shard("1", os.getpid())]
    await first.store(message(), CONTENT, lease=False)
    await first.close()
    assert shards(folder_of(tmp_path))[0] == Shard("0", None)
    assert len(await kept_ids(await open_shard())) == 1


async def test_another_process_is_refused_until_the_owner_dies_however_it_dies(
    open_shard: Opener, tmp_path: Path
) -> None:
    script = """
import asyncio, sys, pathlib
from relay.spool.sqlite import SqliteSpool
async def main():
    spool = SqliteSpool(pathlib.Path(sys.argv[1]), ballast_bytes=0, min_free=0)
    await spool.start()
    print("ready", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(folder_of(tmp_path)), stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert await child.stdout.readline() == b"ready\n"
    with pytest.raises(SpoolError, match=f"in use by process {child.pid}"):
        await open_shard()
    child.send_signal(signal.SIGSTOP)
    with pytest.raises(SpoolError, match=f"in use by process {child.pid}"):
        await open_shard()
    child.send_signal(signal.SIGKILL)
    await child.wait()
    await open_shard()


@pytest.mark.parametrize("name", ["", "../x", "a-b", "x" * 41, "a\n"])
async def test_odd_names_of_shards_are_refused(open_shard: Opener, name: str) -> None:
    with pytest.raises(SpoolError, match="no name for a shard"):
        await open_shard(name)


async def test_a_newer_format_is_refused_untouched(open_shard: Opener, tmp_path: Path) -> None:
    spool = await open_shard()
    await spool.store(message(), CONTENT, lease=False)
    await spool.close()
    path = folder_of(tmp_path) / "spool-0.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    octets, others = path.read_bytes(), sorted(os.listdir(folder_of(tmp_path)))
    with pytest.raises(SpoolError, match=r"newer release .format 99"):
        await open_shard()
    assert path.read_bytes() == octets
    assert sorted(os.listdir(folder_of(tmp_path))) == others
    path.write_text("this is text")
    with pytest.raises(SpoolError, match="not an SQLite database"):
        await open_shard()
    assert path.read_text() == "this is text"


# Adoption


async def filled(spool: SqliteSpool) -> list[Message]:
    """Waiting, deferred, held, being tried; small and large; two queues."""
    made = [message() for _ in range(6)]
    for number, each in enumerate(made):
        await spool.store(each, LARGE if number % 2 else CONTENT, lease=False)
    bulk = message(lane=Lane.BULK)
    await spool.store(bulk, CONTENT, lease=False)
    first, second = await spool.begin(await spool.lease_due(KEY, now=NOW, limit=2))
    await spool.settle(first, first.message, due=NOW + 500, reason="451 later")
    await spool.hold(Selection(ids=(made[3].id,)), reason="look")
    assert second.message.id == made[1].id
    return [*made, bulk]


async def test_an_orphaned_shard_is_taken_over_whole(open_shard: Opener, tmp_path: Path) -> None:
    orphan = await open_shard("7")
    made = await filled(orphan)
    before = await orphan.entries(Selection(), limit=100)
    await orphan.close()
    ours = await open_shard("0")
    own = message(bridge="other")
    await ours.store(own, CONTENT, lease=False)
    adopted = await ours.adopt("7", now=NOW + 1)
    assert adopted.moved == 7
    assert [(each.id, each.crashes) for each in adopted.open] == [(made[1].id, 1)]
    after = {entry.message.id: entry for entry in await ours.entries(Selection(), limit=100)}
    assert set(after) == {own.id, *(each.id for each in made)}
    for entry in before:
        now = after[entry.message.id]
        if entry.message.id == made[1].id:
            assert (now.due, now.message.attempts, now.leased) == (NOW + 1, 1, False)
        else:
            assert now == entry
    for number, each in enumerate(made):
        content = await ours.content(each.id)
        assert content.size == (LARGE if number in (1, 3, 5) else CONTENT).size
    depths = {depth.key: depth for depth in await ours.depths()}
    assert (depths[KEY].queued, depths[KEY].held, depths[KEY].next_due) == (5, 1, NOW)
    assert depths[QueueKey("acme-pool", Lane.BULK, "shop")].queued == 1
    assert [shard.name for shard in shards(folder_of(tmp_path))] == ["0"]
    assert not [path for path in folder_of(tmp_path).iterdir() if "7" in path.name.partition("-")[2]]
    await ours.close()
    assert await kept_ids(await open_shard("0")) == set(after)


async def test_a_shard_with_an_owner_is_not_adopted(open_shard: Opener) -> None:
    owner = await open_shard("1")
    await owner.store(message(), CONTENT, lease=False)
    ours = await open_shard("0")
    with pytest.raises(SpoolError, match="in use"):
        await ours.adopt("1", now=NOW)
    assert len(await kept_ids(owner)) == 1


async def test_row_keys_that_clash_between_shards_are_kept_apart(open_shard: Opener) -> None:
    mine = message()
    theirs = message(id=mine.id[:-1] + ("0" if mine.id[-1] != "0" else "1"))
    orphan, ours = await open_shard("1"), await open_shard("0")
    await orphan.store(theirs, Content(HEAD, b"theirs"), lease=False)
    await ours.store(mine, Content(HEAD, b"mine"), lease=False)
    await orphan.close()
    assert (await ours.adopt("1", now=NOW)).moved == 1
    assert (await ours.content(mine.id)).body == b"mine"
    assert (await ours.content(theirs.id)).body == b"theirs"


@pytest.mark.parametrize("step", ["after linking", "after taking", "after deleting"])
@pytest.mark.parametrize("delivered_meanwhile", [False, True])
async def test_an_adoption_cut_short_loses_nothing_and_repeats_nothing(
    open_shard: Opener, monkeypatch: pytest.MonkeyPatch, step: str, delivered_meanwhile: bool
) -> None:
    orphan = await open_shard("1")
    made = [message() for _ in range(4)]
    for number, each in enumerate(made):
        await orphan.store(each, LARGE if number % 2 else CONTENT, lease=False)
    await orphan.close()
    ours = await open_shard("0")

    class Cut(Exception):
        pass

    def cut(*_: object) -> None:
        raise Cut

    target = {"after linking": "_take", "after taking": "_delete", "after deleting": "_forget"}[step]
    with monkeypatch.context() as patch:
        patch.setattr(adoption, target, cut)
        with pytest.raises(Cut):
            await ours.adopt("1", now=NOW)
    await ours.close()
    ours = await open_shard("0")
    gone: set[str] = set()
    if delivered_meanwhile:
        for lease in await ours.begin(await ours.lease_due(KEY, now=NOW, limit=10)):
            await ours.content(lease.message.id)
            await ours.settle(lease, delivered(lease.message), due=NOW)
            gone.add(lease.message.id)
    if step != "after deleting":
        await ours.adopt("1", now=NOW)
    everything = {each.id for each in made}
    assert await kept_ids(ours) == everything - gone
    for message_id in everything - gone:
        await ours.content(message_id)


async def test_an_adoption_without_room_can_be_tried_again(open_shard: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    orphan = await open_shard("1")
    await orphan.store(message(), LARGE, lease=False)
    await orphan.close()
    ours = await open_shard("0")

    def full(*_: object) -> None:
        raise StoreFull("no space")

    with monkeypatch.context() as patch:
        patch.setattr(adoption, "_take", full)
        with pytest.raises(SpoolError, match="no space"):
            await ours.adopt("1", now=NOW)
    assert await kept_ids(ours) == set()
    assert (await ours.adopt("1", now=NOW)).moved == 1


async def test_a_damaged_row_moves_and_is_set_aside_where_it_is_then(open_shard: Opener, tmp_path: Path) -> None:
    orphan = await open_shard("1")
    made = message()
    await orphan.store(made, CONTENT, lease=False)
    await orphan.close()
    connection = sqlite3.connect(folder_of(tmp_path) / "spool-1.db", isolation_level=None)
    connection.execute("UPDATE message SET data = x'00'")
    connection.close()
    ours = await open_shard("0")
    assert (await ours.adopt("1", now=NOW)).moved == 1
    assert await ours.lease_due(KEY, now=NOW, limit=5) == []
    entry = await ours.find(made.id)
    assert entry is not None
    assert entry.standing is Standing.QUARANTINED
