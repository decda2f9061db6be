"""Brings due messages from the spool into memory, a portion of each queue at a time.

Memory is bounded by sharing `WINDOW` out over the queues that have something waiting, not by a common limit: a dead
pool whose queues have filled their share keeps nobody else's mail out.

A queue holds messages of several classes (`job.Gate`). While all that is in memory of it waits behind closed gates,
others may lie behind them in the spool that could go; they are looked for, one portion a second over all such queues.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from relay.delivery.fair import FairQueue
from relay.envelope import Message
from relay.spool import Lease, QueueKey, Spool

WINDOW = 20_000
"""Jobs in memory (about 2 kB each), the size of Postfix's active queue; twice as many while queues come and go."""

PORTION = 500
"""Most jobs of one queue leased at a time: one query and no hot-path wait for some hundred milliseconds of work."""

LOW = 50
"""More of a queue is fetched when fewer than this are left."""

REST = 30
"""Surveys for which a blocked queue is left alone after it was searched to its end."""


@dataclass(slots=True)
class _Search:
    """How deep a blocked queue has been looked into, and for how many surveys it is left alone."""

    depth: int = 0
    rest: int = 0


class Intake:
    """One per worker.

    Args:
        queue_of: the jobs in memory of a pool.
        is_parked: whether the class of a message waits behind a closed gate.
        is_mixed: whether messages of this pool, all parked in memory, may have others behind them that are not.
        add: takes a leased message in.
        added: told the pool after each portion.
    """

    def __init__(
        self,
        spool: Spool,
        *,
        queue_of: Callable[[str], FairQueue],
        is_parked: Callable[[Message], bool],
        is_mixed: Callable[[str], bool],
        add: Callable[[Lease], None],
        added: Callable[[str], None],
    ) -> None:
        self.wanted = asyncio.Event()
        """Set when `refill` has something to do."""
        self.lock = asyncio.Lock()
        """Held while messages move from the spool into memory; who holds it keeps them where they are."""
        self._spool = spool
        self._queue_of = queue_of
        self._is_parked = is_parked
        self._is_mixed = is_mixed
        self._add = add
        self._added = added
        self._backlog: dict[QueueKey, None] = {}  # queues with due messages that are not in memory
        self._low: dict[QueueKey, None] = {}  # of those, the ones that memory runs out of; first come first served
        self._noted: set[QueueKey] = set()  # queues that got something while the spool was being asked
        self._searches: dict[QueueKey, _Search] = {}  # of blocked queues
        self._looks = 0
        self._closed = False
        self._portion = PORTION
        self._low_mark = LOW

    async def close(self) -> None:
        """On return nothing is on its way into memory, and nothing more will be."""
        self._closed = True
        async with self.lock:
            return

    def has(self, key: QueueKey) -> bool:
        """Older messages of this queue may be waiting in the spool."""
        return key in self._backlog

    def note(self, key: QueueKey) -> None:
        """The spool has something due for this queue."""
        self._backlog[key] = None
        self._noted.add(key)
        self.ask(key)

    def ask(self, key: QueueKey) -> None:
        """A job of this queue has left memory."""
        if key in self._backlog and key not in self._low and self._queue_of(key.pool).waiting(key) < self._low_mark:
            self._low[key] = None
            self.wanted.set()

    async def survey(self, now: float) -> None:
        """Ask the spool which queues have something due. Once a second.

        Raises:
            SpoolError: what was known stays in use.
        """
        self._noted.clear()
        due = [d.key for d in await self._spool.depths() if d.next_due is not None and d.next_due <= now]
        self._backlog = dict.fromkeys([*due, *self._noted])
        self._portion = min(PORTION, max(1, WINDOW // max(1, len(self._backlog))))
        self._low_mark = min(LOW, (self._portion + 1) // 2)
        searches: dict[QueueKey, _Search] = {}
        for key in self._backlog:
            self.ask(key)
            if key not in self._low and self._queue_of(key.pool).is_blocked(key) and self._is_mixed(key.pool):
                search = searches[key] = self._searches.get(key) or _Search()
                search.rest -= search.rest > 0
        self._searches = searches

    async def refill(self, now: float) -> None:
        """Lease a portion for each queue that memory runs out of now.

        Raises:
            SpoolError: the rest is asked for again by the next survey.
        """
        self.wanted.clear()
        low, self._low = self._low, {}
        for key in low:
            async with self.lock:
                if self._closed:
                    return
                self._noted.discard(key)
                leases = await self._spool.lease_due(key, now=now, limit=self._portion)
                if len(leases) < self._portion and key not in self._noted:
                    self._backlog.pop(key, None)
                for lease in leases:
                    self._add(lease)
            if leases:
                self._added(key.pool)

    async def look_behind(self, now: float) -> None:
        """Look for messages that could go behind the parked ones of one blocked queue. The queues take turns.

        Raises:
            SpoolError: nothing has changed.
        """
        open_ = [key for key, search in self._searches.items() if not search.rest]
        if not open_:
            return
        self._looks += 1
        key = open_[self._looks % len(open_)]
        search = self._searches[key]
        async with self.lock:
            if self._closed:
                return
            leases = await self._spool.lease_due(key, now=now, limit=PORTION, skip=search.depth)
            parked = []
            for lease in leases:
                if self._is_parked(lease.message):
                    parked.append(lease)
                else:
                    self._add(lease)
            if parked:
                await self._spool.release(parked)
        search.depth += len(parked)
        if len(leases) < PORTION:
            search.depth, search.rest = 0, REST
        if len(leases) > len(parked):
            self._added(key.pool)
