"""The queue of webhook calls: `webhooks.db` in the folder of the spool.

Events enter together with the position up to which the histories were read, in one transaction, so that none is
missed and none enters twice. Calls that were taken stay for a week, to be replayed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from relay.admin.database import Database

KEEP_S = 7 * 86400.0
MAX_EVENTS = 500_000
"""Bound on what is kept; beyond it the oldest go, taken or not, and are counted."""

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS event (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,   -- webhook-id
    name TEXT NOT NULL,
    at REAL NOT NULL,
    body BLOB NOT NULL         -- as it is posted
)""",
    """CREATE TABLE IF NOT EXISTS call (
    hook TEXT NOT NULL,
    event INTEGER NOT NULL REFERENCES event (number),
    state TEXT NOT NULL,
    tries INTEGER NOT NULL,
    due REAL NOT NULL,         -- epoch seconds of the next try
    since REAL NOT NULL,       -- when it entered, or was replayed
    answer TEXT NOT NULL,      -- to the last try
    PRIMARY KEY (hook, event)
) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS call_due ON call (hook, due) WHERE state = 'waiting'",
    "CREATE TABLE IF NOT EXISTS position (shard TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS silenced (hook TEXT PRIMARY KEY, url TEXT NOT NULL, why TEXT NOT NULL) WITHOUT ROWID",
)


class State(StrEnum):
    WAITING = "waiting"
    TAKEN = "taken"
    GIVEN_UP = "given-up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One event for one receiver."""

    hook: str
    number: int
    id: str
    name: str
    at: float
    body: bytes
    state: State
    tries: int
    due: float
    since: float
    answer: str


@dataclass(frozen=True, slots=True)
class Entering:
    """An event, and the receivers that want it."""

    id: str
    name: str
    at: float
    body: bytes
    hooks: tuple[str, ...]


