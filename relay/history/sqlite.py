"""The history in SQLite: `history-<shard>.db`, written in the background, readable by any process.

One thread writes what has gathered every 200 ms in one transaction, without fsync: a power cut may cost the last
seconds of stories, and no mail. Each round also removes a bounded piece of what is too old or too much, so that
trimming never holds anything up.

A file that cannot be used is moved aside and begun anew: history must never keep the relay from starting.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from relay.events import Event
from relay.history import Filter, decode, matches
from relay.ids import is_id, key_of

WRITE_EVERY_S = 0.2

TRIM_EVENTS = 2_000
"""Removed in one round at most: 10,000 a second, more than a core can bring in, in steps of some 5 ms."""

MANY = 100
"""Rows in one statement: each costs the writer a turn at the interpreter lock, taken from the event loop."""

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS event (
        number INTEGER PRIMARY KEY,
        message INTEGER NOT NULL, -- row key of the message's id
        at REAL NOT NULL,         -- epoch seconds of writing
        data BLOB NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS event_message ON event (message)",
)


class SqliteHistory:
    """`relay.history.History` of one process. Call `start` first.

    Args:
        max_age_s: events older than this are removed.
        max_events: bound on what is kept.
        max_waiting: bound on what is not written yet; beyond it the oldest are dropped and counted.
        clock: epoch seconds, for the age.
    """

    def __init__(
        self,
        directory: Path,
        shard: str = "0",
        *,
        max_age_s: float = 7 * 86400.0,
        max_events: int = 1_000_000,
        max_waiting: int = 20_000,
        write_every_s: float = WRITE_EVERY_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._path = directory / f"history-{shard}.db"
        self._max_age_s = max_age_s
        self._max_events = max_events
        self._max_waiting = max_waiting
        self._write_every_s = write_every_s
        self._clock = clock
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._dropped = 0
        self._wake = threading.Event()
        self._wanted: list[threading.Event] = []
        self._stop = False
        self._thread: threading.Thread | None = None
        self.trouble = ""
        """Why the last round could not be written, or empty."""

    @property
    def dropped(self) -> int:
        return self._dropped

    async def start(self) -> None:
        """Open the file and start writing. A file that cannot be used is moved aside.

        Raises:
            OSError: the folder cannot be written.
        """
        await asyncio.to_thread(self._prepare)
        self._thread = threading.Thread(target=self._write, name=self._path.name, daemon=True)
        self._thread.start()

    def record(self, message_id: str, event: bytes) -> None:
        waiting = self._waiting
        waiting.append((message_id, event))
        if len(waiting) > self._max_waiting:
            with contextlib.suppress(IndexError):  # the writer may have emptied it this moment
                waiting.popleft()
                self._dropped += 1

    def set_bounds(self, *, max_age_s: float, max_events: int) -> None:
        """From the next round of trimming on."""
        self._max_age_s, self._max_events = max_age_s, max_events

    async def story(self, message_id: str) -> list[Event]:
        return await asyncio.to_thread(self._after_writing, partial(story, self._directory, message_id))

    async def recent(self, limit: int, wanted: Filter = Filter()) -> list[Event]:  # noqa: B008 - a value
        return await asyncio.to_thread(self._after_writing, partial(recent, self._directory, limit, wanted))

    async def close(self) -> None:
        """Write what waits, then stop. Safe to call twice."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stop = True
            self._wake.set()
            await asyncio.to_thread(thread.join)

    def _after_writing(self, look: Callable[[], list[Event]]) -> list[Event]:
        if self._thread is not None:
            written = threading.Event()
            self._wanted.append(written)
            self._wake.set()
            written.wait(5.0)
        return look()

    # The writer thread

    def _prepare(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._open().close()
        except sqlite3.DatabaseError:
            aside = self._path.with_name(f"{self._path.name}.unusable")
            self._path.replace(aside)
            for suffix in ("-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            self._open().close()

    def _open(self) -> sqlite3.Connection:
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=5.0)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=OFF")
            connection.execute("PRAGMA secure_delete=OFF")
            connection.execute("PRAGMA journal_size_limit=16777216")
            for statement in _SCHEMA:
                connection.execute(statement)
        except BaseException:
            connection.close()
            raise
        return connection

    def _write(self) -> None:
        connection: sqlite3.Connection | None = None
        while True:
            stop = self._stop
            wanted, self._wanted = self._wanted, []
            gathered = [self._waiting.popleft() for _ in range(len(self._waiting))]
            try:
                connection = connection or self._open()
                self._round(connection, gathered)
                self.trouble = ""
            except (sqlite3.Error, OSError) as error:
                self.trouble = f"{self._path.name}: {error}"
                self._dropped += len(gathered)
                if connection is not None:
                    with contextlib.suppress(sqlite3.Error):
                        connection.close()
                    connection = None
            for written in wanted:
                written.set()
            if stop:
                break
            self._wake.wait(self._write_every_s)
            self._wake.clear()
        if connection is not None:
            connection.close()

    def _round(self, connection: sqlite3.Connection, gathered: list[tuple[str, bytes]]) -> None:
        now = self._clock()
        trim_to = self._trim_to(connection, now - self._max_age_s, len(gathered))
        if not gathered and trim_to is None:
            return
        connection.execute("BEGIN IMMEDIATE")
        for start in range(0, len(gathered), MANY):
            part = gathered[start : start + MANY]
            values: list[object] = []
            for message_id, data in part:
                values += (key_of(message_id) if is_id(message_id) else 0, now, data)
            rows = ",".join(["(?,?,?)"] * len(part))
            connection.execute(f"INSERT INTO event (message, at, data) VALUES {rows}", values)  # noqa: S608
        if trim_to is not None:
            connection.execute("DELETE FROM event WHERE number <= ?", (trim_to,))
        connection.execute("COMMIT")

    def _trim_to(self, connection: sqlite3.Connection, too_old: float, coming: int) -> int | None:
        """The last number to remove in this round, or None. Numbers run without gaps and grow with time."""
        oldest = connection.execute("SELECT number, at FROM event ORDER BY number LIMIT 1").fetchone()
        if oldest is None:
            return None
        number, at = oldest
        (newest,) = connection.execute("SELECT max(number) FROM event").fetchone()
        last = newest + coming - self._max_events
        if at < too_old:
            (last_old,) = connection.execute(
                "SELECT max(number) FROM event WHERE number < ? AND at < ?", (number + TRIM_EVENTS, too_old)
            ).fetchone()
            last = max(last, last_old)
        return min(last, number + TRIM_EVENTS - 1) if last >= number else None


def forget_abandoned(directory: Path, shards: Collection[str], *, max_age_s: float, now: float) -> list[Path]:
    """Remove the files that nobody trims any more once all they tell is too old: those of shards that there are no
    more, and those that were moved aside. Blocking.

    Args:
        shards: those that have an owner, whose files trim themselves.
    """
    own = {f"history-{shard}.db" for shard in shards}
    gone = []
    for path in sorted((*directory.glob("history-*.db"), *directory.glob("history-*.db.unusable"))):
        if path.name in own:
            continue
        parts = [path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))]
        with contextlib.suppress(OSError):  # whatever it is, it stays, and is looked at again
            # Written is what was told last: nothing in a file is younger than the file.
            if max(part.lstat().st_mtime for part in parts if part.exists()) < now - max_age_s:
                for part in parts:
                    part.unlink(missing_ok=True)
                gone.append(path)
    return gone


