"""Idempotency keys of one machine in SQLite: `idempotency.db`, shared by all workers.

Used by few messages and only by those, so each step is a short transaction of its own with an fsync, in a thread. The
connection is opened by the first use.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import TypeVar

from relay.errors import StateUnavailable
from relay.idempotency import KEEP_S, Claim, Known

T = TypeVar("T")

TRIM = 1000
"""Keys that are too old removed with one claim, so that trimming never holds a client up."""

_SCHEMA = """CREATE TABLE IF NOT EXISTS key (
    bridge TEXT NOT NULL,
    key TEXT NOT NULL,
    digest BLOB NOT NULL,
    id TEXT NOT NULL,      -- of the message
    owner TEXT NOT NULL,   -- shard of the worker that claimed it
    done INTEGER NOT NULL,
    at REAL NOT NULL,      -- epoch seconds of the claim
    PRIMARY KEY (bridge, key)
) WITHOUT ROWID"""


class SqliteKeys:
    """`relay.idempotency.Keys`. `owner`: the shard of this worker."""

    def __init__(self, path: Path, owner: str) -> None:
        self._path = path
        self._owner = owner
        self._connection: sqlite3.Connection | None = None
        self._turn = threading.Lock()

    async def claim(self, bridge: str, key: str, *, digest: bytes, id: str, now: float) -> Claim:
        def work(connection: sqlite3.Connection) -> Claim:
            connection.execute(
                "DELETE FROM key WHERE (bridge, key) IN (SELECT bridge, key FROM key WHERE at < ? LIMIT ?)",
                (now - KEEP_S, TRIM),
            )
            row = connection.execute(
                "SELECT digest, id, done FROM key WHERE bridge = ? AND key = ?", (bridge, key)
            ).fetchone()
            if row is None:
                values = (bridge, key, digest, id, self._owner, 0, now)
                connection.execute("INSERT INTO key VALUES (?, ?, ?, ?, ?, ?, ?)", values)
                return Claim(Known.NEW)
            known_digest, known_id, done = row
            if known_digest != digest:
                return Claim(Known.OTHER)
            return Claim(Known.DONE if done else Known.OPEN, known_id)

        return await self._run(work)

    async def finish(self, bridge: str, key: str, *, id: str) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE key SET done = 1 WHERE bridge = ? AND key = ? AND id = ?", (bridge, key, id))

        await self._run(work)

    async def forget(self, bridge: str, key: str, *, id: str) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM key WHERE bridge = ? AND key = ? AND id = ?", (bridge, key, id))

        await self._run(work)

    async def resolve(self, holds: Callable[[str], Awaitable[bool]], *, except_of: Collection[str] = ()) -> None:
        if not self._path.exists():
            return

        def left(connection: sqlite3.Connection) -> list[tuple[str, str, str, str]]:
            return connection.execute("SELECT owner, bridge, key, id FROM key WHERE done = 0").fetchall()

        for owner, bridge, key, message_id in await self._run(left):
            if owner in except_of:
                continue
            await (self.finish if await holds(message_id) else self.forget)(bridge, key, id=message_id)

    async def close(self) -> None:
        with self._turn:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.to_thread(self._transact, work)

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._turn:
            try:
                connection = self._connection = self._connection or self._open()
                connection.execute("BEGIN IMMEDIATE")
                try:
                    result = work(connection)
                    connection.execute("COMMIT")
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
            except (sqlite3.Error, OSError) as error:
                raise StateUnavailable(f"{self._path.name}: {error}") from error
            return result

    def _open(self) -> sqlite3.Connection:
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=5.0, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute(_SCHEMA)
        except BaseException:
            connection.close()
            raise
        return connection
