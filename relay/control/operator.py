"""What an operator can see and do with one shard of the relay, as plain JSON-ready values.

The same object serves a running worker (through `control.server`) and a stopped relay (opened by the command line):
where there is no dispatcher there is simply nothing in memory to take into account.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

import relay
from relay.delivery.dispatcher import Dispatcher
from relay.delivery.keeper import HealthKeeper
from relay.envelope import Message
from relay.events import Events
from relay.history import History
from relay.outcome import Status
from relay.pools import health as machine
from relay.pools.health import NodeHealth, NodeStatus
from relay.pools.pool import Node, Pool
from relay.router.disposition import describe
from relay.spool import Depth, Entry, Selection, Spool, Standing
from relay.state import Candidate, State
from relay.upstreams.base import Upstream


class UnknownName(Exception):
    """An operator named something that is not in the configuration; the message says what exists."""


class Operator:
    """Args:
    drivers: by node name, for tests of nodes.
    dispatcher, keeper: of a running worker; None when the relay is stopped.
    sessions: number of open client sessions in this process.
    """

    def __init__(
        self,
        *,
        shard: str,
        spool: Spool,
        state: State,
        history: History,
        pools: Mapping[str, Pool],
        drivers: Mapping[str, Upstream],
        events: Events,
        dispatcher: Dispatcher | None = None,
        keeper: HealthKeeper | None = None,
        sessions: Callable[[], int] = lambda: 0,
        counters: Callable[[], Mapping[str, int]] = dict,
        reload: Callable[[], Awaitable[dict[str, Any]]] | None = None,
    ) -> None:
        self._shard = shard
        self._spool = spool
        self._state = state
        self._history = history
        self._pools = pools
        self._nodes: dict[str, tuple[Pool, Node]] = {n.name: (p, n) for p in pools.values() for n in p.nodes}
        self._drivers = drivers
        self._events = events
        self._dispatcher = dispatcher
        self._keeper = keeper
        self._sessions = sessions
        self._counters = counters
        self._reload = reload
        self._started = time.time()

    # Seeing

    async def status(self) -> dict[str, Any]:
        dispatcher = self._dispatcher
        return {
            "version": relay.__version__,
            "shard": self._shard,
            "pid": os.getpid() if dispatcher else None,
            "running": dispatcher is not None,
            "uptime_s": round(time.time() - self._started, 1) if dispatcher else None,
            "unhealthy": self._spool.unhealthy_reason(),
            "sessions": self._sessions(),
            "attempts": dispatcher.running if dispatcher else 0,
            "queues": [_depth(depth) for depth in await self._spool.depths()],
            "waiting": [asdict(waiting) for waiting in dispatcher.waiting()] if dispatcher else [],
            "counters": dict(self._counters()),
        }

    async def nodes(self) -> list[dict[str, Any]]:
        """Every node with health, fill of its caps and counts. The shared state makes this the same in all workers."""
        now = time.time()
        health = await self._state.health()
        usage = await self._state.usage(
            [Candidate(f"node:{node.name}", node.caps) for _, node in self._nodes.values()], now=now
        )
        totals: dict[str, dict[str, int]] = {}
        for key, count in (await self._state.counts()).items():
            row = totals.setdefault(key.node, {})
            row[key.what] = row.get(key.what, 0) + count
        return [
            {
                "name": node.name,
                "pool": pool.name,
                "type": node.type,
                "weight": node.weight,
                "priority": node.priority,
                **_health(health.get(node.name, NodeHealth()), now),
                "caps": [
                    {
                        "window_s": cap.window_s,
                        "limit": cap.limit,
                        "used": fill.used,
                        "free_at": fill.free_at if fill.free_at > now else None,
                    }
                    for cap, fill in zip(node.caps, usage.get(f"node:{node.name}", ()), strict=False)
                ],
                "counts": totals.get(node.name, {}),
            }
            for pool, node in self._nodes.values()
        ]

    async def entries(self, *, selection: Mapping[str, Any], limit: int = 100, after: str = "") -> list[dict[str, Any]]:
        found = await self._spool.entries(_selection(selection), limit=limit, after=after)
        return [self._entry(entry) for entry in found]

    async def show(self, *, message_id: str) -> dict[str, Any] | None:
        """One message with its header section, or None."""
        entry = await self._spool.find(message_id)
        if entry is None:
            return None
        content = await self._spool.content(message_id)
        return {**self._entry(entry), "head": content.head.decode("utf-8", "replace")}

    async def explain(self, *, message_id: str) -> dict[str, Any] | None:
        """The message's story and where it stands now, or None when this shard never saw it."""
        entry = await self._spool.find(message_id)
        story = [
            {"event": event.name, "at": event.at, "level": event.level, **event.data}
            for event in await self._history.story(message_id)
        ]
        if entry is None and not story:
            return None
        return {"id": message_id, "now": self._entry(entry) if entry else None, "story": story}

    # Doing

    async def retry(self, *, selection: Mapping[str, Any]) -> int:
        count = await self._spool.retry(_selection(selection), now=time.time())
        if self._dispatcher:
            self._dispatcher.changed()
        return count

    async def hold(self, *, selection: Mapping[str, Any], reason: str) -> int:
        await self._give_back(selection)
        return await self._spool.hold(_selection(selection), reason=reason)

    async def drop(self, *, selection: Mapping[str, Any], by: str) -> int:
        await self._give_back(selection)
        dropped = await self._spool.drop(_selection(selection))
        for message in dropped:
            self._events.message_dropped(message.id, by=by)
        return len(dropped)

    async def node_test(self, *, name: str) -> dict[str, Any]:
        """Connect with the real transport; on a running relay the result also decides the node's health."""
        self._known(name)
        probe = await (self._keeper.test(name) if self._keeper else self._drivers[name].probe())
        well = probe.outcome.status is Status.DELIVERED
        return {"name": name, "ok": well, "answer": describe(probe.outcome), "steps": list(probe.steps)}

    async def node_pause(self, *, name: str, reason: str, by: str, until: float = 0.0) -> dict[str, Any]:
        pool, _ = self._known(name)
        now = time.time()
        after = await self._state.update_health(
            name, lambda h: machine.pause(h, now, by=by, reason=reason, until=until)
        )
        self._events.node_paused(node=name, pool=pool.name, by=by, reason=reason, until=until)
        return {"name": name, **_health(after, now)}

    async def node_resume(self, *, name: str, by: str) -> dict[str, Any]:
        pool, _ = self._known(name)
        now = time.time()
        after = await self._state.update_health(name, lambda h: machine.resume(h, now))
        self._events.node_resumed(node=name, pool=pool.name, by=by)
        return {"name": name, **_health(after, now)}

    async def reload(self) -> dict[str, Any]:
        """Read the configuration again. Raises ConfigError, with nothing changed, when it does not validate."""
        return await self._reload() if self._reload else {}

    # Helpers

    def _known(self, name: str) -> tuple[Pool, Node]:
        if name not in self._nodes:
            raise UnknownName(f"no node is called {name!r}; there are: {', '.join(sorted(self._nodes)) or 'none'}")
        return self._nodes[name]

    async def _give_back(self, selection: Mapping[str, Any]) -> None:
        """Jobs in memory count as leased; those that only wait are returned first so that the operator reaches them."""
        if self._dispatcher:
            found = await self._spool.entries(_selection(selection), limit=1_000_000)
            await self._dispatcher.forget({entry.message.id for entry in found if entry.leased})

    def _entry(self, entry: Entry) -> dict[str, Any]:
        reason = entry.reason
        until = entry.due
        if self._dispatcher and entry.standing is Standing.QUEUED:
            for waiting in self._dispatcher.waiting():
                if waiting.pool == entry.message.pool and not entry.leased and entry.due <= time.time():
                    until = waiting.until
                    reason = reason or "; ".join(waiting.why)
        return {
            **_message(entry.message),
            "standing": entry.standing,
            "due": until,
            "reason": reason,
            "leased": entry.leased,
        }


