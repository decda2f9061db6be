"""The history in memory: the twin of the SQLite one."""

from __future__ import annotations

from collections import deque

from relay.events import Event
from relay.history import Filter, decode, matches


class MemoryHistory:
    """The last `max_events` events."""

    def __init__(self, *, max_events: int = 100_000) -> None:
        self._events: deque[tuple[str, bytes]] = deque(maxlen=max_events)

    def record(self, message_id: str, event: bytes) -> None:
        self._events.append((message_id, event))

    async def story(self, message_id: str) -> list[Event]:
        return [decode(data) for own, data in self._events if own == message_id]

    async def recent(self, limit: int, wanted: Filter = Filter()) -> list[Event]:  # noqa: B008 - a value
        found: list[Event] = []
        for _, data in reversed(self._events):
            if len(found) >= limit:
                break
            event = decode(data)
            if matches(event, data, wanted):
                found.append(event)
        return found

    @property
    def dropped(self) -> int:
        """Nothing is lost on the way; the oldest making room is what was asked for."""
        return 0

    async def close(self) -> None:
        """Nothing to close."""