class Store:
    """All methods block for one transaction."""

    def __init__(self, directory: Path) -> None:
        self.database = Database(directory / "webhooks.db", _SCHEMA)

    def position(self) -> dict[str, int] | None:
        """Up to where the histories were read; None at the very first start."""
        rows = self.database.do(lambda c: c.execute("SELECT shard, number FROM position").fetchall())
        return dict(rows) if rows else None

    @property
    def is_used(self) -> bool:
        """Whether there is a file: a relay that never had webhooks has none."""
        return self.database.path.exists()

    def forget_position(self) -> None:
        """Nobody listens: who comes next is told what happens from then on."""
        self.database.do(lambda c: c.execute("DELETE FROM position"))

    def enter(self, events: Sequence[Entering], position: Mapping[str, int], now: float) -> int:
        """Keep events and the position behind them. Returns how many calls had to go for want of room."""

        def work(connection: sqlite3.Connection) -> int:
            for event in events:
                row = connection.execute(
                    "INSERT OR IGNORE INTO event (id, name, at, body) VALUES (?, ?, ?, ?) RETURNING number",
                    (event.id, event.name, event.at, event.body),
                ).fetchone()
                if row is not None:
                    connection.executemany(
                        "INSERT INTO call VALUES (?, ?, 'waiting', 0, ?, ?, '')",
                        [(hook, row[0], now, now) for hook in event.hooks],
                    )
            connection.executemany("INSERT OR REPLACE INTO position VALUES (?, ?)", list(position.items()))
            return _trim(connection, now)

        return self.database.do(work)

    def due(self, hook: str, now: float, limit: int) -> list[Call]:
        """Calls whose time has come, oldest events first."""

        def work(connection: sqlite3.Connection) -> list[Call]:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM call INDEXED BY call_due JOIN event ON event.number = call.event"  # noqa: S608
                " WHERE hook = ? AND state = 'waiting' AND due <= ? ORDER BY due, event.number LIMIT ?",
                (hook, now, limit),
            )
            return [_call(row) for row in rows]

        return self.database.do(work)

    def next_due(self, hook: str) -> float | None:
        def work(connection: sqlite3.Connection) -> float | None:
            row = connection.execute(
                "SELECT min(due) FROM call WHERE hook = ? AND state = 'waiting'", (hook,)
            ).fetchone()
            return None if row[0] is None else float(row[0])

        return self.database.do(work)

    def settle(self, call: Call, state: State, *, answer: str, due: float = 0.0) -> None:
        """Write down a try. A call that was replayed meanwhile stays waiting."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE call SET state = ?, tries = tries + 1, due = ?, answer = ?"
                " WHERE hook = ? AND event = ? AND since = ?",
                (state.value, due, answer[:500], call.hook, call.number, call.since),
            )

        self.database.do(work)

    def replay(
        self, hook: str, now: float, *, ids: Sequence[str] = (), state: State | None = None, since: float = 0.0
    ) -> int:
        """Make calls due anew; returns how many."""

        def work(connection: sqlite3.Connection) -> int:
            connection.execute("DELETE FROM silenced WHERE hook = ?", (hook,))
            where = "hook = ? AND event IN (SELECT number FROM event WHERE at >= ?)"
            values: list[Any] = [hook, since]
            if state is not None:
                where += " AND state = ?"
                values.append(state.value)
            if ids:
                marks = ", ".join("?" * len(ids))
                where += f" AND event IN (SELECT number FROM event WHERE id IN ({marks}))"  # noqa: S608
                values += ids
            changed = connection.execute(
                f"UPDATE call SET state = 'waiting', tries = 0, due = ?, since = ? WHERE {where}",  # noqa: S608
                (now, now, *values),
            )
            return changed.rowcount

        return self.database.do(work)

    def calls(self, hook: str, *, state: State | None = None, before: int = 0, limit: int = 100) -> list[Call]:
        """The newest first; those with a number below `before` when it is given."""

        def work(connection: sqlite3.Connection) -> list[Call]:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM call JOIN event ON event.number = call.event"  # noqa: S608 - our own columns
                " WHERE hook = ? AND (? = 0 OR event.number < ?) AND (? = '' OR state = ?)"
                " ORDER BY event.number DESC LIMIT ?",
                (hook, before, before, state.value if state else "", state.value if state else "", limit),
            )
            return [_call(row) for row in rows]

        return self.database.do(work)

    def counts(self) -> dict[str, dict[str, int]]:
        """How many calls are in each state, by receiver."""

        def work(connection: sqlite3.Connection) -> dict[str, dict[str, int]]:
            found: dict[str, dict[str, int]] = {}
            for hook, state, count in connection.execute("SELECT hook, state, count(*) FROM call GROUP BY 1, 2"):
                found.setdefault(hook, {})[state] = count
            return found

        return self.database.do(work)

    def silence(self, hook: str, url: str, why: str) -> None:
        """The receiver said that it is gone; it is called again when its URL changes or somebody replays."""
        self.database.do(
            lambda c: c.execute("INSERT OR REPLACE INTO silenced VALUES (?, ?, ?)", (hook, url, why[:500]))
        )

    def silenced(self) -> dict[str, tuple[str, str]]:
        """Receivers that are not called, with their URL then and why."""
        return self.database.do(
            lambda c: {hook: (url, why) for hook, url, why in c.execute("SELECT hook, url, why FROM silenced")}
        )

    def forget(self, known: Sequence[str]) -> None:
        """Calls of receivers that are no longer configured go."""
        marks = ", ".join("?" * len(known)) or "''"
        self.database.do(
            lambda c: c.execute(f"DELETE FROM call WHERE hook NOT IN ({marks})", tuple(known))  # noqa: S608
        )


_COLUMNS = "hook, event.number, id, name, at, body, state, tries, due, since, answer"


def _call(row: tuple[Any, ...]) -> Call:
    hook, number, event_id, name, at, body, state, tries, due, since, answer = row
    return Call(
        hook=hook, number=number, id=event_id, name=name, at=at, body=body, state=State(state), tries=tries, due=due,
        since=since, answer=answer,
    )  # fmt: skip


def _trim(connection: sqlite3.Connection, now: float) -> int:
    """Remove what is done and old, and the oldest when there is too much."""
    connection.execute(
        "DELETE FROM call WHERE state != 'waiting' AND event IN (SELECT number FROM event WHERE at < ?)",
        (now - KEEP_S,),
    )
    (last,) = connection.execute("SELECT max(number) FROM event").fetchone()
    lost = 0
    if last and last > MAX_EVENTS:
        gone = connection.execute("DELETE FROM call WHERE event <= ? RETURNING state", (last - MAX_EVENTS,)).fetchall()
        lost = sum(state == "waiting" for (state,) in gone)
    connection.execute(
        "DELETE FROM event WHERE number IN (SELECT number FROM event WHERE NOT EXISTS"
        " (SELECT 1 FROM call WHERE call.event = event.number) ORDER BY number LIMIT 5000)"
    )
    return lost
