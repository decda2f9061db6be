"""State in one SQLite file, shared by all worker processes of a machine.

Every change is one transaction of the file, so any number of processes see one truth, and a process that dies leaves
either all of a change or nothing. Permits and health are durable on return (`synchronous=FULL`).

Tables: `caps` one row for each candidate (see `sqlite_books`), `cursors`, `health`, `claims`, `counts`, `versions`.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from relay.errors import StateUnavailable
from relay.group_commit import GroupCommit
from relay.pools.caps import MAX_SKEW_S, Book
from relay.pools.health import NodeHealth
from relay.state import Candidate, CountKey, Denied, Permit, PermitRequest, Usage, sqlite_counts
from relay.state.granting import answer, check, usage
from relay.state.health_record import dump_health, load_health
from relay.state.sqlite_books import DamagedBook, pack, unpack
from relay.state.sqlite_group import TROUBLE, Gathered

T = TypeVar("T")

SCHEMA: Final = 2
"""2: what campaigns are known, and when each was used last."""

FORGET_EVERY_S: Final = 600.0
"""How often rows of caps and claims that no longer matter are removed."""

BLOCK_LASTS_S: Final = 0.05
"""Turns are leased ahead for about this long. So at a low rate, where it shows, workers rotate strictly in turn, and
at a high rate a message does not wait for a commit to learn whose turn it is."""

MAX_BLOCK: Final = 64
"""Most turns leased ahead: what a crash may skip."""

_TABLES = """
CREATE TABLE caps (key TEXT PRIMARY KEY, free_from REAL NOT NULL, book BLOB NOT NULL);
CREATE TABLE cursors (name TEXT PRIMARY KEY, next INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE health (node TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE claims (name TEXT PRIMARY KEY, owner TEXT NOT NULL, until REAL NOT NULL, ttl REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE versions (name TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO versions VALUES ('health', 0);
"""


class _Call(NamedTuple):
    requests: Sequence[PermitRequest]
    now: float


class _Turns(NamedTuple):
    """Turns from `first`; those from `spare` to `end` were leased ahead and are left over."""

    first: int
    spare: int
    end: int


class _Block(NamedTuple):
    next: int
    end: int
    leased_at: float  # monotonic
    size: int


class SqliteState:
    """One worker's door to the shared file. Make it with `open`.

    Args:
        clock: epoch seconds, read while the file is held and used by `reserve` instead of the caller's `now`. All
            processes of a machine share it, so permits are dated in the order they are given, however long a caller
            was kept waiting. Without it callers' times count, as suits tests and simulations.
    """

    def __init__(self, commit: GroupCommit, *, clock: Callable[[], float] | None = None) -> None:
        self._commit = commit
        self._clock = clock
        self._forget_at = 0.0
        self._blocks: dict[str, _Block] = {}
        self._reserve = Gathered(commit, self._answer)
        self._lease_turns = Gathered(commit, _advance)
        self._count = Gathered(commit, sqlite_counts.add)

    @classmethod
    async def open(cls, path: Path, *, clock: Callable[[], float] | None = None) -> SqliteState:
        """Open or create the file.

        Raises:
            StateUnavailable: the file cannot be used, or was written by a newer version.
        """
        commit = GroupCommit(path, migrate=_migrate, synchronous="FULL", shared=True)
        try:
            await commit.start()
        except TROUBLE as error:
            raise StateUnavailable(f"{path.name}: {error}") from error
        return cls(commit, clock=clock)

    async def close(self) -> None:
        await self._commit.close()

    # Caps

    async def reserve(self, requests: Sequence[PermitRequest], *, now: float) -> list[Permit | Denied]:
        """See `State.reserve`. What was granted to a caller that is cancelled meanwhile stays counted."""
        check(requests)
        return await self._reserve(_Call(requests, now))

    async def refund(self, permits: Sequence[tuple[Permit, int]]) -> None:
        if permits:
            await self._run(partial(_give_back, permits=permits))

    async def usage(self, candidates: Sequence[Candidate], *, now: float) -> Mapping[str, tuple[Usage, ...]]:
        at = self._clock() if self._clock else now
        return await self._read(partial(_usage, candidates=candidates, now=at, asked=now))

    def _answer(self, connection: sqlite3.Connection, calls: list[_Call]) -> list[list[Permit | Denied]]:
        now = self._clock() if self._clock else None
        shelf = _Shelf(connection, calls[0].now if now is None else now)
        answers = [
            [answer(request, shelf.book, call.now if now is None else now) for request in call.requests]
            for call in calls
        ]
        shelf.keep()
        if shelf.now >= self._forget_at:
            self._forget_at = shelf.now + FORGET_EVERY_S
            connection.execute("DELETE FROM caps WHERE free_from < ?", (shelf.now - MAX_SKEW_S,))
            connection.execute("DELETE FROM claims WHERE until < ?", (shelf.now - MAX_SKEW_S,))
        return answers

    # Rotation

    async def turns(self, cursor: str, count: int) -> int:
        """See `State.turns`. Turns leased ahead and not used soon are skipped."""
        block = self._blocks.get(cursor)
        now = time.monotonic()
        size = count
        if block is not None:
            if block.end - block.next >= count and now - block.leased_at <= 2 * BLOCK_LASTS_S:
                self._blocks[cursor] = block._replace(next=block.next + count)
                return block.next
            if now - block.leased_at < BLOCK_LASTS_S:
                size = max(count, min(MAX_BLOCK, 2 * block.size))
        turns = await self._lease_turns((cursor, count, size))
        if turns.end >= 0:
            self._blocks[cursor] = _Block(turns.spare, turns.end, now, turns.end - turns.first)
        return turns.first

    # Health

    async def health(self) -> Mapping[str, NodeHealth]:
        return await self._read(_read_health)

    async def update_health(self, node: str, change: Callable[[NodeHealth], NodeHealth]) -> NodeHealth:
        """See `State.update_health`. `change` runs in another thread."""
        return await self._run(partial(_change_health, node=node, change=change))

    async def health_version(self) -> int:
        return await self._read(_read_health_version)

    # Claims and counts

    async def claim(self, name: str, *, owner: str, ttl_s: float, now: float) -> bool:
        return await self._run(partial(_claim, name=name, owner=owner, ttl_s=ttl_s, now=now))

    async def unclaim(self, name: str, *, owner: str) -> None:
        await self._run(partial(_unclaim, name=name, owner=owner))

    async def count(self, deltas: Mapping[CountKey, int]) -> None:
        if deltas:
            await self._count(dict(deltas))

    async def counts(self, *, pool: str = "") -> Mapping[CountKey, int]:
        return await self._read(partial(sqlite_counts.read, pool=pool))

    # The file

    async def _run(self, op: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await self._commit.run(op)
        except TROUBLE as error:
            raise StateUnavailable(str(error)) from error

    async def _read(self, op: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await self._commit.read(op)
        except TROUBLE as error:
            raise StateUnavailable(str(error)) from error


class _Shelf:
    """The books that one transaction touches: each read once, and written once if it changed."""

    def __init__(self, connection: sqlite3.Connection, now: float) -> None:
        self._connection = connection
        self._books: dict[str, Book] = {}
        self.now = now

    def book(self, key: str) -> Book:
        book = self._books.get(key)
        if book is None:
            row = self._connection.execute("SELECT book FROM caps WHERE key = ?", (key,)).fetchone()
            try:
                book = Book() if row is None else unpack(row[0])
            except DamagedBook:
                book = Book.sealed(self.now)
            self._books[key] = book
        return book

    def keep(self) -> None:
        self._connection.executemany(
            "INSERT INTO caps VALUES (?1, ?2, ?3)"
            " ON CONFLICT (key) DO UPDATE SET free_from = excluded.free_from, book = excluded.book",
            [
                (key, max(book.free_from, book.latest), pack(book, book.latest))
                for key, book in self._books.items()
                if book.changed
            ],
        )


def _give_back(connection: sqlite3.Connection, permits: Sequence[tuple[Permit, int]]) -> None:
    shelf = _Shelf(connection, max(permit.at for permit, _ in permits))
    for permit, count in permits:
        shelf.book(permit.key).give_back(permit.windows, min(count, permit.granted), permit.granted, permit.at)
    shelf.keep()


def _usage(
    connection: sqlite3.Connection, candidates: Sequence[Candidate], now: float, asked: float
) -> Mapping[str, tuple[Usage, ...]]:
    shelf = _Shelf(connection, now)
    return {candidate.key: usage(candidate, shelf.book(candidate.key), now, asked=asked) for candidate in candidates}


def _advance(connection: sqlite3.Connection, calls: list[tuple[str, int, int]]) -> list[_Turns]:
    """Turns for each (cursor, count, size); what is leased ahead goes to the last who asked for the cursor."""
    wanted: dict[str, tuple[int, int]] = {}
    for cursor, count, size in calls:
        total, block = wanted.get(cursor, (0, 0))
        wanted[cursor] = (total + count, max(block, size))
    ends = {}
    at = {}
    for cursor, (total, block) in wanted.items():
        row = connection.execute(
            "INSERT INTO cursors VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET next = next + ?2 RETURNING next",
            (cursor, max(total, block)),
        ).fetchone()
        ends[cursor] = row[0]
        at[cursor] = row[0] - max(total, block)
    turns = []
    last = {cursor: place for place, (cursor, _, _) in enumerate(calls)}
    for place, (cursor, count, _) in enumerate(calls):
        first = at[cursor]
        at[cursor] += count
        turns.append(_Turns(first, at[cursor], ends[cursor] if last[cursor] == place else -1))
    return turns


def _read_health(connection: sqlite3.Connection) -> Mapping[str, NodeHealth]:
    return {node: load_health(record) for node, record in connection.execute("SELECT node, record FROM health")}


def _read_health_version(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT version FROM versions WHERE name = 'health'").fetchone()
    return int(row[0])


def _change_health(connection: sqlite3.Connection, node: str, change: Callable[[NodeHealth], NodeHealth]) -> NodeHealth:
    row = connection.execute("SELECT record FROM health WHERE node = ?", (node,)).fetchone()
    before = load_health(row[0]) if row else NodeHealth()
    after = change(before)
    if after != before:
        connection.execute(
            "INSERT INTO health VALUES (?1, ?2) ON CONFLICT (node) DO UPDATE SET record = excluded.record",
            (node, dump_health(after).decode()),
        )
        connection.execute("UPDATE versions SET version = version + 1 WHERE name = 'health'")
    return after


def _claim(connection: sqlite3.Connection, name: str, owner: str, ttl_s: float, now: float) -> bool:
    row = connection.execute("SELECT owner, until, ttl FROM claims WHERE name = ?", (name,)).fetchone()
    # A lease that ends later than its length from now was taken before the clock was set back.
    if row and row[0] != owner and now < row[1] <= now + row[2] + MAX_SKEW_S:
        return False
    connection.execute(
        "INSERT INTO claims VALUES (?1, ?2, ?3, ?4)"
        " ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, until = excluded.until, ttl = excluded.ttl",
        (name, owner, now + ttl_s, ttl_s),
    )
    return True


def _unclaim(connection: sqlite3.Connection, name: str, owner: str) -> None:
    connection.execute("DELETE FROM claims WHERE name = ? AND owner = ?", (name, owner))


def _migrate(connection: sqlite3.Connection) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA:
        raise StateUnavailable(f"the state was written by a newer version (schema {version}, known up to {SCHEMA})")
    if version == 0:
        for statement in f"{_TABLES};{sqlite_counts.TABLES}".split(";"):
            connection.execute(statement)
    if version < 2:
        for statement in sqlite_counts.CAMPAIGN_TABLE.split(";"):
            connection.execute(statement)
    if version < SCHEMA:
        connection.execute(f"PRAGMA user_version={SCHEMA:d}")
