"""The audit trail: who changed what, when, from where, what it was before and is now. Secrets are masked before.

Appended to `admin.db` and never changed there; what is too old goes with new entries.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from relay.admin.database import Database
from relay.admin.security.roles import Caller

KEEP_S = 400 * 86400.0

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS audit (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    who TEXT NOT NULL,
    role TEXT NOT NULL,
    peer TEXT NOT NULL,
    action TEXT NOT NULL,   -- node.update, queue.drop, …
    target TEXT NOT NULL,
    before TEXT,            -- JSON
    after TEXT
)""",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    number: int
    at: float
    who: str
    role: str
    peer: str
    action: str
    target: str
    before: Any
    after: Any


class Audit:
    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._ready = False

    async def note(
        self,
        caller: Caller,
        action: str,
        target: str,
        *,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
    ) -> None:
        """Write an entry; durable on return."""
        now = self._clock()
        values = (now, caller.name, caller.role.value, caller.peer, action, target, _json(before), _json(after))

        def work(connection: sqlite3.Connection) -> None:
            self._prepare(connection)
            connection.execute("DELETE FROM audit WHERE at < ?", (now - KEEP_S,))
            connection.execute(
                "INSERT INTO audit (at, who, role, peer, action, target, before, after)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            )

        await self._database.run(work)

    async def entries(self, *, before: int = 0, limit: int = 100, action: str = "", who: str = "") -> list[Entry]:
        """The newest first; those with a number below `before` when it is given."""

        def work(connection: sqlite3.Connection) -> list[Entry]:
            self._prepare(connection)
            rows = connection.execute(
                "SELECT number, at, who, role, peer, action, target, before, after FROM audit"
                " WHERE (? = 0 OR number < ?) AND (? = '' OR action = ? OR action LIKE ? ESCAPE '\\')"
                " AND (? = '' OR who = ?) ORDER BY number DESC LIMIT ?",
                (before, before, action, action, _escaped(action) + ".%", who, who, limit),
            )
            return [_entry(row) for row in rows]

        return await self._database.run(work)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        if not self._ready:
            for statement in SCHEMA:
                connection.execute(statement)
            self._ready = True


def _entry(row: tuple[Any, ...]) -> Entry:
    number, at, who, role, peer, action, target, before, after = row
    return Entry(
        number=number,
        at=at,
        who=who,
        role=role,
        peer=peer,
        action=action,
        target=target,
        before=orjson.loads(before) if before else None,
        after=orjson.loads(after) if after else None,
    )


def _json(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else orjson.dumps(value, default=str).decode()


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
