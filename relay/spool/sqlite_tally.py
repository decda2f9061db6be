"""Counts kept in memory beside the database, so that depths cost one step for each queue instead of for each message.

Everything here runs on the event loop, after the commit that made it true.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from relay.spool import Depth, QueueKey, Standing

BUCKET_S = 10.0
"""Width of the age buckets: `Depth.oldest` may be that much too early after the oldest has gone."""


def bucket_of(received: float) -> int:
    return max(int(received // BUCKET_S), 0)


@dataclass(slots=True)
class Tally:
    """One queue.

    Attributes:
        counts: messages by standing.
        next_due: smallest due of what waits, if `known`; a lower bound from additions otherwise.
        known: False after something that waited was taken: the next look asks the database.
        ages: bucket of `received_at` → messages in it, smallest `received_at` seen in it.
    """

    key: QueueKey
    counts: dict[Standing, int] = field(default_factory=lambda: dict.fromkeys(Standing, 0))
    size: int = 0
    next_due: float | None = None
    known: bool = True
    ages: dict[int, list[float]] = field(default_factory=dict)
    _eldest: int | None = None

    @property
    def messages(self) -> int:
        counts = self.counts
        return counts[Standing.QUEUED] + counts[Standing.HELD] + counts[Standing.QUARANTINED]

    def add(self, standing: Standing, size: int, received: float, count: int = 1) -> None:
        """`count` messages of `size` octets together; `received` is the earliest."""
        self.counts[standing] += count
        self.size += size
        bucket = bucket_of(received)
        age = self.ages.get(bucket)
        if age is None:
            self.ages[bucket] = [count, received]
            if self._eldest is not None and bucket < self._eldest:
                self._eldest = bucket
        else:
            age[0] += count
            age[1] = min(age[1], received)

    def remove(self, standing: Standing, size: int, received: float) -> None:
        self.counts[standing] -= 1
        self.size -= size
        bucket = bucket_of(received)
        age = self.ages.get(bucket)
        if age is None:
            return  # a damaged row told another time before
        age[0] -= 1
        if age[0] == 0:
            del self.ages[bucket]
            if bucket == self._eldest:
                self._eldest = None

    def move(self, before: Standing, after: Standing) -> None:
        self.counts[before] -= 1
        self.counts[after] += 1

    def waits(self, due: float) -> None:
        """A message waits from now on."""
        if self.next_due is None or due < self.next_due:
            self.next_due = due

    def taken(self, due: float) -> None:
        """A message that waited does so no more."""
        if self.next_due is not None and due <= self.next_due:
            self.known = False

    def depth(self) -> Depth:
        if self._eldest is None and self.ages:
            self._eldest = min(self.ages)
        return Depth(
            key=self.key,
            queued=self.counts[Standing.QUEUED],
            held=self.counts[Standing.HELD],
            quarantined=self.counts[Standing.QUARANTINED],
            size=self.size,
            next_due=self.next_due,
            oldest=self.ages[self._eldest][1] if self._eldest is not None else None,
        )


class Tallies:
    """All queues, by number and by key, and their sums."""

    def __init__(self) -> None:
        self.by_number: dict[int, Tally] = {}
        self.numbers: dict[QueueKey, int] = {}
        self.saved: set[int] = set()
        self._last = 0
        self.messages = 0
        self.size = 0

    def number(self, key: QueueKey) -> int:
        """The number of a queue; a new one is to be written with the first message in it."""
        number = self.numbers.get(key)
        if number is None:
            number = self._last + 1
            self.register(number, key)
        return number

    def register(self, number: int, key: QueueKey) -> None:
        self._last = max(self._last, number)
        self.numbers[key] = number
        self.by_number[number] = Tally(key)

    def add(self, number: int, standing: Standing, size: int, received: float, count: int = 1) -> None:
        self.by_number[number].add(standing, size, received, count)
        self.messages += count
        self.size += size

    def remove(self, number: int, standing: Standing, size: int, received: float) -> None:
        self.by_number[number].remove(standing, size, received)
        self.messages -= 1
        self.size -= size
