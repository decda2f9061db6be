"""How long a process may believe that what it leased is its own, without asking. Pure: times are arguments.

A process of a shared spool is known by its *owner* name, a new one for each start. It says every few seconds that it
lives; when it has been silent for the length of a lease, others may take its messages over. Its own clock for that is
one that goes on while the process or the machine is stopped. The lease is counted from the moment before the question
was sent, and ends here a tenth earlier than there, so that it never lasts longer here.

A process that was stopped for longer than its lease takes a new name at once, on its first step after it woke up:
whatever it held under the old one is lost to it, and it sends nothing more of it.
"""

from __future__ import annotations

import secrets
import time

MARGIN = 0.9


def steady() -> float:
    """Seconds of a clock that nobody sets and that goes on in suspend."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Tenure:
    """Args:
    place: what a restart of this process keeps, such as the replica's id and the shard; its owner names begin so.
    """

    __slots__ = ("_looked", "_sure_until", "_ttl_s", "owner", "place")

    def __init__(self, place: str, ttl_s: float) -> None:
        self.place = place
        self._ttl_s = ttl_s
        self._sure_until = float("-inf")
        self._looked: float | None = None
        self.owner = self._name()

    def _name(self) -> str:
        return f"{self.place}.{secrets.token_hex(6)}"

    def beaten(self, asked_at: float) -> None:
        """The server has heard that we live; the question was sent at `asked_at`."""
        self._sure_until = max(self._sure_until, asked_at + MARGIN * self._ttl_s)

    def renew(self) -> str:
        """Begin anew under another name; returns the old one."""
        old, self.owner = self.owner, self._name()
        self._sure_until = float("-inf")
        return old

    def is_ours(self, token: str) -> bool:
        """The lease was taken under our present name."""
        return token.rpartition("/")[0] == self.owner

    def is_sure(self, now: float) -> bool:
        """Nobody can have taken anything from us yet."""
        return now < self._sure_until

    def slept(self, now: float) -> bool:
        """Called again and again: whether so much time has passed since the last call that we must have been stopped
        for longer than our lease lasts."""
        looked, self._looked = self._looked, now
        return looked is not None and now - looked > MARGIN * self._ttl_s
