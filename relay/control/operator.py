"""What an operator can see and do with one shard of the relay, as plain JSON-ready values.

The same object serves a running worker (through `control.server`) and a stopped relay (opened by the command line):
where there is no dispatcher there is simply nothing in memory to take into account.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, replace
from enum import StrEnum
from typing import Any, Protocol

import relay
from relay.control.advice import advice
from relay.control.captures import captured_rows
from relay.control.intake import Intake
from relay.control.outlook import BUSY, Chance, Outlook, outlook
from relay.control.protocol import ControlError, TryAgain, UnknownName
from relay.control.views import depth_row, health_row, meant_by, message_row, node_row, outlook_row
from relay.control.views import selection as chosen_by
from relay.delivery.dispatcher import Dispatcher
from relay.delivery.keeper import TICK_S, HealthKeeper, probed
from relay.envelope import Message
from relay.errors import SpoolError
from relay.events import Events
from relay.history import History
from relay.outcome import Status
from relay.pools import health as machine
from relay.pools.health import NodeHealth
from relay.pools.pool import Node, Pool
from relay.router.disposition import describe
from relay.router.selection import GateKey, gate_key
from relay.schedule import RetryPolicy
from relay.spool import Entry, Recalls, Selection, Spool, Standing
from relay.state import Candidate, State, Usage
from relay.tap import SILENT, Tap, Wanted
from relay.upstreams.base import Upstream

TESTS_AT_ONCE = 16

TRACE_WAIT_S = 5.0
"""Longest that a trace waits for a line, well within the time a look may take."""


class Stand(StrEnum):
    """Where a message is, as far as an operator cares."""

    DELIVERING = "delivering"  # with a node now
    READY = "ready"  # due; waits for its turn, or for the relay to be started
    WAITING = "waiting"  # until a known time, for a known reason
    HELD = "held"
    QUARANTINED = "quarantined"


class Reloading(Protocol):
    """How a worker takes over another configuration; see `relay.app.reload`."""

    async def reload(self) -> dict[str, Any]: ...

    async def plan(self, path: str, volumes: Mapping[str, Mapping[str, int]]) -> dict[str, Any]: ...

    async def prepare(self, generation: int) -> None: ...

    def abort(self) -> None: ...

    async def commit(self, generation: int) -> dict[str, Any]: ...

    def status(self) -> dict[str, Any]: ...


_Standing = tuple[Stand, float | None, str]
"""Where a message is, until when (None: nobody knows), and why."""


class Operator:
    """Args:
    drivers: by node name, for tests of nodes.
    policy: tells when messages are given up.
    dispatcher, keeper: of a running worker; None when the relay is stopped.
    sessions: number of open client sessions in this process.
    attempts: number of attempts with a node, by name, right now in this process.
    busy: names of the nodes of a pool that have no free place in this process.
    phase: `starting`, `running`, `draining` or `stopping`.
    workers: how many processes the running relay has.
    troubles: what is wrong beside the mail itself, one line each.
    drain: makes the worker take no more mail; None when the relay is stopped.
    figures: counts for a scrape, all of one moment.
    intake: takes messages of the send API; None when the relay is stopped.
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
        policy: RetryPolicy,
        dispatcher: Dispatcher | None = None,
        keeper: HealthKeeper | None = None,
        sessions: Callable[[], int] = lambda: 0,
        attempts: Callable[[str], int] = lambda _: 0,
        busy: Callable[[str], AbstractSet[str]] = lambda _: frozenset(),
        counters: Callable[[], Mapping[str, int]] = dict,
        reloader: Reloading | None = None,
        tap: Tap = SILENT,
        figures: Callable[[], dict[str, Any]] = dict,
        intake: Intake | None = None,
        phase: Callable[[], str] = lambda: "running",
        workers: int = 1,
        troubles: Callable[[], Sequence[str]] = tuple,
        drain: Callable[[], Awaitable[dict[str, Any]]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._shard = shard
        self._spool = spool
        self._state = state
        self._history = history
        self._nodes: dict[str, tuple[Pool, Node]] = {}
        self._drivers = drivers
        self._events = events
        self.use(pools, policy)
        self._dispatcher = dispatcher
        self._keeper = keeper
        self._sessions = sessions
        self._attempts = attempts
        self._busy = busy
        self._counters = counters
        self._reloader = reloader
        self._tap = tap
        self._figures = figures
        self._intake = intake
        self._phase = phase
        self._workers = workers
        self._troubles = troubles
        self._drain = drain
        self._clock = clock
        self._started = clock()

    # Seeing

    async def status(self) -> dict[str, Any]:
        """This shard: process, queues, and the classes of messages that wait. Cheap: asked every few seconds."""
        dispatcher = self._dispatcher
        troubles = list(self._troubles())
        try:
            depths = await self._spool.depths()
        except SpoolError as error:
            depths = []
            if not troubles:
                troubles.append(f"the queue cannot be read: {error}")
        running = {name: count for name in self._nodes if (count := self._attempts(name))}
        return {
            "version": relay.__version__,
            "shard": self._shard,
            "pid": os.getpid() if dispatcher else None,
            "running": dispatcher is not None,
            "phase": self._phase() if dispatcher else "stopped",
            "workers": self._workers if dispatcher else 0,
            "uptime_s": round(self._clock() - self._started, 1) if dispatcher else None,
            "unhealthy": self._spool.unhealthy_reason(),
            "troubles": troubles,
            "sessions": self._sessions(),
            "attempts": dispatcher.running if dispatcher else 0,
            "attempts_by_node": running,
            "queues": [depth_row(depth) for depth in depths],
            "waiting": [
                {"pool": waiting.pool, "until": waiting.until, "why": waiting.why, "messages": waiting.messages}
                for waiting in (dispatcher.waiting() if dispatcher else ())
            ],
            "counters": dict(self._counters()),
            "configuration": self._reloader.status() if self._reloader else None,
        }

    async def nodes(self) -> list[dict[str, Any]]:
        """Every node with health, fill of its caps and counts. The shared state makes this the same in all workers."""
        now = self._clock()
        health = await self._state.health()
        usage = await self._usage([node for _, node in self._nodes.values()], now)
        now = self._clock()  # the state may have answered by a clock that is ahead of what we read before
        totals: dict[str, dict[str, int]] = {}
        for key, count in (await self._state.counts()).items():
            row = totals.setdefault(key.node, {})
            row[key.what] = row.get(key.what, 0) + count
        return [
            node_row(
                pool,
                node,
                health.get(node.name, NodeHealth()),
                usage.get(f"node:{node.name}", ()),
                totals.get(node.name, {}),
                now,
            )
            for pool, node in self._nodes.values()
        ]

    async def campaigns(self, *, pool: str = "") -> list[dict[str, Any]]:
        """What each campaign had at each node, of one pool or of all; the same in all workers."""
        if pool and pool not in self._pools:
            raise UnknownName(f"no pool is called {pool!r}; there are: {', '.join(sorted(self._pools)) or 'none'}")
        rows: dict[tuple[str, str, str], dict[str, int]] = {}
        for key, count in (await self._state.counts(pool=pool)).items():
            if key.campaign:
                rows.setdefault((key.pool, key.campaign, key.node), {})[key.what] = count
        return [
            {"pool": of, "campaign": campaign, "node": node, "counts": counts}
            for (of, campaign, node), counts in sorted(rows.items())
        ]

    async def entries(self, *, selection: Mapping[str, Any], limit: int = 100, after: str = "") -> list[dict[str, Any]]:
        """A page of the queue by id, beginning above `after`."""
        return await self._rows(await self._spool.entries(chosen_by(selection), limit=limit, after=after))

    async def show(self, *, message_id: str) -> dict[str, Any] | None:
        """One message with its header section, or None. A message whose content is damaged is shown without it."""
        entry = await self._spool.find(message_id)
        if entry is None:
            return None
        try:
            head = (await self._spool.content(message_id)).head.decode("utf-8", "replace")
        except SpoolError as error:
            head = f"({error})"
            entry = await self._spool.find(message_id) or entry
        return {**(await self._rows([entry]))[0], "head": head}

    async def explain(self, *, message_id: str) -> dict[str, Any] | None:
        """The message's story and where it stands now, or None when this shard never saw it."""
        entry = await self._spool.find(message_id)
        story = [
            {"event": event.name, "at": event.at, "level": event.level, **event.data}
            for event in await self._history.story(message_id)
        ]
        if entry is None:
            return {"id": message_id, "now": None, "story": story} if story else None
        row = (await self._rows([entry]))[0]
        row["gives_up_at"] = entry.message.received_at + self._policy.max_age_s
        if row["state"] in (Stand.READY, Stand.WAITING):
            at = max(self._clock(), entry.due)
            row["outlook"] = outlook_row((await self._prospects(at))(entry.message), at)
        return {"id": message_id, "now": row, "story": story}

    async def metrics(self) -> dict[str, Any]:
        """What a scrape of this worker tells. The figures are read in one step, after all that takes time."""
        try:
            depths = [depth_row(depth) for depth in await self._spool.depths()]
        except SpoolError:  # a shared one that is away: its own figure says so
            depths = []
        unhealthy = self._spool.unhealthy_reason() or self._spool.full_reason()
        return {
            "shard": self._shard,
            "phase": self._phase() if self._dispatcher else "stopped",
            "started": self._started,
            "unhealthy": unhealthy,
            "queues": depths,
            "sessions": self._sessions(),
            "attempts": self._dispatcher.running if self._dispatcher else 0,
            "history_dropped": self._history.dropped,
            **self._figures(),
        }

    async def trace(
        self, *, listener: str, wait_s: float = 0.0, bridge: str = "", node: str = "", peer: str = ""
    ) -> dict[str, Any]:
        """SMTP dialogue that `listener` has not heard yet, waited for up to `wait_s`; see `relay.tap`. The first call
        begins to listen; who does not come back stops."""
        if node:
            self._known(node)
        try:
            heard, dropped = await self._tap.read(
                listener, Wanted(bridge=bridge, node=node, peer=peer), wait_s=min(wait_s, TRACE_WAIT_S)
            )
        except ValueError as error:
            raise ControlError(str(error)) from error
        return {"lines": [asdict(line) for line in heard], "dropped": dropped}

    async def captured(self, *, key: str = "", limit: int = 100) -> list[dict[str, Any]]:
        """Mail that this worker's sandbox nodes keep in memory, newest first: its beginning, or with `key` one
        message with all that is kept of it."""
        return captured_rows(self._drivers, key=key, limit=limit)

    # Doing

    async def submit(self, **submitted: Any) -> dict[str, Any]:
        """Take messages of the send API; see `control.intake`."""
        if self._intake is None:
            raise TryAgain("the relay is stopped")
        return await self._intake.submit(**submitted)

    async def retry(self, *, selection: Mapping[str, Any]) -> dict[str, int]:
        """Make messages due now. The result tells how many, and how many were left alone because a node has them."""
        chosen = chosen_by(selection)
        async with self._acting(chosen):
            count = await self._spool.retry(chosen, now=self._clock())
            busy = await self._delivering(chosen)
        if self._dispatcher:
            self._dispatcher.changed()
        return {"changed": count, "delivering": busy}

    async def hold(self, *, selection: Mapping[str, Any], reason: str) -> dict[str, int]:
        chosen = chosen_by(selection)
        async with self._acting(chosen):
            count = await self._spool.hold(chosen, reason=reason)
            return {"changed": count, "delivering": await self._delivering(chosen)}

    async def drop(self, *, selection: Mapping[str, Any], by: str) -> dict[str, int]:
        chosen = chosen_by(selection)
        async with self._acting(chosen):
            dropped = await self._spool.drop(chosen)
            busy = await self._delivering(chosen)
        for message in dropped:
            self._events.message_dropped(message.id, by=by)
        return {"changed": len(dropped), "delivering": busy}

    async def node_test(self, *, names: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Connect to these nodes (none named: all) with the real transport; on a running relay the results also decide
        their health."""
        for name in names:
            self._known(name)
        places = asyncio.Semaphore(TESTS_AT_ONCE)

        async def test(name: str) -> dict[str, Any]:
            async with places:
                probe = await (
                    self._keeper.test(name) if self._keeper else probed(self._drivers[name], name, self._events)
                )
            return {
                "name": name,
                "type": self._nodes[name][1].type,
                "ok": probe.outcome.status is Status.DELIVERED,
                "answer": describe(probe.outcome),
                "advice": advice(probe.outcome),
                "steps": list(probe.steps),
            }

        return await asyncio.gather(*(test(name) for name in names or self._nodes))

    async def node_pause(self, *, name: str, reason: str, by: str, until: float = 0.0) -> dict[str, Any]:
        pool, _ = self._known(name)
        now = self._clock()
        after = await self._state.update_health(
            name, lambda h: machine.pause(h, now, by=by, reason=reason, until=until)
        )
        self._events.node_paused(node=name, pool=pool.name, by=by, reason=reason, until=until)
        await self._known_everywhere()
        return {"name": name, **health_row(after, now)}

    async def node_resume(self, *, name: str, by: str) -> dict[str, Any]:
        pool, _ = self._known(name)
        now = self._clock()
        before = NodeHealth()

        def change(health: NodeHealth) -> NodeHealth:
            nonlocal before
            before = health
            return machine.resume(health, now)

        after = await self._state.update_health(name, change)
        if after != before:
            self._events.node_resumed(node=name, pool=pool.name, by=by)
            await self._known_everywhere()
        return {"name": name, "was": health_row(before, now)["unavailable"], **health_row(after, now)}

    async def reload(self) -> dict[str, Any]:
        """Read the configuration again. Raises ConfigError, with nothing changed, when it does not validate."""
        return await self._reloader.reload() if self._reloader else {}

    async def plan(self, *, path: str, volumes: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
        """What the files at `path` would change. Raises ConfigError when they do not validate."""
        return await self._reloader.plan(path, volumes) if self._reloader else {}

    async def reload_prepare(self, *, generation: int) -> dict[str, Any]:
        """Another worker leads a reload: be ready for it. Raises ConfigError when this worker cannot be."""
        if self._reloader:
            await self._reloader.prepare(generation)
        return {}

    async def reload_abort(self) -> dict[str, Any]:
        """The reload that was prepared does not come: another worker cannot follow."""
        if self._reloader:
            self._reloader.abort()
        return {}

    async def reload_commit(self, *, generation: int) -> dict[str, Any]:
        """All are ready: swap."""
        return await self._reloader.commit(generation) if self._reloader else {}

    def use(self, pools: Mapping[str, Pool], policy: RetryPolicy) -> None:
        """From now on."""
        self._pools = pools
        self._nodes = {n.name: (p, n) for p in pools.values() for n in p.nodes}
        self._policy = policy

    async def drain(self) -> dict[str, Any]:
        """Take no more mail and, where the spool is shared, give back what is held. The process goes on delivering what
        is its own until it is stopped."""
        return await self._drain() if self._drain else {}

    # Helpers

    async def _known_everywhere(self) -> None:
        """All workers look for changes of health in this rhythm; an order is carried out when the command ends."""
        if self._dispatcher:
            await asyncio.sleep(2 * TICK_S)

    def _known(self, name: str) -> tuple[Pool, Node]:
        if name not in self._nodes:
            raise UnknownName(f"no node is called {name!r}; there are: {', '.join(sorted(self._nodes)) or 'none'}")
        return self._nodes[name]

    async def _usage(self, nodes: Sequence[Node], now: float) -> Mapping[str, Sequence[Usage]]:
        return await self._state.usage([Candidate(f"node:{node.name}", node.caps) for node in nodes], now=now)

    @contextlib.asynccontextmanager
    async def _acting(self, chosen: Selection) -> AsyncIterator[None]:
        """Jobs in memory count as leased; those that only wait are returned first so that the operator reaches them."""
        if self._dispatcher is None:
            yield
            return
        async with self._dispatcher.set_aside(meant_by(chosen)):
            with self._spool.taking_back() if isinstance(self._spool, Recalls) else contextlib.nullcontext():
                yield

    async def _delivering(self, chosen: Selection) -> int:
        """How many of the selected are with a node now."""
        busy = frozenset(self._dispatcher.at_work) if self._dispatcher else frozenset()
        ids = tuple(busy.intersection(chosen.ids) if chosen.ids else busy)
        return len(await self._spool.entries(replace(chosen, ids=ids), limit=len(ids))) if ids else 0

    async def _prospects(self, at: float) -> Callable[[Message], Outlook]:
        """What the router would say about messages at a time. Asked once for each class of them: see `gate_key`."""
        health = await self._state.health()
        now = self._clock()
        usage = await self._usage([node for _, node in self._nodes.values()], now)
        known: dict[GateKey, Outlook] = {}

        def look(message: Message) -> Outlook:
            pool = self._pools.get(message.pool)
            if pool is None:
                return outlook(message, None, health=health, usage=usage, at=at)
            key = gate_key(message, pool)
            found = known.get(key)
            if found is None:
                busy = self._busy(pool.name) if at <= now else frozenset()  # later they may be free
                found = known[key] = outlook(message, pool, health=health, usage=usage, busy=busy, at=at)
            return found

        return look

    async def _rows(self, entries: Sequence[Entry]) -> list[dict[str, Any]]:
        now = self._clock()
        stands = [self._stand(entry, now) for entry in entries]
        if any(state is Stand.READY for state, _, _ in stands):
            look = await self._prospects(now)
            stands = [
                _expected(look(entry.message), stand) if stand[0] is Stand.READY else stand
                for entry, stand in zip(entries, stands, strict=True)
            ]
        return [
            {
                **message_row(entry.message),
                "attempts": _attempts(entry, state),
                "standing": entry.standing,
                "state": state,
                "due": until,
                "reason": reason,
                "leased": entry.leased,
            }
            for entry, (state, until, reason) in zip(entries, stands, strict=True)
        ]

    def _stand(self, entry: Entry, now: float) -> _Standing:
        """Where a message is, as far as memory and spool tell."""
        match entry.standing:
            case Standing.HELD:
                return Stand.HELD, None, entry.reason
            case Standing.QUARANTINED:
                return Stand.QUARANTINED, None, entry.reason
            case Standing.QUEUED:
                pass
        dispatcher = self._dispatcher
        if dispatcher is not None and entry.message.id in dispatcher.at_work:
            return Stand.DELIVERING, entry.due, "with a node now"
        if entry.due > now:
            return Stand.WAITING, entry.due, entry.reason
        waits = dispatcher.waits(entry.message) if dispatcher else None
        if waits is None:
            # What it waited for last is over; what it was answered last is still worth knowing.
            return Stand.READY, entry.due, entry.reason if entry.message.attempts else ""
        until = waits.until if math.isfinite(waits.until) else None
        return Stand.WAITING, until, "; ".join(waits.why) or BUSY


def _attempts(entry: Entry, state: Stand) -> int:
    """A fresh message is stored with its first attempt begun; while it waits in memory none has been made."""
    message = entry.message
    waits = entry.leased and state is not Stand.DELIVERING
    unheard = message.attempts == 1 and not any(recipient.node for recipient in message.recipients)
    return 0 if waits and unheard else message.attempts


def _expected(found: Outlook, stand: _Standing) -> _Standing:
    """A message that is due and that nothing was found to keep back: what it will hear when it is asked."""
    return stand if found.chance is Chance.GOES else (Stand.WAITING, found.until, found.reason)
