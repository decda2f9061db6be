"""How many wrong tokens an address may present: the leaky buckets of `bridges.throttle`, for this process."""

from __future__ import annotations

import time
from collections.abc import Callable

from relay.bridges.throttle import AuthThrottle, ThrottleLimits

RETRY_S = 60
"""What a client that is refused is told to wait: a drop of its bucket leaks out in that time."""

_LIMITS = ThrottleLimits(address_failures=10, name_failures=1_000_000, window_s=600.0)


class Guesses:
    """Args:
    clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._throttle = AuthThrottle(_LIMITS, slots=4096)
        self._clock = clock

    def admits(self, peer: str) -> bool:
        return self._throttle.admits(peer, "", self._clock())

    def failed(self, peer: str) -> None:
        self._throttle.failed(peer, "", self._clock())
