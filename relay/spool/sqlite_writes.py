"""The writes of the hot path, done for a whole group of callers by a few statements.

They run in the writer thread. Kinds are done in the order in which one message meets them (stored, touched, rewritten,
removed), so that neighbours in a group may be sorted by kind.

Most groups only store and remove. Those are one statement: an INSERT into the view `work`, whose trigger does the rest.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any, NamedTuple

from relay.errors import SpoolError
from relay.group_commit import Batch, Statement
from relay.ids import key_of
from relay.spool import QueueKey
from relay.spool.sqlite_rows import KEY_RANGE

MANY = 64
"""Rows in one INSERT: enough to make a group of 20 clients one statement; each number is a statement to keep."""


class Insert(NamedTuple):
    """A new message. `row` and `content` are in column order after the key; `new_queue` when it was never seen."""

    id: str
    queue: int
    new_queue: QueueKey | None
    row: tuple[Any, ...]
    content: tuple[Any, ...]


class Touch(NamedTuple):
    """New values of everything small."""

    key: int
    due: float
    standing: int
    begun: int
    attempts: int
    reason: str
    crashes: int | None = None  # None: as it was


class Rewrite(NamedTuple):
    """New values of everything but the content."""

    key: int
    due: float
    standing: int
    begun: int
    attempts: int
    crashes: int
    reason: str
    sum: int
    data: bytes


class Remove(NamedTuple):
    """Row and content go."""

    key: int


Write = Insert | Touch | Rewrite | Remove

_ROW = "(?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
_CONTENT = "(?,?,?,?,?)"


def _statement(start: str, each: str, end: str = "") -> list[str]:
    return ["", *(f"{start}{','.join([each] * count)}{end}" for count in range(1, MANY + 1))]


_INSERT_ROWS = _statement("INSERT INTO message VALUES ", _ROW)
# A content row without a message is a leftover of damage; the message in hand is the one that counts.
_INSERT_CONTENT = _statement("INSERT OR REPLACE INTO content VALUES ", _CONTENT)
_DELETE_ROWS = _statement("DELETE FROM message WHERE key IN (", "?", ")")
_DELETE_CONTENT = _statement("DELETE FROM content WHERE key IN (", "?", ")")
_TOUCH = "UPDATE message SET due=?, standing=?, begun=?, attempts=?, reason=?, crashes=coalesce(?, crashes) WHERE key=?"
_REWRITE = "UPDATE message SET due=?, standing=?, begun=?, attempts=?, crashes=?, reason=?, sum=?, data=? WHERE key=?"


_WORK = (
    """CREATE TEMP VIEW work AS SELECT NULL AS removed, NULL AS key, NULL AS queue, NULL AS due, NULL AS standing,
    NULL AS begun, NULL AS attempts, NULL AS crashes, NULL AS size, NULL AS received, NULL AS id, NULL AS reason,
    NULL AS sum, NULL AS data, NULL AS file, NULL AS total, NULL AS length, NULL AS head, NULL AS body""",
    """CREATE TEMP TRIGGER storing INSTEAD OF INSERT ON work WHEN new.removed IS NULL BEGIN
    INSERT INTO message VALUES (new.key, new.queue, new.due, new.standing, new.begun, new.attempts, new.crashes,
        new.size, new.received, new.id, new.reason, new.sum, new.data, new.file);
    INSERT OR REPLACE INTO content VALUES (new.key, new.total, new.length, new.head, new.body);
    END""",
    """-- One row for all that goes: its keys as a JSON array.
    CREATE TEMP TRIGGER removing INSTEAD OF INSERT ON work WHEN new.removed IS NOT NULL BEGIN
    DELETE FROM message WHERE key IN (SELECT value FROM json_each(new.removed));
    DELETE FROM content WHERE key IN (SELECT value FROM json_each(new.removed));
    END""",
)
_AT_ONCE = _statement("INSERT INTO work VALUES ", f"({','.join('?' * 19)})")
_REST = (None,) * 18


def equip(connection: sqlite3.Connection) -> None:
    """Give the writer's connection its view."""
    for statement in _WORK:
        connection.execute(statement)


