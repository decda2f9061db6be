"""The order in which the waiting messages of one pool go: fair between lanes, between bridges, and past closed gates.

A message stands in a *flow*: one bridge, one lane, one gate, oldest first. A gate is a class of messages that can or
cannot be routed together (`router.selection.gate_key`); when the router says "hold until T" or "no free connection"
for one of them, the gate closes and the whole class is parked without being asked again, however many they are. That
is what makes 100,000 waiting messages cost nothing.

A gate that opens again opens by a crack: one message goes through and is asked. Only when it passes (`admit`) may
others follow, each that passes bringing two more, so that a mistaken opening costs one decision and not thousands.

Shares are kept by virtual time (start-time fair queueing): every lane, and every bridge within its lane, has a clock
that advances by cost ÷ weight when it is served, and the smallest clock is served next. Who was idle goes on at the
clock of the moment, so that silence earns no burst; who is busy gets its share, so that nobody starves. Cost is
counted in recipients.

Pure: no I/O, no clock; the caller passes `now`. Operations are O(log bridges). Closing a gate is O(1), opening one
O(flows that were met and passed over while it was closed).

Source: Goyal, Vin, Cheng, "Start-time Fair Queueing", 1996.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from relay.delivery.job import Gate, Job
from relay.envelope import Lane
from relay.spool import QueueKey

LANE_WEIGHTS = {Lane.TRANSACTIONAL: 8.0, Lane.BULK: 1.0}
"""A full bulk lane gives way to transactional mail at 8 : 1, and still gets a ninth of a saturated pool."""

PROBES = 1
"""Messages that try a gate which has just opened."""

FOLLOWERS = 2
"""Messages that may follow each one that passed such a gate: ten rounds of decisions make a thousand of one."""

FOREVER = float("inf")


@dataclass(slots=True, eq=False)
class _Lane:
    """Attributes:
    clock: virtual time of the lane; floor: clock at which one of its bridges was served last.
    heap: bridges by clock; some may turn out to have nothing to send.
    ready: jobs behind open gates.
    tidy_at: number of bridges at which those that are gone are looked for.
    """

    weight: float
    clock: float = 0.0
    floor: float = 0.0
    heap: list[tuple[float, int, _Bridge]] = field(default_factory=list)
    bridges: dict[str, _Bridge] = field(default_factory=dict)
    ready: int = 0
    tidy_at: int = 64


@dataclass(slots=True, eq=False)
class _Bridge:
    """A bridge within a lane. Its flows take turns; those met behind a closed gate move to its shelf."""

    name: str
    clock: float = 0.0
    jobs: int = 0
    flows: deque[_Flow] = field(default_factory=deque)
    queued: bool = False  # stands in the lane's heap


@dataclass(slots=True, eq=False)
class _Gate:
    """Open (`until` None), open by a crack (and `limit` more may pass), or closed.

    Closed for good with `limit` 0 means: enough have passed for now, their decisions are awaited.
    """

    key: Gate
    until: float | None = None
    limit: int | None = None
    jobs: int = 0  # behind it
    begun: int = 0  # of those, with an open attempt
    by_lane: dict[_Lane, int] = field(default_factory=dict)
    shelf: list[_Flow] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Queue:
    """What is in memory of one queue of the spool."""

    flows: dict[Gate, _Flow] = field(default_factory=dict)
    jobs: int = 0


@dataclass(slots=True, eq=False)
class _Flow:
    key: QueueKey
    queue: _Queue
    lane: _Lane
    bridge: _Bridge
    gate: _Gate
    jobs: deque[Job] = field(default_factory=deque)
    queued: bool = False  # stands among its bridge's flows or on its gate's shelf


class FairQueue:
    """Jobs in memory, waiting for a node.

    Args:
        share_of: weight of a bridge by name, ≥ 1.
    """

    def __init__(self, share_of: Callable[[str], int]) -> None:
        self._share_of = share_of
        self._lanes = {lane: _Lane(weight) for lane, weight in LANE_WEIGHTS.items()}
        self._queues: dict[QueueKey, _Queue] = {}
        self._gates: dict[Gate, _Gate] = {}  # that are not wide open, or have jobs behind them
        self._openings: list[tuple[float, int, _Gate]] = []
        self._clock = 0.0  # virtual time
        self._length = 0
        self._sequence = 0

    # Jobs

    def __len__(self) -> int:
        return self._length

    @property
    def ready(self) -> int:
        """Jobs behind open gates."""
        return sum(lane.ready for lane in self._lanes.values())

    def waiting(self, key: QueueKey) -> int:
        """Jobs of this queue in memory, parked ones included."""
        queue = self._queues.get(key)
        return queue.jobs if queue else 0

    def is_blocked(self, key: QueueKey) -> bool:
        """There are jobs of this queue here, and all of them stand behind closed gates."""
        queue = self._queues.get(key)
        return queue is not None and all(flow.gate.until is not None for flow in queue.flows.values())

    def push(self, job: Job) -> None:
        """Add a job at its place by age: one that was popped and could not go stands before younger ones again."""
        queue = self._queues.get(job.key)
        flow = queue.flows.get(job.gate) if queue else None
        if flow is None:
            flow = self._add_flow(job.key, job.gate)
        jobs, gate, lane = flow.jobs, flow.gate, flow.lane
        if not jobs or jobs[-1].message.id <= job.message.id:
            jobs.append(job)
        elif job.message.id <= jobs[0].message.id:
            jobs.appendleft(job)
        else:
            jobs.insert(bisect_right(jobs, job.message.id, key=_id), job)
        self._length += 1
        flow.queue.jobs += 1
        flow.bridge.jobs += 1
        gate.jobs += 1
        gate.begun += job.begun
        gate.by_lane[lane] = gate.by_lane.get(lane, 0) + 1
        if gate.until is None:
            self._add_ready(lane, 1)
        if not flow.queued:
            self._admit_flow(flow)

    def pop(self, now: float) -> Job | None:
        """The job that goes next, or None when nothing waits behind an open gate."""
        while (opening := self.next_opening()) is not None and opening <= now:
            self._open(self._openings[0][2], PROBES)
        lane = min((lane for lane in self._lanes.values() if lane.ready), key=_clock, default=None)
        if lane is None:
            return None
        while lane.heap:
            bridge = heapq.heappop(lane.heap)[2]
            bridge.queued = False
            flow = _next_flow(bridge)
            if flow is None:
                continue
            job = flow.jobs.popleft()
            if flow.jobs:
                flow.queued = True
                bridge.flows.append(flow)
            cost = max(1, len(job.message.recipients))
            self._clock, lane.floor = lane.clock, bridge.clock
            lane.clock += cost / lane.weight
            bridge.clock += cost / max(1, self._share_of(bridge.name))
            if bridge.flows:
                self._enqueue(lane, bridge)
            gate = flow.gate
            self._count_out(flow, job)
            self._forget_empty(flow)
            if gate.limit:
                gate.limit -= 1
                if not gate.limit:
                    self._close(gate, FOREVER)
            return job
        return None

    def take(self, chosen: Callable[[Job], bool], *, gate: Gate | None = None) -> list[Job]:
        """Remove and return the waiting jobs that match: those behind one gate, or wherever they stand. O(jobs)."""
        taken: list[Job] = []
        for queue in list(self._queues.values()):
            flows = list(queue.flows.values()) if gate is None else [queue.flows[gate]] if gate in queue.flows else []
            for flow in flows:
                hits = {job for job in flow.jobs if chosen(job)}
                if hits:
                    taken += [job for job in flow.jobs if job in hits]
                    flow.jobs = deque(job for job in flow.jobs if job not in hits)
                    for job in hits:
                        self._count_out(flow, job)
                    self._forget_empty(flow)
        return taken

    # Gates

    def close_gate(self, gate: Gate, until: float) -> None:
        """Park everything behind this gate until `until` (epoch seconds; inf = until it is opened)."""
        found = self._gates.get(gate)
        if found is None:
            found = self._gates[gate] = _Gate(gate)
        found.limit = None
        self._close(found, until)

    def open_gate(self, gate: Gate) -> None:
        """Something changed, and asking again is worth it."""
        found = self._gates.get(gate)
        if found is not None and found.until is not None:
            self._open(found, PROBES)

    def admit(self, gate: Gate, jobs: int = FOLLOWERS) -> None:
        """One that came through this gate has passed: let others follow. Nothing happens when the gate was closed for
        another reason meanwhile."""
        found = self._gates.get(gate)
        if found is not None and found.limit is not None:
            self._open(found, found.limit + jobs)

    def is_closed(self, gate: Gate) -> bool:
        found = self._gates.get(gate)
        return found is not None and found.until is not None

    def closed_until(self, gate: Gate) -> float | None:
        """When this gate opens by itself, inf when something must open it; None while it is open."""
        found = self._gates.get(gate)
        return found.until if found else None

    def closed_gates(self) -> dict[Gate, float]:
        """Gates and when they open by themselves."""
        return {key: gate.until for key, gate in self._gates.items() if gate.until is not None}

    def next_opening(self) -> float | None:
        """Epoch seconds at which the first closed gate opens by itself; None when none does."""
        openings = self._openings
        while openings and openings[0][2].until != openings[0][0]:
            heapq.heappop(openings)  # opened or moved meanwhile
        return openings[0][0] if openings else None

    def jobs_behind(self, gate: Gate) -> int:
        """Jobs behind this gate."""
        found = self._gates.get(gate)
        return found.jobs if found else 0

    def begun_behind(self, gate: Gate) -> int:
        """Jobs behind this gate that have an open attempt."""
        found = self._gates.get(gate)
        return found.begun if found else 0

    # Parts

    def _add_flow(self, key: QueueKey, gate_key: Gate) -> _Flow:
        lane = self._lanes[key.lane]
        bridge = lane.bridges.get(key.bridge)
        if bridge is None:
            if len(lane.bridges) >= lane.tidy_at:
                _tidy(lane)
            bridge = lane.bridges[key.bridge] = _Bridge(key.bridge)
        queue = self._queues.setdefault(key, _Queue())
        gate = self._gates.get(gate_key)
        if gate is None:
            gate = self._gates[gate_key] = _Gate(gate_key)
        flow = queue.flows[gate_key] = _Flow(key, queue, lane, bridge, gate)
        return flow

    def _count_out(self, flow: _Flow, job: Job) -> None:
        gate = flow.gate
        self._length -= 1
        flow.queue.jobs -= 1
        flow.bridge.jobs -= 1
        gate.jobs -= 1
        gate.begun -= job.begun
        gate.by_lane[flow.lane] -= 1
        if gate.until is None:
            flow.lane.ready -= 1

    def _forget_empty(self, flow: _Flow) -> None:
        """Forget a flow without jobs, and a gate that keeps nothing back. What closed a gate outlives its jobs."""
        queue, gate = flow.queue, flow.gate
        if flow.jobs:
            return
        del queue.flows[gate.key]
        if not queue.flows:
            del self._queues[flow.key]
        if not gate.jobs and (gate.until is None or gate.limit is not None):
            gate.until = gate.limit = None
            del self._gates[gate.key]

    def _admit_flow(self, flow: _Flow) -> None:
        """Let a flow take part in the turns."""
        lane, bridge = flow.lane, flow.bridge
        if not bridge.flows:
            bridge.clock = max(bridge.clock, lane.floor)
        flow.queued = True
        bridge.flows.append(flow)
        self._enqueue(lane, bridge)

    def _enqueue(self, lane: _Lane, bridge: _Bridge) -> None:
        if not bridge.queued:
            bridge.queued = True
            self._sequence += 1
            heapq.heappush(lane.heap, (bridge.clock, self._sequence, bridge))

    def _add_ready(self, lane: _Lane, jobs: int) -> None:
        if not lane.ready:
            lane.clock = max(lane.clock, self._clock)
        lane.ready += jobs

    def _close(self, gate: _Gate, until: float) -> None:
        if gate.until is None:
            for lane, jobs in gate.by_lane.items():
                lane.ready -= jobs
        gate.until = until
        if until != FOREVER:
            self._sequence += 1
            heapq.heappush(self._openings, (until, self._sequence, gate))
            if len(self._openings) > 64 + 4 * len(self._gates):
                self._openings = [entry for entry in self._openings if entry[2].until == entry[0]]
                heapq.heapify(self._openings)

    def _open(self, gate: _Gate, limit: int) -> None:
        if not gate.jobs:
            gate.until = gate.limit = None
            del self._gates[gate.key]
            return
        gate.limit = limit
        if gate.until is None:
            return
        gate.until = None
        for lane, jobs in gate.by_lane.items():
            if jobs:
                self._add_ready(lane, jobs)
        shelf, gate.shelf = gate.shelf, []
        for flow in shelf:
            flow.queued = False
            if flow.jobs:
                self._admit_flow(flow)


def _next_flow(bridge: _Bridge) -> _Flow | None:
    """The flow whose turn it is. Those that are empty drop out, those behind a closed gate move to its shelf."""
    while bridge.flows:
        flow = bridge.flows.popleft()
        if not flow.jobs:
            flow.queued = False
        elif flow.gate.until is not None:
            flow.gate.shelf.append(flow)
        else:
            flow.queued = False
            return flow
    return None


def _tidy(lane: _Lane) -> None:
    """Forget bridges that have nothing here and owe nothing: who was served ahead of its share comes back no earlier
    than it would have, had it stayed."""
    lane.bridges = {
        name: bridge
        for name, bridge in lane.bridges.items()
        if bridge.jobs or bridge.queued or bridge.clock > lane.floor
    }
    lane.tidy_at = 64 + 2 * len(lane.bridges)


def _clock(lane: _Lane) -> float:
    return lane.clock


def _id(job: Job) -> str:
    return job.message.id
