"""What the workers of one machine share in memory; made before they are forked."""

from __future__ import annotations

from relay.bridges.throttle import AuthThrottle
from relay.shared_counters import SharedCounters, WorkerCounters


class Shared:
    """Open connections and failed logins, one count for all workers."""

    def __init__(self, workers: int) -> None:
        self.connections = SharedCounters(workers)
        self.throttle = AuthThrottle()


class SharedConnections:
    """The listener's `ConnectionCounter` over all workers."""

    def __init__(self, counters: WorkerCounters) -> None:
        self._counters = counters

    def take(self, key: str, limit: int) -> bool:
        if self._counters.enter(key) <= limit or not limit:
            return True
        self._counters.leave(key)
        return False

    def give_back(self, key: str) -> None:
        self._counters.leave(key)
