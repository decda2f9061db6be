"""What the parts of the SQLite spool share: the file, the leases, the tallies, and how they stay of one mind.

Leases and tallies live on the event loop; rows live behind the writer and reader threads. Three rules join them:

- Memory changes only in the `after` of a commit, so it never promises what the disk does not hold.
- What a reader thread found may be old when the loop sees it. Each read in progress has a *watch*, a set of the row
  keys that changed meanwhile; rows in it, and leased rows, are passed over.
- A lease has at most one write on its way; the next waits for it, also when whoever asked for the first was
  cancelled. So writes about one message reach the file in the order in which they were asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from relay.envelope import Content, Message
from relay.errors import SpoolError, SpoolFull, SpoolUnhealthy
from relay.group_commit import GroupCommit, StoreBusy, StoreFailed, StoreFull, Ticket
from relay.spool import Lease, LeaseLost, QueueKey, Standing
from relay.spool.ledger import Ledger
from relay.spool.sqlite_bodies import Bodies
from relay.spool.sqlite_room import Room
from relay.spool.sqlite_rows import CODES
from relay.spool.sqlite_tally import Tallies
from relay.spool.sqlite_writes import WRITES, Touch, Write

T = TypeVar("T")

CACHE_BYTES = 64 * 2**20
"""Contents kept in memory from acceptance until the first attempt ends: 16,000 messages of 4 kB."""


@dataclass(slots=True, eq=False)
class Held:
    """A row that is leased.

    Attributes:
        base: `attempts` that `release` goes back to.
        file: the body is a file.
        leases: every lease object handed out for this hold; all are good until it ends.
        pending: the write on its way, if any.
    """

    key: int
    id: str
    queue: int
    size: int
    received: float
    due: float
    begun: bool
    attempts: int
    base: int
    file: bool = False
    reason: str = ""
    leases: list[Lease] = field(default_factory=list)
    pending: Ticket | None = None


class Core:
    """Shared by `SqliteSpool` and its helpers; not for others."""

    def __init__(
        self,
        group: GroupCommit,
        bodies: Bodies,
        room: Room,
        on_quarantine: Callable[[str, str], None] | None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.group = group
        self.bodies = bodies
        self.room = room
        self.tallies = Tallies()
        self.ledger = Ledger()
        self.files = ThreadPoolExecutor(2, thread_name_prefix="spool-files")
        self.by_lease: dict[Lease, Held] = {}
        self.by_key: dict[int, Held] = {}
        self.stuck = ""
        self._on_quarantine = on_quarantine
        self._watches: list[set[int]] = []
        self._cache: dict[str, Content] = {}
        self._cache_room = cache_bytes
        self._chores: set[asyncio.Task[Any]] = set()

    # Reading

    @contextlib.contextmanager
    def watch(self) -> Iterator[set[int]]:
        """The keys that change inside the block."""
        changed: set[int] = set()
        self._watches.append(changed)
        try:
            yield changed
        finally:
            self._watches.remove(changed)

    def changed(self, key: int) -> None:
        for watch in self._watches:
            watch.add(key)

    async def read(self, op: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await self.group.read(op)
        except (StoreFull, StoreBusy, StoreFailed) as error:
            raise translated(error) from error

    async def in_files(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.files, work, *args)

    # Writing

    def join(
        self, writes: Sequence[Write], *, size: int, after: Callable[[Any], None], patient: bool = False
    ) -> Ticket:
        try:
            return self.group.join(WRITES, writes, size=size, after=after, patient=patient)
        except StoreFailed as error:
            raise SpoolUnhealthy(str(error)) from error

    async def write(
        self,
        writes: Sequence[Write],
        after: Callable[[Any], None],
        helds: Sequence[Held] = (),
        size: int = 0,
        *,
        patient: bool = False,
    ) -> None:
        """Write about leased rows; on a full disk the ballast is given up for it.

        Raises:
            SpoolFull, SpoolUnhealthy, SpoolError: nothing was kept, or it cannot be known.
        """
        for last in (False, True):
            ticket = self.join(writes, size=size, after=after, patient=patient)
            for held in helds:
                held.pending = ticket
            try:
                await ticket.future
            except StoreFull as error:
                if last or not await self.in_files(self.room.give_up_ballast):
                    self.stuck = f"disk full, outcomes cannot be written: {error}"
                    raise translated(error) from error
            except (StoreBusy, StoreFailed) as error:
                raise translated(error) from error
            else:
                self.stuck = ""
                return

    async def run(self, op: Callable[[sqlite3.Connection], T], after: Callable[[T], None]) -> T:
        """A write that is none of the hot path."""
        try:
            return await self.group.run(op, after=after)
        except (StoreFull, StoreBusy, StoreFailed) as error:
            raise translated(error) from error

    # Leases

    def hold(self, held: Held, message: Message) -> Lease:
        lease = Lease(message)
        held.leases.append(lease)
        self.by_lease[lease] = held
        self.by_key[held.key] = held
        return lease

    def end(self, held: Held) -> None:
        """The lease is over, and the row changed or is gone."""
        for lease in held.leases:
            self.by_lease.pop(lease, None)
        self.by_key.pop(held.key, None)
        self.changed(held.key)
        self.forget(held.id)

    def end_all(self) -> None:
        for held in list(self.by_key.values()):
            self.end(held)

    async def held(self, lease: Lease) -> Held:
        """The row behind a lease, with no write on its way.

        Raises:
            LeaseLost: settled, released or quarantined before.
        """
        while (held := self.by_lease.get(lease)) is not None:
            if held.pending is None or held.pending.finished:
                return held
            await held.pending.finish()
        raise LeaseLost(f"message {lease.message.id} is not leased by this lease any more")

    # Contents

    def remember(self, message_id: str, content: Content) -> None:
        """Keep a content in memory if there is room: the first attempt follows at once and saves the reading."""
        size = content.size if isinstance(content.body, bytes) else len(content.head)
        if size <= self._cache_room:
            self._cache_room -= size
            self._cache[message_id] = content

    def remembered(self, message_id: str) -> Content | None:
        return self._cache.get(message_id)

    def forget(self, message_id: str) -> None:
        content = self._cache.pop(message_id, None)
        if content is not None:
            self._cache_room += content.size if isinstance(content.body, bytes) else len(content.head)

    # Quarantine

    async def quarantine(self, row: tuple[Any, ...], why: str) -> None:
        """Set a damaged row aside; a lease on it ends."""
        key, queue, due, standing, _, attempts, _, _, _, message_id, *_ = row
        held = self.by_key.get(key)

        def after(_: None) -> None:
            tally = self.tallies.by_number[queue]
            if standing == CODES[Standing.QUEUED]:
                tally.move(Standing.QUEUED, Standing.QUARANTINED)
                tally.taken(number_of(due))
            elif standing == CODES[Standing.HELD]:
                tally.move(Standing.HELD, Standing.QUARANTINED)
            if held is not None:
                self.end(held)
            self.changed(key)
            if self._on_quarantine is not None:
                self._on_quarantine(str(message_id), why)

        touch = Touch(key, number_of(due), CODES[Standing.QUARANTINED], 0, int(number_of(attempts)), f"damaged: {why}")
        await self.write([touch], after, [held] if held else [])

    def tell_quarantined(self, message_id: str, why: str) -> None:
        if self._on_quarantine is not None:
            self._on_quarantine(message_id, why)

    # Chores

    def spawn(self, work: Awaitable[Any]) -> None:
        """Do something nobody waits for; its failure shows in `unhealthy_reason` or at the next start."""
        task = asyncio.ensure_future(_quietly(work))
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    def remove_body(self, message_id: str) -> None:
        self.spawn(self.in_files(self.bodies.remove, message_id))

    async def finish_chores(self) -> None:
        while self._chores:
            await asyncio.wait(self._chores)

    def queue_key(self, number: int) -> QueueKey:
        return self.tallies.by_number[number].key


async def _quietly(work: Awaitable[Any]) -> None:
    with contextlib.suppress(SpoolError, RuntimeError):
        await work


def translated(error: Exception) -> SpoolError:
    """The store's trouble in the spool's words."""
    match error:
        case StoreFull():
            return SpoolFull(str(error))
        case StoreFailed():
            return SpoolUnhealthy(str(error))
        case _:
            return SpoolError(str(error))


def number_of(value: object) -> float:
    """A column that should be a number; 0 when damage made it something else."""
    return float(value) if isinstance(value, int | float) else 0.0
