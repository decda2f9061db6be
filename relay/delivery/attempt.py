"""One attempt: read the content, hand it to the driver, tell what came of it, make it durable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from relay.delivery.fleet import Fleet
from relay.delivery.job import Job
from relay.delivery.keeper import HealthKeeper
from relay.delivery.render import Renderer
from relay.delivery.reports import Reports
from relay.delivery.tally import Tally
from relay.dsn import Action
from relay.envelope import Content, Message, Recipient
from relay.events import Events
from relay.outcome import Outcome, RecipientOutcome, Scope, Status
from relay.router.disposition import CoolDown, Delivered, Disposition, Fault, NoEffect, describe
from relay.router.router import Router
from relay.router.selection import Route
from relay.schedule import RetryPolicy
from relay.spool import Spool
from relay.transcode import CannotTranscode
from relay.upstreams.base import Capabilities, Outbound, OutboundRecipient, Upstream

ATTEMPT_S = 900.0
"""Longest attempt; the phases have shorter limits of their own (RFC 5321 §4.5.3.2 adds up to more than anybody wants
to wait, and 10 minutes of it belong to the final dot)."""


@dataclass(frozen=True, slots=True)
class Attempted:
    """What the driver answered, and when the attempt began (epoch seconds) and how long it took."""

    outcomes: Sequence[RecipientOutcome]
    began_at: float
    took_s: float


class Attempts:
    """Runs attempts and carries out what follows from them. One per worker."""

    def __init__(
        self,
        *,
        spool: Spool,
        router: Router,
        fleet: Fleet,
        keeper: HealthKeeper,
        renderer: Renderer,
        reports: Reports,
        tally: Tally,
        events: Events,
        policy: RetryPolicy,
        clock: Callable[[], float],
    ) -> None:
        self.policy = policy
        self._spool = spool
        self._router = router
        self._fleet = fleet
        self._keeper = keeper
        self._renderer = renderer
        self._reports = reports
        self._tally = tally
        self._events = events
        self._clock = clock

    async def call(
        self,
        message: Message,
        content: Content,
        route: Route,
        upstream: Upstream,
        recipients: Sequence[Recipient],
        *,
        deadline: float = float("inf"),
    ) -> Attempted:
        """Hand the message to the node for these recipients; `deadline` (loop time) can only shorten the attempt."""
        loop = asyncio.get_running_loop()
        began_at, began = self._clock(), loop.time()
        node = route.node
        rendering = self._renderer.rendering(message, content, self._fleet.pool_of(node.name), node)
        unfit: list[CannotTranscode] = []

        async def render(capabilities: Capabilities) -> Content:
            try:
                return await rendering.render(capabilities)
            except CannotTranscode as error:
                unfit.append(error)
                raise

        outbound = Outbound(
            id=message.id,
            sender=(node.return_path or message.sender) if message.sender else "",
            recipients=tuple(OutboundRecipient(address=r.address, notify=r.notify, orcpt=r.orcpt) for r in recipients),
            render=render,
            size=message.size,
            eight_bit=message.facts.eight_bit,
            smtputf8=message.facts.smtputf8,
            ret=message.ret,
            envid=message.envid,
        )
        try:
            outcomes = await upstream.deliver(outbound, deadline=min(began + ATTEMPT_S, deadline))
        except CannotTranscode:
            outcomes = []
        except Exception as error:
            # A driver raises only on bugs; whether the message left cannot be known then.
            self._events.fault(where=f"node {node.name}", error=f"{message.id}: {type(error).__name__}: {error}")
            outcomes = _all(recipients, _driver_fault(error))
        finally:
            rendering.close()
        if unfit:
            outcomes = _all(recipients, _cannot_carry(unfit[0]))
        return Attempted(outcomes, began_at, loop.time() - began)

    async def tell(self, message: Message, route: Route, attempted: Attempted, result: Disposition) -> None:
        """Events, counts, node health and permits."""
        node = route.node.name
        if route.permit is not None:
            unanswered = max(0, route.granted - len(attempted.outcomes))
            await self._router.refund(route.permit, result.refund + unanswered)
        for status, outcomes in _by_status(attempted.outcomes).items():
            self._tally.add(message, node, status, len(outcomes))
            first = outcomes[0].outcome
            self._events.attempt(
                message.id,
                status,
                bridge=message.bridge,
                pool=message.pool,
                node=node,
                recipients=[entry.address for entry in outcomes],
                scope=first.scope,
                answer=describe(first),
                vendor_id=first.vendor_id,
                attempted=first.attempted,
                attempt=message.attempts,
                took_ms=round(attempted.took_s * 1000),
                delay_s=round(self._clock() - message.received_at, 3),
                route=route.trace,
            )
        match result.effect:
            case Delivered():
                await self._keeper.delivered(node)
            case Fault(error=error):
                await self._keeper.fault(node, error, began_at=attempted.began_at)
            case CoolDown(until=until, reason=reason):
                await self._keeper.cool(node, until, reason)
            case NoEffect():
                pass

    async def close(self, job: Job, result: Disposition) -> None:
        """End the run: reports first, then the settlement that makes it final."""
        message = result.message
        if result.failed:
            await self._reports.tell(message, result.failed, Action.FAILED)
        if result.expired:
            self._events.message_expired(
                message.id,
                recipients=[recipient.address for recipient in result.expired],
                age_s=round(self._clock() - message.received_at),
            )
            await self._reports.tell(message, result.expired, Action.EXPIRED)
        await self._spool.settle(job.lease, message, due=result.due, reason=result.reason)


def _all(recipients: Sequence[Recipient], outcome: Outcome) -> list[RecipientOutcome]:
    return [RecipientOutcome(recipient.address, outcome) for recipient in recipients]


def _driver_fault(error: Exception) -> Outcome:
    text = f"internal fault of the driver ({type(error).__name__})"
    return Outcome(status=Status.UNCERTAIN, scope=Scope.MESSAGE, text=text)


def _cannot_carry(error: CannotTranscode) -> Outcome:
    """The node cannot take the message as it is, and it must not be changed; another node may."""
    return Outcome(
        status=Status.REFUSED,
        scope=Scope.MESSAGE,
        code=554,
        enhanced="5.6.7",
        text=str(error),
        phase="data",
        attempted=False,
    )


def _by_status(outcomes: Sequence[RecipientOutcome]) -> dict[Status, list[RecipientOutcome]]:
    groups: dict[Status, list[RecipientOutcome]] = {}
    for entry in outcomes:
        groups.setdefault(entry.outcome.status, []).append(entry)
    return groups
