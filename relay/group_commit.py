"""One SQLite file, one writer thread, many writes for one fsync.

Whoever wants to write hands over an *operation*: a function of the connection. The writer takes every operation that
waits, runs them in one transaction, and only after COMMIT has returned tells all of them. Groups form by themselves
while the last commit runs: a single waiter never waits for company, and under load the cost of the fsync is shared.

Rules:

- An operation may run more than once, and only its last run counts: when one of a group raises, the transaction is
  rolled back and the group runs again with each operation in a savepoint of its own, so that only the culprit fails.
- A result is delivered after the commit, whether or not somebody still waits for it; cancelling the waiter never
  undoes work.
- A failed fsync is reported by the kernel once and the pages are marked clean, so nothing that the file says later
  can be believed. The first I/O error latches the store: every later call raises `StoreFailed`, and closing does not
  checkpoint.
- A full disk is not a fault of the file: the group gets `StoreFull` and the next one is tried afresh.

Several processes may share one file; they take turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

from relay.errors import RelayError
from relay.file_turn import FileTurn
from relay.store_faults import StoreBusy, StoreFailed, StoreFull, fault_of

__all__ = [
    "Batch",
    "Committer",
    "GroupCommit",
    "Statement",
    "StoreBusy",
    "StoreFailed",
    "StoreFull",
    "Ticket",
]

T = TypeVar("T")

MAX_OPS = 256
"""Operations in one transaction: at ~15 us each a full group keeps a newcomer waiting about 4 ms."""

MAX_BYTES = 8 * 2**20
"""Octets in one transaction: about what a plain disk writes in the time of one fsync."""

FEW = 2
GATHER_S = 0.001
GATHER_MOST_S = 0.008
BUSY = 0.8
"""While groups are larger than a few, a group waits for more (R06): in steps of `GATHER_S`, as long as the event loop
computed for four fifths of the last step. Then the clients would have to wait for the loop in any case, and a commit
costs as much processor time as a third of a message. Once the loop has nothing else to do, all wait for the commit,
and it comes at once. One waiter never waits."""

PATIENCE_S = 0.005
"""What nobody is in a hurry for waits so long for a write to share the fsync with: with a single client the removal of
one message goes with the storing of the next, which is one commit for a message instead of two."""

CHECKPOINT_BYTES = 16 * 2**20
"""Write-ahead log size at which it is folded back. Queued mail is short-lived: the longer the log, the more of its
pages were freed and overwritten by then and never reach the database file; re-reading 16 MB after a crash is 20 ms."""

OP_BYTES = 2048
"""What one operation adds to the log beside its payload, on average: its share of table and index pages."""

SWITCH_S = 0.0005
"""How long the writer asks for the interpreter lock before the event loop is made to give it up.

