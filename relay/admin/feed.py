"""Events as they happen, from the history files of all workers.

The workers write what happens to messages, nodes and themselves into `history-<shard>.db` (`relay.history`); here the
files are read on from where one was, a few times a second as long as anybody listens. That costs the mail path
nothing, and a listener that comes back can go on from its own position.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relay.events import Event
from relay.history import decode

LOOK_EVERY_S = 0.3
PAGE = 500
STREAMS = 50
"""Streams of events, to pages and others, at the same time."""

Position = dict[str, int]
"""Shard → number of the last event that was read."""


@dataclass(frozen=True, slots=True)
class Told:
    """An event with where it stands. `id` is the same whoever reads it: shard, number and the time it was told."""

    shard: str
    number: int
    event: Event

    @property
    def id(self) -> str:
        return f"{self.shard}-{self.number}-{int(self.event.at * 1000)}"


def event_row(event: Event) -> dict[str, Any]:
    """An event as JSON has it."""
    return {"event": event.name, "at": event.at, "level": event.level, "id": event.message_id, "data": event.data}


class Feed:
    """Reads on in the histories of one folder. Blocking parts run in threads."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.streams = 0
        """How many listen now."""

    def end(self) -> Position:
        """Behind the last event of each shard. Blocking."""
        return {shard: _last(path) for shard, path in self._files().items()}

    def read(
        self, position: Mapping[str, int], *, limit: int = PAGE, of_messages: bool = True
    ) -> tuple[list[Told], Position, int]:
        """Events behind a position, those of each shard in order. Blocking.

        Args:
            of_messages: else only those of nodes and of the relay itself, which are few and found by an index.

        Returns:
            The events, the position behind them, and how many were trimmed away before they could be read.
        """
        found: list[Told] = []
        after = dict(position)
        missed = 0
        for shard, path in self._files().items():
            start = after.get(shard, 0)
            with contextlib.suppress(sqlite3.Error), contextlib.closing(_opened(path)) as connection:
                last = connection.execute("SELECT max(number) FROM event").fetchone()[0] or 0
                if last < start:  # begun anew
                    start = 0
                which = "number > ?" if of_messages else "message = 0 AND number > ?"
                rows = connection.execute(
                    f"SELECT number, data FROM event WHERE {which} ORDER BY number LIMIT ?",  # noqa: S608 - our own
                    (start, limit),
                ).fetchall()
                if rows and start and of_messages:
                    missed += rows[0][0] - start - 1
                for number, data in rows:
                    with contextlib.suppress(ValueError):
                        found.append(Told(shard, number, decode(data)))
                after[shard] = rows[-1][0] if rows else start
        found.sort(key=lambda told: told.event.at)
        return found, after, missed

    async def follow(self, position: Position | None = None) -> AsyncIterator[list[Told]]:
        """What comes, in batches; an empty one when nothing came for a while. Ends with its caller."""
        self.streams += 1
        try:
            here = position if position is not None else await asyncio.to_thread(self.end)
            while True:
                told, here, _ = await asyncio.to_thread(self.read, here)
                yield told
                if len(told) < PAGE:
                    await asyncio.sleep(LOOK_EVERY_S)
        finally:
            self.streams -= 1

    def _files(self) -> dict[str, Path]:
        prefix, suffix = "history-", ".db"
        paths = sorted(self._directory.glob(f"{prefix}*{suffix}"))
        return {path.name.removeprefix(prefix).removesuffix(suffix): path for path in paths}


def _last(path: Path) -> int:
    try:
        with contextlib.closing(_opened(path)) as connection:
            return int(connection.execute("SELECT max(number) FROM event").fetchone()[0] or 0)
    except sqlite3.Error:
        return 0


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=2.0)
