"""What the workers of one machine share in memory; made before they are forked."""

from __future__ import annotations

import secrets

from relay.bridges.throttle import AuthThrottle
from relay.process.shared_counters import SharedCounters


class Shared:
    """Open connections and failed logins, one count for all workers; `start` marks this start of the relay."""

    def __init__(self, workers: int) -> None:
        self.start = secrets.token_hex(8)
        self.connections = SharedCounters(workers)
        self.throttle = AuthThrottle()
