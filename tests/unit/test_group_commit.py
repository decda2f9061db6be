"""One writer, many callers: who is told what, and when."""

from __future__ import annotations

import asyncio
import errno
import itertools
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from relay import group_commit
from relay.group_commit import SWITCH_S, Batch, GroupCommit, Statement, StoreBusy, StoreFailed, StoreFull


def migrate(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS fact (number INTEGER PRIMARY KEY, text BLOB)")


def insert(number: int, text: bytes = b"") -> Callable[[sqlite3.Connection], int]:
    def op(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO fact VALUES (?, ?)", (number, text))
        return number

    return op


def numbers(connection: sqlite3.Connection) -> list[int]:
    return [number for (number,) in connection.execute("SELECT number FROM fact ORDER BY number")]


class Gate:
    """A committer that counts commits and can be made to wait or to fail."""

    def __init__(self) -> None:
        self.commits = 0
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()
        self.error: Exception | None = None
        self.error_after: Exception | None = None

    def __call__(self, commit: Callable[[], None]) -> None:
        self.entered.set()
        self.open.wait()
        self.commits += 1
        error, self.error = self.error, None
        if error is not None:
            raise error
        commit()
        error, self.error_after = self.error_after, None
        if error is not None:
            raise error


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def store(tmp_path: Path, gate: Gate) -> AsyncIterator[GroupCommit]:
    store = GroupCommit(tmp_path / "facts.db", migrate=migrate, committer=gate)
    await store.start()
    yield store
    gate.open.set()
    await store.close()


async def until_entered(gate: Gate) -> None:
    await asyncio.to_thread(gate.entered.wait, 5)
    gate.entered.clear()


async def test_a_result_comes_after_its_commit(store: GroupCommit, gate: Gate) -> None:
    gate.open.clear()
    task = asyncio.create_task(store.run(insert(1)))
    await until_entered(gate)
    assert not task.done()
    assert await store.read(numbers) == []
    gate.open.set()
    assert await task == 1
    assert await store.read(numbers) == [1]


async def test_groups_form_while_a_commit_runs(store: GroupCommit, gate: Gate) -> None:
    gate.open.clear()
    first = asyncio.create_task(store.run(insert(0)))
    await until_entered(gate)
    rest = [asyncio.create_task(store.run(insert(number))) for number in range(1, 100)]
    await asyncio.sleep(0)
    gate.open.set()
    assert await asyncio.gather(first, *rest) == list(range(100))
    assert gate.commits == 2


async def large_group(store: GroupCommit, gate: Gate, first: int) -> None:
    """After it the store expects company."""
    gate.open.clear()
    blocked = asyncio.ensure_future(store.run(insert(first)))
    await until_entered(gate)
    others = [asyncio.ensure_future(store.run(insert(first + n))) for n in range(1, 6)]
    await asyncio.sleep(0)
    gate.open.set()
    await asyncio.gather(blocked, *others)


async def test_a_group_grows_while_the_loop_is_busy(
    store: GroupCommit, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "GATHER_MOST_S", 5.0)
    store._loop_used_s = itertools.count(0.0).__next__
    await large_group(store, gate, 1)
    before = gate.commits
    early = asyncio.ensure_future(store.run(insert(20)))
    await asyncio.sleep(0.05)
    assert not early.done()
    late = asyncio.ensure_future(store.run(insert(21)))
    await asyncio.sleep(0)
    store._loop_used_s = lambda: 1e9  # stands still from now on: idle
    await asyncio.gather(early, late)
    assert gate.commits == before + 1


async def test_a_group_does_not_wait_for_an_idle_loop(
    store: GroupCommit, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "GATHER_MOST_S", 3600.0)
    await large_group(store, gate, 1)
    async with asyncio.timeout(60):
        assert await store.run(insert(20)) == 20


async def test_groups_are_bounded_by_count_and_by_size(tmp_path: Path, gate: Gate) -> None:
    store = GroupCommit(tmp_path / "facts.db", migrate=migrate, committer=gate, max_ops=10, max_bytes=1000)
    await store.start()
    gate.open.clear()
    first = asyncio.create_task(store.run(insert(0)))
    await until_entered(gate)
    rest = [asyncio.create_task(store.run(insert(number))) for number in range(1, 31)]
    large = [asyncio.create_task(store.run(insert(number), size=1000)) for number in range(31, 34)]
    await asyncio.sleep(0)
    gate.open.set()
    await asyncio.gather(first, *rest, *large)
    assert gate.commits == 1 + 3 + 3
    await store.close()


async def test_a_failing_operation_fails_alone(store: GroupCommit, gate: Gate) -> None:
    def half(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO fact VALUES (1000, NULL)")
        raise LookupError("mine alone")

    gate.open.clear()
    first = asyncio.create_task(store.run(insert(0)))
    await until_entered(gate)
    good = [asyncio.create_task(store.run(insert(number))) for number in (1, 2)]
    bad = asyncio.create_task(store.run(half))
    clash = asyncio.create_task(store.run(insert(1)))
    more = asyncio.create_task(store.run(insert(3)))
    await asyncio.sleep(0)
    gate.open.set()
    assert await asyncio.gather(first, *good, more) == [0, 1, 2, 3]
    with pytest.raises(LookupError, match="mine alone"):
        await bad
    with pytest.raises(sqlite3.IntegrityError):
        await clash
    assert await store.read(numbers) == [0, 1, 2, 3]
    assert gate.commits == 2
    assert store.failure == ""


async def test_neighbours_of_one_batch_are_done_by_one_call(store: GroupCommit, gate: Gate) -> None:
    calls: list[list[int]] = []

    def batch(connection: sqlite3.Connection, items: list[int]) -> list[Any]:
        calls.append(items)
        connection.executemany("INSERT INTO fact VALUES (?, NULL)", [(item,) for item in items])
        return [KeyError(item) if item == 13 else item * 2 for item in items]

    done = Batch(batch)
    gate.open.clear()
    first = asyncio.create_task(store.run(insert(0)))
    await until_entered(gate)
    tickets = [store.join(done, item) for item in (11, 12, 13)]
    alone = asyncio.create_task(store.run(insert(1)))
    await asyncio.sleep(0)
    tickets.append(store.join(done, 14))
    gate.open.set()
    await asyncio.gather(first, alone)
    assert calls == [[11, 12, 13], [14]]
    assert [await tickets[number].future for number in (0, 1, 3)] == [22, 24, 28]
    with pytest.raises(KeyError):
        await tickets[2].future
    assert all(ticket.finished for ticket in tickets)


async def test_a_batch_that_raises_is_done_again_one_by_one(store: GroupCommit, gate: Gate) -> None:
    def batch(connection: sqlite3.Connection, items: list[int]) -> list[Any]:
        for item in items:
            connection.execute("INSERT INTO fact VALUES (?, NULL)", (item,))
            if item == 13:
                raise LookupError(item)
        return items

    done = Batch(batch)
    gate.open.clear()
    first = asyncio.create_task(store.run(insert(0)))
    await until_entered(gate)
    tickets = [store.join(done, item) for item in (11, 12, 13, 14)]
    gate.open.set()
    await first
    results = await asyncio.gather(*(ticket.future for ticket in tickets), return_exceptions=True)
    assert [type(result) for result in results] == [int, int, LookupError, int]
    assert await store.read(numbers) == [0, 11, 12, 14]


async def test_a_group_of_one_batch_is_tried_as_one_statement(store: GroupCommit, gate: Gate) -> None:
    """Where the statement violates a constraint, the group is done apart and only the culprit fails."""
    calls: list[list[int]] = []

    def single(items: list[int]) -> Statement:
        values = [value for item in items for value in (item, None)]
        return Statement(f"INSERT INTO fact VALUES {','.join(['(?, ?)'] * len(items))}", values, [-i for i in items])

    def do(connection: sqlite3.Connection, items: list[int]) -> list[Any]:
        calls.append(items)
        for item in items:
            connection.execute("INSERT INTO fact VALUES (?, NULL)", (item,))
        return items

    done = Batch(do, single)
    assert await store.join(done, 1).future == -1
    gate.open.clear()
    first = asyncio.create_task(store.run(insert(0)))
    await until_entered(gate)
    tickets = [store.join(done, item) for item in (2, 1, 3)]
    gate.open.set()
    await first
    results = await asyncio.gather(*(ticket.future for ticket in tickets), return_exceptions=True)
    assert [type(result) for result in results] == [int, sqlite3.IntegrityError, int]
    assert await store.read(numbers) == [0, 1, 2, 3]
    assert calls == [[2, 1, 3], [2], [1], [3]]


async def test_what_is_patient_shares_the_commit_of_what_comes_soon(
    store: GroupCommit, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = Batch(lambda connection, items: [insert(item)(connection) for item in items])
    await store.join(done, 1, patient=True).future  # alone in the end, and done all the same
    monkeypatch.setattr("relay.group_commit.PATIENCE_S", 60.0)
    tickets = [store.join(done, 2, patient=True), store.join(done, 3, patient=True)]
    await asyncio.sleep(0.02)
    before = gate.commits
    assert not any(ticket.finished for ticket in tickets)
    await store.join(done, 4).future
    assert all(ticket.finished for ticket in tickets)
    assert gate.commits == before + 1
    last = store.join(done, 5, patient=True)
    await store.close()
    assert last.finished


async def test_cancelling_the_waiter_never_undoes_the_work(store: GroupCommit, gate: Gate) -> None:
    told: list[int] = []
    gate.open.clear()
    task = asyncio.create_task(store.run(insert(7), after=told.append))
    await until_entered(gate)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    gate.open.set()
    await store.run(insert(8))
    assert told == [7]
    assert await store.read(numbers) == [7, 8]


async def test_a_ticket_tells_when_it_is_finished_though_its_waiter_was_cancelled(
    store: GroupCommit, gate: Gate
) -> None:
    gate.open.clear()
    ticket = store.join(Batch(lambda connection, items: [op(connection) for op in items]), insert(1))
    ticket.future.cancel()
    await until_entered(gate)
    assert not ticket.finished
    gate.open.set()
    await ticket.finish()
    assert await store.read(numbers) == [1]
    await ticket.finish()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), StoreFull),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), StoreFull),
        (OSError(errno.EIO, "Input/output error"), StoreFailed),
        (RuntimeError("unheard of"), StoreFailed),
    ],
    ids=repr,
)
async def test_a_failing_commit_fails_exactly_its_group(
    store: GroupCommit, gate: Gate, error: Exception, expected: type[Exception]
) -> None:
    await store.run(insert(0))
    await until_entered(gate)
    gate.open.clear()
    first = asyncio.create_task(store.run(insert(1)))
    await until_entered(gate)
    gate.error = error
    second = [asyncio.create_task(store.run(insert(number))) for number in (2, 3)]
    await asyncio.sleep(0)
    gate.open.set()
    with pytest.raises(expected):
        await first
    results = await asyncio.gather(*second, return_exceptions=True)
    if expected is StoreFull:
        assert results == [2, 3]
        assert store.failure == ""
        assert await store.read(numbers) == [0, 2, 3]
    else:
        assert [type(result) for result in results] == [StoreFailed, StoreFailed]


