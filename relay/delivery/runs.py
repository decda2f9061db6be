"""One run over one message: nodes in turn, until the message is done or must wait.

What it guarantees
- An attempt is begun durably before the network is touched, and its results are durable before the next node is tried
  or the run ends.
- Failures are reported before they are settled; a report that cannot be stored leaves them unsettled.
- A permit that was not used goes back, whatever went wrong.
- After a node fault the message goes through another node in the same run; never after an uncertain end.

What it leaves to others: which node (`router`), what follows from an outcome (`router.disposition`), the call itself
(`attempt`), when a message has its turn and what a closed spool means (`dispatcher`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from relay.delivery.attempt import Attempts, unreported
from relay.delivery.fleet import Fleet
from relay.delivery.job import Job
from relay.envelope import Content, Message, Recipient
from relay.errors import SpoolError
from relay.events import Events
from relay.router.disposition import Disposition, Next, dispose, expire
from relay.router.router import Router
from relay.router.selection import Busy, Hold, Route, Trace, Unroutable
from relay.schedule import ClockSteps
from relay.spool import Spool

UNROUTABLE_S = 300.0
"""Pause before messages that no configured node could ever take are looked at again."""

UNTOLD_S = 60.0
"""Pause before a failure is looked at again whose report could not be stored."""

TOLD_EVERY_S = 60.0
"""How often the same message may say that it is held: the oldest of a class is asked each time its gate opens."""


class Unreadable(Exception):
    """The content of a message could not be read; if it is damaged, the spool has quarantined the message."""


@dataclass(frozen=True, slots=True)
class Wait:
    """No message like this one may go before `until` (epoch seconds).

    Attributes:
        why: one line for each node; empty when those that could take it are only busy.
        reason: the same in short.
    """

    until: float
    why: tuple[str, ...] = ()
    reason: str = ""


class Runs:
    """Carries messages. One per worker.

    Args:
        placed: called when a job has found its node.
        steps: of the wall clock, for ages.
        steady: seconds of a clock that nobody sets.
    """

    def __init__(
        self,
        *,
        spool: Spool,
        router: Router,
        fleet: Fleet,
        attempts: Attempts,
        events: Events,
        placed: Callable[[Job], None],
        steps: ClockSteps,
        clock: Callable[[], float],
        steady: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._spool = spool
        self._router = router
        self._fleet = fleet
        self._attempts = attempts
        self._events = events
        self._placed = placed
        self._steps = steps
        self._clock = clock
        self._steady = steady
        self._rng = rng

    async def carry(self, job: Job) -> Wait | None:
        """Run over a message from where it stands.

        Returns:
            None when the lease has ended with it, else why it goes on waiting in memory.

        Raises:
            SpoolError: something could not be kept; the job knows what.
            Unreadable: nothing was sent.
        """
        while True:
            message = job.message
            recipients = job.run.open(message)
            sight = self._sight(message)
            decision = await self._router.route(
                message,
                tried=job.run.tried,
                busy=self._fleet.full(message.pool),
                now=self._clock(),
                recipients=len(recipients),
            )
            if isinstance(decision, Route):
                if not self._fleet.has_place(decision.node.name):
                    await self._attempts.unused(decision)  # others took it while we waited for the permit
                elif not await self._attempt(job, decision, recipients[: decision.granted]):
                    return None
            elif sight == self._sight(message):
                return await self._wait(job, decision)

    def too_old(self, message: Message) -> Disposition | None:
        """The end of a message that has reached its maximum age; None before."""
        return expire(message, self._clock(), self._attempts.policy, lead_s=self._lead_s(message))

    def _lead_s(self, message: Message) -> float:
        self._steps.look(self._clock(), self._steady())
        return self._steps.lead_s(message.received_at)

    def _sight(self, message: Message) -> tuple[int, int]:
        """What a refusal to route depends on besides time. When it changed meanwhile, the question is asked again."""
        return self._router.generation, self._fleet.freed(message.pool)

    async def _attempt(self, job: Job, route: Route, recipients: Sequence[Recipient]) -> bool:
        """Run one attempt; False when the run has ended with it."""
        node = route.node
        home = self._fleet.pools[job.message.pool]
        upstream = self._fleet.enter(node.name)
        try:
            self._placed(job)
            try:
                content = await self._begin(job)
            except BaseException:
                await self._attempts.unused(route)
                raise
            try:
                attempted = await self._attempts.call(
                    job.message, content, route, upstream, recipients, confirm=lambda: self._spool.confirm(job.lease)
                )
            except SpoolError:  # it was not confirmed that the message is still ours
                await self._attempts.unused(route)
                raise
        finally:
            self._fleet.leave(node.name, upstream)
        before = job.message
        result = dispose(
            before,
            node,
            attempted.outcomes,
            run=job.run,
            pool=self._fleet.pools.get(before.pool, home),
            policy=self._attempts.policy,
            now=self._clock(),
            jitter=self._rng.random(),
            lead_s=self._lead_s(before),
        )
        job.message, job.run, job.due = unreported(result), result.run, result.due
        await self._attempts.tell(before, route, attempted, result)
        if result.next not in (Next.CONTINUE, Next.ANOTHER_NODE):
            await self._end(job, result)
            return False
        if not await self._attempts.report(job, result):
            await self._untold(job)
            return False
        if result.delivered or result.failed or any(entry.outcome.attempted for entry in attempted.outcomes):
            job.renew(await self._spool.progress(job.lease, job.message))
        return True

    async def _begin(self, job: Job) -> Content:
        """The content, once the spool knows of the attempt."""
        if not job.begun:
            job.renew((await self._spool.begin([job.lease]))[0])
            job.begun = True
        if job.content is None:
            try:
                job.content = await self._spool.content(job.message.id)
            except SpoolError as error:
                raise Unreadable(str(error)) from error
        return job.content

    async def _wait(self, job: Job, decision: Busy | Hold | Unroutable) -> Wait | None:
        """What becomes of a job for which there is no node now: it is given up, waits here, or goes back."""
        ended = self.too_old(job.message)
        if ended is not None:
            job.message = unreported(ended)
            await self._end(job, ended)
            return None
        if isinstance(decision, Busy):
            return Wait(decision.until)
        now = self._clock()
        until = decision.until if isinstance(decision, Hold) else now + UNROUTABLE_S
        why = _lines(decision.trace) or (decision.reason,)
        if now >= job.told_at + TOLD_EVERY_S:
            job.told_at = now
            self._events.message_held(job.message.id, until=until, why=why)
        run = job.run
        if run.attempted:
            # What the attempts of this run found out stays; those that wait for the schedule must not go earlier.
            due = job.due if run.waiting else min(until, job.due)
            await self._spool.settle(job.lease, job.message, due=due, reason=decision.reason)
            return None
        if run.tried:
            # About this message alone. By its schedule it stands before a class that may be parked by then.
            await self._spool.release([job.lease], due=min(until, job.due), reason=decision.reason)
            return None
        return Wait(until, why, decision.reason)

    async def _end(self, job: Job, result: Disposition) -> None:
        """Reports first, then the settlement that makes the end of the run final."""
        if result.next is Next.HOLD:
            await self._spool.release([job.lease], due=result.due, reason=result.reason)
        elif await self._attempts.report(job, result):
            await self._spool.settle(job.lease, job.message, due=result.due, reason=result.reason)
        else:
            await self._untold(job)

    async def _untold(self, job: Job) -> None:
        due = self._clock() + UNTOLD_S
        await self._spool.settle(job.lease, job.message, due=due, reason="a report on it could not be stored yet")


def _lines(trace: Trace) -> tuple[str, ...]:
    return tuple(f"{considered.node}: {considered.reason}" for considered in trace)
