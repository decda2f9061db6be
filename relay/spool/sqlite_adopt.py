"""Taking over the messages of a shard whose owner is gone for good (fewer workers than before, another host's disk).

Messages move in slices, each safe at every moment:

1. large bodies get a second name in our folder,
2. our transaction writes the rows and notes their ids in `moving`,
3. the other shard's transaction removes them there,
4. our next transaction forgets the notes.

After a crash between 2 and 3 a message is in both places. The note makes the next adoption remove it there without
taking it again, even if it was delivered and is gone here by then. Only when a third process adopts the shard instead
of us may such a message be sent twice: at most one slice, once.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from relay.envelope import Lane, Message
from relay.errors import SpoolError
from relay.ids import is_id
from relay.spool import QueueKey, Standing
from relay.spool.ledger import pending_in
from relay.spool.sqlite_bodies import Bodies, Damaged
from relay.spool.sqlite_claim import Claim
from relay.spool.sqlite_core import Core, number_of
from relay.spool.sqlite_disk import Disk, remove_tree
from relay.spool.sqlite_recovery import UNKNOWN_QUEUE
from relay.spool.sqlite_rows import COLUMNS, STANDINGS, decode, refuse_newer
from relay.spool.sqlite_writes import Insert, add_queue, insert_apart

SLICE = 200

Row = tuple[Any, ...]
Taken = tuple[Row, Message | None, int]
Parcel = tuple[Row, QueueKey, tuple[Any, ...] | None]


@dataclass(slots=True)
class Adopted:
    """`moved`: how many messages are ours now. `open`: those whose attempt was open when their owner went; each may
    have been delivered. `damaged`: rows without a usable id; they stay where they are, and so does their shard."""

    moved: int = 0
    open: list[Message] = field(default_factory=list)
    damaged: int = 0


async def adopt(core: Core, directory: Path, shard: str, disk: Disk, now: float) -> Adopted:
    """Move everything out of `shard` and remove its files.

    Raises:
        SpoolError: it has an owner, a newer release wrote it, or it cannot be read; what has moved is ours.
    """
    path = directory / f"spool-{shard}.db"
    claim = await core.in_files(Claim, directory, shard)
    emptied = False
    try:
        refuse_newer(path)
        theirs = Bodies(directory / f"bodies-{shard}", disk)
        result = Adopted()
        try:
            source = await core.in_files(_open, path)
            try:
                position = -1
                while parcels := await core.in_files(_next_slice, source, position):
                    position = parcels[-1][0][0]
                    good = [parcel for parcel in parcels if is_id(str(parcel[0][9]))]
                    result.damaged += len(parcels) - len(good)
                    await _move(core, source, theirs, good, now, result)
            finally:
                await core.in_files(source.close)
        except sqlite3.Error as error:
            raise SpoolError(f"{path} cannot be read: {error}") from error
        if not result.damaged:
            emptied = True
            await core.in_files(_remove, directory, shard)
        return result
    finally:
        claim.release(remove=emptied)


async def _move(
    core: Core, source: sqlite3.Connection, theirs: Bodies, parcels: Sequence[Parcel], now: float, result: Adopted
) -> None:
    files = [row[9] for row, _, _ in parcels if row[13]]
    for message_id in files:
        try:
            await core.in_files(core.bodies.link, theirs.path(message_id), message_id)
        except FileNotFoundError:
            continue  # the row moves without it, and is quarantined when its content is asked for
        except OSError as error:
            raise SpoolError(f"the body of {message_id} cannot be moved: {error.strerror or error}") from error

    numbers = {key: core.tallies.number(key) for _, key, _ in parcels}

    def after(taken: list[Taken]) -> None:
        for row, message, pending in taken:
            core.ledger.took_over(pending)
            number, due, standing, _, _, _, size, received = row
            core.tallies.saved.add(number)
            kind = STANDINGS[standing] if standing in (0, 1, 2) else Standing.QUARANTINED
            core.tallies.add(number, kind, int(number_of(size)), number_of(received))
            if kind is Standing.QUEUED:
                core.tallies.by_number[number].waits(number_of(due))
            if message is not None:
                result.open.append(message)
        result.moved += len(taken)

    await core.run(partial(_take, parcels, numbers, now), after)
    await core.in_files(_delete, source, [row[0] for row, _, _ in parcels])
    for message_id in files:
        await core.in_files(theirs.remove, message_id)
    await core.run(_forget, lambda _: None)


def _open(path: Path) -> sqlite3.Connection:
    source = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    source.execute("PRAGMA synchronous=FULL")
    return source


def _next_slice(source: sqlite3.Connection, after: int) -> list[Parcel]:
    queues = {
        number: QueueKey(pool, Lane(lane), bridge)
        for number, pool, lane, bridge in source.execute("SELECT id, pool, lane, bridge FROM queue")
    }
    rows = source.execute(
        f"SELECT {COLUMNS} FROM message WHERE key > ? ORDER BY key LIMIT {SLICE}",  # noqa: S608 - our own columns
        (after,),
    ).fetchall()
    content = "SELECT sum, size, head, body FROM content WHERE key = ?"
    return [(row, queues.get(row[1], UNKNOWN_QUEUE), source.execute(content, (row[0],)).fetchone()) for row in rows]


def _take(
    parcels: Sequence[Parcel], numbers: dict[QueueKey, int], now: float, connection: sqlite3.Connection
) -> list[Taken]:
    taken: list[Taken] = []
    for key, number in numbers.items():
        add_queue(connection, number, key)
    for row, key, content in parcels:
        _, _, due, standing, begun, attempts, crashes, size, received, message_id, reason, total, data, file = row
        if connection.execute("SELECT 1 FROM moving WHERE id = ?", (message_id,)).fetchone():
            continue
        message = None
        if begun:
            due, crashes = now, int(number_of(crashes)) + 1
            with contextlib.suppress(Damaged):  # found again, and set aside, when its turn comes
                message = replace(decode(row), crashes=crashes)
        head = (numbers[key], due, standing, 0, attempts, crashes, size, received)
        columns = (*head, message_id, reason, total, data, file)
        # Without its content the message is found damaged when that is asked for, which is when it can be told.
        added = insert_apart(connection, Insert(message_id, numbers[key], None, columns, content or (0, 0, b"", None)))
        if isinstance(added, int):
            taken.append((head, message, pending_in(data)))
            connection.execute("INSERT OR IGNORE INTO moving VALUES (?)", (message_id,))
    return taken


def _delete(source: sqlite3.Connection, keys: Sequence[int]) -> None:
    source.execute("BEGIN IMMEDIATE")
    source.executemany("DELETE FROM message WHERE key = ?", [(key,) for key in keys])
    source.executemany("DELETE FROM content WHERE key = ?", [(key,) for key in keys])
    source.execute("COMMIT")


def _forget(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM moving")


def _remove(directory: Path, shard: str) -> None:
    remove_tree(directory / f"bodies-{shard}")
    for name in (f"ballast-{shard}", f"spool-{shard}.db", f"spool-{shard}.db-wal", f"spool-{shard}.db-shm"):
        (directory / name).unlink(missing_ok=True)
