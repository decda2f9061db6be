"""Counting what is open at once, against limits."""

from __future__ import annotations

from collections import Counter
from typing import Protocol


class ConnectionCounter(Protocol):
    """Counts connections under keys such as `total`, `peer 192.0.2.7` and `bridge shop`.

    Hot path, called on the event loop: implementations never block. One that spans processes must forget what a
    dead process held.
    """

    def take(self, key: str, limit: int) -> bool:
        """Count one more under `key`; False, and nothing counted, when there are `limit` already (0 = no limit)."""
        ...

    def give_back(self, key: str) -> None:
        """Undo one `take` that said True."""
        ...


class ProcessCounter:
    """Counts within this process."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    def take(self, key: str, limit: int) -> bool:
        count = self._open[key]
        if limit and count >= limit:
            return False
        self._open[key] = count + 1
        return True

    def give_back(self, key: str) -> None:
        if self._open[key] <= 1:
            del self._open[key]
        else:
            self._open[key] -= 1

    def open(self, key: str) -> int:
        """How many are counted under `key` now."""
        return self._open.get(key, 0)
