"""What became of the recipients a spool has taken: the books that a scrape must balance.

The law, per recipient and at every moment::

    found + accepted = delivered + failed + expired + dropped + withdrawn + pending

*found* were in the files when this process opened them, or came with a shard it took over; *accepted* were stored since
then, reports of our own included; *withdrawn* were stored too late to be promised and taken out again. Counted on the
loop in the very step that makes each change known, so no look at the books can fall between two sides of one change.
What `delivery: direct` hands on without storing it never enters them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from relay.envelope import Message, Recipient, RecipientStatus

_PENDING = RecipientStatus.PENDING
_DELIVERED = RecipientStatus.DELIVERED


@dataclass(slots=True)
class Ledger:
    """Recipients, since this process opened the spool. `pending` is kept by itself, not derived."""

    found: int = 0
    accepted: int = 0
    delivered: int = 0
    failed: int = 0
    expired: int = 0
    dropped: int = 0
    withdrawn: int = 0
    pending: int = 0

    def took_over(self, pending: int) -> None:
        """These are in the files."""
        self.found += pending
        self.pending += pending

    def stored(self, recipients: Sequence[Recipient]) -> None:
        """A message is kept. Hot path."""
        count = 0
        for recipient in recipients:
            if recipient.status is _PENDING:
                count += 1
        self.accepted += count
        self.pending += count

    def settled(self, before: Message, after: Message) -> None:
        """Results of a message are kept; `after` without recipients was never promised to anybody. Hot path."""
        if not after.recipients:
            count = len(before.pending)
            self.withdrawn += count
            self.pending -= count
            return
        for old, new in zip(before.recipients, after.recipients, strict=False):
            status = new.status
            if old.status is not _PENDING or status is _PENDING:
                continue
            self.pending -= 1
            if status is _DELIVERED:
                self.delivered += 1
            elif status is RecipientStatus.FAILED:
                self.failed += 1
            elif status is RecipientStatus.EXPIRED:
                self.expired += 1
            else:
                self.dropped += 1

    def removed(self, message: Message) -> None:
        """An operator took it out."""
        count = len(message.pending)
        self.dropped += count
        self.pending -= count


def pending_in(data: bytes) -> int:
    """Pending recipients of a stored row; 0 for one that cannot be read."""
    try:
        return sum(each["status"] == _PENDING.value for each in orjson.loads(data)["recipients"])
    except (KeyError, TypeError, ValueError):
        return 0


def count_pending(connection: sqlite3.Connection) -> int:
    """Pending recipients of a whole file."""
    return sum(pending_in(data) for (data,) in connection.execute("SELECT data FROM message"))
