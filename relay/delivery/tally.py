"""Counts per pool, campaign, node and result, gathered here and written to the shared state once a second."""

from __future__ import annotations

from relay.envelope import Message
from relay.errors import StateUnavailable
from relay.outcome import Status
from relay.state import CountKey, State


class Tally:
    """One per worker. A crash loses at most what was counted since the last `flush`."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._deltas: dict[CountKey, int] = {}

    def add(self, message: Message, node: str, status: Status, recipients: int, *, sent: int) -> None:
        """Count recipients that came to `status` at a node, `sent` of which were offered to it. Hot path."""
        deltas = self._deltas
        for what, count in (("sent", sent), (str(status), recipients)):
            if count:
                key = CountKey(message.pool, message.campaign, node, what)
                deltas[key] = deltas.get(key, 0) + count

    async def flush(self) -> None:
        """Write what was gathered; keeps it for next time when the state is away."""
        if not self._deltas:
            return
        deltas, self._deltas = self._deltas, {}
        try:
            await self._state.count(deltas)
        except StateUnavailable:
            for key, value in deltas.items():
                self._deltas[key] = self._deltas.get(key, 0) + value
