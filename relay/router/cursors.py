"""Turns of the rotation cursors, taken from the shared state in blocks.

A cursor belongs to a pool, to one campaign of a pool, and to one set of nodes that are fit for a kind of mail: two
kinds that alternate on one cursor could each meet always the same node.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from relay.errors import StateUnavailable
from relay.state import State

BLOCK = 32
"""Turns taken at once. A worker that stops loses at most these, which no proportion over a day notices."""

CURSORS = 4096
"""Cursors in memory, about 500 bytes each; the least recently used is forgotten with the rest of its block."""

OWN_TURNS = 4
"""Turns of a campaign that are taken without the state: most campaign tags are seen a few times in a worker, and some
clients send a new one with every message. Those must not cost a durable write each."""

ALL_FIT = -1
"""`CursorKey.fit` where every node of the pool is fit, whatever their number."""


class CursorKey(NamedTuple):
    """`campaign`: tag or empty. `fit`: as in `selection.GateKey`, or ALL_FIT."""

    pool: str
    campaign: str
    fit: int

    def __str__(self) -> str:
        campaign = f"/campaign:{self.campaign}" if self.campaign else ""
        nodes = f"/nodes:{self.fit:x}" if self.fit != ALL_FIT else ""
        return f"pool:{self.pool}{campaign}{nodes}"


@dataclass(slots=True, eq=False)
class _Cursor:
    """Turns `next` to `end` are ours. `offset` is added to the numbers of the state."""

    next: int
    end: int
    offset: int
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Cursors:
    """The cursors of one worker.

    Args:
        state: asked for a block when one is used up; while it is away, turns go on from the last number. They may
            then be the turns of other workers too, which skews shares a little and stops nothing.
    """

    def __init__(self, state: State, *, block: int = BLOCK, limit: int = CURSORS) -> None:
        self._state = state
        self._block = block
        self._limit = limit
        self._cursors: OrderedDict[CursorKey, _Cursor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._cursors)

    def take(self, key: CursorKey) -> int | None:
        """The next turn, or None when a block must be fetched first. No I/O: hot path."""
        cursor = self._cursors.get(key)
        if cursor is None:
            cursor = self._add(key)
        else:
            self._cursors.move_to_end(key)
        if cursor.next == cursor.end:
            return None
        turn = cursor.next
        cursor.next = turn + 1
        return turn

    async def fetch(self, key: CursorKey) -> int:
        """The next turn, with a new block where it takes one."""
        cursor = self._cursors.get(key) or self._add(key)
        async with cursor.lock:
            if cursor.next == cursor.end:
                try:
                    first = await self._state.turns(str(key), self._block)
                except StateUnavailable:
                    cursor.end += self._block
                else:
                    cursor.next = first + cursor.offset
                    cursor.end = cursor.next + self._block
            turn = cursor.next
            cursor.next = turn + 1
            return turn

    def _add(self, key: CursorKey) -> _Cursor:
        if key.campaign:
            # Many small campaigns must not all begin with the first node.
            start = zlib.crc32(key.campaign.encode("utf-8", "surrogateescape"))
            cursor = _Cursor(start, start + OWN_TURNS, start + OWN_TURNS)
        else:
            cursor = _Cursor(0, 0, 0)
        self._cursors[key] = cursor
        if len(self._cursors) > self._limit:
            self._cursors.popitem(last=False)
        return cursor