# Reading, from any process


def story(directory: Path, message_id: str) -> list[Event]:
    """All that any shard knows of a message, in order. Blocking."""
    if not is_id(message_id):
        return []
    query = "SELECT data FROM event WHERE message = ? ORDER BY number"
    events: list[Event] = []
    for data in _each(directory, query, (key_of(message_id),)):
        with contextlib.suppress(ValueError):
            event = decode(data)
            if event.message_id == message_id:
                events.append(event)
    return sorted(events, key=lambda event: event.at)


def recent(directory: Path, limit: int, wanted: Filter = Filter()) -> list[Event]:  # noqa: B008 - a value
    """The last events of all shards, newest first. Blocking."""
    found: list[Event] = []
    for path in sorted(directory.glob("history-*.db")):
        own: list[Event] = []
        query = "SELECT data FROM event WHERE at >= ? ORDER BY number DESC"
        with contextlib.closing(open_readable(path)) as connection, contextlib.suppress(sqlite3.Error):
            for (data,) in connection.execute(query, (wanted.since,)):
                if len(own) >= limit:
                    break
                with contextlib.suppress(ValueError):
                    event = decode(data)
                    if matches(event, data, wanted):
                        own.append(event)
        found += own
    return sorted(found, key=lambda event: event.at, reverse=True)[:limit]


def accepted(directory: Path, since: float) -> list[Event]:
    """What was accepted since (epoch seconds) by all shards, oldest first. Blocking, some microseconds an event."""
    events: list[Event] = []
    for data in _each(directory, "SELECT data FROM event WHERE at >= ?", (since,)):
        if b'"message.accepted"' in data:
            with contextlib.suppress(ValueError):
                events.append(decode(data))
    return sorted(events, key=lambda event: event.at)


def _each(directory: Path, query: str, values: tuple[object, ...]) -> list[bytes]:
    found: list[bytes] = []
    for path in sorted(directory.glob("history-*.db")):
        with contextlib.closing(open_readable(path)) as connection, contextlib.suppress(sqlite3.Error):
            found += [data for (data,) in connection.execute(query, values)]
    return found


def open_readable(path: Path) -> sqlite3.Connection:
    """A history file of any shard, for reading."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=2.0)
