"""The order in which waiting messages go: fair between lanes, between bridges, and past closed gates.

A message stands in a *flow*: one bridge, one lane, one gate. A gate is a class of messages that can or cannot be
routed together (`router.selection.gate_key`); when the router says "hold until T" or "no free connection" for one of
them, the gate closes and the whole class is parked without being asked again, however many they are. That is what
makes 100,000 waiting messages cost nothing.

Shares are kept by virtual time (start-time fair queueing): every lane, and every bridge within its lane, has a clock
that advances by cost ÷ weight when it is served, and the smallest clock is served next. Who was idle starts at the
clock of the moment, so that silence earns no burst; who is busy gets its share, so that nobody starves. Cost is
counted in recipients.

Pure: no I/O, no clock; the caller passes `now`. All operations are O(log flows).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from relay.delivery.job import Gate, Job
from relay.envelope import Lane
from relay.spool import QueueKey

LANE_WEIGHTS = {Lane.TRANSACTIONAL: 8.0, Lane.BULK: 1.0}
"""A full bulk lane gives way to transactional mail at 8 : 1, and still gets a ninth of a saturated relay."""


@dataclass(slots=True, eq=False)
class _Flow:
    """Messages of one bridge in one lane behind one gate, oldest first."""

    key: QueueKey
    gate: Gate
    jobs: deque[Job] = field(default_factory=deque)


@dataclass(slots=True, eq=False)
class _Bridge:
    """A bridge within a lane: its open flows take turns."""

    name: str
    lane: Lane
    clock: float = 0.0
    flows: int = 0  # that hold jobs, parked ones included
    open_flows: deque[_Flow] = field(default_factory=deque)
    queued: bool = False  # has an entry in the lane's heap


@dataclass(slots=True, eq=False)
class _LaneQueue:
    weight: float
    clock: float = 0.0
    floor: float = 0.0  # the clock at which the last bridge was served; newcomers start here
    heap: list[tuple[float, int, _Bridge]] = field(default_factory=list)
    bridges: dict[str, _Bridge] = field(default_factory=dict)


class FairQueue:
    """Jobs in memory, waiting for a node.

    Args:
        share_of: weight of a bridge by name, ≥ 1.
    """

    def __init__(self, share_of: Callable[[str], int]) -> None:
        self._share_of = share_of
        self._lanes = {lane: _LaneQueue(weight) for lane, weight in LANE_WEIGHTS.items()}
        self._flows: dict[tuple[QueueKey, Gate], _Flow] = {}
        self._behind: dict[Gate, set[_Flow]] = {}
        self._closed: dict[Gate, float] = {}  # gate -> when it opens by itself
        self._openings: list[tuple[float, int, Gate]] = []
        self._counts: dict[QueueKey, int] = {}
        self._length = 0
        self._sequence = 0

    def __len__(self) -> int:
        return self._length

    def waiting(self, key: QueueKey) -> int:
        """Jobs of this queue in memory, parked ones included."""
        return self._counts.get(key, 0)

    def push(self, job: Job, *, front: bool = False) -> None:
        """Add a job; `front` for one that was popped and could not go, so that order of age is kept."""
        key, gate = job.key, job.gate
        flow = self._flows.get((key, gate))
        if flow is None:
            flow = self._add_flow(key, gate)
        if front:
            flow.jobs.appendleft(job)
        else:
            flow.jobs.append(job)
        self._counts[key] = self._counts.get(key, 0) + 1
        self._length += 1
        if len(flow.jobs) == 1 and gate not in self._closed:
            self._admit(flow)

    def pop(self, now: float) -> Job | None:
        """The job that goes next, or None when nothing waits behind an open gate."""
        self._open_due(now)
        lane = self._next_lane()
        if lane is None:
            return None
        while lane.heap:
            _, _, bridge = heapq.heappop(lane.heap)
            bridge.queued = False
            flow = self._next_flow(bridge)
            if flow is None:
                continue
            job = flow.jobs.popleft()
            if flow.jobs:
                bridge.open_flows.append(flow)
            else:
                self._remove_flow(flow)
            cost = max(1, len(job.message.recipients))
            lane.floor = bridge.clock
            lane.clock += cost / lane.weight
            bridge.clock += cost / max(1, self._share_of(bridge.name))
            if bridge.open_flows:
                self._enqueue(lane, bridge)
            self._forget(flow.key)
            return job
        return None

    def close_gate(self, gate: Gate, until: float) -> None:
        """Park everything behind this gate until `until` (epoch seconds; inf = until `open_gates`)."""
        self._closed[gate] = until
        if until != float("inf"):
            self._sequence += 1
            heapq.heappush(self._openings, (until, self._sequence, gate))

    def is_closed(self, gate: Gate) -> bool:
        return gate in self._closed

    def closed_until(self, gate: Gate) -> float | None:
        """When this gate opens by itself, inf when something must open it; None while it is open."""
        return self._closed.get(gate)

    def open_gates(self, matching: Callable[[Gate], bool] | None = None) -> None:
        """Open the gates that match, or all of them: something changed and is worth asking again."""
        for gate in [g for g in self._closed if matching is None or matching(g)]:
            self._open(gate)

    def next_opening(self) -> float | None:
        """Epoch seconds at which the first closed gate opens by itself; None when none does."""
        while self._openings and self._closed.get(self._openings[0][2]) != self._openings[0][0]:
            heapq.heappop(self._openings)  # opened or moved meanwhile
        return self._openings[0][0] if self._openings else None

    def closed_gates(self) -> dict[Gate, float]:
        """Gates and when they open, for `relay status`."""
        return dict(self._closed)

    def trim(self, gate: Gate, keep: int) -> list[Job]:
        """Take out all but the oldest `keep` (≥ 1) jobs of each flow behind a gate, to give back to the spool."""
        taken: list[Job] = []
        for flow in tuple(self._behind.get(gate, ())):
            while len(flow.jobs) > max(1, keep):
                taken.append(flow.jobs.pop())
                self._forget(flow.key)
        return taken

    def parked(self) -> Iterator[Job]:
        """Jobs behind closed gates, for the expiry sweep."""
        for gate in self._closed:
            for flow in self._behind.get(gate, ()):
                yield from flow.jobs

    def take(self, chosen: Callable[[Job], bool]) -> list[Job]:
        """Remove and return the waiting jobs that match, wherever they stand."""
        taken: list[Job] = []
        for flow in list(self._flows.values()):
            hits = {job for job in flow.jobs if chosen(job)}
            if not hits:
                continue
            flow.jobs = deque(job for job in flow.jobs if job not in hits)
            for _ in hits:
                self._forget(flow.key)
            if not flow.jobs:
                self._remove_flow(flow)  # `_peek` skips emptied flows that still stand in a turn
            taken += hits
        return taken

    def _add_flow(self, key: QueueKey, gate: Gate) -> _Flow:
        flow = self._flows[key, gate] = _Flow(key, gate)
        self._behind.setdefault(gate, set()).add(flow)
        bridges = self._lanes[key.lane].bridges
        bridge = bridges.get(key.bridge)
        if bridge is None:
            bridge = bridges[key.bridge] = _Bridge(key.bridge, key.lane)
        bridge.flows += 1
        return flow

    def _remove_flow(self, flow: _Flow) -> None:
        del self._flows[flow.key, flow.gate]
        behind = self._behind[flow.gate]
        behind.discard(flow)
        if not behind:
            del self._behind[flow.gate]
        bridges = self._lanes[flow.key.lane].bridges
        bridge = bridges[flow.key.bridge]
        bridge.flows -= 1
        if not bridge.flows:
            del bridges[flow.key.bridge]

    def _forget(self, key: QueueKey) -> None:
        self._length -= 1
        left = self._counts[key] - 1
        if left:
            self._counts[key] = left
        else:
            del self._counts[key]

    def _admit(self, flow: _Flow) -> None:
        """Let a flow with an open gate take part in the turns."""
        lane = self._lanes[flow.key.lane]
        bridge = lane.bridges[flow.key.bridge]
        if not bridge.open_flows:
            bridge.clock = max(bridge.clock, lane.floor)
        if not lane.heap:
            # The lane was idle: it must not bank credit against the other one.
            busy = [other.clock for other in self._lanes.values() if other.heap]
            lane.clock = max(lane.clock, min(busy, default=lane.clock))
        if flow not in bridge.open_flows:
            bridge.open_flows.append(flow)
        self._enqueue(lane, bridge)

    def _enqueue(self, lane: _LaneQueue, bridge: _Bridge) -> None:
        if not bridge.queued:
            bridge.queued = True
            self._sequence += 1
            heapq.heappush(lane.heap, (bridge.clock, self._sequence, bridge))

    def _next_lane(self) -> _LaneQueue | None:
        """The lane with work whose clock is smallest. Bridges whose flows were all closed meanwhile drop out here."""
        for lane in self._lanes.values():
            while lane.heap and not self._peek(lane.heap[0][2]):
                lane.heap[0][2].queued = False
                heapq.heappop(lane.heap)
        busy = [lane for lane in self._lanes.values() if lane.heap]
        return min(busy, key=lambda lane: lane.clock, default=None)

    def _peek(self, bridge: _Bridge) -> bool:
        """Drop flows from the front that are empty or closed; True while an open one with work is left."""
        flows = bridge.open_flows
        while flows and (not flows[0].jobs or flows[0].gate in self._closed):
            flows.popleft()
        return bool(flows)

    def _next_flow(self, bridge: _Bridge) -> _Flow | None:
        return bridge.open_flows.popleft() if self._peek(bridge) else None

    def _open(self, gate: Gate) -> None:
        if self._closed.pop(gate, None) is None:
            return
        for flow in self._behind.get(gate, ()):
            self._admit(flow)

    def _open_due(self, now: float) -> None:
        while (opening := self.next_opening()) is not None and opening <= now:
            self._open(self._openings[0][2])
