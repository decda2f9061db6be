"""The spool in memory: the twin of the SQLite one for `delivery: direct`, tests and trials.

Same behaviour except that nothing outlives the process. What is stored here was never promised to anybody as durable.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from relay.envelope import BodyFile, Content, Message
from relay.errors import SpoolError, SpoolFull, SpoolUnhealthy
from relay.ids import is_id
from relay.spool import Depth, Entry, Lease, LeaseLost, QueueKey, Selection, Standing

DAY_S = 86400.0


def matches(message: Message, text: str) -> bool:
    """Whether `text` occurs in sender, a recipient or the subject, whatever the case."""
    text = text.lower()
    return (
        text in message.sender.lower()
        or text in message.facts.subject.lower()
        or any(text in recipient.address.lower() for recipient in message.recipients)
    )


@dataclass(slots=True, eq=False)
class _Kept:
    message: Message
    content: Content
    due: float
    standing: Standing = Standing.QUEUED
    reason: str = ""
    begun: bool = False
    base: int = 0  # attempts that `release` goes back to
    leases: list[Lease] = field(default_factory=list)

    @property
    def key(self) -> QueueKey:
        return QueueKey(self.message.pool, self.message.lane, self.message.bridge)

    def lease(self) -> Lease:
        lease = Lease(self.message)
        self.leases.append(lease)
        return lease


class MemorySpool:
    """`relay.spool.Spool` on dicts. `start` and `full_reason` are there because the SQLite one has them."""

    def __init__(
        self,
        *,
        max_messages: int = 0,
        max_bytes: int = 0,
        on_quarantine: Callable[[str, str], None] | None = None,
    ) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._on_quarantine = on_quarantine
        self._kept: dict[str, _Kept] = {}
        self._bytes = 0
        self._closed = False

    async def start(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        self._closed = True
        for kept in self._kept.values():
            if isinstance(kept.content.body, BodyFile):
                await asyncio.to_thread(kept.content.body.path.unlink, missing_ok=True)
        self._kept.clear()

    async def recover(self, now: float) -> list[Message]:
        for kept in self._kept.values():
            if not 0 <= kept.due <= now + DAY_S:
                kept.due = now
        open_ = [kept for kept in self._kept.values() if kept.begun]
        for kept in open_:
            kept.message = replace(kept.message, crashes=kept.message.crashes + 1)
            kept.begun, kept.due = False, now
            kept.leases.clear()
        return [kept.message for kept in open_]

    async def store(self, message: Message, content: Content, *, lease: bool) -> Lease | None:
        if not is_id(message.id):
            raise SpoolError(f"{message.id!r} is not an id this spool can keep")
        if self._closed:
            raise SpoolUnhealthy("closed")
        reason = self.full_reason(message.size)
        if reason and message.sender:  # the bounds are not for reports, see `Spool.store`
            raise SpoolFull(reason)
        if message.id in self._kept:
            raise SpoolError(f"a message {message.id} is in the spool already")
        if lease:
            message = replace(message, attempts=1)
        kept = _Kept(message, content, message.received_at, begun=lease)
        self._kept[message.id] = kept
        self._bytes += message.size
        return kept.lease() if lease else None

    async def lease_due(self, key: QueueKey, *, now: float, limit: int, skip: int = 0) -> list[Lease]:
        due = [
            kept
            for kept in self._kept.values()
            if kept.standing is Standing.QUEUED and not kept.leases and kept.due <= now and kept.key == key
        ]
        due.sort(key=lambda kept: (kept.due, kept.message.id))
        chosen = due[skip : skip + max(limit, 0)]
        for kept in chosen:
            kept.base = kept.message.attempts
        return [kept.lease() for kept in chosen]

    async def lease(self, message_id: str) -> Lease | None:
        kept = self._kept.get(message_id)
        if kept is None or kept.leases or kept.standing is not Standing.QUEUED:
            return None
        kept.base = kept.message.attempts
        return kept.lease()

    async def begin(self, leases: Sequence[Lease]) -> list[Lease]:
        held = [self._held(lease) for lease in leases]
        begun = []
        for kept, lease in zip(held, leases, strict=True):
            attempts = kept.message.attempts
            kept.base, kept.begun = attempts, True
            kept.message = replace(lease.message, attempts=attempts + 1)
            begun.append(kept.lease())
        return begun

    async def progress(self, lease: Lease, message: Message) -> Lease:
        kept = self._held(lease)
        kept.message, kept.base = message, message.attempts
        return kept.lease()

    async def settle(
        self, lease: Lease, message: Message, *, due: float, standing: Standing = Standing.QUEUED, reason: str = ""
    ) -> None:
        kept = self._held(lease)
        if not message.pending:
            await self._remove(kept)
            return
        if not math.isfinite(due):
            raise ValueError(f"{due} is no time to try again")
        kept.message, kept.due, kept.standing, kept.reason = message, due, standing, reason
        kept.begun = False
        kept.leases.clear()

    async def release(self, leases: Sequence[Lease], *, due: float | None = None, reason: str = "") -> None:
        if due is not None and not math.isfinite(due):
            raise ValueError(f"{due} is no time to try again")
        for lease in leases:
            kept = self._kept.get(lease.message.id)
            if kept is None or lease not in kept.leases:
                continue
            if kept.begun:
                kept.message = replace(kept.message, attempts=kept.base)
            kept.begun = False
            kept.due = kept.due if due is None else due
            kept.reason = reason or kept.reason
            kept.leases.clear()

    async def confirm(self, lease: Lease) -> None:
        """There is no other owner."""

    async def content(self, message_id: str) -> Content:
        kept = self._kept.get(message_id)
        if kept is None:
            raise SpoolError(f"message {message_id} is not in the spool")
        body = kept.content.body
        if isinstance(body, BodyFile):
            found = await asyncio.to_thread(_size_of, body)
            if found != body.size:
                why = f"the body file holds {found} octets instead of {body.size}"
                kept.standing, kept.reason, kept.begun = Standing.QUARANTINED, f"damaged: {why}", False
                kept.leases.clear()
                if self._on_quarantine is not None:
                    self._on_quarantine(message_id, why)
                raise SpoolError(f"message {message_id} is damaged and was quarantined: {why}")
        return kept.content

    async def depths(self) -> list[Depth]:
        queues: dict[QueueKey, list[_Kept]] = {}
        for kept in self._kept.values():
            queues.setdefault(kept.key, []).append(kept)
        return [_depth(key, members) for key, members in queues.items()]

    async def find(self, message_id: str) -> Entry | None:
        kept = self._kept.get(message_id)
        return _entry(kept) if kept else None

    async def entries(self, selection: Selection, *, limit: int, after: str = "") -> list[Entry]:
        chosen = [kept for kept in self._selected(selection) if kept.message.id > after]
        return [_entry(kept) for kept in chosen[:limit]]

    async def retry(self, selection: Selection, *, now: float) -> int:
        chosen = [kept for kept in self._selected(selection) if not kept.leases]
        for kept in chosen:
            kept.message = replace(kept.message, crashes=0)
            kept.standing, kept.due, kept.reason = Standing.QUEUED, now, ""
        return len(chosen)

    async def hold(self, selection: Selection, *, reason: str, standing: Standing = Standing.HELD) -> int:
        chosen = [k for k in self._selected(selection) if not k.leases and k.standing is Standing.QUEUED]
        for kept in chosen:
            kept.standing, kept.reason = standing, reason
        return len(chosen)

    async def drop(self, selection: Selection) -> list[Message]:
        chosen = [kept for kept in self._selected(selection) if not kept.leases]
        for kept in chosen:
            await self._remove(kept)
        return [kept.message for kept in chosen]

    def unhealthy_reason(self) -> str:
        return "closed" if self._closed else ""

    def full_reason(self, size: int = 0) -> str:
        """Why a message of `size` octets would be refused for lack of room now, or empty."""
        if self._max_messages and len(self._kept) >= self._max_messages:
            return f"the queue holds {len(self._kept)} messages, its bound"
        if self._max_bytes and self._bytes + size > self._max_bytes:
            return f"the queue holds {self._bytes} octets, with this message more than its bound of {self._max_bytes}"
        return ""

    def _held(self, lease: Lease) -> _Kept:
        kept = self._kept.get(lease.message.id)
        if kept is None or lease not in kept.leases:
            raise LeaseLost(f"message {lease.message.id} is not leased by this lease any more")
        return kept

    async def _remove(self, kept: _Kept) -> None:
        del self._kept[kept.message.id]
        self._bytes -= kept.message.size
        if isinstance(kept.content.body, BodyFile):
            await asyncio.to_thread(kept.content.body.path.unlink, missing_ok=True)

    def _selected(self, selection: Selection) -> list[_Kept]:
        chosen = [
            kept
            for kept in self._kept.values()
            if (not selection.ids or kept.message.id in selection.ids)
            and selection.pool in ("", kept.message.pool)
            and selection.bridge in ("", kept.message.bridge)
            and selection.standing in (None, kept.standing)
            and (not selection.text or matches(kept.message, selection.text))
        ]
        return sorted(chosen, key=lambda kept: kept.message.id)


def _entry(kept: _Kept) -> Entry:
    return Entry(
        message=kept.message,
        standing=kept.standing,
        due=kept.due,
        reason=kept.reason,
        leased=bool(kept.leases),
    )


def _depth(key: QueueKey, members: Sequence[_Kept]) -> Depth:
    standings = [kept.standing for kept in members]
    waiting = [kept.due for kept in members if kept.standing is Standing.QUEUED and not kept.leases]
    return Depth(
        key=key,
        queued=standings.count(Standing.QUEUED),
        held=standings.count(Standing.HELD),
        quarantined=standings.count(Standing.QUARANTINED),
        size=sum(kept.message.size for kept in members),
        next_due=min(waiting, default=None),
        oldest=min(kept.message.received_at for kept in members),
    )


def _size_of(body: BodyFile) -> int:
    try:
        return body.path.stat().st_size
    except FileNotFoundError:
        return 0