async def test_after_an_io_error_nothing_is_believed_any_more(store: GroupCommit, gate: Gate) -> None:
    gate.error_after = OSError(errno.EIO, "fsync: Input/output error")
    with pytest.raises(StoreFailed, match="fsync"):
        await store.run(insert(1))
    commits = gate.commits
    with pytest.raises(StoreFailed, match="fsync"):
        await store.run(insert(2))
    assert "fsync" in store.failure
    assert gate.commits == commits, "no second fsync was asked for"


async def test_a_latched_store_does_not_checkpoint_when_closed(tmp_path: Path, gate: Gate) -> None:
    path = tmp_path / "facts.db"
    store = GroupCommit(path, migrate=migrate, committer=gate)
    await store.start()
    await store.run(insert(1))
    before = path.stat().st_mtime_ns  # not its bytes: closing the file here would drop SQLite's locks on it
    gate.error = OSError(errno.EIO, "Input/output error")
    with pytest.raises(StoreFailed):
        await store.run(insert(2))
    await store.close()
    assert path.stat().st_mtime_ns == before
    assert path.with_name("facts.db-wal").exists()
    again = GroupCommit(path, migrate=migrate)
    await again.start()
    assert await again.read(numbers) == [1]
    await again.close()
    assert not path.with_name("facts.db-wal").exists(), "a sound store folds its log when closed"


