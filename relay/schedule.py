"""When a message is tried again, and when it is given up: pure arithmetic over ages and attempts.

Instants are epoch seconds, intervals are seconds. Nothing here reads a clock or a random generator: the age comes
from the caller, the jitter is a number in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

MINUTE_S, HOUR_S, DAY_S = 60.0, 3600.0, 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How long to go on, and how often.

    Attributes:
        intervals_s: pause after the first, second, … attempt; the last one repeats. Not empty.
        jitter: part by which each pause is drawn longer or shorter, so that what was deferred together does not come
            back together.
        max_age_s: a recipient still pending at this age is given up.
        uncertain_wait_s: how long a message stays with the node whose answer was lost before another node may send
            what could be a second copy. Two re-checks of a node that went down with the answer.
    """

    intervals_s: tuple[float, ...] = (MINUTE_S, 5 * MINUTE_S, 15 * MINUTE_S, HOUR_S, 4 * HOUR_S)
    jitter: float = 0.2
    max_age_s: float = 3 * DAY_S
    uncertain_wait_s: float = 30 * MINUTE_S

    def __post_init__(self) -> None:
        if not self.intervals_s or min(self.intervals_s) <= 0:
            raise ValueError("a retry schedule needs at least one interval, all above 0")


def age_s(received_at: float, now: float) -> float:
    """Age of a message; never negative, whatever the wall clock did since acceptance."""
    return max(0.0, now - received_at)


def next_attempt(policy: RetryPolicy, attempts: int, age_s: float, jitter: float) -> float | None:
    """Seconds from now until the next attempt.

    Args:
        attempts: begun so far, the one just ended included; below 1 counts as 1.
        age_s: seconds since acceptance; negative (the clock went back) counts as 0.
        jitter: in [0, 1]; 0.5 is the interval itself.

    Returns:
        Above 0. Never beyond the moment the message reaches its maximum age, so that its end is reported on time.
        None when that age is reached.
    """
    left = policy.max_age_s - max(0.0, age_s)
    if left <= 0:
        return None
    interval = policy.intervals_s[min(max(attempts, 1), len(policy.intervals_s)) - 1]
    spread = 1 + policy.jitter * (2 * min(max(jitter, 0.0), 1.0) - 1)
    return min(interval * spread, left)
