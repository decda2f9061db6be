"""One value that all worker processes of a machine share, and that outlives each of them.

Anonymous shared memory, made before the workers are forked: two slots and a number. The number says which slot holds
the value; a new one is written into the other slot and becomes the value by raising the number, a single store of
eight octets. So a reader finds the old value or the new one and nothing between, whenever a writer dies.

Nothing of it is ever written to a disk by us, and it is left out of core dumps: the value may hold secrets.
"""

from __future__ import annotations

import contextlib
import mmap
import struct

from relay.errors import ConfigError

CAPACITY = 64 * 2**20
"""Octets of a value; pages that are never written to cost nothing. A configuration of 10,000 nodes takes some 15 MB."""

_NUMBER, _LENGTH = struct.Struct("=Q"), struct.Struct("=Q")


class SharedValue:
    """Make it before forking. One writer at a time: the caller keeps writers apart."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._slot = capacity + _LENGTH.size
        self._memory = mmap.mmap(-1, _NUMBER.size + 2 * self._slot)
        if hasattr(mmap, "MADV_DONTDUMP"):
            with contextlib.suppress(OSError):
                self._memory.madvise(mmap.MADV_DONTDUMP)

    @property
    def generation(self) -> int:
        """How often a value became current; 0 while there is none."""
        number: int = _NUMBER.unpack_from(self._memory, 0)[0]
        return number

    def offer(self, value: bytes) -> None:
        """Write a candidate beside the current value.

        Raises:
            ConfigError: it is too large.
        """
        if len(value) > self._capacity:
            raise ConfigError(f"{len(value)} octets are more than the {self._capacity} that workers can share")
        start = self._start(self.generation + 1)
        _LENGTH.pack_into(self._memory, start, len(value))
        self._memory[start + _LENGTH.size : start + _LENGTH.size + len(value)] = value

    def candidate(self) -> bytes:
        """What was offered last, unless it has become current."""
        return self._read(self.generation + 1)

    def commit(self) -> int:
        """The candidate becomes the value. Returns the new generation."""
        number = self.generation + 1
        _NUMBER.pack_into(self._memory, 0, number)
        return number

    def current(self) -> tuple[int, bytes]:
        """Generation and value; (0, b"") while there is none."""
        while number := self.generation:
            value = self._read(number)
            if self.generation == number:  # a slot is written to only while the other one is current
                return number, value
        return 0, b""

    def _start(self, number: int) -> int:
        return _NUMBER.size + (number & 1) * self._slot

    def _read(self, number: int) -> bytes:
        start = self._start(number)
        length = _LENGTH.unpack_from(self._memory, start)[0]
        return self._memory[start + _LENGTH.size : start + _LENGTH.size + length]