async def test_a_full_file_is_store_full_and_passes(store: GroupCommit) -> None:
    """SQLite's own answer when it cannot get another page."""

    def limit(pages: int) -> Callable[[sqlite3.Connection], None]:
        return lambda connection: connection.execute(f"PRAGMA max_page_count={pages}").fetchone() and None

    await store.run(limit(10))
    with pytest.raises(StoreFull):
        await store.run(insert(1, b"x" * 100_000))
    assert store.failure == ""
    await store.run(limit(10_000))
    assert await store.run(insert(1, b"x" * 100_000)) == 1


async def test_a_damaged_file_latches(tmp_path: Path) -> None:
    path = tmp_path / "facts.db"
    store = GroupCommit(path, migrate=migrate)
    await store.start()
    for number in range(200):
        await store.run(insert(number, b"x" * 3000))
    await store.close()
    damaged = bytearray(path.read_bytes())
    damaged[4096 * 3 :] = b"\xff" * (len(damaged) - 4096 * 3)
    path.write_bytes(damaged)
    store = GroupCommit(path, migrate=migrate)
    await store.start()
    with pytest.raises(StoreFailed):
        await store.run(lambda connection: connection.execute("UPDATE fact SET text = 'y'").rowcount)
    assert store.failure
    await store.close()


