"""A message in memory on its way out."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from relay.envelope import Content, Message
from relay.router.disposition import Run
from relay.spool import Lease, QueueKey

Gate = Hashable
"""Class of messages that can or cannot be routed together; the first element is the pool's name."""


@dataclass(slots=True, eq=False)
class Job:
    """A leased message waiting for a node, or with one.

    Attributes:
        lease: the right to work on it; replaced as results are kept.
        begun: the spool knows that an attempt is open.
        content: kept from acceptance to spare a read, or None.
        run: what this run has come to; kept here because a job can wait for a place in the middle of its run.
        due: when the schedule wants the next attempt, once this run had one.
    """

    key: QueueKey
    gate: Gate
    lease: Lease
    begun: bool = False
    content: Content | None = None
    run: Run = field(default_factory=Run)
    due: float = 0.0

    @property
    def message(self) -> Message:
        return self.lease.message


def queue_key(message: Message) -> QueueKey:
    """The queue a message stands in."""
    return QueueKey(message.pool, message.lane, message.bridge)
