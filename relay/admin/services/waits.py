"""Why mail waits, over all workers. Pure, over the rows of `Overview.status`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BUSY = "every node that could take it has all connections in use"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """`until`: the earliest time anything of it may go, epoch seconds; None: nobody knows."""

    messages: int
    pool: str
    until: float | None
    why: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The queue in figures. `oldest`: when its oldest message came, epoch seconds. `other`: queued, but none of the
    waits: with a node now, about to go, or refused for now and due again later."""

    queued: int
    held: int
    quarantined: int
    size: int
    oldest: float | None
    waits: tuple[Wait, ...]
    other: int


def standing(workers: Sequence[Mapping[str, Any]]) -> Standing:
    queues = [row for worker in workers for row in worker["queues"]]
    found: dict[tuple[str, tuple[str, ...]], tuple[int, float | None]] = {}
    for worker in workers:
        for row in worker["waiting"]:
            key = (str(row["pool"]), tuple(str(line) for line in row["why"]) or (BUSY,))
            count, until = found.get(key, (0, None))
            times = [time for time in (until, row["until"]) if time is not None]
            found[key] = count + row["messages"], min(times, default=None)
    waits = [Wait(messages=count, pool=pool, until=until, why=why) for (pool, why), (count, until) in found.items()]
    waits.sort(key=lambda wait: -wait.messages)
    queued = sum(row["queued"] for row in queues)
    return Standing(
        queued=queued,
        held=sum(row["held"] for row in queues),
        quarantined=sum(row["quarantined"] for row in queues),
        size=sum(row["size"] for row in queues),
        oldest=min((row["oldest"] for row in queues if row["oldest"]), default=None),
        waits=tuple(waits),
        other=max(0, queued - sum(wait.messages for wait in waits)),
    )


def notes(workers: Sequence[Mapping[str, Any]]) -> list[str]:
    """What an operator should look at."""
    found = []
    for worker in workers:
        if worker.get("error"):
            found.append(f"worker {worker['shard']} does not answer: {worker['error']}")
        if worker.get("unhealthy"):
            found.append(f"worker {worker['shard']} takes no mail: {worker['unhealthy']}")
        configuration = worker.get("configuration") or {}
        if configuration.get("failure"):
            found.append(f"the last reload failed: {configuration['failure']['error']}")
        if configuration.get("returned"):
            found.append(f"the last reload was undone: {configuration['returned']['why']}")
    return list(dict.fromkeys(note.splitlines()[0] for note in found))
