"""How many failed logins an address and a name may have, and how slowly they are answered.

Each key (client address, name, or both) owns a leaky bucket: a failure adds one drop, one drop leaks out every
`window_s / failures` seconds, and a bucket without room for a drop refuses. So at most `failures` come through at once
and as many again in each `window_s`, smoothly, without a list of times. IPv6 clients count by /64, the smallest block
one subscriber gets.

An owner is not locked out by strangers (B083): from an address where the name logged in before, the buckets of
address and name do not count; only a wider one for exactly this name at this address does.

Buckets are 16 octets each (keyed hash of the key, time at which the bucket is empty) in fixed tables of anonymous
shared memory. That bounds the memory, and worker processes forked after construction share the buckets. They write
without locks: two failures of one key in the same microsecond may count once. Time is `CLOCK_MONOTONIC`, which all
processes of a machine share. When a table is full the bucket that is empty soonest makes room.

No I/O, no clock of its own. Not counted: checks still under way, so a burst may overshoot by as many as the password
checker lets wait.
"""

from __future__ import annotations

import math
import mmap
import secrets
import socket
import struct
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

REMEMBERED = 1024
"""Pairs of address and name whose hashes are not computed again."""

_WAYS = 8
_SET = struct.Struct(f"={_WAYS}Q{_WAYS}d")  # the keys of a set, then their times
_KEY, _TIME = struct.Struct("=Q"), struct.Struct("=d")
_MAPPED = b"\0" * 10 + b"\xff\xff"  # ::ffff:0:0/96, RFC 4291 §2.5.5.2


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleLimits:
    """`failures` per `window_s` for an address and for a name; `known_failures` for a name where it logged in before.

    Attributes:
        remember_s: how long an address counts as known after the last login of the name.
        delay_s, max_delay_s: how long the first failure waits for its answer; doubles with every drop in the bucket.
    """

    address_failures: int = 10
    name_failures: int = 20
    known_failures: int = 100
    window_s: float = 600.0
    remember_s: float = 30 * 86400.0
    delay_s: float = 1.0
    max_delay_s: float = 8.0


def address_key(peer: str) -> bytes:
    """What failures of this client count under: IPv4 address, IPv6 /64, or the text itself when it is no address."""
    try:
        if ":" not in peer:
            return socket.inet_pton(socket.AF_INET, peer)
        packed = socket.inet_pton(socket.AF_INET6, peer.partition("%")[0])
    except (OSError, ValueError):
        return b"?" + peer.encode("utf-8", "surrogatepass")
    return packed[12:] if packed.startswith(_MAPPED) else packed[:8]


class AuthThrottle:
    """Failure counts of logins. `now` is monotonic seconds throughout; `name` is normalised by the caller.

    Args:
        slots: entries of each of the three tables; a power of two, at least 8.
    """

    def __init__(self, limits: ThrottleLimits | None = None, *, slots: int = 65536) -> None:
        self._limits = limits or ThrottleLimits()
        self._key = secrets.token_bytes(16)
        self._buckets = _Slots(slots)
        self._known_buckets = _Slots(slots)
        self._known = _Slots(slots)
        # Asked for before and after each check of a password, and again by the client's next connection.
        self._keys = lru_cache(REMEMBERED)(self._make_keys)

    def admits(self, peer: str, name: str, now: float) -> bool:
        """Whether a login may be checked at all."""
        limits = self._limits
        at, who, pair = self._keys(peer, name)
        if self._is_known(pair, now):
            return self._has_room(self._known_buckets, pair, limits.known_failures, now)
        return self._has_room(self._buckets, at, limits.address_failures, now) and self._has_room(
            self._buckets, who, limits.name_failures, now
        )

    def failed(self, peer: str, name: str, now: float) -> float:
        """Count a failed login. Returns seconds to wait before answering it."""
        limits = self._limits
        at, who, pair = self._keys(peer, name)
        if self._is_known(pair, now):
            level = self._fill(self._known_buckets, pair, limits.known_failures, now)
        else:
            level = max(
                self._fill(self._buckets, at, limits.address_failures, now),
                self._fill(self._buckets, who, limits.name_failures, now),
            )
        # The exponent is bounded before the power, so that wide limits cannot overflow a float.
        return min(limits.max_delay_s, limits.delay_s * math.exp2(min(level - 1.0, 32.0)))

    def succeeded(self, peer: str, name: str, now: float) -> None:
        """Remember that `name` logged in from `peer`. Earlier failures stay: a guesser with one login of his own
        gains nothing by it."""
        self._known.put(self._keys(peer, name)[2], now + self._limits.remember_s)

    def _make_keys(self, peer: str, name: str) -> tuple[int, int, int]:
        """Keyed hashes of address, name and both: crafted names cannot aim at somebody's bucket."""
        address, user = address_key(peer), name.encode("utf-8", "surrogatepass")
        at = self._hash(b"a" + address)
        return at, self._hash(b"n" + user), self._hash(b"p%d\0" % at + user)

    def _hash(self, text: bytes) -> int:
        return int.from_bytes(blake2b(text, digest_size=8, key=self._key).digest(), "little") or 1

    def _is_known(self, pair: int, now: float) -> bool:
        return self._known.get(pair) > now

    def _has_room(self, table: _Slots, key: int, failures: int, now: float) -> bool:
        """Whether one more drop fits: a bucket is full when it needs all of `window_s` to run empty."""
        window = self._limits.window_s
        return table.get(key) - now <= window - window / failures + 1e-6  # float rounding of a few additions

    def _fill(self, table: _Slots, key: int, failures: int, now: float) -> float:
        drop = self._limits.window_s / failures
        empty_at = min(max(table.get(key), now) + drop, now + self._limits.window_s)
        table.put(key, empty_at)
        return (empty_at - now) / drop


class _Slots:
    """Fixed table of (key, time) in anonymous shared memory, eight possible places for each key."""

    def __init__(self, slots: int) -> None:
        if slots < _WAYS or slots & (slots - 1):
            raise ValueError("slots: a power of two, at least 8")
        self._sets = slots // _WAYS
        self._memory = mmap.mmap(-1, self._sets * _SET.size)

    def get(self, key: int) -> float:
        """The time kept for `key`, or 0.0."""
        entries: tuple[float, ...] = _SET.unpack_from(self._memory, key % self._sets * _SET.size)
        keys = entries[:_WAYS]
        return entries[_WAYS + keys.index(key)] if key in keys else 0.0

    def put(self, key: int, at: float) -> None:
        start = key % self._sets * _SET.size
        entries: tuple[float, ...] = _SET.unpack_from(self._memory, start)
        keys, times = entries[:_WAYS], entries[_WAYS:]
        place = keys.index(key) if key in keys else times.index(min(times))
        _KEY.pack_into(self._memory, start + place * _KEY.size, key)
        _TIME.pack_into(self._memory, start + _WAYS * _KEY.size + place * _TIME.size, at)
