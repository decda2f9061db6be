"""The spool on one machine: SQLite in WAL mode, one fsync for many messages, large bodies as files.

One process owns a shard (`spool-0.db`) and nobody else writes to it; leases therefore live in memory and end with the
process. `relay.group_commit` gives the durability, `sqlite_core` keeps memory and disk of one mind, this module is
the contract of `relay.spool` on top of them.

The way of most messages is two writes: stored with its first attempt begun, removed when it was delivered. Neither
touches an index, and the content is still in memory when the attempt asks for it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from relay.envelope import Content, Message
from relay.errors import SpoolError, SpoolUnhealthy
from relay.group_commit import Committer, GroupCommit, StoreBusy, StoreFailed, StoreFull
from relay.spool import Depth, Entry, Lease, QueueKey, Selection, Standing
from relay.spool import sqlite_accept as accept
from relay.spool import sqlite_adopt as adoption
from relay.spool import sqlite_operator as operator
from relay.spool import sqlite_work as work
from relay.spool.ledger import Ledger, count_pending
from relay.spool.sqlite_adopt import Adopted
from relay.spool.sqlite_bodies import Bodies, Damaged, checksum
from relay.spool.sqlite_claim import Claim
from relay.spool.sqlite_core import Core
from relay.spool.sqlite_disk import Disk, probe
from relay.spool.sqlite_recovery import Recovered, load, recover
from relay.spool.sqlite_room import Room
from relay.spool.sqlite_rows import (
    find_key,
    migrate,
    read_row,
    refuse_newer,
)
from relay.spool.sqlite_writes import equip


class SqliteSpool:
    """`relay.spool.Spool` in a folder of the local disk. Call `start` before all else, then `recover`.

    Args:
        directory: made with mode 0700 if need be.
        shard: name of our part of it; one process each.
        min_free: octets of disk below which nothing new is taken.
        ballast_bytes: reserve for outcomes on a full disk; 0 for none.
        max_messages, max_bytes: bounds on what is queued; 0 for none.
        on_quarantine: told the id and the reason when damage was found.
        clock: monotonic seconds, for the age of the free-space figure.
        disk, committer: stand-ins for file operations and COMMIT in tests.
    """

    def __init__(
        self,
        directory: Path,
        shard: str = "0",
        *,
        min_free: int = 256 * 2**20,
        ballast_bytes: int = 64 * 2**20,
        max_messages: int = 0,
        max_bytes: int = 0,
        on_quarantine: Callable[[str, str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        disk: Disk | None = None,
        committer: Committer | None = None,
    ) -> None:
        self._directory = directory
        self._shard = shard
        self._disk = disk or Disk()
        self._path = directory / f"spool-{shard}.db"
        self._claim: Claim | None = None
        room = Room(
            directory,
            self._disk,
            clock,
            min_free=min_free,
            ballast=directory / f"ballast-{shard}",
            ballast_bytes=ballast_bytes,
            max_messages=max_messages,
            max_bytes=max_bytes,
        )
        self._core = Core(
            GroupCommit(self._path, migrate=migrate, equip=equip, committer=committer),
            Bodies(directory / f"bodies-{shard}", self._disk),
            room,
            on_quarantine,
        )

    @property
    def ledger(self) -> Ledger:
        """What became of the recipients, as of this moment."""
        return self._core.ledger

    # Life

    async def start(self) -> None:
        """Claim the shard, open it, sweep what a crash left behind.

        Raises:
            SpoolError: the folder does not work, another process owns the shard, or a newer release wrote it; in
                words for an operator. Nothing was changed.
        """
        core = self._core
        await core.in_files(self._open_folder)
        try:
            await core.group.start()
            names = await core.in_files(core.bodies.names)
            strays = await core.read(partial(_without_row, names))
            await core.in_files(core.bodies.sweep, strays)
            core.tallies = await core.run(load, lambda _: None)
            core.ledger.took_over(await core.read(count_pending))
        except BaseException as error:
            await self.close()
            if isinstance(error, StoreFull | StoreBusy | StoreFailed | sqlite3.Error | OSError):
                raise SpoolUnhealthy(f"{self._path} cannot be opened: {error}") from error
            raise

    def _open_folder(self) -> None:
        probe(self._directory, self._disk)
        refuse_newer(self._path)
        self._claim = Claim(self._directory, self._shard)
        try:
            self._core.bodies.prepare()
        except OSError as error:
            raise SpoolError(f"{self._directory}: no folder for bodies: {error.strerror or error}") from error
        self._core.room.reserve()

    def set_bounds(self, *, min_free: int, max_messages: int, max_bytes: int) -> None:
        """Bounds of what may wait, from now on."""
        self._core.room.set_bounds(min_free=min_free, max_messages=max_messages, max_bytes=max_bytes)

    async def close(self) -> None:
        """Finish what was asked for, then close files and give the shard up. Safe to call twice."""
        await self._core.finish_chores()
        await self._core.group.close()
        self._core.files.shutdown(wait=True)
        claim, self._claim = self._claim, None
        if claim is not None:
            claim.release()

    async def recover(self, now: float) -> list[Message]:
        core = self._core

        def after(recovered: Recovered) -> None:
            core.tallies = recovered.tallies
            core.end_all()

        recovered = await core.run(partial(recover, now=now), after)
        for message_id, why in recovered.damaged:
            core.tell_quarantined(message_id, why)
        return recovered.open

    async def adopt(self, shard: str, *, now: float) -> Adopted:
        """Move all messages of an unclaimed shard of this folder into ours and remove its files.

        Raises:
            SpoolError: it has an owner, or cannot be read.
        """
        return await adoption.adopt(self._core, self._directory, shard, self._disk, now)

    # Work

    async def store(self, message: Message, content: Content, *, lease: bool) -> Lease | None:
        return await accept.store(self._core, message, content, lease)

    async def lease_due(self, key: QueueKey, *, now: float, limit: int, skip: int = 0) -> list[Lease]:
        return await work.lease_due(self._core, key, now=now, limit=limit, skip=skip)

    async def lease(self, message_id: str) -> Lease | None:
        return await work.lease(self._core, message_id)

    async def begin(self, leases: Sequence[Lease]) -> list[Lease]:
        return await work.begin(self._core, leases)

    async def progress(self, lease: Lease, message: Message) -> Lease:
        return await work.progress(self._core, lease, message)

    async def settle(
        self, lease: Lease, message: Message, *, due: float, standing: Standing = Standing.QUEUED, reason: str = ""
    ) -> None:
        await work.settle(self._core, lease, message, due, standing, reason)

    async def release(self, leases: Sequence[Lease], *, due: float | None = None, reason: str = "") -> None:
        await work.release(self._core, leases, due, reason)

    # Reading

    async def confirm(self, lease: Lease) -> None:
        """There is no other owner."""

    async def content(self, message_id: str) -> Content:
        core = self._core
        remembered = core.remembered(message_id)
        if remembered is not None:
            return remembered
        row, stored = await core.read(partial(_content, message_id))
        if row is None:
            raise SpoolError(f"message {message_id} is not in the spool")
        try:
            if stored is None:
                raise Damaged("the content is missing")
            total, size, head, body = stored
            if not isinstance(head, bytes) or not isinstance(body, bytes | None):
                raise Damaged("the content is not octets")
            if body is None:
                file = await core.in_files(core.bodies.check, message_id, head, size, total)
                return Content(head, file)
            if len(body) != size or checksum(message_id, head, (body,)) != total:
                raise Damaged("the content was changed on disk")
            return Content(head, body)
        except OSError as error:
            raise SpoolError(f"the body of message {message_id} cannot be read now: {error}") from error
        except Damaged as error:
            await core.quarantine(row, str(error))
            raise SpoolError(f"message {message_id} is damaged and was quarantined: {error}") from error

    async def depths(self) -> list[Depth]:
        core = self._core
        stale = [number for number, tally in core.tallies.by_number.items() if not tally.known]
        if stale:
            await self._look_up_dues(stale)
        return [tally.depth() for tally in core.tallies.by_number.values() if tally.messages]

    async def _look_up_dues(self, numbers: list[int]) -> None:
        core = self._core
        tallies = [core.tallies.by_number[number] for number in numbers]
        for tally in tallies:
            tally.known, tally.next_due = True, None
        room = 1 + sum(1 for held in core.by_key.values() if not held.begun)
        with core.watch() as changed:
            try:
                found = await core.read(partial(_next_dues, numbers, room))
            except BaseException:
                for tally in tallies:
                    tally.known = False
                raise
            for tally, rows in zip(tallies, found, strict=True):
                for due, key in rows:
                    if key not in core.by_key and key not in changed:
                        tally.waits(due)
                        break
                else:
                    # Passed over all that was seen, some of it because it changed meanwhile: look again next time.
                    tally.known = tally.known and len(rows) < room

    async def find(self, message_id: str) -> Entry | None:
        return await operator.find(self._core, message_id)

    async def entries(self, selection: Selection, *, limit: int, after: str = "") -> list[Entry]:
        return await operator.entries(self._core, selection, limit=limit, after=after)

    async def retry(self, selection: Selection, *, now: float) -> int:
        return await operator.retry(self._core, selection, now)

    async def hold(self, selection: Selection, *, reason: str, standing: Standing = Standing.HELD) -> int:
        return await operator.hold(self._core, selection, reason, standing)

    async def drop(self, selection: Selection) -> list[Message]:
        return await operator.drop(self._core, selection)

    def broken_reason(self) -> str:
        """Why only a fresh process could go on with these files, or empty. A disk that is merely full is no such
        reason."""
        return self._core.group.failure

    def unhealthy_reason(self) -> str:
        return self._core.group.failure or self._core.stuck

    def full_reason(self, size: int = 0) -> str:
        """Why a message of `size` octets would be refused for lack of room now, or empty. At most one statvfs a
        second: hot path."""
        return self._core.room.full_reason(self._core.tallies.messages, self._core.tallies.size, size)

    async def relieve(self) -> bool:
        """Give up the reserve when the disk is full to the last blocks. For a ticker.

        A write of this spool does so by itself; but permits and health have files of their own on the same disk, and
        where they cannot be written no message gets as far as a write of the spool.

        Returns:
            True when it was given up just now.
        """
        return await self._core.in_files(self._core.room.relieve)


def _without_row(names: list[str], connection: sqlite3.Connection) -> list[str]:
    return [name for name in names if find_key(connection, name) is None]


def _next_dues(numbers: list[int], limit: int, connection: sqlite3.Connection) -> list[list[tuple[float, int]]]:
    return [
        connection.execute(
            "SELECT due, key FROM message INDEXED BY waiting"
            " WHERE queue = ? AND standing = 0 AND begun = 0 ORDER BY due LIMIT ?",
            (number, limit),
        ).fetchall()
        for number in numbers
    ]


def _content(message_id: str, connection: sqlite3.Connection) -> tuple[Any, Any]:
    row = read_row(connection, message_id)
    if row is None:
        return None, None
    stored = connection.execute("SELECT sum, size, head, body FROM content WHERE key = ?", (row[0],)).fetchone()
    return row, stored
