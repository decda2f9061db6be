"""When a message is tried again, and when it is given up: pure arithmetic over ages and attempts.

Instants are epoch seconds, intervals are seconds. Nothing here reads a clock or a random generator: the age comes
from the caller, the jitter is a number in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

MINUTE_S, HOUR_S, DAY_S = 60.0, 3600.0, 86400.0

STEP_S = 30.0
"""From here on a difference between two clocks is a step. NTP slews by 500 ppm, which is 2 s in an hour."""

MAX_STEPS = 64
"""Steps remembered; older ones are older than anything that waits, unless something is wrong with the clock."""


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


class ClockSteps:
    """How often and how far the wall clock was set, found by comparing it with a steady one.

    Ages of messages are differences of wall-clock times. A clock that is set forward by a week would make the whole
    queue a week older and give it up at once; with the steps known, the age that has really passed is known too. What
    was set before this process started cannot be told.
    """

    def __init__(self) -> None:
        self._offset_s: float | None = None
        self._steps: list[tuple[float, float]] = []  # what was received before this time, looks so much older

    def look(self, wall: float, steady: float) -> float:
        """Compare the clocks now. Call it often: what drifts apart slowly is no step.

        Args:
            wall: epoch seconds.
            steady: seconds of a clock that nobody sets.

        Returns:
            By how much the wall clock was set since the last look; 0.0 when it was not.
        """
        offset_s = wall - steady
        step_s = offset_s - self._offset_s if self._offset_s is not None else 0.0
        self._offset_s = offset_s
        if abs(step_s) < STEP_S:
            return 0.0
        # Between what came before a step forward and what comes after it lies the step.
        self._steps = [*self._steps[1 - MAX_STEPS :], (wall - max(0.0, step_s) / 2, step_s)]
        return step_s

    def lead_s(self, received_at: float) -> float:
        """How much older a message looks than it is; negative when the clock was set back. Hot path."""
        return sum(step_s for at, step_s in self._steps if received_at < at) if self._steps else 0.0
