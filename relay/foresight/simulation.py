"""The real router, rotation, caps, health and order of the queue on a virtual clock, over mail that never was.

Events stand in a heap and time jumps from one to the next, so hours pass in seconds. What is the relay's own decision
is the relay's own code: `Router` over a memory state, `FairQueue`, `Fleet`, the transitions of health, the schedule of
retries. What is the world's is a model, and a simple one: a node takes a message in `latency_s`, over as many
connections at once as it is configured with, and refuses every attempt and every test in the spans it is told to fail.
Recipients and messages are always taken; nothing is deferred by anybody but a failing node.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, cast

from relay.delivery.fair import FairQueue
from relay.delivery.fleet import Fleet
from relay.delivery.job import Gate, Job, queue_key
from relay.envelope import Message
from relay.pools import health as machine
from relay.pools.health import HealthPolicy, NodeHealth, NodeStatus
from relay.pools.pool import Node, Pool
from relay.router.router import Router
from relay.router.selection import Busy, Hold, Route, Trace, Unroutable, Verdict, gate_key
from relay.schedule import RetryPolicy, next_attempt
from relay.spool import Lease
from relay.state import Candidate
from relay.state.memory import MemoryState
from relay.upstreams.base import Upstream

FAULT_S = 0.1
"""How long an attempt with a failing node takes: a refused connection."""

UNROUTABLE_S = 300.0
"""As `delivery.runs` waits."""

LOOK_S, SAMPLE_S = 1.0, 1.0
"""How often a full cap and the backlog are looked at, in virtual time."""

POINTS = 60
"""Samples of the backlog in a report."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A node answers nothing from `begin` to `end`, seconds after the start."""

    node: str
    begin: float
    end: float


@dataclass(slots=True)
class CapBite:
    """When a cap first kept mail from a node, and when it had room again for the last time. Seconds after the start."""

    limit: int
    first: float
    last: float


@dataclass(slots=True)
class NodeReport:
    """
    Attributes:
        recipients: taken, in `attempts`.
        faults: attempts that failed; down_s: how long it was out for that.
        busy_s: over all its connections.
        passed_over: decisions in which a cap stood in its way.
        caps: by window in seconds.
    """

    pool: str
    recipients: int = 0
    attempts: int = 0
    faults: int = 0
    busy_s: float = 0.0
    down_s: float = 0.0
    passed_over: int = 0
    caps: dict[float, CapBite] = field(default_factory=dict)
    looked_at: float = -math.inf


@dataclass(slots=True)
class Report:
    """Times in seconds after the start.

    Attributes:
        waits: for each delivered message, from its arrival until a connection took its last recipients; sorted.
        expired: messages given up at their maximum age, unroutable ones among them.
        cleared_at: when the last message was done.
        backlog: samples of (time, messages waiting).
    """

    messages: int = 0
    recipients: int = 0
    delivered: int = 0
    expired: int = 0
    last_arrival: float = 0.0
    cleared_at: float = 0.0
    peak: int = 0
    peak_at: float = 0.0
    nodes: dict[str, NodeReport] = field(default_factory=dict)
    waits: list[float] = field(default_factory=list)
    backlog: list[tuple[float, int]] = field(default_factory=list)

    def wait(self, share: float) -> float:
        """The wait that this share of the delivered messages did not exceed."""
        if not self.waits:
            return 0.0
        return self.waits[min(len(self.waits) - 1, int(share * len(self.waits)))]


@dataclass(slots=True, eq=False)
class _Carried:
    """A message on its way. `left`: recipients nobody has taken yet."""

    job: Job
    left: int
    attempts: int = 0


