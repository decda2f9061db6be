"""Issues and notices: `alerts.db` in the folder of the spool.

What events and looks found is kept in one transaction together with the position up to which the histories were read
and the notices that follow, so that nothing is told twice or forgotten when the process ends between two steps.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from relay.admin.alerts.rules import Notified, Over, Rule, Trouble, tell_at, tells_end
from relay.admin.database import Database

KEEP_S = 400 * 86400.0
"""Closed issues are kept as long as the audit trail."""

MAX_ERROR = 2000

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS issue (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL,
    rule TEXT NOT NULL,
    node TEXT NOT NULL,
    pool TEXT NOT NULL,
    error TEXT NOT NULL,       -- that opened it
    last_error TEXT NOT NULL,
    since REAL NOT NULL,
    until REAL,                -- null: open
    how TEXT NOT NULL          -- it closed
)""",
    "CREATE UNIQUE INDEX IF NOT EXISTS issue_open ON issue (key) WHERE until IS NULL",
    "CREATE INDEX IF NOT EXISTS issue_key ON issue (key, until)",
    """CREATE TABLE IF NOT EXISTS notice (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    issue INTEGER NOT NULL REFERENCES issue (number),
    what TEXT NOT NULL,        -- opened, closed
    target TEXT NOT NULL,
    state TEXT NOT NULL,
    since REAL NOT NULL,
    due REAL NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    told REAL,                 -- when it was taken
    answer TEXT NOT NULL DEFAULT ''
)""",
    "CREATE INDEX IF NOT EXISTS notice_due ON notice (due) WHERE state = 'waiting'",
    "CREATE INDEX IF NOT EXISTS notice_issue ON notice (issue)",
    "CREATE TABLE IF NOT EXISTS position (shard TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID",
)


