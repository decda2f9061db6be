"""A message in memory on its way out."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from relay.envelope import Content, Message
from relay.router.disposition import Run
from relay.spool import Lease, QueueKey

Gate = Hashable
"""Class of messages of one pool that can or cannot be routed together."""


@dataclass(slots=True, eq=False)
class Job:
    """A leased message waiting for a node, or with one.

    Attributes:
        lease: the right to work on it; replaced as results are kept.
        message: as it is now; ahead of `lease.message` while results are not in the spool yet.
        begun: the spool knows that an attempt is open.
        content: kept from acceptance to spare a read, or None.
        run: what this run has come to; kept here because a job can wait for a place in the middle of its run.
        due: when the schedule wants the next attempt, once this run had one.
        undecided: was started, and has neither a place with a node nor another answer yet.
        told_at: when its being held was told last (epoch seconds).
        failures: how often it could not be given back to the spool.
    """

    key: QueueKey
    gate: Gate
    lease: Lease
    begun: bool = False
    content: Content | None = None
    run: Run = field(default_factory=Run)
    due: float = 0.0
    undecided: bool = False
    told_at: float = 0.0
    failures: int = 0
    message: Message = field(init=False)

    def __post_init__(self) -> None:
        self.message = self.lease.message

    def renew(self, lease: Lease) -> None:
        """The spool has kept what it was given; `lease` goes on."""
        self.lease = lease
        self.message = lease.message

    @property
    def has_news(self) -> bool:
        """Results are known here that the spool has not kept."""
        return self.message is not self.lease.message


def queue_key(message: Message) -> QueueKey:
    """The queue a message stands in."""
    return QueueKey(message.pool, message.lane, message.bridge)
