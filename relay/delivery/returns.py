"""Giving jobs back to the spool, also when it does not take them.

What it guarantees
- What is known of a message stays here until the spool has taken it: neither is a lease forgotten, so that the message
  would lie still until the next start, nor a result, so that it would be sent again.
- Nothing new is to start while something waits here (`is_stuck`): what it would come to could not be recorded either.
  A single message that the spool refuses again and again does not stop the others for ever.
- A message whose delivery fails in an unforeseen way costs itself a delay, and after three times it is set aside (R32).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import replace

from relay.delivery.job import Job
from relay.delivery.suspects import POISON
from relay.errors import SpoolError
from relay.events import Events
from relay.spool import LeaseLost, QueueKey, Spool, Standing

TROUBLE_S = 5.0
"""Pause of all deliveries after the spool could not record something."""

STUBBORN = 12
"""Failures to give one message back after which it no longer stops the others, and is tried once in `AGAIN_S`: a minute
of `TROUBLE_S`."""

AGAIN_S = 60.0
"""Pause before a message is looked at again whose delivery went wrong."""


class Returns:
    """One per worker.

    Args:
        noted: told the queue of each message that may be due again at once.
        clock: epoch seconds; steady: seconds of a clock that nobody sets.
    """

    def __init__(
        self,
        spool: Spool,
        *,
        noted: Callable[[QueueKey], None],
        events: Events,
        clock: Callable[[], float],
        steady: Callable[[], float],
    ) -> None:
        self._spool = spool
        self._noted = noted
        self._events = events
        self._clock = clock
        self._steady = steady
        self._stranded: dict[Job, tuple[Standing, str, float]] = {}  # standing, reason, steady time of the next try
        self._paused_until = float("-inf")

    def is_stuck(self) -> bool:
        """Nothing new may start. Hot path."""
        if self._steady() < self._paused_until:
            return True
        return bool(self._stranded) and any(job.failures < STUBBORN for job in self._stranded)

    def trouble(self, error: SpoolError) -> None:
        """Something could not be recorded."""
        self._events.fault(where="spool", error=f"{error}; deliveries pause for {TROUBLE_S:.0f} s")
        self._paused_until = self._steady() + TROUBLE_S

    async def put_back(self, jobs: Iterable[Job], *, due: float | None = None, reason: str = "") -> None:
        """Return jobs that wait: as they were, or with what their run has come to.

        Args:
            due: when to look again; None leaves it as it was, or as the run has it.
        """
        untouched = []
        for job in jobs:
            if job.run.attempted:
                await self.give_back(job, reason or job.run.reason, due=job.due if due is None else due)
            else:
                untouched.append(job)
                self._noted(job.key)
        if not untouched:
            return
        try:
            await self._spool.release([job.lease for job in untouched], due=due, reason=reason)
        except SpoolError as error:
            for job in untouched:
                self._strand(job, Standing.QUEUED, reason, error)

    async def give_back(
        self, job: Job, reason: str, *, due: float | None = None, standing: Standing = Standing.QUEUED
    ) -> None:
        """End a lease with what is known of the message; by default it is looked at again soon."""
        if due is None:
            due = max(self._clock() + AGAIN_S, job.due)
        try:
            with contextlib.suppress(LeaseLost):
                await self._spool.settle(job.lease, job.message, due=due, standing=standing, reason=reason)
        except SpoolError as error:
            self._strand(job, standing, reason, error)

    async def give_up(self, job: Job, error: Exception) -> None:
        """An unforeseen failure: the message waits, and is set aside when it happens again and again."""
        message = job.message
        what = f"{type(error).__name__}: {error}"
        self._events.fault(where="delivery", error=f"{message.id}: {what}")
        job.message = replace(message, crashes=message.crashes + 1)
        if job.message.crashes < POISON:
            await self.give_back(job, f"internal fault: {what}")
            return
        why = f"its delivery failed {job.message.crashes} times in an unforeseen way: {what}"
        await self.give_back(job, why, standing=Standing.QUARANTINED)
        self._events.message_quarantined(message.id, why=why)

    async def retry(self, *, at_once: bool = False) -> None:
        """Try again what the spool would not take, after the pause or at once; the first failure ends it."""
        now = self._steady()
        if not at_once and now < self._paused_until:
            return
        for job, (standing, reason, at) in list(self._stranded.items()):
            if at_once or at <= now:
                del self._stranded[job]
                await self.give_back(job, reason, standing=standing)
                if job in self._stranded:
                    return

    def _strand(self, job: Job, standing: Standing, reason: str, error: SpoolError) -> None:
        job.failures += 1
        wait_s = TROUBLE_S if job.failures < STUBBORN else AGAIN_S
        self._stranded[job] = (standing, reason, self._steady() + wait_s)
        if job.failures < STUBBORN:
            self.trouble(error)
        else:
            self._events.fault(where="spool", error=f"{job.message.id} is not taken back: {error}")
