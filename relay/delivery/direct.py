"""`delivery: direct`: the client's DATA is answered with the upstream's own verdict, and nothing is stored.

Failover between nodes happens while the client waits; what cannot go in that time is the client's to retry. One case
cannot be said in one reply: some recipients were taken and some were not. Then the message is accepted and what is
left goes into the queue, because any refusal would make the client send second copies to those who have it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace

from relay.delivery.attempt import Attempts
from relay.delivery.fleet import Fleet
from relay.delivery.reports import Reports
from relay.dsn import Action
from relay.envelope import Content, Message, RecipientStatus, Reply
from relay.errors import SpoolError
from relay.events import Events
from relay.outcome import RecipientOutcome, Status
from relay.router.disposition import Next, Run, dispose
from relay.router.router import Router
from relay.router.selection import Busy, Hold, Route
from relay.spool import Spool

LOOK_S = 0.05
"""Pause before asking again while all places are taken."""

BUSY = Reply(451, "4.3.2", "No upstream is free now, please try again later")
NOT_NOW = Reply(451, "4.4.1", "The message could not be passed on now, please try again later")
UNCLEAR = Reply(451, "4.4.2", "The upstream did not confirm the message, please try again later")


class Direct:
    """Args:
    stored: called with a message whose rest went into the queue.
    """

    def __init__(
        self,
        *,
        spool: Spool,
        router: Router,
        fleet: Fleet,
        attempts: Attempts,
        reports: Reports,
        events: Events,
        clock: Callable[[], float],
        rng: random.Random,
        stored: Callable[[Message], None],
    ) -> None:
        self._spool = spool
        self._router = router
        self._fleet = fleet
        self._attempts = attempts
        self._reports = reports
        self._events = events
        self._clock = clock
        self._rng = rng
        self._stored = stored

    async def deliver(self, message: Message, content: Content, *, deadline: float) -> Reply:
        """Pass the message on now.

        Args:
            deadline: loop time by which the client must have its answer.
        """
        run = Run()
        message = replace(message, attempts=1)
        last: RecipientOutcome | None = None
        while open_ := run.open(message):
            decision = await self._router.route(
                message,
                tried=run.tried,
                busy=self._fleet.full(message.pool),
                now=self._clock(),
                recipients=len(open_),
            )
            if isinstance(decision, Busy) and asyncio.get_running_loop().time() + LOOK_S < deadline:
                await asyncio.sleep(LOOK_S)
                continue
            if not isinstance(decision, Route):
                if isinstance(decision, Hold):
                    why = [f"{considered.node}: {considered.reason}" for considered in decision.trace]
                    self._events.message_held(message.id, until=decision.until, why=why)
                break
            upstream = self._fleet.enter(decision.node.name)
            try:
                attempted = await self._attempts.call(
                    message, content, decision, upstream, open_[: decision.granted], deadline=deadline
                )
            finally:
                self._fleet.leave(decision.node.name)
            result = dispose(
                message,
                decision.node,
                attempted.outcomes,
                run=run,
                pool=self._fleet.pools[message.pool],
                policy=self._attempts.policy,
                now=self._clock(),
                jitter=self._rng.random(),
            )
            await self._attempts.tell(message, decision, attempted, result)
            last = attempted.outcomes[0] if attempted.outcomes else last
            message, run = result.message, result.run
            if result.next not in (Next.CONTINUE, Next.ANOTHER_NODE):
                break
        return await self._answer(message, content, last)

    async def _answer(self, message: Message, content: Content, last: RecipientOutcome | None) -> Reply:
        delivered = any(r.status is RecipientStatus.DELIVERED for r in message.recipients)
        failed = tuple(r for r in message.recipients if r.status is RecipientStatus.FAILED)
        if delivered:
            try:
                if message.pending:
                    await self._spool.store(message, content, lease=False)
                    self._stored(message)
                await self._reports.tell(message, failed, Action.FAILED)
            except SpoolError as error:
                self._events.fault(where="spool", error=f"{message.id}: the rest of a direct delivery: {error}")
                return NOT_NOW
            return Reply(250, "2.0.0", f"Ok: delivered as {message.id}")
        if failed and not message.pending:
            code = failed[0].code if 500 <= failed[0].code < 600 else 554
            enhanced = failed[0].enhanced if failed[0].enhanced.startswith("5.") else "5.0.0"
            return Reply(code, enhanced, "The message was refused by the upstream")
        if last is not None and last.outcome.status is Status.UNCERTAIN:
            return UNCLEAR
        return NOT_NOW if last is not None else BUSY