async def test_start_tells_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database, but long enough to look like one" * 100)
    with pytest.raises(StoreFailed, match="not a database"):
        await GroupCommit(tmp_path / "text.db", migrate=migrate).start()
    with pytest.raises(StoreFailed):
        await GroupCommit(tmp_path / "nowhere" / "facts.db", migrate=migrate).start()

    def refuse(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE half (x)")
        raise LookupError("newer schema")

    with pytest.raises(LookupError, match="newer schema"):
        await GroupCommit(tmp_path / "facts.db", migrate=refuse).start()
    store = GroupCommit(tmp_path / "facts.db", migrate=migrate)
    await store.start()
    tables = await store.read(lambda connection: connection.execute("SELECT name FROM sqlite_master").fetchall())
    assert tables == [("fact",)]
    await store.close()


async def test_a_file_can_be_read_only_through_read(store: GroupCommit) -> None:
    with pytest.raises(StoreFailed, match="readonly"):
        await store.read(insert(1))
    assert await store.run(insert(1)) == 1


async def test_another_process_in_the_file_is_waited_for_up_to_the_timeout(tmp_path: Path) -> None:
    path = tmp_path / "facts.db"
    store = GroupCommit(path, migrate=migrate, busy_timeout_s=0.2)
    await store.start()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy):
        await store.run(insert(1))
    task = asyncio.create_task(store.run(insert(2)))
    await asyncio.sleep(0.02)
    other.execute("COMMIT")
    assert await task == 2
    assert store.failure == ""
    other.close()
    await store.close()


