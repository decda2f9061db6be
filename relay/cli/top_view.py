"""What `relay top` shows, worked out of two looks at the relay. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

RATES = (
    ("accepted", "message.accepted"),
    ("delivered", "attempt.delivered"),
    ("deferred", "attempt.deferred"),
    ("refused", "attempt.refused"),
    ("uncertain", "attempt.uncertain"),
)
"""Shown name and event."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the workers said at one moment (epoch seconds)."""

    at: float
    workers: Sequence[Mapping[str, Any]]
    nodes: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class NodeLine:
    """`cap`: the fullest one as (used, limit, window in seconds), None without caps. `rate`: recipients a minute."""

    name: str
    pool: str
    state: str
    rate: float
    running: int
    cap: tuple[int, int, float] | None
    trouble: str


@dataclass(frozen=True, slots=True)
class View:
    """`rates`: events a second by name. `waits`: messages, pool, until (epoch seconds or None), why."""

    at: float
    workers: int
    sessions: int
    attempts: int
    rates: Mapping[str, float]
    queued: int
    held: int
    quarantined: int
    oldest_s: float
    waits: Sequence[tuple[int, str, float | None, str]]
    nodes: Sequence[NodeLine]
    notes: Sequence[str]


def view(now: Look, before: Look | None) -> View:
    """`before`: an earlier look, for rates; None makes them 0."""
    span = now.at - before.at if before else 0.0
    totals, earlier = _events(now), _events(before) if before else Counter[str]()
    queues = [row for worker in now.workers for row in worker["queues"]]
    oldest = min((row["oldest"] for row in queues if row["oldest"]), default=now.at)
    return View(
        at=now.at,
        workers=sum(bool(worker["running"]) for worker in now.workers),
        sessions=sum(worker["sessions"] for worker in now.workers),
        attempts=sum(worker["attempts"] for worker in now.workers),
        rates={shown: _rate(totals[name], earlier[name], span) for shown, name in RATES},
        queued=sum(row["queued"] for row in queues),
        held=sum(row["held"] for row in queues),
        quarantined=sum(row["quarantined"] for row in queues),
        oldest_s=max(0.0, now.at - oldest),
        waits=_waits(now.workers),
        nodes=_nodes(now, before, span),
        notes=_notes(now.workers),
    )


def _events(look: Look) -> Counter[str]:
    totals: Counter[str] = Counter()
    for worker in look.workers:
        totals.update(worker["counters"])
    return totals


def _rate(total: float, earlier: float, span_s: float) -> float:
    """A counter that went back belongs to a worker that was started anew: nothing is known of the time between."""
    return max(0.0, total - earlier) / span_s if span_s > 0 else 0.0


def _waits(workers: Sequence[Mapping[str, Any]]) -> list[tuple[int, str, float | None, str]]:
    """By pool and reason over all workers, most messages first."""
    counts: Counter[tuple[str, str]] = Counter()
    until: dict[tuple[str, str], float | None] = {}
    for worker in workers:
        for row in worker["waiting"]:
            key = (str(row["pool"]), "; ".join(row["why"]) or "every node has all connections in use")
            counts[key] += row["messages"]
            known = until.get(key)
            until[key] = row["until"] if known is None else min(known, row["until"] or known)
    return [(count, pool, until[pool, why], why) for (pool, why), count in counts.most_common()]


def _nodes(now: Look, before: Look | None, span_s: float) -> list[NodeLine]:
    earlier = {row["name"]: row for row in before.nodes} if before else {}
    running: Counter[str] = Counter()
    for worker in now.workers:
        running.update(worker["attempts_by_node"])
    lines = []
    for row in now.nodes:
        old = earlier.get(row["name"], row)
        delivered, was = row["counts"].get("delivered", 0), old["counts"].get("delivered", 0)
        caps = [(cap["used"], cap["limit"], cap["window_s"]) for cap in row["caps"]]
        lines.append(
            NodeLine(
                name=row["name"],
                pool=row["pool"],
                state="cooling" if row["status"] == "active" and row["unavailable"] else str(row["status"]),
                rate=60.0 * _rate(delivered, was, span_s),
                running=running[row["name"]],
                cap=max(caps, key=lambda cap: (_filled(cap), cap[2]), default=None),
                trouble=row["unavailable"] or "",
            )
        )
    return lines


def _filled(cap: tuple[int, int, float]) -> float:
    return cap[0] / cap[1] if cap[1] else 1.0


def _notes(workers: Sequence[Mapping[str, Any]]) -> list[str]:
    """What an operator should look at."""
    notes = [f"worker {one['shard']} takes no mail: {one['unhealthy']}" for one in workers if one["unhealthy"]]
    for one in workers:
        configuration = one.get("configuration") or {}
        if configuration.get("failure"):
            notes.append(f"the last reload failed: {configuration['failure']['error']}")
        if configuration.get("returned"):
            notes.append(f"the last reload was undone: {configuration['returned']['why']}")
    return list(dict.fromkeys(note.splitlines()[0] for note in notes))