A busy loop lets go of the lock for a moment at each turn and takes it back before the writer has woken, and the
writer's patience starts anew each time; with Python's 5 ms a write may starve for half a second. Measured with 20
clients and a loop that is never idle, turns of 1 and 3 ms: p99 of a write 180 and 520 ms at 5 ms, 30 and 60 ms at
0.5 ms. At 0.1 ms waits are shorter still, but the lock changes hands so often that a message costs a quarter more."""

Committer = Callable[[Callable[[], object]], None]
"""Called instead of COMMIT with the function that does it: the place where tests log, delay or fail commits."""


@dataclass(frozen=True, slots=True)
class Statement:
    """The work of a whole group in one statement, which is a transaction of its own, and the results of its items."""

    sql: str
    values: Sequence[Any]
    results: list[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """An operation that does the work of many callers at once.

    Attributes:
        do: one result for each item, in order; an exception among the results is raised to its caller alone.
        single: the same work as one statement, or None where these items need more. It is tried first: each statement
            costs the writer two turns at the interpreter lock, for which a busy event loop lets it wait. When the
            statement violates a constraint, `do` has its turn.
    """

    do: Callable[[sqlite3.Connection, list[Any]], list[Any]]
    single: Callable[[list[Any]], Statement | None] = lambda _: None


class Ticket:
    """One operation on its way.

    Attributes:
        future: the result; whoever awaits it may be cancelled without harm to the work.
        patient: nobody is in a hurry for it.
        finished: the operation has been committed or has failed, and `after` has run.
    """

    __slots__ = ("_watchers", "after", "finished", "future", "op", "patient", "payload", "size")

    def __init__(
        self,
        op: Callable[..., Any] | Batch,
        payload: Any,
        size: int,
        future: asyncio.Future[Any],
        after: Callable[[Any], None] | None,
        patient: bool = False,
    ) -> None:
        self.op = op
        self.patient = patient
        self.payload = payload
        self.size = size
        self.future = future
        self.after = after
        self.finished = False
        self._watchers: list[Callable[[], None]] | None = None

    def when_finished(self, callback: Callable[[], None]) -> None:
        """Call back on the event loop when finished; at once if it is."""
        if self.finished:
            callback()
        elif self._watchers is None:
            self._watchers = [callback]
        else:
            self._watchers.append(callback)

    async def finish(self) -> None:
        """Wait until finished, well or not."""
        if not self.finished:
            waiter = asyncio.Event()
            self.when_finished(waiter.set)
            await waiter.wait()

    def tell(self, result: Any, error: Exception | None) -> None:
        future = self.future
        if error is None:
            if self.after is not None:
                self.after(result)
            if not future.done():
                future.set_result(result)
        elif not future.done():
            future.set_exception(error)
        self.finished = True
        if self._watchers is not None:
            for callback in self._watchers:
                callback()


_Told = list[tuple[Ticket, Any, Exception | None]]


class GroupCommit:
    """The writer of one SQLite file, for one event loop.

    Args:
        path: the database; created with mode 0600 (its log and index inherit that).
        migrate: brings the schema up to date, inside one transaction; what it raises comes out of `start`.
        equip: makes what the writer's connection alone has (temporary views and triggers), after `migrate`.
        synchronous: FULL is needed for a promise that outlives a power cut; NORMAL and OFF for what may be lost.
        busy_timeout_s: how long another process may hold the file.
        page_size: octets; only counts for a new file.
        shared: other processes write the same file; they take turns (`file_turn`).
        committer: stands in for COMMIT in tests.
    """

    def __init__(
        self,
        path: Path,
        *,
        migrate: Callable[[sqlite3.Connection], None],
        equip: Callable[[sqlite3.Connection], None] = lambda _: None,
        synchronous: Literal["FULL", "NORMAL", "OFF"] = "FULL",
        busy_timeout_s: float = 5.0,
        max_ops: int = MAX_OPS,
        max_bytes: int = MAX_BYTES,
        checkpoint_bytes: int = CHECKPOINT_BYTES,
        page_size: int = 4096,
        shared: bool = False,
        committer: Committer | None = None,
    ) -> None:
        self._path = path
        self._turn = FileTurn(path.with_name(f"{path.name}.lock"), busy_timeout_s) if shared else None
        self._migrate = migrate
        self._equip = equip
        self._synchronous = synchronous
        self._busy_timeout_s = busy_timeout_s
        self._max_ops = max_ops
        self._max_bytes = max_bytes
        self._checkpoint_bytes = checkpoint_bytes
        self._page_size = page_size
        self._committer = committer or _commit_now
        self._waiting: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._failure = "not started"
        self._thread: threading.Thread | None = None
        self._reader: sqlite3.Connection | None = None
        self._readers = ThreadPoolExecutor(1, thread_name_prefix=f"{path.name}-read")
        self._log_bytes = 0
        self._last_group = 0

    @property
    def failure(self) -> str:
        """Why nothing can be written any more, or empty. No I/O: hot path."""
        return self._failure

    async def start(self) -> None:
        """Open the file, bring the schema up to date, start the writer.

        Also lowers the interpreter's switch interval, for the whole process: see `SWITCH_S`.

        Raises:
            StoreFull, StoreBusy, StoreFailed: as the file answers.
            Exception: whatever `migrate` raised; the file is as it was.
        """
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_S))
        self._loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._loop_used_s = _clock_of_this_thread()
        thread = threading.Thread(target=self._write, args=(ready,), name=f"{self._path.name}-write", daemon=True)
        thread.start()
        try:
            await ready
            self._reader = await self._loop.run_in_executor(self._readers, self._open_reader)
        except BaseException:
            self._waiting.put(None)
            await self._ended
            self._readers.shutdown(wait=False)
            raise
        self._thread = thread
        self._failure = ""

    async def run(
        self, op: Callable[[sqlite3.Connection], T], *, size: int = 0, after: Callable[[T], None] | None = None
    ) -> T:
        """Run `op` in the next transaction; its result once that is durable.

        Args:
            op: runs in the writer thread, perhaps more than once; it may raise, and must not commit.
            size: octets it is about to write, so that groups stay bounded.
            after: called on the event loop with the result once durable, before the waiter goes on, and also when
                the waiter was cancelled. Must not raise.

        Raises:
            StoreFull, StoreBusy, StoreFailed: nothing was kept, or for the last it cannot be known.
            Exception: what `op` raised; nothing of it was kept.
        """
        if self._failure:
            raise StoreFailed(self._failure)
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting.put(Ticket(op, None, size, future, after))
        return await future

    def join(
        self,
        batch: Batch,
        payload: Any,
        *,
        size: int = 0,
        after: Callable[[Any], None] | None = None,
        patient: bool = False,
    ) -> Ticket:
        """Have `payload` done by `batch` in the next transaction, together with those of other callers.

        Neighbours that name the same `batch` object are handed to it as one list, so that one statement can serve
        many callers. With `patient` it may wait a little for company. Otherwise as `run`, but for the ticket in the
        place of the result.
        """
        if self._failure:
            raise StoreFailed(self._failure)
        future: asyncio.Future[Any] = self._loop.create_future()
        ticket = Ticket(batch, payload, size, future, after, patient)
        self._waiting.put(ticket)
        return ticket

    async def read(self, op: Callable[[sqlite3.Connection], T]) -> T:
        """Run `op` on a read-only connection in another thread; sees everything committed so far."""
        if self._reader is None:
            raise StoreFailed(self._failure)
        return await self._loop.run_in_executor(self._readers, self._read, self._reader, op)

    async def close(self) -> None:
        """Commit what waits, then close the file. Safe to call twice."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._failure = self._failure or "closed"
        self._waiting.put(None)
        await self._ended
        thread.join()
        self._readers.shutdown(wait=True)

    def _read(self, connection: sqlite3.Connection, op: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return op(connection)
        except Exception as error:
            fault = self._named(fault_of(error))
            if fault is None:
                raise
            raise fault from error

    @overload
    def _named(self, fault: RelayError) -> RelayError: ...
    @overload
    def _named(self, fault: None) -> None: ...
    def _named(self, fault: RelayError | None) -> RelayError | None:
        """The fault with the name of the file, which SQLite does not tell."""
        if fault is not None and not str(fault).startswith(self._path.name):
            fault.args = (f"{self._path.name}: {fault}",)
        return fault

    # The writer thread

    def _write(self, ready: asyncio.Future[None]) -> None:
        try:
            connection = self._open()
        except Exception as error:
            self._tell(_fail, ready, self._named(fault_of(error)) or error)
            self._waiting.get()
            self._tell(self._ended.set_result, None)
            return
        self._tell(ready.set_result, None)
        group = self._take()
        while group:
            self._tell(_deliver, self._commit(connection, group))
            self._fold_log(connection, len(group))
            group = self._take()
        with contextlib.suppress(StoreBusy), self._our_turn():
            self._close_files(connection)
        self._close_files(connection)  # the turn did not come: better without it than never
        if self._turn is not None:
            self._turn.close()
        self._tell(self._ended.set_result, None)

    def _tell(self, callback: Callable[..., object], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has gone: nobody is left to be told
            self._loop.call_soon_threadsafe(callback, *args)

    def _take(self) -> list[Ticket]:
        """Everything that waits, within the bounds; waits for the first. Empty: the store is to be closed."""
        waiting = self._waiting
        item = waiting.get()
        if self._last_group > FEW:
            self._gather()
        group: list[Ticket] = []
        size = 0
        patient, until = self._last_group <= FEW, time.monotonic() + PATIENCE_S
        while item is not None:
            group.append(item)
            size += item.size
            patient = patient and item.patient
            if size >= self._max_bytes or len(group) >= self._max_ops:
                break
            if patient:
                try:
                    item = waiting.get(timeout=max(0.0, until - time.monotonic()))
                except queue.Empty:
                    break
            elif waiting.empty():
                break
            else:
                item = waiting.get()
        if item is None and group:
            waiting.put(None)
        self._log_bytes += size
        self._last_group = len(group)
        return group

    def _gather(self) -> None:
        until = time.monotonic() + GATHER_MOST_S
        before = self._loop_used_s()
        while True:
            time.sleep(GATHER_S)
            now = self._loop_used_s()
            if now - before < BUSY * GATHER_S or time.monotonic() >= until:
                return
            before = now

    def _commit(self, connection: sqlite3.Connection, group: list[Ticket]) -> _Told:
        if self._failure and self._failure != "closed":
            return [(item, None, StoreFailed(self._failure)) for item in group]
        try:
            with self._our_turn():
                return self._transact(connection, group)
        except Exception as error:
            fault = self._named(fault_of(error) or StoreFailed(str(error)))
            if isinstance(fault, StoreFailed):
                self._failure = str(fault)
            # An exception each: one object raised in many tasks would gather all their tracebacks.
            return [(item, None, _another(fault)) for item in group]

    def _transact(self, connection: sqlite3.Connection, group: list[Ticket]) -> _Told:
        statement = _as_one_statement(group)
        if statement is not None:
            with contextlib.suppress(sqlite3.IntegrityError):
                self._committer(partial(connection.execute, statement.sql, statement.values))
                return _results(group, statement.results)
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                told = _run_together(connection, group)
            except Exception as error:
                if fault_of(error) is not None:
                    raise
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                connection.execute("BEGIN IMMEDIATE")
                told = [_run_apart(connection, item) for item in group]
            self._committer(partial(_execute_commit, connection))
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            raise
        return told

    def _our_turn(self) -> contextlib.AbstractContextManager[None]:
        return self._turn or contextlib.nullcontext()

    def _fold_log(self, connection: sqlite3.Connection, operations: int) -> None:
        """Checkpoint when the log has grown enough; after the group was told, so that nobody waits for it."""
        self._log_bytes += operations * OP_BYTES
        if self._log_bytes < self._checkpoint_bytes or self._failure not in ("", "closed"):
            return
        self._log_bytes = 0
        try:
            with self._our_turn():
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except (sqlite3.Error, StoreBusy) as error:
            fault = self._named(fault_of(error))
            if isinstance(fault, StoreFailed):
                self._failure = str(fault)

    def _open(self) -> sqlite3.Connection:
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        connection = sqlite3.connect(
            self._path,
            isolation_level=None,
            timeout=self._busy_timeout_s,
            cached_statements=512,
            check_same_thread=False,
        )
        try:
            with self._our_turn():
                self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA page_size={self._page_size:d}")
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={self._synchronous}")
        # Debian builds SQLite to overwrite what is deleted, which would log every removed body once more.
        connection.execute("PRAGMA secure_delete=OFF")
        connection.execute("PRAGMA temp_store=MEMORY")
        connection.execute("PRAGMA cache_size=-16384")
        # Ours runs first (`_fold_log`); this one is the net below it.
        connection.execute(f"PRAGMA wal_autocheckpoint={8 * self._checkpoint_bytes // self._page_size:d}")
        connection.execute(f"PRAGMA journal_size_limit={4 * self._checkpoint_bytes:d}")
        connection.execute("BEGIN IMMEDIATE")
        try:
            self._migrate(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._equip(connection)

    def _open_reader(self) -> sqlite3.Connection:
        reader = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode=ro",
            uri=True,
            isolation_level=None,
            timeout=self._busy_timeout_s,
            check_same_thread=False,
        )
        # The first look takes the shared lock that keeps the writer, closing a latched store, from checkpointing.
        reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return reader

    def _close_files(self, writer: sqlite3.Connection) -> None:
        """Safe to call twice. The last to close checkpoints; a latched store must not: there the reader goes last."""
        reader, self._reader = self._reader, None
        order = [writer, reader] if self._failure not in ("", "closed") else [reader, writer]
        for connection in order:
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()


def _clock_of_this_thread() -> Callable[[], float]:
    """Reads the processor time of the calling thread from any other one, in seconds; a constant where the system has
    no such clock."""
    if not hasattr(time, "pthread_getcpuclockid"):
        return lambda: 0.0
    return partial(time.clock_gettime, time.pthread_getcpuclockid(threading.get_ident()))


def _execute_commit(connection: sqlite3.Connection) -> None:
    connection.execute("COMMIT")


def _commit_now(commit: Callable[[], object]) -> None:
    commit()


def _another(fault: RelayError) -> RelayError:
    twin = type(fault)(*fault.args)
    twin.__cause__ = fault.__cause__
    return twin


def _as_one_statement(group: list[Ticket]) -> Statement | None:
    op = group[0].op
    if not isinstance(op, Batch) or any(ticket.op is not op for ticket in group):
        return None
    return op.single([ticket.payload for ticket in group])


def _run_together(connection: sqlite3.Connection, group: list[Ticket]) -> _Told:
    told: _Told = []
    position = 0
    while position < len(group):
        item = group[position]
        op = item.op
        if not isinstance(op, Batch):
            told.append((item, op(connection), None))
            position += 1
            continue
        end = position + 1
        while end < len(group) and group[end].op is op:
            end += 1
        part = group[position:end]
        told += _results(part, op.do(connection, [each.payload for each in part]))
        position = end
    return told


def _results(part: list[Ticket], results: list[Any]) -> _Told:
    return [
        (each, None, result) if isinstance(result, Exception) else (each, result, None)
        for each, result in zip(part, results, strict=True)
    ]


def _run_apart(connection: sqlite3.Connection, item: Ticket) -> tuple[Ticket, Any, Exception | None]:
    connection.execute("SAVEPOINT one")
    try:
        told = _run_together(connection, [item])[0]
    except Exception as error:
        if fault_of(error) is not None:
            raise
        connection.execute("ROLLBACK TO one")
        connection.execute("RELEASE one")
        return item, None, error
    connection.execute("RELEASE one")
    return told


def _deliver(told: _Told) -> None:
    for ticket, result, error in told:
        ticket.tell(result, error)


def _fail(future: asyncio.Future[None], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