class NoticeState(StrEnum):
    WAITING = "waiting"
    TAKEN = "taken"
    GIVEN_UP = "given-up"
    NEEDLESS = "needless"  # the trouble was over before its time came, or the target is gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    number: int
    key: str
    rule: Rule
    node: str
    pool: str
    error: str
    last_error: str
    since: float
    until: float | None
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something to tell a target. `what`: opened or closed."""

    number: int
    issue: Issue
    what: str
    target: str
    state: NoticeState
    since: float
    due: float
    tries: int
    answer: str


@dataclass(frozen=True, slots=True)
class Listener:
    """What one target wants to be told of."""

    name: str
    rules: frozenset[str]
    recovery: bool


class Store:
    """All methods block for one transaction."""

    def __init__(self, directory: Path) -> None:
        self.database = Database(directory / "alerts.db", _SCHEMA)

    def position(self) -> dict[str, int] | None:
        """Up to where the histories were read; None at the very first start."""
        rows = self.database.do(lambda c: c.execute("SELECT shard, number FROM position").fetchall())
        return dict(rows) if rows else None

    def open_issues(self) -> list[Issue]:
        return self.database.do(
            lambda c: [_issue(row) for row in c.execute(f"SELECT {_ISSUE} FROM issue WHERE until IS NULL")]  # noqa: S608
        )

    def enter(
        self,
        found: Sequence[Trouble | Over],
        *,
        now: float,
        listeners: Sequence[Listener],
        quiet_s: float,
        position: Mapping[str, int] | None = None,
    ) -> list[tuple[str, Issue]]:
        """Keep what was found, in its order. Returns the issues that were opened and closed by it."""

        def work(connection: sqlite3.Connection) -> list[tuple[str, Issue]]:
            changes: list[tuple[str, Issue]] = []
            for each in found:
                match each:
                    case Trouble():
                        opened = _open(connection, each)
                        if opened is not None:
                            _tell_opened(connection, opened, listeners, now, quiet_s)
                            changes.append(("opened", opened))
                    case Over():
                        closed = _close(connection, each)
                        if closed is not None:
                            _tell_closed(connection, closed, listeners, now)
                            changes.append(("closed", closed))
            if position:
                connection.executemany("INSERT OR REPLACE INTO position VALUES (?, ?)", list(position.items()))
            _trim(connection, now)
            return changes

        return self.database.do(work)

    def due(self, now: float, limit: int = 20) -> list[Notice]:
        """Notices whose time has come."""

        def work(connection: sqlite3.Connection) -> list[Notice]:
            rows = connection.execute(
                f"SELECT {_NOTICE} FROM notice JOIN issue ON issue.number = notice.issue"  # noqa: S608
                " WHERE notice.state = 'waiting' AND notice.due <= ? ORDER BY notice.number LIMIT ?",
                (now, limit),
            )
            return [_notice(row) for row in rows]

        return self.database.do(work)

    def settle(self, notice: Notice, state: NoticeState, *, now: float, answer: str, due: float = 0.0) -> None:
        """Write down a try."""
        told = now if state is NoticeState.TAKEN else None
        self.database.do(
            lambda c: c.execute(
                "UPDATE notice SET state = ?, tries = tries + 1, due = ?, told = ?, answer = ?"
                " WHERE number = ? AND state = 'waiting'",
                (state.value, due, told, answer[:500], notice.number),
            )
        )

    def issues(
        self, *, state: str = "", node: str = "", rule: str = "", before: int = 0, limit: int = 100
    ) -> list[Issue]:
        """The newest first. `state`: `open`, `closed` or empty for both."""
        wanted = {"": "1", "open": "until IS NULL", "closed": "until IS NOT NULL"}[state]

        def work(connection: sqlite3.Connection) -> list[Issue]:
            rows = connection.execute(
                f"SELECT {_ISSUE} FROM issue WHERE {wanted} AND (? = '' OR node = ?) AND (? = '' OR rule = ?)"  # noqa: S608
                " AND (? = 0 OR number < ?) ORDER BY number DESC LIMIT ?",
                (node, node, rule, rule, before, before, limit),
            )
            return [_issue(row) for row in rows]

        return self.database.do(work)

    def issue(self, number: int) -> tuple[Issue, list[Notice]] | None:
        """One, with what was told of it."""

        def work(connection: sqlite3.Connection) -> tuple[Issue, list[Notice]] | None:
            row = connection.execute(f"SELECT {_ISSUE} FROM issue WHERE number = ?", (number,)).fetchone()  # noqa: S608
            if row is None:
                return None
            notices = connection.execute(
                f"SELECT {_NOTICE} FROM notice JOIN issue ON issue.number = notice.issue"  # noqa: S608
                " WHERE notice.issue = ? ORDER BY notice.number",
                (number,),
            )
            return _issue(row), [_notice(each) for each in notices]

        return self.database.do(work)

    def counts(self) -> dict[str, int]:
        """Open issues by rule."""
        return self.database.do(
            lambda c: dict(c.execute("SELECT rule, count(*) FROM issue WHERE until IS NULL GROUP BY rule").fetchall())
        )


_ISSUE_COLUMNS = ("number", "key", "rule", "node", "pool", "error", "last_error", "since", "until", "how")
_ISSUE = ", ".join(f"issue.{name}" for name in _ISSUE_COLUMNS)
_RETURNED = ", ".join(_ISSUE_COLUMNS)
_NOTICE = "notice.number, what, target, notice.state, notice.since, due, tries, answer, " + _ISSUE


def _issue(row: Sequence[Any]) -> Issue:
    number, key, rule, node, pool, error, last_error, since, until, how = row
    return Issue(
        number=number, key=key, rule=Rule(rule), node=node, pool=pool, error=error, last_error=last_error, since=since,
        until=until, how=how,
    )  # fmt: skip


def _notice(row: Sequence[Any]) -> Notice:
    number, what, target, state, since, due, tries, answer = row[:8]
    return Notice(
        number=number, what=what, target=target, state=NoticeState(state), since=since, due=due, tries=tries,
        answer=answer, issue=_issue(row[8:]),
    )  # fmt: skip


def _open(connection: sqlite3.Connection, trouble: Trouble) -> Issue | None:
    """The issue, when there was none; else its last error is renewed."""
    error = trouble.error[:MAX_ERROR]
    changed = connection.execute(
        "UPDATE issue SET last_error = ? WHERE key = ? AND until IS NULL", (error, trouble.key)
    ).rowcount
    if changed:
        return None
    # A look may have seen the end before the event of the beginning was read.
    late = connection.execute(
        "SELECT 1 FROM issue WHERE key = ? AND until >= ? LIMIT 1", (trouble.key, trouble.since)
    ).fetchone()
    if late is not None and not trouble.is_there:
        return None
    row = connection.execute(
        "INSERT INTO issue (key, rule, node, pool, error, last_error, since, until, how)"  # noqa: S608 - our columns
        " VALUES (?, ?, ?, ?, ?, ?, ?, NULL, '') RETURNING " + _RETURNED,
        (trouble.key, trouble.rule.value, trouble.node, trouble.pool, error, error, trouble.since),
    ).fetchone()
    return _issue(row)


def _close(connection: sqlite3.Connection, over: Over) -> Issue | None:
    row = connection.execute(
        # What ended before it began is the end of an earlier one.
        "UPDATE issue SET until = ?, how = ? WHERE key = ? AND until IS NULL AND since <= ?"  # noqa: S608 - our columns
        " RETURNING " + _RETURNED,
        (over.at, over.how, over.key, over.at),
    ).fetchone()
    return None if row is None else _issue(row)


def _tell_opened(
    connection: sqlite3.Connection, issue: Issue, listeners: Sequence[Listener], now: float, quiet_s: float
) -> None:
    for listener in listeners:
        if issue.rule not in listener.rules:
            continue
        (last,) = connection.execute(
            "SELECT max(told) FROM notice JOIN issue ON issue.number = notice.issue"
            " WHERE issue.key = ? AND target = ? AND what = 'opened'",
            (issue.key, listener.name),
        ).fetchone()
        _add(connection, issue, "opened", listener.name, now, tell_at(last, now, quiet_s))


def _tell_closed(connection: sqlite3.Connection, issue: Issue, listeners: Sequence[Listener], now: float) -> None:
    rows = connection.execute(
        "SELECT target, max(tries) FROM notice WHERE issue = ? AND what = 'opened' GROUP BY target", (issue.number,)
    ).fetchall()
    connection.execute(
        "UPDATE notice SET state = 'needless', answer = CASE answer WHEN '' THEN 'it was over before' ELSE answer END"
        " WHERE issue = ? AND state = 'waiting'",
        (issue.number,),
    )
    wants = {listener.name: listener.recovery for listener in listeners}
    for target, tries in rows:
        opening = Notified.TRIED if tries else Notified.UNTRIED
        if tells_end(opening, wants_recovery=wants.get(target, False)):
            _add(connection, issue, "closed", target, now, now)


def _add(connection: sqlite3.Connection, issue: Issue, what: str, target: str, now: float, due: float) -> None:
    connection.execute(
        "INSERT INTO notice (issue, what, target, state, since, due) VALUES (?, ?, ?, 'waiting', ?, ?)",
        (issue.number, what, target, now, due),
    )


def _trim(connection: sqlite3.Connection, now: float) -> None:
    old = "SELECT number FROM issue WHERE until < ? ORDER BY number LIMIT 500"
    connection.execute(f"DELETE FROM notice WHERE issue IN ({old})", (now - KEEP_S,))  # noqa: S608
    connection.execute(f"DELETE FROM issue WHERE number IN ({old})", (now - KEEP_S,))  # noqa: S608