def _selection(raw: Mapping[str, Any]) -> Selection:
    standing = raw.get("standing")
    return Selection(
        ids=tuple(raw.get("ids", ())),
        pool=raw.get("pool", ""),
        bridge=raw.get("bridge", ""),
        standing=Standing(standing) if standing else None,
        text=raw.get("text", ""),
    )


def _message(message: Message) -> dict[str, Any]:
    return {
        "id": message.id,
        "bridge": message.bridge,
        "pool": message.pool,
        "lane": message.lane,
        "sender": message.sender,
        "recipients": [
            {"address": r.address, "status": r.status, "code": r.code, "text": r.text, "node": r.node}
            for r in message.recipients
        ],
        "subject": message.facts.subject,
        "received_at": message.received_at,
        "size": message.size,
        "attempts": message.attempts,
        "campaign": message.campaign,
    }


def _depth(depth: Depth) -> dict[str, Any]:
    return {
        "pool": depth.key.pool,
        "lane": depth.key.lane,
        "bridge": depth.key.bridge,
        "queued": depth.queued,
        "held": depth.held,
        "quarantined": depth.quarantined,
        "next_due": depth.next_due,
        "oldest": depth.oldest,
    }


def _health(health: NodeHealth, now: float) -> dict[str, Any]:
    unavailable = machine.is_available(health, now)
    return {
        "status": NodeStatus.ACTIVE if unavailable is None and health.status is NodeStatus.PAUSED else health.status,
        "unavailable": unavailable,
        "test_status": health.test_status,
        "since": health.since or None,
        "next_check": health.next_check or None,
        "cool_until": health.cool_until if health.cool_until > now else None,
    }