async def test_processes_that_share_a_file_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "facts.db"
    script = """
import asyncio, pathlib, sys
from relay.group_commit import GroupCommit
def migrate(connection):
    connection.execute("CREATE TABLE IF NOT EXISTS fact (number INTEGER PRIMARY KEY, text BLOB)")
async def main():
    store = GroupCommit(pathlib.Path(sys.argv[1]), migrate=migrate, checkpoint_bytes=100_000)
    await store.start()
    base = int(sys.argv[2])
    def add(number):
        return lambda connection: connection.execute("INSERT INTO fact VALUES (?, NULL)", (number,)) and None
    for start in range(0, 200, 10):
        await asyncio.gather(*(store.run(add(base + start + number)) for number in range(10)))
    await store.close()
asyncio.run(main())
"""
    children = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(path), str(base), stderr=subprocess.PIPE)
        for base in (0, 1000, 2000)
    ]
    for child in children:
        _, errors = await child.communicate()
        assert child.returncode == 0, errors.decode()
    store = GroupCommit(path, migrate=migrate)
    await store.start()
    assert len(await store.read(numbers)) == 600
    await store.close()


async def test_close_commits_what_waits_and_refuses_the_rest(tmp_path: Path, gate: Gate) -> None:
    store = GroupCommit(tmp_path / "facts.db", migrate=migrate, committer=gate)
    with pytest.raises(StoreFailed):
        await store.run(insert(0))
    await store.start()
    waiting = [asyncio.create_task(store.run(insert(number))) for number in range(5)]
    await asyncio.sleep(0)
    await store.close()
    assert await asyncio.gather(*waiting) == list(range(5))
    await store.close()
    with pytest.raises(StoreFailed, match="closed"):
        await store.run(insert(9))
    with pytest.raises(StoreFailed, match="closed"):
        await store.read(numbers)


async def test_the_log_is_folded_back_without_anybody_waiting(tmp_path: Path) -> None:
    store = GroupCommit(tmp_path / "facts.db", migrate=migrate, checkpoint_bytes=200_000)
    await store.start()
    for number in range(300):
        await store.run(insert(number, b"x" * 4000), size=4000)
    log = (tmp_path / "facts.db-wal").stat().st_size
    assert log < 1_000_000, "1.2 MB of rows went through it, and pages around them"
    assert (tmp_path / "facts.db").stat().st_size > 800_000
    await store.close()


async def test_a_slow_disk_is_shared_by_all_who_wait(tmp_path: Path) -> None:
    """R06 a: 100 clients on a disk of 20 fsyncs a second."""

    def slow(commit: Callable[[], None]) -> None:
        time.sleep(0.05)
        commit()

    store = GroupCommit(tmp_path / "facts.db", migrate=migrate, committer=slow)
    await store.start()
    begin = time.monotonic()

    async def client(base: int) -> None:
        for number in range(4):
            await store.run(insert(base + number))

    await asyncio.gather(*(client(base * 10) for base in range(100)))
    rate = 400 / (time.monotonic() - begin)
    await store.close()
    assert rate > 800


async def test_starting_lowers_the_switch_interval_and_never_raises_it(tmp_path: Path) -> None:
    before = sys.getswitchinterval()
    try:
        for given, expected in ((0.005, SWITCH_S), (0.0001, 0.0001)):
            sys.setswitchinterval(given)
            store = GroupCommit(tmp_path / "facts.db", migrate=migrate)
            await store.start()
            assert sys.getswitchinterval() == pytest.approx(expected, abs=2e-6)
            await store.close()
    finally:
        sys.setswitchinterval(before)


async def test_an_operation_costs_little(tmp_path: Path) -> None:
    """About 15 us on an idle machine; the bound leaves room for a busy one."""
    store = GroupCommit(tmp_path / "facts.db", migrate=migrate)
    await store.start()

    async def many(work: Callable[[int], Awaitable[Any]]) -> float:
        begin = time.process_time()
        for start in range(0, 2000, 200):
            await asyncio.gather(*(work(start + number) for number in range(200)))
        return (time.process_time() - begin) / 2000

    cost = min([await many(lambda _: store.run(lambda connection: None)) for _ in range(3)])
    await store.close()
    assert cost < 150e-6
