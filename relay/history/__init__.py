"""The story of each message: what `relay explain ID` prints.

A history keeps the events of messages for some days, for people. No mail depends on it: events may be lost when the
process is killed or the disk is full, they are never waited for, and under pressure the oldest unwritten go first and
are counted.

`sqlite` keeps them in a file that other processes read while the relay runs; `memory` is its twin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from relay.events import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which events are meant; empty fields do not restrict.

    Attributes:
        name: the event's name, or the beginning of it up to a dot: `attempt` means all attempts.
        text: occurs somewhere in the event's data, whatever the case of ASCII letters.
        since: epoch seconds.
    """

    name: str = ""
    text: str = ""
    since: float = 0.0


KEPT = ("node.", "relay.")
"""Events without a message that are kept: few, and what operators and webhooks want to know of."""


class History(Protocol):
    """Where the events of messages are kept."""

    def record(self, message_id: str, event: bytes) -> None:
        """Keep an event as `encode` wrote it. Never blocks, never raises: hot path."""
        ...

    async def story(self, message_id: str) -> list[Event]:
        """All that is known of a message, in the order in which it happened."""
        ...

    async def recent(self, limit: int, wanted: Filter = Filter()) -> list[Event]:
        """The last events, newest first."""
        ...

    @property
    def dropped(self) -> int:
        """Events that could not be kept so far."""
        ...

    async def close(self) -> None: ...


def encode(event: Event) -> bytes:
    """An event as JSON. What JSON does not know is written as its text, a named tuple as a list."""
    try:
        return orjson.dumps(event, default=_plain)
    except orjson.JSONEncodeError:  # a lone surrogate, an integer beyond 64 bits
        data = {str(name): repr(value) for name, value in event.data.items()}
        return orjson.dumps(Event(event.name, event.at, event.level, event.message_id, data), default=_plain)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else str(value)


def decode(data: bytes) -> Event:
    """Raises ValueError for what `encode` did not write."""
    fields: dict[str, Any] = orjson.loads(data)
    try:
        return Event(fields["name"], fields["at"], fields["level"], fields["message_id"], fields["data"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"not an event: {error}") from error


def matches(event: Event, data: bytes, wanted: Filter) -> bool:
    """Whether an event, and its JSON, is meant."""
    return (
        event.at >= wanted.since
        and (not wanted.name or event.name == wanted.name or event.name.startswith(f"{wanted.name}."))
        and (not wanted.text or wanted.text.lower() in data.decode().lower())
    )


class HistorySink:
    """Hands the events of messages, nodes and the process to a history; those of sessions are not its affair."""

    def __init__(self, history: History) -> None:
        self._history = history

    def emit(self, event: Event) -> None:
        if event.message_id or event.name.startswith(KEPT):
            self._history.record(event.message_id, encode(event))