class Simulation:
    """Args:
    latency_s: by node name, and under "" for all others.
    start: epoch seconds at which it begins.
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        *,
        health: HealthPolicy,
        retry: RetryPolicy,
        shares: Mapping[str, int],
        failures: Sequence[Failure],
        latency_s: Mapping[str, float],
        start: float,
        seed: int = 0,
    ) -> None:
        self._rng = random.Random(seed)
        self._state = MemoryState()
        self._router = Router(pools, self._state, clock=lambda: self._now, rng=self._rng.random, at_once=True)
        self._nodes = {node.name: node for pool in pools for node in pool.nodes}
        self._driver = cast("Upstream", object())  # nobody calls it
        self._fleet = Fleet(pools, dict.fromkeys(self._nodes, self._driver), on_free=self._freed)
        self._queues = {pool.name: FairQueue(lambda bridge: shares.get(bridge, 1)) for pool in pools}
        self._busy: dict[str, set[Gate]] = {pool.name: set() for pool in pools}
        self._dirty: dict[str, None] = {}  # pools that may have something to start
        self._health = health
        self._retry = retry
        self._failures = failures
        self._latency_s = latency_s
        self._start = self._now = start
        self._events: list[tuple[float, int, Callable[[], Any]]] = []
        self._sequence = count()
        self._lines: dict[str, list[float]] = {name: [] for name in self._nodes}  # when each connection is free
        self._carried: dict[str, _Carried] = {}  # by message id
        self._down_since: dict[str, float] = {}
        self._wakes: dict[str, float] = {}
        self._report = Report(nodes={n.name: NodeReport(n.pool) for n in self._nodes.values()})
        self._samples: list[tuple[float, int]] = []
        self._sampled = -math.inf

    async def run(self, arrivals: Iterable[Message]) -> Report:
        """Until every message is done or too old.

        Args:
            arrivals: in the order of `received_at`, which is when each comes.
        """
        coming = iter(arrivals)
        following = next(coming, None)
        while following is not None or (self._carried and self._events):
            if following is not None and (not self._events or following.received_at <= self._events[0][0]):
                self._now = max(self._now, following.received_at)
                self._arrive(following)
                following = next(coming, None)
            else:
                self._now, _, act = heapq.heappop(self._events)
                done = act()
                if done is not None:
                    await done
            while self._dirty:
                await self._pump(self._dirty.popitem()[0])
            if self._now >= self._sampled + SAMPLE_S:
                self._sample()
        report = self._report
        for node, since in self._down_since.items():
            report.nodes[node].down_s += self._now - since
        report.waits.sort()
        report.backlog = _thinned(self._samples)
        return report

    # Messages

    def _arrive(self, message: Message) -> None:
        report = self._report
        report.messages += 1
        report.recipients += len(message.recipients)
        report.last_arrival = self._now - self._start
        job = Job(queue_key(message), None, Lease(message))
        self._carried[message.id] = _Carried(job, len(message.recipients))
        self._queue(job)

    def _queue(self, job: Job) -> None:
        pool = self._fleet.pools.get(job.message.pool)
        if pool is None:
            self._give_up(job)
            return
        job.gate = (job.message.id,) if job.run.tried else gate_key(job.message, pool).fit
        self._queues[pool.name].push(job)
        self._dirty[pool.name] = None

    async def _pump(self, pool: str) -> None:
        queue = self._queues[pool]
        while self._fleet.free(pool) > 0 and (job := queue.pop(self._now)) is not None:
            await self._carry(job)
        opening = queue.next_opening()
        if opening is not None and not self._now < self._wakes.get(pool, 0.0) <= opening:
            self._wakes[pool] = opening
            self._at(opening, lambda: self._dirty.setdefault(pool))

    async def _carry(self, job: Job) -> None:
        """Hand a message over, batch by batch as its recipients are granted, or let it wait."""
        carried = self._carried[job.message.id]
        message = job.message
        if self._now >= message.received_at + self._retry.max_age_s:
            self._queues[message.pool].admit(job.gate, 1)
            self._give_up(job)
            return
        while carried.left:
            decision = await self._router.route(
                message,
                tried=job.run.tried,
                busy=self._fleet.full(message.pool),
                now=self._now,
                recipients=carried.left,
            )
            await self._note_caps(decision.trace)
            if not isinstance(decision, Route):
                self._wait(carried, decision)
                return
            carried.attempts += 1
            if not self._begin(carried, decision):
                return

    def _begin(self, carried: _Carried, route: Route) -> bool:
        """Start an attempt; True when the rest of the message may go on beside it."""
        node, job = route.node, carried.job
        self._fleet.enter(node.name)
        self._queues[job.key.pool].admit(job.gate)
        line = self._lines[node.name]
        begin = self._now if len(line) < max(1, node.connections) else max(self._now, heapq.heappop(line))
        fails = self._fails(node.name, begin)
        took_s = FAULT_S if fails else self._latency_s.get(node.name, self._latency_s[""])
        heapq.heappush(line, begin + took_s)
        report = self._report.nodes[node.name]
        report.busy_s += took_s
        if fails:
            self._at(begin + took_s, lambda: self._failed(carried, route, begin))
            return False
        carried.left -= route.granted
        whole = not carried.left
        self._at(begin + took_s, lambda: self._delivered(carried, route, begin, whole=whole))
        return True

    def _delivered(self, carried: _Carried, route: Route, begin: float, *, whole: bool) -> None:
        name = route.node.name
        self._fleet.leave(name, self._driver)
        if self._queues[route.node.pool]:
            self._dirty[route.node.pool] = None
        node, report = self._report.nodes[name], self._report
        node.attempts += 1
        node.recipients += route.granted
        if whole:
            report.delivered += 1
            report.waits.append(begin - carried.job.message.received_at)
            self._done(carried.job)

    async def _failed(self, carried: _Carried, route: Route, began_at: float) -> None:
        """The node is at fault: out with it, and the message goes to another one in the same run."""
        name = route.node.name
        self._fleet.leave(name, self._driver)
        self._report.nodes[name].faults += 1
        if route.permit is not None:
            await self._router.refund(route.permit, route.granted)
        await self._learn(name, lambda h: machine.fault(h, self._now, "simulated", self._health, began_at=began_at))
        job = carried.job
        job.run = type(job.run)(tried=job.run.tried | {name})
        await self._carry(job)

    def _wait(self, carried: _Carried, decision: Busy | Hold | Unroutable) -> None:
        job, message = carried.job, carried.job.message
        if job.run.tried and not isinstance(decision, Busy):
            # About this message alone: the run is over, and the next one comes by schedule.
            job.run = type(job.run)()
            age_s = self._now - message.received_at
            wait_s = next_attempt(self._retry, carried.attempts, age_s, self._rng.random())
            if wait_s is None:
                self._give_up(job)
                return
            until = min(self._now + wait_s, decision.until) if isinstance(decision, Hold) else self._now + wait_s
            self._at(until, lambda: self._queue(job))
            return
        queue = self._queues[message.pool]
        self._queue(job)
        if isinstance(decision, Busy):
            queue.close_gate(job.gate, decision.until)
            self._busy[message.pool].add(job.gate)
        else:
            until = decision.until if isinstance(decision, Hold) else self._now + UNROUTABLE_S
            queue.close_gate(job.gate, min(until, message.received_at + self._retry.max_age_s))
            self._busy[message.pool].discard(job.gate)

    def _give_up(self, job: Job) -> None:
        self._report.expired += 1
        self._done(job)

    def _done(self, job: Job) -> None:
        del self._carried[job.message.id]
        self._report.cleared_at = self._now - self._start

    # Nodes

    def _fails(self, node: str, at: float) -> bool:
        since = at - self._start
        return any(failure.node == node and failure.begin <= since < failure.end for failure in self._failures)

    async def _learn(self, node: str, change: Callable[[NodeHealth], NodeHealth]) -> None:
        before = self._router.health_of(node)
        after = await self._state.update_health(node, change)
        if after == before:
            return
        self._router.learn_health(node, after)
        if after.status is NodeStatus.INACTIVE:
            self._down_since.setdefault(node, self._now)
            if after.next_check > self._now and after.next_check != before.next_check:
                self._at(after.next_check, lambda: self._check(node))
        elif node in self._down_since:
            self._report.nodes[node].down_s += self._now - self._down_since.pop(node)
        for pool, queue in self._queues.items():
            for gate in queue.closed_gates():
                queue.open_gate(gate)
            self._dirty[pool] = None

    async def _check(self, node: str) -> None:
        if not machine.is_check_due(self._router.health_of(node), self._now):
            return
        if self._fails(node, self._now):
            await self._learn(node, lambda h: machine.check_failed(h, self._now, "simulated", self._health))
        else:
            await self._learn(node, lambda h: machine.check_passed(h, self._now, self._health))

    def _freed(self, pool: str) -> None:
        busy, self._busy[pool] = self._busy[pool], set()
        for gate in busy:
            self._queues[pool].open_gate(gate)
        self._dirty[pool] = None

    async def _note_caps(self, trace: Trace) -> None:
        for line in trace:
            if line.verdict is Verdict.CAPPED:
                report = self._report.nodes[line.node]
                report.passed_over += 1
                if self._now >= report.looked_at + LOOK_S:
                    report.looked_at = self._now
                    await self._note_cap(self._nodes[line.node], report)

    async def _note_cap(self, node: Node, report: NodeReport) -> None:
        candidate = Candidate(f"node:{node.name}", node.caps)
        at = self._now - self._start
        for fill in (await self._state.usage([candidate], now=self._now))[candidate.key]:
            if fill.free_at > self._now:
                bite = report.caps.setdefault(fill.window_s, CapBite(fill.limit, at, at))
                bite.last = fill.free_at - self._start

    # Time

    def _at(self, when: float, act: Callable[[], Any]) -> None:
        heapq.heappush(self._events, (when, next(self._sequence), act))

    def _sample(self) -> None:
        self._sampled = self._now
        waiting = sum(len(queue) for queue in self._queues.values())
        at = self._now - self._start
        if waiting > self._report.peak:
            self._report.peak, self._report.peak_at = waiting, at
        self._samples.append((at, waiting))


def _thinned(samples: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """At most `POINTS` of them, evenly, the highest of each stretch."""
    step = max(1, -(-len(samples) // POINTS))
    return [max(samples[n : n + step], key=lambda sample: sample[1]) for n in range(0, len(samples), step)]
