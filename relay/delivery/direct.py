"""`delivery: direct`: the client's DATA is answered with the upstream's own verdict, and nothing is stored.

Failover between nodes happens while the client waits; what cannot go in that time is the client's to retry. One case
cannot be said in one reply: some recipients were taken and some were not. Then the message is accepted and what is
left goes into the queue, because any refusal would make the client send second copies to those who have it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace

from relay.delivery.attempt import Attempts
from relay.delivery.fleet import Fleet
from relay.delivery.reports import Reports
from relay.dsn import Action
from relay.envelope import Content, Message, RecipientStatus, Reply
from relay.errors import SpoolError
from relay.events import Events
from relay.router.disposition import Disposition, Next, Run, dispose
from relay.router.router import Router
from relay.router.selection import Busy, Decision, Hold, Route
from relay.spool import Lease, Spool

ENOUGH_S = 1.0
"""Time below which no further node is tried: no attempt could end in it."""

BUSY = Reply(451, "4.3.2", "No upstream is free now, please try again later")
NOT_NOW = Reply(451, "4.4.1", "The message could not be passed on now, please try again later")
UNCLEAR = Reply(451, "4.4.2", "The upstream did not confirm the message, please try again later")


class Direct:
    """Args:
    hand_in: ends the lease of a message whose rest goes into the queue: lease, due (epoch seconds), reason.
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
        hand_in: Callable[[Lease, Message, float, str], Awaitable[None]],
        ready: Callable[[str], Awaitable[None]],
    ) -> None:
        self._ready = ready
        self._spool = spool
        self._router = router
        self._fleet = fleet
        self._attempts = attempts
        self._reports = reports
        self._events = events
        self._clock = clock
        self._rng = rng
        self._hand_in = hand_in

    async def deliver(self, message: Message, content: Content, *, deadline: float) -> Reply:
        """Pass the message on now.

        Args:
            deadline: loop time by which the client must have its answer.
        """
        loop = asyncio.get_running_loop()
        run, result = Run(), None
        message = replace(message, attempts=1)
        await self._ready(message.pool)
        while (open_ := run.open(message)) and loop.time() + ENOUGH_S < deadline:
            decision = await self._route(message, run, len(open_))
            if not isinstance(decision, Route):
                if isinstance(decision, Hold):
                    why = [f"{considered.node}: {considered.reason}" for considered in decision.trace]
                    self._events.message_held(message.id, until=decision.until, why=why)
                break
            home = self._fleet.pools[message.pool]
            upstream = self._fleet.enter(decision.node.name)
            try:
                attempted = await self._attempts.call(
                    message, content, decision, upstream, open_[: decision.granted], deadline=deadline
                )
            finally:
                self._fleet.leave(decision.node.name, upstream)
            result = dispose(
                message,
                decision.node,
                attempted.outcomes,
                run=run,
                pool=self._fleet.pools.get(message.pool, home),
                policy=self._attempts.policy,
                now=self._clock(),
                jitter=self._rng.random(),
            )
            await self._attempts.tell(message, decision, attempted, result)
            message, run = result.message, result.run
            if result.next not in (Next.CONTINUE, Next.ANOTHER_NODE):
                break
        return await self._answer(message, content, result)

    async def _route(self, message: Message, run: Run, recipients: int) -> Decision:
        """The decision for a client that waits: where all places are taken, it stands in line for a connection."""
        pool, now = message.pool, self._clock()
        decision = await self._router.route(
            message, tried=run.tried, busy=self._fleet.full(pool), now=now, recipients=recipients
        )
        if isinstance(decision, Busy):
            return await self._router.route(message, tried=run.tried, now=now, recipients=recipients)
        return decision

    async def _answer(self, message: Message, content: Content, result: Disposition | None) -> Reply:
        delivered = any(r.status is RecipientStatus.DELIVERED for r in message.recipients)
        failed = tuple(r for r in message.recipients if r.status is RecipientStatus.FAILED)
        if delivered and result is not None:
            try:
                await self._reports.tell(message, failed, Action.FAILED, content=content)
                if message.pending:
                    lease = await self._spool.store(message, content, lease=True)
                    if lease is not None:
                        await self._hand_in(lease, message, result.due, result.reason)
            except SpoolError as error:
                # Of two evils the smaller: who has it gets it once more, and the others get it.
                self._events.fault(where="spool", error=f"{message.id}: the rest of a direct delivery: {error}")
                return NOT_NOW
            return Reply(250, "2.0.0", f"Ok: delivered as {message.id}")
        if failed and not message.pending:
            code = failed[0].code if 500 <= failed[0].code < 600 else 554
            enhanced = failed[0].enhanced if failed[0].enhanced.startswith("5.") else "5.0.0"
            return Reply(code, enhanced, "The message was refused by the upstream")
        if message.bound_node:
            return UNCLEAR
        return NOT_NOW if result is not None else BUSY
