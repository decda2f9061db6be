"""Whether there is room: free disk space, and the bounds an operator set.

New mail is refused while the disk still has `min_free` octets, because what was accepted needs room for its outcomes.
Below that lies the ballast: a file of real blocks that is given up when even an outcome cannot be written. Acceptance
stays shut until the ballast is back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from relay.errors import SpoolFull
from relay.spool.sqlite_disk import Disk

LOOK_EVERY_S = 1.0
"""Age at which the free-space figure is stale. A gigabit line writes 120 MB in that time, half the usual `min_free`."""


CRAMPED_BYTES = 2**20
"""Free space at which a small write can be expected to fail: a page or two for each store that shares the disk."""


class Room:
    """Room of one shard.

    Args:
        clock: monotonic seconds.
        max_messages, max_bytes: bounds on what is queued; 0 for none.
    """

    def __init__(
        self,
        directory: Path,
        disk: Disk,
        clock: Callable[[], float],
        *,
        min_free: int,
        ballast: Path,
        ballast_bytes: int,
        max_messages: int,
        max_bytes: int,
    ) -> None:
        self._directory = directory
        self._disk = disk
        self._clock = clock
        self._min_free = min_free
        self._ballast = ballast
        self._ballast_bytes = ballast_bytes
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._looked_at = float("-inf")
        self._free = 0
        self._given_up = False

    def set_bounds(self, *, min_free: int, max_messages: int, max_bytes: int) -> None:
        """From now on."""
        self._min_free, self._max_messages, self._max_bytes = min_free, max_messages, max_bytes
        self.look_again()

    def full_reason(self, messages: int, held_bytes: int, size: int = 0) -> str:
        """Why a message of `size` octets cannot be taken beside those, or empty."""
        if self._max_messages and messages >= self._max_messages:
            return f"the queue holds {messages} messages, its bound"
        if self._max_bytes and held_bytes + size > self._max_bytes:
            return f"the queue holds {held_bytes} octets, with this message more than its bound of {self._max_bytes}"
        now = self._clock()
        if now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = now
            try:
                self._free = self._disk.free_bytes(self._directory)
            except OSError as error:
                self._free = 0
                return f"the free space of {self._directory} cannot be told: {error.strerror or error}"
        needed = self._min_free + (self._ballast_bytes if self._given_up else 0)
        if self._free - size < needed:
            return f"{self._free} octets free in {self._directory}, {needed} are kept back"
        if self._given_up:
            self.reserve()
        return "the reserve for outcomes is not back yet" if self._given_up else ""

    def check(self, messages: int, held_bytes: int, size: int) -> None:
        """Raises SpoolFull when `full_reason` has one."""
        reason = self.full_reason(messages, held_bytes, size)
        if reason:
            raise SpoolFull(reason)

    def look_again(self) -> None:
        """The disk was found full: believe no figure of before."""
        self._looked_at = float("-inf")

    def reserve(self) -> None:
        """Lay the ballast. A disk too full for it leaves acceptance shut."""
        if not self._ballast_bytes:
            return
        try:
            if not self._ballast.exists() or self._ballast.stat().st_size != self._ballast_bytes:
                self._disk.reserve(self._ballast, self._ballast_bytes)
            self._given_up = False
        except OSError:
            self._given_up = True

    def relieve(self) -> bool:
        """Give up the ballast when the disk is full to the last blocks, although no write of ours has failed yet."""
        try:
            cramped = self._disk.free_bytes(self._directory) < CRAMPED_BYTES
        except OSError:
            return False
        return cramped and self.give_up_ballast()

    def give_up_ballast(self) -> bool:
        """Free the reserve so that outcomes can be written. False when it has gone already."""
        self.look_again()
        if self._given_up or not self._ballast_bytes:
            return False
        self._given_up = True
        with contextlib.suppress(OSError):
            self._disk.unlink(self._ballast)
        return True