def at_once(asked: list[list[Write]]) -> Statement | None:
    """What a group asked for as one statement; None when it is more than storing and removing."""
    values: list[Any] = []
    removes: list[int] = []
    results: list[Any] = []
    rows = 0
    for writes in asked:
        result = None
        for write in writes:
            if type(write) is Remove:
                removes.append(write.key)
            elif type(write) is Insert and write.new_queue is None:
                result = key_of(write.id)
                values += (None, result, *write.row, *write.content)
                rows += 1
            else:
                return None
        results.append(result)
    if removes:
        values += (json.dumps(removes), *_REST)
        rows += 1
    return Statement(_AT_ONCE[rows], values, results) if 0 < rows <= MANY else None


def apply(connection: sqlite3.Connection, asked: list[list[Write]]) -> list[Any]:
    """Do what each caller asked for. An insert is asked for alone; its result is the row key, or `SpoolError` when
    the id is taken. The result of all else is None."""
    inserts: list[tuple[int, Insert]] = []
    touches: list[tuple[Any, ...]] = []
    rewrites: list[tuple[Any, ...]] = []
    removes: list[int] = []
    for position, writes in enumerate(asked):
        for write in writes:
            match write:
                case Remove():
                    removes.append(write.key)
                case Insert():
                    inserts.append((position, write))
                case Touch(key, due, standing, begun, attempts, reason, crashes):
                    touches.append((due, standing, begun, attempts, reason, crashes, key))
                case Rewrite(key, due, standing, begun, attempts, crashes, reason, total, data):
                    rewrites.append((due, standing, begun, attempts, crashes, reason, total, data, key))
    results: list[Any] = [None] * len(asked)
    if inserts:
        _insert(connection, inserts, results)
    if touches:
        connection.executemany(_TOUCH, touches)
    if rewrites:
        connection.executemany(_REWRITE, rewrites)
    for start in range(0, len(removes), MANY):
        keys = removes[start : start + MANY]
        connection.execute(_DELETE_ROWS[len(keys)], keys)
        connection.execute(_DELETE_CONTENT[len(keys)], keys)
    return results


def _insert(connection: sqlite3.Connection, inserts: list[tuple[int, Insert]], results: list[Any]) -> None:
    for _, insert in inserts:
        if insert.new_queue is not None:
            add_queue(connection, insert.queue, insert.new_queue)
    for start in range(0, len(inserts), MANY):
        part = inserts[start : start + MANY]
        keys = [key_of(insert.id) for _, insert in part]
        rows: list[Any] = []
        contents: list[Any] = []
        for key, (_, insert) in zip(keys, part, strict=True):
            rows.append(key)
            rows += insert.row
            contents.append(key)
            contents += insert.content
        try:
            connection.execute(_INSERT_ROWS[len(part)], rows)
        except sqlite3.IntegrityError:  # two ids with one key; the statement left no trace
            for position, insert in part:
                results[position] = insert_apart(connection, insert)
        else:
            connection.execute(_INSERT_CONTENT[len(part)], contents)
            for key, (position, _) in zip(keys, part, strict=True):
                results[position] = key


def add_queue(connection: sqlite3.Connection, number: int, key: QueueKey) -> None:
    connection.execute("INSERT OR IGNORE INTO queue VALUES (?,?,?,?)", (number, key.pool, key.lane.value, key.bridge))


def insert_apart(connection: sqlite3.Connection, insert: Insert) -> int | SpoolError:
    """Insert one message at the next free key from its own on."""
    first = key_of(insert.id)
    taken = connection.execute(
        "SELECT key, id FROM message WHERE key >= ? AND key < ? ORDER BY key", (first, first + KEY_RANGE)
    ).fetchall()
    key = first
    for used, message_id in taken:
        if message_id == insert.id:
            return SpoolError(f"a message {insert.id} is in the spool already")
        if used == key:
            key += 1
    if key >= first + KEY_RANGE:
        return SpoolError(f"no free key for message {insert.id}")
    connection.execute(_INSERT_ROWS[1], (key, *insert.row))
    connection.execute(_INSERT_CONTENT[1], (key, *insert.content))
    return key


WRITES = Batch(apply, at_once)
