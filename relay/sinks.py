"""Where events go inside the process: the log, and counters for `relay status`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from relay.events import Event
from relay.logs.log import Log

MAX_SERIES = 4096
"""Bridges, pools and nodes come from the configuration, so series are few; a fault elsewhere must not fill memory."""

OTHER = "(other)"

Series = tuple[str, str, str, str, str]
"""Event name, bridge, pool, node, status."""


class LogSink:
    """Events as log lines, with the spool id as `id`."""

    def __init__(self, log: Log) -> None:
        self._tell = log.tell

    def emit(self, event: Event) -> None:
        fields = {"id": event.message_id, **event.data} if event.message_id else event.data
        self._tell(event.level, event.name, fields, event.at)


class CountSink:
    """How often each event happened, by bridge, pool, node and status. One process, since its start.

    Addresses, domains and other words of peers never become part of a series.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._since = clock()
        self._counts: dict[Series, int] = {}

    def emit(self, event: Event) -> None:
        get = event.data.get
        name = event.name
        status = name[8:] if name.startswith("attempt.") else get("status", "")
        series = (name, get("bridge", ""), get("pool", ""), get("node", ""), status)
        counts = self._counts
        try:
            counts[series] += 1
        except KeyError:
            self._begin(series)
        except TypeError:  # a label that cannot be hashed is nobody's name
            self._begin((name, OTHER, OTHER, OTHER, OTHER))

    def count(self, name: str, **labels: str) -> int:
        """How often `name` happened with these labels (`bridge`, `pool`, `node`, `status`), over all others."""
        wanted = {("bridge", "pool", "node", "status").index(label) + 1: value for label, value in labels.items()}
        return sum(
            count
            for series, count in self._counts.items()
            if series[0] == name and all(series[place] == value for place, value in wanted.items())
        )

    def snapshot(self) -> dict[str, Any]:
        """Counts so far: `since` (epoch seconds), `events` (name → count) and `series` (one mapping for each)."""
        events: dict[str, int] = {}
        for series, count in self._counts.items():
            events[series[0]] = events.get(series[0], 0) + count
        return {
            "since": self._since,
            "events": dict(sorted(events.items())),
            "series": [
                {"event": name, "bridge": bridge, "pool": pool, "node": node, "status": status, "count": count}
                for (name, bridge, pool, node, status), count in sorted(self._counts.items())
            ],
        }

    def _begin(self, series: Series) -> None:
        if len(self._counts) >= MAX_SERIES and series not in self._counts:
            series = (series[0], OTHER, OTHER, OTHER, OTHER)
        self._counts[series] = self._counts.get(series, 0) + 1
