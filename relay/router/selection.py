"""Which nodes of a pool may take a message now, and what to do when none may.

A decision has one of four ends: `Route` (this node, now), `Busy` (wait for a free connection), `Hold` (wait until a
known time), `Unroutable` (no node of the pool could ever take it). Each carries its trace: every node of the pool,
once, in the pool's order, with a verdict and the reason in words. `relay explain` prints it.

Obstacles come in three kinds, and the kind decides the end:
- *unfit*: the message and the node do not go together (sender domain, size, SMTPUTF8, drained). Time does not help.
- *away*: the node or the message must wait (health, caps, binding, tried in this run). Time helps.
- *busy*: all connection slots are taken. The next free slot helps.

Pure: `router.router` brings health, permits and time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from relay.domains import domain_key
from relay.envelope import Message
from relay.pools.health import NodeHealth, NodeStatus, free_at, is_available, settled
from relay.pools.pool import Node, Pool, Rotation
from relay.router.words import clock_words
from relay.state import Permit
from relay.values import thawed

LOOK_AGAIN_S = 60.0
"""Hold when nothing tells when it could end, for example all nodes paused by hand. The owner opens gates earlier when
health or configuration change, so this only bounds how long a missed change goes unnoticed."""

SOON_S = 1.0
"""Hold when the awaited moment has come and the change has not, for example a re-check that is due but not done."""

NAMED = 5
"""Nodes named in a reason; the trace has them all."""


class Verdict(StrEnum):
    """What became of one node in one decision."""

    CHOSEN = "chosen"
    ELIGIBLE = "eligible"  # could have taken it; it was another one's turn
    STANDBY = "standby"  # kept back while a better one is only busy
    BUSY = "busy"
    CAPPED = "capped"
    PAUSED = "paused"
    INACTIVE = "inactive"
    COOLING = "cooling"
    TRIED = "tried"
    BOUND = "bound"
    DRAINED = "drained"
    SENDER = "sender"
    SIZE = "size"
    SMTPUTF8 = "smtputf8"
    NULL_SENDER = "null-sender"


class Considered(NamedTuple):
    """One line of a trace; a plain triple of strings in JSON. `reason` is empty where the verdict says it all."""

    node: str
    verdict: Verdict
    reason: str


Trace = tuple[Considered, ...]


class GateKey(NamedTuple):
    """What decides a message's eligibility apart from what was tried and what is busy.

    Attributes:
        fit: bit n is set when node n of the pool is fit for the message.
        bound_node, bound_until: as in the message.
    """

    pool: str
    fit: int
    bound_node: str
    bound_until: float


@thawed
@dataclass(frozen=True, slots=True)
class Route:
    """Hand over to `node` now.

    Attributes:
        permit: taken for it, None for a node without caps. Refund it when no attempt is made.
        granted: how many recipients, ≥ 1 and at most what was asked for.
    """

    node: Node
    permit: Permit | None
    granted: int
    trace: Trace


@dataclass(frozen=True, slots=True)
class Hold:
    """Nothing may go before `until` (epoch seconds, never in the past). Not an attempt.

    Attributes:
        gate: every message with this `gate_key` would get the same answer; None when the answer is about this
            message alone, because nodes were ruled out that it has tried in this run.
    """

    until: float
    reason: str
    trace: Trace
    gate: GateKey | None


@dataclass(frozen=True, slots=True)
class Busy:
    """Nodes that could take the message have no free slot. Look again when one is free, at the latest at `until`."""

    trace: Trace
    until: float


@dataclass(frozen=True, slots=True)
class Unroutable:
    """No node of the pool could ever take the message as the pool is configured now."""

    trace: Trace
    reason: str


Decision = Route | Hold | Busy | Unroutable


class Screening(NamedTuple):
    """Nodes by what stands in their way, before rotation and caps.

    Attributes:
        eligible, busy: in the pool's order.
        fit: how many nodes could ever take the message.
        tried: a fit node is out because it was tried in this run.
        changes_at: earliest time at which a node that is away may come back; inf when unknown.
        trace: as it stands so far; eligible ones are ELIGIBLE.
    """

    pool: Pool
    eligible: list[Node]
    busy: list[Node]
    fit: int
    tried: bool
    changes_at: float
    trace: list[Considered]


@thawed
@dataclass(frozen=True, slots=True)
class Full:
    """Caps that ruled nodes out: the reason by node name, and when the first of them has room again."""

    reasons: Mapping[str, str]
    free_at: float


NOTHING_FULL = Full({}, float("inf"))


def unfit(node: Node, message: Message) -> tuple[Verdict, str] | None:
    """Why this node can never take this message, or None when it can."""
    if node.weight < 1:
        return Verdict.DRAINED, "weight 0"
    if node.sender_domains:
        domain = message.facts.from_domain or message.sender_domain
        if not domain.isascii():
            domain = domain_key(domain)
        if domain not in node.sender_domains:
            allowed = _some(sorted(node.sender_domains))
            return Verdict.SENDER, f"sends only for {allowed}, not for {domain or 'a message without sender domain'}"
    if node.max_size and message.size > node.max_size:
        return Verdict.SIZE, f"takes {node.max_size} octets, the message has {message.size}"
    if message.facts.smtputf8 and not node.smtputf8:
        return Verdict.SMTPUTF8, "cannot take SMTPUTF8"
    if not message.sender and not node.null_sender:
        return Verdict.NULL_SENDER, "cannot say the null reverse-path of reports"
    return None


def gate_key(message: Message, pool: Pool) -> GateKey:
    """Messages with equal keys have equal eligibility apart from tried and busy nodes."""
    fit = 0
    for position, node in enumerate(pool.nodes):
        if unfit(node, message) is None:
            fit |= 1 << position
    if not message.bound_node:
        return GateKey(pool.name, fit, "", 0.0)
    return GateKey(pool.name, fit, message.bound_node, message.bound_until)


def screen(
    pool: Pool,
    message: Message,
    *,
    health: Mapping[str, NodeHealth],
    tried: AbstractSet[str],
    busy: AbstractSet[str],
    now: float,
) -> Screening:
    """Sort the nodes of the pool by what stands in their way. No I/O: hot path.

    Args:
        health: by node name; absent means active.
        tried: names of nodes that failed this message in this run.
        busy: names of nodes without a free slot.
    """
    bound = message.bound_node if now < message.bound_until else ""
    smtputf8, size, null_sender = message.facts.smtputf8, message.size, not message.sender
    eligible: list[Node] = []
    full: list[Node] = []
    trace: list[Considered] = []
    fit = 0
    any_tried = False
    changes_at = float("inf")
    for node in pool.nodes:
        name = node.name
        # The condition only saves the call for the nodes that have nothing to object; `unfit` decides.
        if (
            node.weight < 1
            or node.sender_domains
            or (node.max_size and size > node.max_size)
            or (smtputf8 and not node.smtputf8)
            or (null_sender and not node.null_sender)
        ) and (why := unfit(node, message)) is not None:
            trace.append(Considered(name, *why))
            continue
        fit += 1
        if bound and name != bound:
            trace.append(Considered(name, Verdict.BOUND, _bound_words(message)))
            changes_at = min(changes_at, message.bound_until)
            continue
        if name in tried:
            any_tried = True
            trace.append(Considered(name, Verdict.TRIED, "tried in this run"))
            continue
        record = health.get(name)
        if record is not None and (reason := is_available(record, now)) is not None:
            trace.append(Considered(name, _AWAY[settled(record, now).status], reason))
            back_at = free_at(record, now)
            if back_at is not None:
                changes_at = min(changes_at, back_at)
            continue
        if name in busy:
            full.append(node)
            trace.append(Considered(name, Verdict.BUSY, "no free connection"))
            continue
        eligible.append(node)
        trace.append(_eligible(name))
    return Screening(pool, eligible, full, fit, any_tried, changes_at, trace)


def keep_back(ordered: Iterable[Node], busy: AbstractSet[str], mode: Rotation) -> list[Node]:
    """The leading nodes that may be used while some of `ordered` are busy.

    In most modes a busy node's turn simply goes to the others. Not where one node stands by for another: a primary
    whose connections are all in use is healthy, and its mail waits the moment until a slot is free instead of waking
    the standby (`priority`) or the node of the next slice (`interval`).

    Args:
        ordered: by rotation, busy ones included.
        busy: names of the busy ones.
    """
    usable: list[Node] = []
    barrier: int | None = None
    for node in ordered:
        if barrier is not None and (mode is Rotation.INTERVAL or node.priority > barrier):
            break
        if node.name not in busy:
            usable.append(node)
        elif mode in STRICT:
            barrier = node.priority
    return usable


def put_last(ordered: Iterable[Node], name: str) -> Iterator[Node]:
    """The same nodes with one of them behind all others.

    For the node that a message was bound to: it has lost an answer to this very message, and should it do so again
    the recipient would get a copy each time.
    """
    last = None
    for node in ordered:
        if node.name == name:
            last = node
        else:
            yield node
    if last is not None:
        yield last


STRICT = frozenset({Rotation.PRIORITY, Rotation.INTERVAL})
"""Modes in which a busy node keeps its turn."""


def chosen(screening: Screening, node: Node, *, reason: str, full: Full = NOTHING_FULL) -> Trace:
    """The trace of a decision for `node`."""
    name = node.name
    if full.reasons:
        return tuple(
            Considered(name, Verdict.CHOSEN, reason) if line[0] == name else _with_caps(line, full)
            for line in screening.trace
        )
    return tuple([Considered(name, Verdict.CHOSEN, reason) if line[0] == name else line for line in screening.trace])


def dead_end(screening: Screening, message: Message, *, now: float, full: Full = NOTHING_FULL) -> Decision:
    """What to do when no node may take the message now. Never a `Route`.

    Args:
        full: of the eligible nodes, those without room under their caps. The eligible ones it does not name were kept
            back for a busy better one.
    """
    pool = screening.pool
    if screening.fit == 0:
        trace = tuple(screening.trace)
        why = _summary(trace) if trace else "it has no nodes"
        return Unroutable(trace, f"pool {pool.name} can never take it: {why}")
    trace = tuple(_with_caps(line, full) for line in screening.trace)
    until = _not_past(min(screening.changes_at, full.free_at), now)
    if screening.busy:
        standby = tuple(
            Considered(line.node, Verdict.STANDBY, "stands by while a better node is only busy")
            if line.verdict is Verdict.ELIGIBLE
            else line
            for line in trace
        )
        return Busy(standby, until)
    gate = None if screening.tried else gate_key(message, pool)
    return Hold(until, f"no node of pool {pool.name} may send it now: {_summary(trace)}", trace, gate)


_AWAY = {
    NodeStatus.PAUSED: Verdict.PAUSED,
    NodeStatus.INACTIVE: Verdict.INACTIVE,
    NodeStatus.ACTIVE: Verdict.COOLING,
}


@lru_cache(maxsize=4096)
def _eligible(name: str) -> Considered:
    """The commonest line of all, made once for each node."""
    return Considered(name, Verdict.ELIGIBLE, "")


def _bound_words(message: Message) -> str:
    return (
        f"{message.bound_node} may have delivered it; another node only from {clock_words(message.bound_until)}, "
        "because that could be a second copy"
    )


def _with_caps(line: Considered, full: Full) -> Considered:
    reason = full.reasons.get(line.node)
    return line if reason is None else Considered(line.node, Verdict.CAPPED, reason)


def _not_past(at: float, now: float) -> float:
    """A time to look again: `at`, or a default where it is unknown or gone by."""
    if at == float("inf"):
        return now + LOOK_AGAIN_S
    return at if at > now else now + SOON_S


def _summary(trace: Trace) -> str:
    return _some([f"{line.node} {line.reason or line.verdict}" for line in trace], "; ")


def _some(words: list[str], joint: str = ", ") -> str:
    more = len(words) - NAMED
    return joint.join(words[:NAMED]) + (f"{joint}and {more} more" if more > 0 else "")
