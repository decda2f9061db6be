"""Books of caps as octets: one row for each candidate, holding the ledgers of all its windows.

One row, because the windows are always read and written together: a permit costs one SELECT and one UPSERT for each
candidate of a group, whatever the number of windows. A busy row of second, hour and day is 6.6 kB (two pages of log).

Layout, little-endian: CRC-32 of the rest; latest; then for each ledger window, first slot, paced at, paced until,
used, number of counts, counts of 32 bits.

A row that does not read back is not trusted to be empty: its caps count as used up, and open again by themselves one
window later.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array

from relay.pools.caps import Book, Ledger

_HEAD = struct.Struct("<Id")
_LEDGER = struct.Struct("<dqddQI")
_SWAP = sys.byteorder == "big"


class DamagedBook(ValueError):
    """The octets are not what `pack` wrote."""


def pack(book: Book, now: float) -> bytes:
    """The octets of a book, without the ledgers that no longer matter."""
    parts = [_HEAD.pack(0, book.latest)]
    for window_s, ledger in book.ledgers(now).items():
        first, counts, used, paced_at, paced_until = ledger.dump()
        parts.append(_LEDGER.pack(window_s, first, paced_at, paced_until, used, len(counts)))
        parts.append(_swapped(counts).tobytes())
    body = b"".join(parts)
    return struct.pack("<I", zlib.crc32(memoryview(body)[4:])) + body[4:]


def unpack(data: bytes) -> Book:
    """The book that was packed. Raises DamagedBook."""
    try:
        crc, latest = _HEAD.unpack_from(data)
        if crc != zlib.crc32(memoryview(data)[4:]):
            raise DamagedBook("checksum differs")
        ledgers = []
        offset = _HEAD.size
        while offset < len(data):
            window_s, first, paced_at, paced_until, used, length = _LEDGER.unpack_from(data, offset)
            offset += _LEDGER.size
            counts = array("I")
            counts.frombytes(data[offset : offset + length * counts.itemsize])
            offset += length * counts.itemsize
            ledgers.append(Ledger.load(window_s, first, _swapped(counts), used, paced_at, paced_until))
        return Book(ledgers, latest)
    except (struct.error, ValueError) as error:
        raise DamagedBook(str(error)) from error


def _swapped(counts: array[int]) -> array[int]:
    if _SWAP:
        counts = counts[:]
        counts.byteswap()
    return counts
