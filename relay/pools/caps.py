"""Arithmetic of rolling caps: never more than `limit` recipients in any closed span of `window_s` seconds.

A ledger keeps one window of one candidate as counts in *slots* of time. A recipient taken in slot `i` counts until
slot `i + span` has begun, where `span` is chosen so that this is strictly later than `window_s` after the last moment
of slot `i`. So whatever the ledger lets through satisfies the exact rule; it only gives room back a little late.

How late. Slot widths are powers of two (…, 1/64 s, 4 s, 128 s), so that `now / width` and `slot * width` are exact in
binary floating point: no rounding can let a recipient through early, and `free_at` is the very first moment at which
the answer changes. The width is the largest such power not above `window_s` / 500, but not below 1/64 s (or a 64th of
windows shorter than a second)::

    window   slot      slots   room returns late by at most   steady rate, drained as soon as it fills
    1 s      1/64 s       64   1.56 %                         98.5 %
    10 s     1/64 s      640   0.16 %                         99.8 %
    1 min    1/16 s      960   0.10 %                         99.9 %
    1 h      4 s         900   0.11 %                         99.9 %
    1 day    128 s       675   0.15 %                         99.9 %

A cap burnt at once at the start of a slot is whole again `slots + 1` slots later, hence the rate slots / (slots + 1).
Windows that are not a multiple of their slot are late by less than two slots. Sizes stay small: a full day is 676
counts, 2.7 kB.

Pacing (`spread`): beside the rolling count, `n` recipients taken at once push the next moment at which any may be
taken to `n * window / limit` later. Both rules hold together, because pacing alone would let a batch at the end of
one window meet a batch at the start of the next.

Time that goes backwards never frees anything. Steps of up to `MAX_SKEW_S` are callers that read their clocks before
others who were quicker to the ledger: they are treated as coming at the latest time seen. Further steps are a clock
that was set back: what was taken in the abolished future counts as taken now, so a cap is shut for at most one window
instead of until the old time comes round again.

Times are epoch seconds. Ledgers are plain mutable values for stores; nothing here reads a clock.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping
from typing import Final

from relay.pools.pool import Cap

SLOTS: Final = 500
"""Least number of slots in a window of 8 s and more: a 500th late is 0.2 %."""

FINEST_S: Final = 1 / 64
"""No finer slots for windows of a second and more: the event loop wakes no more exactly than this is worth."""

COARSEST_SHARE: Final = 1 / 64
"""Windows below a second are still cut in 64."""

MAX_SKEW_S: Final = 60.0
"""Callers further behind the ledger than this have a clock that was set back, not a slow path to the ledger."""

MAX_LENT_S: Final = 1.0
"""Recipients are lent for less than this: so far ahead of now a ledger may hold counts."""

MAX_COUNT: Final = 2**31
"""Counts are kept in 32 bits; a slot holds at most this."""


def slot_width(window_s: float) -> float:
    """Width of a slot in seconds: a power of two."""
    wanted = max(window_s / SLOTS, min(FINEST_S, window_s * COARSEST_SHARE))
    return math.ldexp(1.0, math.frexp(wanted)[1] - 1)


class Ledger:
    """What was taken under one cap in the last window.

    Attributes:
        window_s: length of the window; the limit is not part of a ledger and may change at any time.
        used: recipients that count now, as of the last `expire`.
    """

    __slots__ = ("_counts", "_first", "_paced_at", "_paced_until", "_span", "_width", "used", "window_s")

    def __init__(self, window_s: float) -> None:
        if not (window_s > 0 and math.isfinite(window_s)):
            raise ValueError("a cap's window must be a positive number of seconds")
        self.window_s = window_s
        self.used = 0
        self._width = slot_width(window_s)
        self._span = math.ceil(window_s / self._width) + 1
        self._first = 0  # slot of _counts[0]; the first count is never 0
        self._counts = array("I")
        self._paced_at = -math.inf  # when a spread cap was last taken from
        self._paced_until = -math.inf  # when it may be taken from again

    @property
    def span(self) -> int:
        """Slots after which a recipient no longer counts, for stores that do this arithmetic elsewhere."""
        return self._span

    def expire(self, now: float) -> None:
        """Forget what no longer counts. O(slots that passed), so O(1) over a ledger's life."""
        if not self._counts:
            return
        gone = math.floor(now / self._width) - self._span - self._first + 1
        if gone > 0:
            self._drop(gone)

    def room(self, limit: int, now: float, *, spread: bool = False) -> int:
        """How many may be taken now. Call `expire` first."""
        if spread and now < self._paced_until:
            return 0
        return max(0, limit - self.used)

    def free_at(self, cost: int, limit: int, now: float, *, spread: bool = False) -> float:
        """The first moment, not before `now`, at which `cost` may be taken if nothing else is. Call `expire` first.

        More than the cap ever has room for is answered with the time at which all of it is free, or one window from
        now when the cap is 0.
        """
        if limit <= 0:
            return now + self.window_s
        at = max(now, self._paced_until) if spread else now
        over = self.used + min(cost, limit) - limit
        if over > 0:
            for slot, count in enumerate(self._counts, self._first + self._span):
                over -= count
                if over <= 0:
                    return max(at, slot * self._width)
        return at

    def take(self, cost: int, limit: int, now: float, *, spread: bool = False) -> None:
        """Count `cost` recipients at `now`, which `room` has allowed."""
        slot = math.floor(now / self._width)
        counts = self._counts
        if counts:
            ahead = slot - self._first - len(counts) + 1
            if ahead > 0:
                counts.frombytes(bytes(counts.itemsize * ahead))
        else:
            self._first = slot
            counts.append(0)
        counts[-1] += cost
        self.used += cost
        if spread:
            self._paced_at = now
            self._paced_until = now + cost * self.window_s / limit

    def give_back(self, count: int, granted: int, at: float) -> None:
        """Take back `count` of `granted` recipients that were taken at `at`. What has expired stays so."""
        index = math.floor(at / self._width) - self._first
        if 0 <= index < len(self._counts):
            count = min(count, self._counts[index])
            self._counts[index] -= count
            self.used -= count
            if index == 0:
                self._strip()
        if at == self._paced_at and granted > 0:
            # Only the last to be paced can hand its moment on: whoever came after it has already used the time.
            self._paced_until = at + (self._paced_until - at) * (max(0, granted - count) / granted)

    def fold(self, now: float) -> None:
        """The clock was set back to `now`: what lies in the future counts as taken now."""
        slot = math.floor(now / self._width)
        if self._counts and self._first + len(self._counts) - 1 > slot:
            keep = max(0, slot - self._first)
            future = sum(self._counts[keep:])
            if keep == 0:
                self._first = slot
            del self._counts[keep:]
            self._counts.append(min(future, MAX_COUNT))
            self.used = sum(self._counts)
        if self._paced_at > now:
            self._paced_until = now + (self._paced_until - self._paced_at)
            self._paced_at = now

    @property
    def free_from(self) -> float:
        """When nothing of this ledger matters any more."""
        last = (self._first + len(self._counts) - 1 + self._span) * self._width if self._counts else -math.inf
        return max(last, self._paced_until)

    def dump(self) -> tuple[int, array[int], int, float, float]:
        """First slot, counts by slot, their sum, pacing: numbers only, a list of which any store can keep. The array
        is the ledger's own: copy it at once."""
        return self._first, self._counts, self.used, self._paced_at, self._paced_until

    @classmethod
    def load(
        cls, window_s: float, first: int, counts: Iterable[int], used: int, paced_at: float, paced_until: float
    ) -> Ledger:
        """The ledger that was dumped.

        Args:
            used: the sum of the counts; adding up a full day takes longer than all else that is done to a ledger.

        Raises:
            ValueError: no ledger of this window looks like this.
        """
        ledger = cls(window_s)
        kept = counts if isinstance(counts, array) else array("I", counts)
        longest = ledger._span + math.ceil(MAX_LENT_S / ledger._width)
        if len(kept) > longest or (kept and not kept[0]) or bool(kept) != (used > 0):
            raise ValueError("counts do not fit the window")
        if math.isnan(paced_at) or math.isnan(paced_until):
            raise ValueError("pacing is not a time")
        ledger._first, ledger._counts, ledger.used = first, kept, used
        ledger._paced_at, ledger._paced_until = paced_at, paced_until
        return ledger

    def _drop(self, slots: int) -> None:
        counts = self._counts
        self.used -= sum(counts[:slots])
        del counts[:slots]
        self._first += slots
        self._strip()

    def _strip(self) -> None:
        """Drop leading slots that hold nothing, so that looking for the oldest is looking at the first."""
        counts = self._counts
        if not self.used:
            del counts[:]
            return
        empty = 0
        while not counts[empty]:
            empty += 1
        if empty:
            del counts[:empty]
            self._first += empty


