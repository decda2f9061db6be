"""What operators do with the queue: look, retry, hold, drop.

Rows are read in slices, claimed like leases so that no delivery takes them meanwhile, and written; a queue of 200,000
messages is never in memory and never blocks the writer for long.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from relay.envelope import Message
from relay.ids import is_id, key_of
from relay.spool import Entry, QueueKey, Selection, Standing
from relay.spool.memory import matches
from relay.spool.sqlite_bodies import Damaged
from relay.spool.sqlite_core import Core, Held, number_of
from relay.spool.sqlite_rows import CODES, COLUMNS, STANDINGS, decode, placeholder, read_row
from relay.spool.sqlite_writes import Remove, Touch, Write

SLICE = 500
"""Rows in one transaction: some 10 ms of the writer's time."""

Row = tuple[Any, ...]


def shown(row: Row, queue: QueueKey) -> Message:
    try:
        return decode(row)
    except Damaged:
        return placeholder(row, queue)


def entry_of(core: Core, row: Row) -> Entry:
    key, queue, due, standing, *_ = row
    held = core.by_key.get(key)
    message = held.leases[-1].message if held and held.leases else shown(row, core.queue_key(queue))
    return Entry(
        message=message,
        standing=STANDINGS[standing] if standing in (0, 1, 2) else Standing.QUARANTINED,
        due=number_of(due),
        reason=str(row[10]),
        leased=held is not None and bool(held.leases),
    )


async def find(core: Core, message_id: str) -> Entry | None:
    row = await core.read(lambda connection: read_row(connection, message_id))
    return entry_of(core, row) if row else None


async def entries(core: Core, selection: Selection, *, limit: int, after: str) -> list[Entry]:
    found: list[Entry] = []
    async for rows in slices(core, selection, after=after):
        found += [entry_of(core, row) for row in rows[: limit - len(found)]]
        if len(found) >= limit:
            break
    return found


async def retry(core: Core, selection: Selection, now: float) -> int:
    def change(_: Row, held: Held) -> Write:
        return Touch(held.key, now, CODES[Standing.QUEUED], 0, held.attempts, "", crashes=0)

    def after(core: Core, row: Row, held: Held) -> None:
        tally = core.tallies.by_number[held.queue]
        tally.move(_standing(row), Standing.QUEUED)
        if _standing(row) is Standing.QUEUED:
            tally.taken(held.due)
        tally.waits(now)

    return len(await _change(core, selection, change, after))


async def hold(core: Core, selection: Selection, reason: str, standing: Standing) -> int:
    def change(row: Row, held: Held) -> Write | None:
        if _standing(row) is not Standing.QUEUED:
            return None
        return Touch(held.key, held.due, CODES[standing], 0, held.attempts, reason)

    def after(core: Core, _: Row, held: Held) -> None:
        tally = core.tallies.by_number[held.queue]
        tally.move(Standing.QUEUED, standing)
        tally.taken(held.due)

    return len(await _change(core, selection, change, after))


async def drop(core: Core, selection: Selection) -> list[Message]:
    def change(_: Row, held: Held) -> Write:
        return Remove(held.key)

    def after(core: Core, row: Row, held: Held) -> None:
        core.ledger.removed(shown(row, core.queue_key(row[1])))
        core.tallies.by_number[held.queue].taken(held.due)
        core.tallies.remove(held.queue, _standing(row), held.size, held.received)
        if held.file:
            core.remove_body(held.id)

    rows = await _change(core, selection, change, after)
    return [shown(row, core.queue_key(row[1])) for row in rows]


async def _change(
    core: Core,
    selection: Selection,
    change: Callable[[Row, Held], Write | None],
    after: Callable[[Core, Row, Held], None],
) -> list[Row]:
    """Apply `change` to every selected row that is not leased; the rows that were changed, as they were."""
    changed: list[Row] = []
    with core.watch() as stale:
        async for rows in slices(core, selection):
            claimed: list[tuple[Row, Held]] = []
            writes: list[Write] = []
            for row in rows:
                if row[0] in core.by_key or row[0] in stale:
                    continue
                held = _claim(row)
                write = change(row, held)
                if write is not None:
                    core.by_key[held.key] = held
                    claimed.append((row, held))
                    writes.append(write)
            if not claimed:
                continue

            def done(_: None, claimed: list[tuple[Row, Held]] = claimed) -> None:
                for row, held in claimed:
                    after(core, row, held)
                    core.end(held)

            helds = [held for _, held in claimed]
            try:
                await core.write(writes, done, helds)
            finally:
                _unclaim(core, helds)
            changed += [row for row, _ in claimed]
    return changed


