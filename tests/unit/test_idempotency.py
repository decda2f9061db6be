"""Keys that count a submission once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from relay.errors import StateUnavailable
from relay.idempotency import KEEP_S, Known
from relay.idempotency.sqlite import SqliteKeys

A, B = b"a" * 32, b"b" * 32


@pytest.fixture
async def keys(tmp_path: Path) -> SqliteKeys:
    return SqliteKeys(tmp_path / "idempotency.db", "0")


async def test_a_key_answers_with_what_it_was_used_for(keys: SqliteKeys) -> None:
    assert (await keys.claim("app", "k", digest=A, id="1", now=0.0)).known is Known.NEW
    assert (await keys.claim("app", "k", digest=A, id="2", now=1.0)).known is Known.OPEN
    await keys.finish("app", "k", id="1")
    again = await keys.claim("app", "k", digest=A, id="3", now=2.0)
    assert (again.known, again.id) == (Known.DONE, "1")
    assert (await keys.claim("app", "k", digest=B, id="4", now=3.0)).known is Known.OTHER
    assert (await keys.claim("shop", "k", digest=B, id="5", now=3.0)).known is Known.NEW
    await keys.close()


async def test_a_refused_message_gives_its_key_back_and_nobody_elses(keys: SqliteKeys) -> None:
    await keys.claim("app", "k", digest=A, id="1", now=0.0)
    await keys.forget("app", "k", id="other")
    assert (await keys.claim("app", "k", digest=A, id="2", now=0.0)).known is Known.OPEN
    await keys.forget("app", "k", id="1")
    assert (await keys.claim("app", "k", digest=B, id="3", now=0.0)).known is Known.NEW
    await keys.close()


async def test_keys_live_for_a_day(keys: SqliteKeys) -> None:
    await keys.claim("app", "k", digest=A, id="1", now=0.0)
    await keys.finish("app", "k", id="1")
    assert (await keys.claim("app", "k", digest=A, id="2", now=KEEP_S - 1)).known is Known.DONE
    assert (await keys.claim("app", "k", digest=A, id="2", now=KEEP_S + 1)).known is Known.NEW
    await keys.close()


async def test_one_of_many_at_once_gets_it(tmp_path: Path) -> None:
    workers = [SqliteKeys(tmp_path / "idempotency.db", str(n)) for n in range(3)]
    claims = await asyncio.gather(
        *(
            worker.claim("app", "k", digest=A, id=f"{n}-{turn}", now=0.0)
            for n, worker in enumerate(workers)
            for turn in range(5)
        )
    )
    assert sorted(claim.known for claim in claims) == [Known.NEW] + [Known.OPEN] * 14
    for worker in workers:
        await worker.close()


async def test_what_a_crash_left_open_is_decided_by_what_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "idempotency.db"
    for owner, key, message_id in (("0", "kept", "1"), ("0", "lost", "2"), ("7", "adopted", "3"), ("1", "other", "4")):
        worker = SqliteKeys(path, owner)
        await worker.claim("app", key, digest=A, id=message_id, now=0.0)
        await worker.close()

    async def holds(id: str) -> bool:
        return id in ("1", "3")

    keys = SqliteKeys(path, "0")
    await keys.resolve(holds, except_of={"1"})
    found = {
        key: (await keys.claim("app", key, digest=A, id="9", now=1.0)).known
        for key in ("kept", "lost", "adopted", "other")
    }
    assert found == {"kept": Known.DONE, "lost": Known.NEW, "adopted": Known.DONE, "other": Known.OPEN}
    await keys.close()


async def test_a_store_that_does_not_work_is_said_so(tmp_path: Path) -> None:
    keys = SqliteKeys(tmp_path / "missing" / "idempotency.db", "0")
    with pytest.raises(StateUnavailable):
        await keys.claim("app", "k", digest=A, id="1", now=0.0)
    await keys.resolve(holds=lambda _: asyncio.sleep(0, True))
    await keys.close()
