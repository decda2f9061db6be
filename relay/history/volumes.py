"""How many recipients came and went lately, counted from the histories of all shards. From any process; blocking.

Costs some microseconds an event, so it is for commands and not for the workers.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from relay.history import decode
from relay.history.sqlite import open_readable


@dataclass(frozen=True, slots=True)
class Volumes:
    """Recipients: accepted by bridge, delivered by node."""

    bridges: Counter[str] = field(default_factory=Counter)
    nodes: Counter[str] = field(default_factory=Counter)


def volumes(directory: Path, *, since: float) -> Volumes:
    """What happened since (epoch seconds), as far as it is kept."""
    found = Volumes()
    query = "SELECT data FROM event WHERE at >= ?"
    for path in sorted(directory.glob("history-*.db")):
        with contextlib.suppress(sqlite3.Error), contextlib.closing(open_readable(path)) as connection:
            for (data,) in connection.execute(query, (since,)):
                _count(data, found)
    return found


def _count(data: bytes, found: Volumes) -> None:
    try:
        event = decode(data)
        recipients = len(event.data.get("recipients", ()))
        if event.name == "message.accepted":
            found.bridges[str(event.data["bridge"])] += recipients
        elif event.name == "attempt.delivered":
            found.nodes[str(event.data["node"])] += recipients
    except (ValueError, KeyError, TypeError):
        return  # not ours, or damaged: one event less
