"""Counts of open connections that all worker processes of a machine see.

A count-min sketch in anonymous shared memory made before the workers are forked. Every worker writes only its own
column and reads all of them, so there is nothing to lock and a worker that dies leaves at worst its own column
wrong, which the supervisor then clears.

A key is hashed to one cell in each of two rows; its count is the smaller of the two sums over all workers. The count
is never too low (but for two workers entering the same key within the same microsecond, who may both see the lower
one) and too high only when other open connections share both cells: with 1,000 addresses connected, two addresses in
10,000.
"""

from __future__ import annotations

import mmap
import secrets
from functools import lru_cache
from hashlib import blake2b

ROWS = 2
REMEMBERED = 4096
"""Keys whose cells are not computed again."""

_WORD = 4  # uint32 cells: no worker holds 4 billion connections, so none can overflow


class SharedCounters:
    """The memory of all columns. Make it before forking; each worker then takes `worker(index)`.

    Args:
        workers: number of columns.
        width: cells in a row; memory is `workers * (2 * width + 1) * 4` octets, touched only where used.
    """

    def __init__(self, workers: int, *, width: int = 65536) -> None:
        if workers < 1 or not 1 <= width <= 2**32:
            raise ValueError("workers and width must be positive")
        self._width = width
        self._column = ROWS * width + 1  # the last cell is the column's total
        self._memory = mmap.mmap(-1, workers * self._column * _WORD)
        self._cells = memoryview(self._memory).cast("I")
        self._workers = workers
        self._key = secrets.token_bytes(16)  # shared by fork; peers cannot aim at each other's cells
        self._starts = tuple(range(0, workers * self._column, self._column))
        # A connection asks for each of its keys twice, and `total` is in all of them.
        self._places = lru_cache(REMEMBERED)(self._find_places)

    def worker(self, index: int) -> WorkerCounters:
        """The view of worker `index`, which alone may write its column."""
        if not 0 <= index < self._workers:
            raise IndexError("no such worker")
        return WorkerCounters(self, index)

    def clear(self, index: int) -> None:
        """Zero the column of a worker that is no more. For the supervisor, before the worker is started again."""
        start = index * self._column * _WORD
        self._memory[start : start + self._column * _WORD] = bytes(self._column * _WORD)

    def count(self, key: str) -> int:
        """Connections of `key` over all workers."""
        return self._sum(*self._places(key))

    def total(self) -> int:
        """Entries over all keys and workers."""
        cells, step = self._cells, self._column
        return sum(cells[worker * step + step - 1] for worker in range(self._workers))

    def _find_places(self, key: str) -> tuple[int, int]:
        digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16, key=self._key).digest()
        first = int.from_bytes(digest[:8], "little") % self._width
        return first, self._width + int.from_bytes(digest[8:], "little") % self._width

    def _sum(self, first: int, second: int) -> int:
        cells = self._cells
        one = other = 0
        for start in self._starts:
            one += cells[start + first]
            other += cells[start + second]
        return min(one, other)


class WorkerCounters:
    """One worker's hand on the shared counts; a `listener.counters.ConnectionCounter`. One thread at a time."""

    def __init__(self, shared: SharedCounters, index: int) -> None:
        self._shared = shared
        self._cells = shared._cells
        self._start = index * shared._column
        self._total = self._start + shared._column - 1

    def enter(self, key: str) -> int:
        """Count one connection of `key`. Returns its count over all workers, this one included."""
        first, second = self._shared._places(key)
        cells, start = self._cells, self._start
        cells[start + first] += 1
        cells[start + second] += 1
        cells[self._total] += 1
        return self._shared._sum(first, second)

    def leave(self, key: str) -> None:
        """Take back one `enter` of this worker.

        Raises:
            ValueError: this worker never entered it; nothing is changed.
        """
        first, second = self._shared._places(key)
        cells, start = self._cells, self._start
        if not (cells[start + first] and cells[start + second] and cells[self._total]):
            raise ValueError("leave without enter")
        cells[start + first] -= 1
        cells[start + second] -= 1
        cells[self._total] -= 1

    def take(self, key: str, limit: int) -> bool:
        """Enter `key` unless `limit` are in already (0 = no limit). Entered first and taken back, so that workers
        racing for the last place refuse one too many rather than admit one too many."""
        if self.enter(key) <= limit or not limit:
            return True
        self.leave(key)
        return False

    def give_back(self, key: str) -> None:
        self.leave(key)

    def count(self, key: str) -> int:
        return self._shared.count(key)

    def total(self) -> int:
        return self._shared.total()
