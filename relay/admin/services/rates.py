"""How much mail came and went lately: the workers' own counts, looked at every few seconds, for the chart.

What the control process has not seen itself is read from the newest events of the histories once, at its start. Kept
in memory, an hour of it; the chart is for eyes, Prometheus is for history.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relay.admin.context import Context
from relay.history.sqlite import open_readable

EVERY_S = 10.0
KEEP_S = 3600.0
LEAST_S = 600.0
"""The chart of a relay that has just begun shows so much."""

SEEDED_EVENTS = 50_000
"""Newest events of a shard that are read at the start; some 50 ms of work."""

SERIES = {
    "in": ("message.accepted",),
    "delivered": ("attempt.delivered",),
    "deferred": ("attempt.deferred", "attempt.uncertain"),
    "refused": ("attempt.refused",),
}
"""Line of the chart and the events it counts."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """What happened in the `EVERY_S` from `at` (epoch seconds) on, by series."""

    at: float
    counts: Mapping[str, int]


class Rates:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._buckets: deque[Bucket] = deque(maxlen=int(KEEP_S / EVERY_S))
        self._before: Mapping[str, Counter[str]] = {}

    async def run(self) -> None:
        """Look on until cancelled."""
        now = time.time()
        self._buckets.extend(await asyncio.to_thread(seeded, self._context.site.directory, now))
        await self._look(now)
        while True:
            await asyncio.sleep(EVERY_S - time.time() % EVERY_S)
            await self._look(time.time())

    def chart(self, now: float) -> dict[str, list[float]]:
        """Messages a minute. `at`: begin of each step in epoch seconds, without gaps; the other lists fit it. It
        begins where anything is known, an hour ago at the earliest."""
        found = {slot(bucket.at): bucket.counts for bucket in self._buckets}
        first = max(slot(now - KEEP_S), min([slot(now - LEAST_S), *found]))
        steps = range(first, slot(now))
        factor = 60.0 / EVERY_S
        lines = {name: [round(factor * found.get(step, {}).get(name, 0), 2) for step in steps] for name in SERIES}
        return {"at": [step * EVERY_S for step in steps], **lines}

    def lately(self, now: float, *, seconds: float = 60.0) -> dict[str, float]:
        """Messages a minute over the last whole steps, by series."""
        steps = int(seconds / EVERY_S)
        recent = [bucket for bucket in self._buckets if now - seconds - EVERY_S <= bucket.at][-steps:]
        return {name: sum(b.counts.get(name, 0) for b in recent) * 60.0 / seconds for name in SERIES}

    async def _look(self, now: float) -> None:
        answers = await self._context.workers.each("status")
        self.note(now, {a.shard: Counter[str](a.value["counters"]) for a in answers if not a.error})

    def note(self, now: float, totals: Mapping[str, Counter[str]]) -> None:
        """What the workers have counted since their start, by shard and event."""
        if self._before:
            self._buckets.append(Bucket(now - EVERY_S, grown(self._before, totals)))
        self._before = totals or self._before


def slot(at: float) -> int:
    return int(at // EVERY_S)


def grown(before: Mapping[str, Counter[str]], now: Mapping[str, Counter[str]]) -> dict[str, int]:
    """By how much the counts of each series grew. A worker that began anew counts from nothing. Pure."""
    total: Counter[str] = Counter()
    for shard, counts in now.items():
        old = before.get(shard, Counter())
        for name, events in SERIES.items():
            one, other = sum(counts[event] for event in events), sum(old[event] for event in events)
            total[name] += one - other if one >= other else one
    return dict(total)


def seeded(directory: Path, now: float) -> list[Bucket]:
    """What the newest events tell of the last hour, oldest first. Blocking."""
    steps: dict[int, Counter[str]] = {}
    names = {event: name for name, events in SERIES.items() for event in events}
    for at, event in _newest(directory, now - KEEP_S):
        if event in names:
            steps.setdefault(slot(at), Counter())[names[event]] += 1
    return [Bucket(step * EVERY_S, dict(steps[step])) for step in sorted(steps) if step < slot(now)]


def _newest(directory: Path, since: float) -> Sequence[tuple[float, Any]]:
    query = (
        "SELECT at, json_extract(CAST(data AS TEXT), '$.name') FROM event WHERE at >= ? ORDER BY number DESC LIMIT ?"
    )
    rows: list[tuple[float, Any]] = []
    for path in sorted(directory.glob("history-*.db")):
        with contextlib.suppress(sqlite3.Error), contextlib.closing(open_readable(path)) as connection:
            rows += connection.execute(query, (since, SEEDED_EVENTS)).fetchall()
    return rows
