"""What is particular to the SQLite state: damage, cancellation, the clock in the transaction, forgetting."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from relay.errors import StateUnavailable
from relay.pools.caps import Book
from relay.pools.health import NodeHealth
from relay.pools.pool import Cap
from relay.state import Candidate, Denied, Permit, PermitRequest
from relay.state.sqlite import FORGET_EVERY_S, SqliteState
from relay.state.sqlite_books import DamagedBook, pack, unpack

NOW = 1_800_000_000.0
CAPS = (Cap(window_s=1.0, limit=5), Cap(window_s=3600.0, limit=9, spread=True), Cap(window_s=86400.0, limit=20))
NODE = Candidate("node:a", CAPS)


def book() -> Book:
    made = Book()
    for step in range(3):
        at = NOW + 4000 * step
        assert made.room(CAPS, 2, at) == 2
        made.take(CAPS, 2, at)
    return made


def test_a_book_packs_and_unpacks_to_the_same_answers() -> None:
    now = NOW + 8000
    again = unpack(pack(book(), now))
    assert again.latest == now
    assert again.room(CAPS, 9, now) == 0  # paced
    assert again.free_at(CAPS, 1, now) == now + 800
    assert pack(again, now) == pack(book(), now)


def test_every_damage_to_a_packed_book_is_found() -> None:
    data = pack(book(), NOW)
    assert len(data) > 100
    for place in range(len(data)):
        with pytest.raises(DamagedBook):
            unpack(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        with pytest.raises(DamagedBook):
            unpack(data[:place])


def change_file(path: Path, sql: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(sql)
    connection.close()


async def take(state: SqliteState, now: float, cost: int, node: Candidate = NODE) -> Permit | Denied:
    (given,) = await state.reserve([PermitRequest((node,), cost, cost)], now=now)
    return given


async def test_a_damaged_row_counts_as_used_up_and_heals_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    node = Candidate("node:a", (Cap(window_s=60.0, limit=5),))
    state = await SqliteState.open(path)
    assert isinstance(await take(state, NOW, 1, node), Permit)
    change_file(path, "UPDATE caps SET book = x'00112233'")
    denied = await take(state, NOW + 1, 1, node)
    assert isinstance(denied, Denied)
    assert NOW + 61 < denied.until < NOW + 62
    await state.close()
    state = await SqliteState.open(path)
    assert await take(state, NOW + 30, 1, node) == denied
    assert isinstance(await take(state, denied.until, 5, node), Permit)
    await state.close()


@pytest.mark.parametrize(
    "record", ["", "[]", "null", '{"status": "mad"}', '{"failures": "x"}', '{"since": []}', '{"status": null}']
)
async def test_a_damaged_health_reads_as_a_node_never_written(tmp_path: Path, record: str) -> None:
    state = await SqliteState.open(tmp_path / "state.db")
    change_file(tmp_path / "state.db", f"INSERT INTO health VALUES ('a', '{record}')")
    assert await state.health() == {"a": NodeHealth()}
    await state.close()


async def test_a_health_field_of_another_version_is_ignored(tmp_path: Path) -> None:
    state = await SqliteState.open(tmp_path / "state.db")
    change_file(tmp_path / "state.db", """INSERT INTO health VALUES ('a', '{"failures": 3, "mood": "fine"}')""")
    assert await state.health() == {"a": NodeHealth(failures=3)}
    await state.close()


async def test_with_a_clock_permits_are_dated_when_the_file_is_held(tmp_path: Path) -> None:
    time = [NOW]
    state = await SqliteState.open(tmp_path / "state.db", clock=lambda: time[0])
    permit = await take(state, 5.0, 5)
    assert isinstance(permit, Permit)
    assert permit.at == NOW
    time[0] = NOW + 0.5
    assert isinstance(await take(state, NOW + 1e6, 1), Denied)
    await state.close()


async def test_a_cap_with_room_is_free_now_although_the_clock_went_on_since_the_caller_read_it(tmp_path: Path) -> None:
    state = await SqliteState.open(tmp_path / "state.db", clock=lambda: NOW + 0.001)
    (fill,) = (await state.usage([Candidate("node:a", (Cap(window_s=1.0, limit=5),))], now=NOW))["node:a"]
    assert fill.free_at <= NOW
    await state.close()


async def test_rows_that_no_longer_matter_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    state = await SqliteState.open(path)
    await take(state, NOW, 1, Candidate("node:gone", (Cap(window_s=60.0, limit=5),)))
    await state.claim("check:gone", owner="x", ttl_s=60, now=NOW)
    await take(state, NOW, 1)
    await take(state, NOW + FORGET_EVERY_S, 1)
    await state.close()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT key FROM caps").fetchall() == [("node:a",)]
    assert connection.execute("SELECT name FROM claims").fetchall() == []
    connection.close()


async def test_a_cancelled_caller_takes_nobody_elses_answer_along(tmp_path: Path) -> None:
    state = await SqliteState.open(tmp_path / "state.db")
    node = Candidate("node:a", (Cap(window_s=3600.0, limit=100),))
    calls = [asyncio.create_task(take(state, NOW, 1, node)) for _ in range(20)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in ended[::2])
    assert all(isinstance(one, Permit) for one in ended[1::2])
    (fill,) = (await state.usage([node], now=NOW))["node:a"]
    assert 10 <= fill.used <= 20  # never less than what was told
    await state.close()


async def test_calls_made_together_share_one_transaction(tmp_path: Path) -> None:
    state = await SqliteState.open(tmp_path / "state.db")
    await take(state, NOW, 1, Candidate("node:a", ()))
    frames = _log_bytes(tmp_path)
    node = Candidate("node:a", (Cap(window_s=3600.0, limit=1000),))
    await asyncio.gather(*(take(state, NOW, 1, node) for _ in range(100)))
    assert 0 < _log_bytes(tmp_path) - frames < 5 * 2 * 4200  # a few commits of two pages, not a hundred
    await state.close()


async def test_a_refused_request_writes_nothing(tmp_path: Path) -> None:
    state = await SqliteState.open(tmp_path / "state.db")
    assert isinstance(await take(state, NOW, 5), Permit)
    frames = _log_bytes(tmp_path)
    for _ in range(5):
        assert isinstance(await take(state, NOW, 1), Denied)
    assert _log_bytes(tmp_path) == frames
    await state.close()


async def test_closing_fails_nobody_who_was_already_waiting(tmp_path: Path) -> None:
    state = await SqliteState.open(tmp_path / "state.db")
    node = Candidate("node:a", (Cap(window_s=3600.0, limit=1000),))
    calls = [asyncio.create_task(take(state, NOW, 1, node)) for _ in range(5)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await state.close()
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(one, Permit) for one in ended), ended
    with pytest.raises(StateUnavailable):
        await take(state, NOW, 1, node)


def _log_bytes(folder: Path) -> int:
    return (folder / "state.db-wal").stat().st_size
