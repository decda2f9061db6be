"""What the workers of one machine share in memory; made before they are forked."""

from __future__ import annotations

import secrets

from relay.bridges.throttle import AuthThrottle
from relay.process.shared_counters import SharedCounters
from relay.process.shared_value import SharedValue


class Shared:
    """Open connections and failed logins, one count for all workers, and the configuration that was taken over last.

    `start`: marks this start of the relay.
    `configuration`: a `frozen.freeze`d one; generation 0 while all run on the one the relay was started with.
    """

    def __init__(self, workers: int) -> None:
        self.start = secrets.token_hex(8)
        self.connections = SharedCounters(workers)
        self.throttle = AuthThrottle()
        self.configuration = SharedValue()
