"""What the workers of one machine share in memory; made before they are forked."""

from __future__ import annotations

from relay.bridges.throttle import AuthThrottle
from relay.process.shared_counters import SharedCounters


class Shared:
    """Open connections and failed logins, one count for all workers."""

    def __init__(self, workers: int) -> None:
        self.connections = SharedCounters(workers)
        self.throttle = AuthThrottle()
