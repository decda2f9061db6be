"""How many wrong tokens an address may type at the login form: leaky buckets of `bridges.throttle`, for this process.

A right token is never held up by it. 256 random bits cannot be guessed; this only keeps the trying quiet.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from relay.admin.refusals import Refused
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

    def wrong(self, peer: str) -> Refused:
        """Count a wrong token; the answer to it."""
        if not self._throttle.admits(peer, "", self._clock()):
            return Refused(429, "too many wrong tokens from this address", headers={"Retry-After": str(RETRY_S)})
        self._throttle.failed(peer, "", self._clock())
        return unauthorized("this token is not known, or its time is over")


def unauthorized(detail: str) -> Refused:
    return Refused(401, detail, headers={"WWW-Authenticate": 'Bearer realm="relay"'})