class Book:
    """The ledgers of one candidate, which are taken from together or not at all.

    Windows that its caps no longer name stay until what they hold has expired: while a new configuration spreads over
    the workers, those still on the old one must not be robbed of their count.

    Attributes:
        latest: when it was last looked at or taken from; a look alone is not worth keeping.
        changed: it differs from what was loaded and must be kept.
    """

    __slots__ = ("_ledgers", "_sealed_at", "changed", "latest")

    def __init__(self, ledgers: Iterable[Ledger] = (), latest: float = -math.inf) -> None:
        self._ledgers = {ledger.window_s: ledger for ledger in ledgers}
        self._sealed_at: float | None = None
        self.latest = latest
        self.changed = False

    @classmethod
    def sealed(cls, now: float) -> Book:
        """Stands in for a book that was lost: every cap counts as used up at `now`."""
        book = cls(latest=now)
        book._sealed_at = now
        book.changed = True
        return book

    def arrive(self, now: float) -> float:
        """The time at which a caller whose clock says `now` is taken to come; never before those it found here."""
        if now < self.latest:
            if self.latest - now <= MAX_SKEW_S:
                return self.latest
            for ledger in self._ledgers.values():
                ledger.fold(now)
            self.changed = True  # or every look would begin the window anew, and a full cap would never open
        self.latest = now  # looking expires: who comes from before must not miss what is gone
        return now

    def ledger(self, window_s: float) -> Ledger:
        """The ledger of a window, empty when it is new."""
        ledger = self._ledgers.get(window_s)
        if ledger is None:
            ledger = self._ledgers[window_s] = Ledger(window_s)
            if self._sealed_at is not None:
                ledger.take(MAX_COUNT, MAX_COUNT, self._sealed_at)
        return ledger

    def room(self, caps: Iterable[Cap], cost: int, now: float) -> int:
        """How many of `cost` all caps let through now."""
        for cap in caps:
            ledger = self.ledger(cap.window_s)
            ledger.expire(now)
            cost = min(cost, ledger.room(cap.limit, now, spread=cap.spread))
        return cost

    def take(self, caps: Iterable[Cap], cost: int, now: float) -> None:
        """Count `cost` recipients under all caps, which `room` has allowed."""
        for cap in caps:
            self.ledger(cap.window_s).take(cost, cap.limit, now, spread=cap.spread)
        self.latest = now
        self.changed = True

    def lend(self, caps: Iterable[Cap], count: int, until: float) -> None:
        """Count `count` recipients who may be taken at any time from now to `until`, which `room` has allowed.

        They stand in the slot of `until` and use up room from now on: whenever they are taken, they count for a whole
        window after it. What is taken next may come to stand in that slot too, which is late, never early.
        """
        for cap in caps:
            self.ledger(cap.window_s).take(count, cap.limit, until)
        self.changed = True

    def give_back(self, windows: Iterable[float], count: int, granted: int, at: float) -> None:
        """Take back `count` of `granted` recipients that were taken at `at` in these windows."""
        for window_s in windows:
            ledger = self._ledgers.get(window_s)
            if ledger is not None:
                ledger.give_back(count, granted, at)
                self.changed = True

    def free_at(self, caps: Iterable[Cap], cost: int, now: float) -> float:
        """The first moment, not before `now`, at which all caps let `cost` through. `room` was asked before."""
        at = now
        for cap in caps:
            at = max(at, self.ledger(cap.window_s).free_at(cost, cap.limit, now, spread=cap.spread))
        return at

    def ledgers(self, now: float) -> Mapping[float, Ledger]:
        """What is worth keeping, by window."""
        return {window_s: ledger for window_s, ledger in self._ledgers.items() if ledger.free_from > now}

    @property
    def free_from(self) -> float:
        """When nothing of this book matters any more."""
        return max((ledger.free_from for ledger in self._ledgers.values()), default=-math.inf)
