"""The spool: every accepted message until each of its recipients is final.

This module holds the protocol and its values; `sqlite`, `memory` and `redis_store` implement it, and one
contract suite (`tests/contract/test_spool.py`) runs over all of them.

Life of a message::

    store ──► queued ──lease_due──► leased ──begin──► open attempt ──settle──► queued again (due later) │ held │ gone
                 ▲                     └────────────── release ─────────────────────┘

- `store` is the promise behind a 250: durable when it returns.
- A lease is the right to work on a message. In a spool with one owner it lives in memory only; in a shared spool it
  expires, and every write with an expired lease raises `LeaseLost`.
- `begin` is durable before the attempt touches the network. What was open at a crash is found by `recover`: each such
  message may have been delivered already (counted and logged), and its `crashes` grows by one so that a poison
  message can be told from a bystander.
- A hold (caps, health) is not an attempt: `release` gives a message back as if it had not been looked at.

Every value read back from a store is input: implementations verify lengths and checksums and move what does not fit
to quarantine with a reason; they never deliver part of a message and never refuse to start because of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from relay.envelope import Content, Lane, Message
from relay.errors import SpoolError


class LeaseLost(SpoolError):
    """The lease is no longer ours; another owner works on the message. Send nothing more for it."""


class Standing(StrEnum):
    """Why a message is where it is."""

    QUEUED = "queued"  # goes when due
    HELD = "held"  # by an operator, until they release it
    QUARANTINED = "quarantined"  # by us: poison, or damaged on disk; until an operator acts


@dataclass(frozen=True, slots=True)
class QueueKey:
    """What is scheduled together: messages of one bridge for one pool in one lane."""

    pool: str
    lane: Lane
    bridge: str


@dataclass(frozen=True, slots=True, eq=False)
class Lease:
    """The right to work on `message`. `token` fences a shared spool; compare leases by identity."""

    message: Message
    token: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A message as operators see it.

    Attributes:
        due: epoch seconds of the next look at it.
        reason: why it waits, in words an operator can act on; empty when it simply has not been tried.
        leased: someone works on it now.
    """

    message: Message
    standing: Standing
    due: float
    reason: str = ""
    leased: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """How full one queue is.

    Attributes:
        queued: messages with standing QUEUED, leased ones included.
        next_due: smallest due of the QUEUED and unleased; None when there is none.
        oldest: smallest `received_at`; None when empty. May lag behind by 10 s once the oldest has gone.
    """

    key: QueueKey
    queued: int = 0
    held: int = 0
    quarantined: int = 0
    size: int = 0
    next_due: float | None = None
    oldest: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which entries an operator means; empty fields do not restrict. `text` matches sender, recipient or subject."""

    ids: tuple[str, ...] = ()
    pool: str = ""
    bridge: str = ""
    standing: Standing | None = None
    text: str = ""


@runtime_checkable
class Recalls(Protocol):
    """A spool whose messages other processes may hold too."""

    def taking_back(self) -> AbstractContextManager[None]:
        """Within it `hold`, `retry` and `drop` also reach what is leased, by whomever, and not begun. Who held it gets
        `LeaseLost`."""
        ...


class Spool(Protocol):
    """Where accepted mail lives. All methods are safe to call concurrently from one event loop."""

    async def store(self, message: Message, content: Content, *, lease: bool) -> Lease | None:
        """Keep a new message. Durable on return; a `BodyFile` in `content` is adopted (renamed or copied).

        Args:
            lease: take it at once with its first attempt begun (`attempts` becomes 1), in the same write.

        Bounds that an operator set on the queue are not for messages with the null reverse-path: a report takes the
        place of a message that leaves once it is stored.

        Raises:
            SpoolFull: no room; nothing is kept.
            SpoolUnhealthy: the store failed; nothing is kept, or it cannot be known.

        Once called, the write completes even when the caller is cancelled.
        """
        ...

    async def lease_due(self, key: QueueKey, *, now: float, limit: int, skip: int = 0) -> list[Lease]:
        """Up to `limit` unleased QUEUED messages of this queue with due ≤ now, smallest due first, then by id.

        Args:
            skip: pass over about so many at the front, to look behind those that cannot go now.
        """
        ...

    async def lease(self, message_id: str) -> Lease | None:
        """This one QUEUED message, due or not; None when it is gone, held, or leased already."""
        ...

    async def begin(self, leases: Sequence[Lease]) -> list[Lease]:
        """Mark attempts as begun, durably. Returns the leases with `attempts` grown by one, in the same order."""
        ...

    async def progress(self, lease: Lease, message: Message) -> Lease:
        """Keep recipient results while the lease goes on (before the next node is tried). Durable on return."""
        ...

    async def settle(
        self, lease: Lease, message: Message, *, due: float, standing: Standing = Standing.QUEUED, reason: str = ""
    ) -> None:
        """End the lease with these results. Durable on return.

        With no pending recipient left the message and its content are removed and `due`, `standing` and `reason`
        are ignored. Otherwise it waits until `due` with its attempt closed.
        """
        ...

    async def release(self, leases: Sequence[Lease], *, due: float | None = None, reason: str = "") -> None:
        """Give messages back unattempted: a begun mark is taken back and `attempts` falls to what it was, which is
        what it was at the last `progress` if there was one. Leases that are lost are passed over.

        Args:
            due: when to look again; None leaves it as it was.
        """
        ...

    async def confirm(self, lease: Lease) -> None:
        """Just before the message is handed over: raises `LeaseLost` when another owner may have it by now, and
        `SpoolError` when that cannot be known. A spool with one owner has nothing to ask: hot path."""
        ...

    async def content(self, message_id: str) -> Content:
        """The stored content. Raises `SpoolError` when it is missing or damaged: the message is quarantined then, and
        a lease on it has ended."""
        ...

    async def recover(self, now: float) -> list[Message]:
        """Called once before work starts: close attempts a crash left open and return their messages, `crashes`
        already grown. They are due now. Due times beyond `now` + 1 day ÷ before the epoch are clamped to `now`."""
        ...

    async def depths(self) -> list[Depth]:
        """One row for each queue that holds anything. Cheap enough to call once a second with 100,000 messages."""
        ...

    async def find(self, message_id: str) -> Entry | None: ...

    async def entries(self, selection: Selection, *, limit: int, after: str = "") -> list[Entry]:
        """Entries by id, those above `after` first."""
        ...

    async def retry(self, selection: Selection, *, now: float) -> int:
        """Make them QUEUED and due now (also held and quarantined ones; `crashes` falls to 0). Returns how many."""
        ...

    async def hold(self, selection: Selection, *, reason: str, standing: Standing = Standing.HELD) -> int:
        """Make QUEUED ones HELD or QUARANTINED. Leased ones are left alone and not counted."""
        ...

    async def drop(self, selection: Selection) -> list[Message]:
        """Remove them for good. Leased ones are left alone. Returns what was removed, for the log."""
        ...

    def unhealthy_reason(self) -> str:
        """Why no promise can be made now, or empty. No I/O: hot path."""
        ...

    def full_reason(self, size: int = 0) -> str:
        """Why a message of `size` octets would be refused for lack of room now, or empty. Hot path."""
        ...

    async def close(self) -> None:
        """Finish what was asked for, then close files."""
        ...