def _unclaim(core: Core, helds: list[Held]) -> None:
    """Let go of what is still claimed, once no write about it is on its way."""
    pending = helds[0].pending
    if pending is not None and not pending.finished:
        pending.when_finished(lambda: _unclaim(core, helds))
        return
    for held in helds:
        if core.by_key.get(held.key) is held:
            del core.by_key[held.key]


def _claim(row: Row) -> Held:
    key, queue, due, _, _, attempts, _, size, received, message_id, reason, _, _, file = row
    attempts = int(number_of(attempts))
    return Held(
        key=key,
        id=str(message_id),
        queue=queue,
        size=int(number_of(size)),
        received=number_of(received),
        due=number_of(due),
        begun=False,
        attempts=attempts,
        base=attempts,
        file=bool(file),
        reason=str(reason),
    )


def _standing(row: Row) -> Standing:
    return STANDINGS[row[3]] if row[3] in (0, 1, 2) else Standing.QUARANTINED


async def slices(core: Core, selection: Selection, *, after: str = "") -> AsyncIterator[list[Row]]:
    """The selected rows, in slices, by id."""
    if selection.ids:
        wanted = sorted(message_id for message_id in set(selection.ids) if message_id > after)
        for start in range(0, len(wanted), SLICE):
            part = wanted[start : start + SLICE]
            rows = await core.read(partial(_by_ids, part))
            picked = [row for row in rows if _selected(core, selection, row)]
            if picked:
                yield picked
        return
    where, values = _condition(core, selection)
    if where is None:
        return
    position = key_of(after) if is_id(after) else -1
    passed = after
    while True:
        rows = await core.read(partial(_slice, where, (*values, position)))
        # The first key may be that of `after` itself, or of another id with the same key.
        picked = [row for row in rows if str(row[9]) > passed and _selected(core, selection, row)]
        if picked:
            yield picked
        if len(rows) < SLICE:
            return
        position, passed = rows[-1][0] + 1, ""


def _by_ids(ids: list[str], connection: sqlite3.Connection) -> list[Row]:
    return [row for message_id in ids if (row := read_row(connection, message_id))]


def _slice(where: str, values: tuple[Any, ...], connection: sqlite3.Connection) -> list[Row]:
    rows: list[Row] = connection.execute(
        f"SELECT {COLUMNS} FROM message WHERE {where} AND key >= ? ORDER BY key LIMIT {SLICE}",  # noqa: S608
        values,
    ).fetchall()
    return rows


def _condition(core: Core, selection: Selection) -> tuple[str | None, tuple[Any, ...]]:
    """What SQLite can sift; the text only roughly. None when no queue fits. The unary plus keeps it walking by key."""
    parts: list[str] = ["1"]
    values: list[Any] = []
    if selection.pool or selection.bridge:
        numbers = [number for number, tally in core.tallies.by_number.items() if _fits(selection, tally.key)]
        if not numbers:
            return None, ()
        parts.append(f"+queue IN ({','.join('?' * len(numbers))})")
        values += numbers
    if selection.standing is not None:
        parts.append("+standing = ?")
        values.append(CODES[selection.standing])
    text = selection.text.lower()
    # JSON holds these characters as they are, and SQLite lowers no others; for the rest each row is looked into.
    if text and text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        parts.append("instr(lower(CAST(data AS TEXT)), ?)")
        values.append(text)
    return " AND ".join(parts), tuple(values)


def _fits(selection: Selection, key: QueueKey) -> bool:
    return selection.pool in ("", key.pool) and selection.bridge in ("", key.bridge)


def _selected(core: Core, selection: Selection, row: Row) -> bool:
    if selection.standing is not None and _standing(row) is not selection.standing:
        return False
    key = core.queue_key(row[1])
    if not _fits(selection, key):
        return False
    return not selection.text or matches(shown(row, key), selection.text)
