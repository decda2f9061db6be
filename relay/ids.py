"""Ids of messages: ULIDs that sort by acceptance and carry the key of their row.

A ULID is 128 bits in 26 characters of Crockford base32 (no I, L, O, U): 48 bits of milliseconds since 1970, then 80
bits that ours use so::

    48 milliseconds │ 15 counter │ 16 shard tag │ 49 random
    └──── 63 bits: the row key ──┘

The counter starts at a random value in the lower half each millisecond and counts up, so ids of one source always
grow, and two sources seldom share a row key. The clock may stand still or go back: then the last millisecond goes on
being used; a counter that runs over borrows the next one.

Source: the ULID specification; Crockford, "Base 32".
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

_COUNTER_BITS = 15
_TAG_BITS = 16
_LAST_MS = 2**48 - 1
_RANDOM_BITS = 49
_PAIRS = tuple(high + low for high in ALPHABET for low in ALPHABET)
_SHAPE = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_TO_BASE32 = str.maketrans(ALPHABET, "0123456789abcdefghijklmnopqrstuv")
_FROM_TYPED = str.maketrans("ILO", "110")


class IdSource:
    """Makes ids for one process.

    Args:
        clock: epoch seconds.
        shard: name of the spool shard; two sources with different names never make the same id but by a 1 in 2^16
            clash of their tags and then of 49 random bits.
        bits: `bits(n)` gives n random bits; predictable ids harm nothing, so speed decides.
    """

    def __init__(self, clock: Callable[[], float], shard: str = "0", bits: Callable[[int], int] | None = None) -> None:
        self._clock = clock
        self._bits = bits or random.Random().getrandbits
        tag = int(shard) if shard.isascii() and shard.isdigit() else zlib.crc32(shard.encode())
        self._tag = (tag % 2**_TAG_BITS) << _RANDOM_BITS
        self._ms = -1
        self._counter = 0
        self._prefix = ""

    def next(self) -> str:
        """A new id, greater than all before. Hot path."""
        ms = min(max(int(self._clock() * 1000), 0), _LAST_MS)
        if ms > self._ms:
            self._start(ms)
        else:
            self._counter += 1
            if self._counter >= 2**_COUNTER_BITS:
                self._start(self._ms + 1)
        rest = self._counter << (_TAG_BITS + _RANDOM_BITS) | self._tag | self._bits(_RANDOM_BITS)
        pairs = _PAIRS
        return (
            f"{self._prefix}{pairs[rest >> 70]}{pairs[rest >> 60 & 1023]}{pairs[rest >> 50 & 1023]}"
            f"{pairs[rest >> 40 & 1023]}{pairs[rest >> 30 & 1023]}{pairs[rest >> 20 & 1023]}"
            f"{pairs[rest >> 10 & 1023]}{pairs[rest & 1023]}"
        )

    def _start(self, ms: int) -> None:
        self._ms = min(ms, _LAST_MS)
        self._counter = self._bits(_COUNTER_BITS - 1)
        self._prefix = "".join(_PAIRS[self._ms >> shift & 1023] for shift in (40, 30, 20, 10, 0))


def is_id(text: str) -> bool:
    """Whether `text` is an id in the form we make: 26 characters, upper case."""
    return _SHAPE.fullmatch(text) is not None


def parse(text: str) -> str:
    """The id an operator typed: any case, with the letters Crockford reads as digits (I, L, O).

    Raises:
        ValueError: it is none.
    """
    candidate = text.strip().upper().translate(_FROM_TYPED)
    if not is_id(candidate):
        raise ValueError(f"{text!r} is not a message id: 26 letters and digits, as in 01ARZ3NDEKTSV4RRFFQ69G5FAV")
    return candidate


def key_of(id: str) -> int:
    """Row key: milliseconds and counter, a positive 63-bit integer that sorts as the ids do. `id` must be valid."""
    return int(id[:13].translate(_TO_BASE32), 32)


def time_of(id: str) -> float:
    """Epoch seconds at which the id was made. `id` must be valid."""
    return int(id[:10].translate(_TO_BASE32), 32) / 1000
