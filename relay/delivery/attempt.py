"""One attempt: read the content, hand it to the driver, tell what came of it, make it durable."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from relay.delivery.fleet import Fleet
from relay.delivery.job import Job
from relay.delivery.keeper import HealthKeeper
from relay.delivery.render import Renderer
from relay.delivery.reports import Reports
from relay.delivery.tally import Tally
from relay.delivery.watchdog import Watchdog
from relay.dsn import Action
from relay.envelope import Content, Message, Recipient, RecipientStatus
from relay.errors import SpoolError
from relay.events import Events
from relay.outcome import Outcome, RecipientOutcome, Scope, Status
from relay.pools.pool import Node
from relay.router.disposition import CoolDown, Delivered, Disposition, Fault, NoEffect, describe
from relay.router.router import Router
from relay.router.selection import Route
from relay.schedule import RetryPolicy
from relay.spool import Spool
from relay.transcode import CannotTranscode
from relay.upstreams.base import Capabilities, Outbound, OutboundRecipient, Upstream
from relay.values import thawed

ATTEMPT_S = 900.0
"""Longest attempt; the phases have shorter limits of their own (RFC 5321 §4.5.3.2 adds up to more than anybody wants
to wait, and 10 minutes of it belong to the final dot)."""

GRACE_S = 30.0
"""After its deadline a driver has this long to come back by itself; then the attempt is ended for it (R22)."""


@thawed
@dataclass(frozen=True, slots=True)
class Attempted:
    """What came of one attempt.

    Attributes:
        outcomes: one for each recipient, in their order.
        began_at: epoch seconds.
        took_s: how long it took.
        cut: the caller's own deadline ended it, so that a node that did not answer is not to blame.
        silent: the upstream took no request to report success, so that nobody after us will.
    """

    outcomes: Sequence[RecipientOutcome]
    began_at: float
    took_s: float
    cut: bool = False
    silent: bool = False


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
        self._watchdog = Watchdog()

    async def call(
        self,
        message: Message,
        content: Content,
        route: Route,
        upstream: Upstream,
        recipients: Sequence[Recipient],
        *,
        deadline: float = float("inf"),
        confirm: Callable[[], Awaitable[None]] | None = None,
    ) -> Attempted:
        """Hand the message to the node for these recipients.

        Args:
            deadline: loop time; can only shorten the attempt.
            confirm: asked last before anything is sent. What it raises (SpoolError) ends the attempt, and nothing was
                sent.
        """
        loop = asyncio.get_running_loop()
        began_at, began = self._clock(), loop.time()
        node = route.node
        rendering = self._renderer.rendering(message, content, self._fleet.pool_of(node.name), node)
        unfit: list[CannotTranscode] = []
        silent = False

        async def render(capabilities: Capabilities) -> Content:
            nonlocal silent
            silent = not capabilities.dsn
            if confirm is not None:
                await confirm()
            try:
                return await rendering.render(capabilities)
            except CannotTranscode as error:
                unfit.append(error)
                raise

        outbound = Outbound(
            id=message.id,
            sender=(node.return_path or message.sender) if message.sender else "",
            recipients=tuple(
                [OutboundRecipient(address=r.address, notify=r.notify, orcpt=r.orcpt) for r in recipients]
            ),
            render=render,
            size=message.size,
            eight_bit=message.facts.eight_bit,
            smtputf8=message.facts.smtputf8,
            ret=message.ret,
            envid=message.envid,
        )
        ends = min(began + ATTEMPT_S, deadline)
        outcomes: Sequence[RecipientOutcome] = ()
        try:
            with self._watchdog.until(ends + GRACE_S):
                answers = await upstream.deliver(outbound, deadline=ends)
        except CannotTranscode:
            pass  # `unfit` says it better
        except SpoolError:
            raise  # out of `confirm`
        except Exception as error:
            # A driver raises only on bugs, and never overstays; whether the message left cannot be known then.
            self._events.fault(where=f"node {node.name}", error=f"{message.id}: {type(error).__name__}: {error}")
            outcomes = _all(recipients, _driver_fault(f"internal fault of the driver ({type(error).__name__})"))
        else:
            outcomes = self._complete(message, node, recipients, answers)
        finally:
            rendering.close()
        if unfit:
            outcomes = _all(recipients, _cannot_carry(unfit[0]))
        took_s = loop.time() - began
        cut = deadline < began + ATTEMPT_S and loop.time() >= deadline
        return Attempted(outcomes, began_at, took_s, cut=cut, silent=silent)

    async def tell(self, message: Message, route: Route, attempted: Attempted, result: Disposition) -> None:
        """Events, counts, node health, permits, and success where it was asked for."""
        node = route.node.name
        if route.permit is not None:
            unused = sum(not entry.outcome.attempted for entry in attempted.outcomes)
            await self._router.refund(route.permit, unused + route.granted - len(attempted.outcomes))
        for outcomes in _by_status(attempted.outcomes):
            first = outcomes[0].outcome
            self._tally.add(message, node, first.status, len(outcomes), sent=sum(o.outcome.attempted for o in outcomes))
            self._events.attempt(
                message.id,
                first.status,
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
                if not attempted.cut:
                    await self._keeper.fault(node, error, began_at=attempted.began_at)
            case CoolDown(until=until, reason=reason):
                await self._keeper.cool(node, until, reason)
            case NoEffect():
                lost = [o.outcome for o in attempted.outcomes if o.outcome.status is Status.UNCERTAIN]
                if lost and not attempted.cut:
                    await self._keeper.uncertain(node, describe(lost[0]), began_at=attempted.began_at)
        if attempted.silent and any("SUCCESS" in recipient.notify for recipient in result.delivered):
            try:
                await self._reports.tell(message, result.delivered, Action.RELAYED)
            except SpoolError as error:  # of good news the delivery itself is the better half
                self._events.fault(where="spool", error=f"{message.id}: its report of success is lost: {error}")

    async def unused(self, route: Route) -> None:
        """The route was not taken after all: its permit goes back."""
        if route.permit is not None:
            await self._router.refund(route.permit, route.granted)

    async def report(self, job: Job, result: Disposition) -> bool:
        """Tell the sender of the recipients that have just failed for good. Those that are told of become final in
        `job.message`, which is to be what `unreported` made of the result.

        Returns:
            False when a report could not be stored.
        """
        if not result.failed and not result.expired:
            return True
        message = result.message
        if result.failed:
            self._events.message_failed(
                message.id,
                bridge=message.bridge,
                pool=message.pool,
                recipients=[
                    {"address": r.address, "code": r.code, "text": r.text, "node": r.node} for r in result.failed
                ],
            )
        if result.expired:
            self._events.message_expired(
                message.id,
                recipients=[recipient.address for recipient in result.expired],
                age_s=round(self._clock() - message.received_at),
            )
        untold: list[Recipient] = []
        for recipients, action in ((result.failed, Action.FAILED), (result.expired, Action.EXPIRED)):
            try:
                await self._reports.tell(message, recipients, action)
            except SpoolError as error:
                self._events.fault(where="spool", error=f"{message.id}: its report waits: {error}")
                untold += recipients
        job.message = _pending_again(message, untold)
        return not untold

    def _complete(
        self, message: Message, node: Node, recipients: Sequence[Recipient], answers: Sequence[RecipientOutcome]
    ) -> Sequence[RecipientOutcome]:
        """One outcome for each recipient, whatever the driver came back with."""
        if len(answers) == len(recipients):
            for answer, recipient in zip(answers, recipients, strict=True):
                if answer.address != recipient.address:
                    break
            else:
                return answers
        by_address = {answer.address: answer for answer in answers}
        missing = RecipientOutcome("", _driver_fault("the driver did not say what became of this recipient"))
        outcomes = [RecipientOutcome(r.address, by_address.get(r.address, missing).outcome) for r in recipients]
        if len(by_address.keys() & {r.address for r in recipients}) < len({r.address for r in recipients}):
            self._events.fault(where=f"node {node.name}", error=f"{message.id}: the driver left recipients out")
        return outcomes


def unreported(result: Disposition) -> Message:
    """The message with its results, but for failures: they stay open until the sender was told of them, so that nothing
    that happens meanwhile can settle a failure nobody hears of (R35)."""
    return _pending_again(result.message, (*result.failed, *result.expired))


def _all(recipients: Sequence[Recipient], outcome: Outcome) -> list[RecipientOutcome]:
    return [RecipientOutcome(recipient.address, outcome) for recipient in recipients]


def _driver_fault(text: str) -> Outcome:
    return Outcome(status=Status.UNCERTAIN, scope=Scope.MESSAGE, text=text)


def _cannot_carry(error: CannotTranscode) -> Outcome:
    """The node cannot take the message as it is, and it must not be changed; another node may."""
    return Outcome(
        status=Status.REFUSED,
        scope=Scope.MESSAGE,
        code=554,
        enhanced="5.6.3",
        text=str(error),
        phase="data",
        attempted=False,
    )


def _by_status(outcomes: Sequence[RecipientOutcome]) -> Sequence[Sequence[RecipientOutcome]]:
    """Outcomes grouped by status."""
    if len(outcomes) == 1:
        return (outcomes,)
    groups: dict[Status, list[RecipientOutcome]] = {}
    for entry in outcomes:
        groups.setdefault(entry.outcome.status, []).append(entry)
    return tuple(groups.values())


def _pending_again(message: Message, recipients: Sequence[Recipient]) -> Message:
    """The message with these recipients not final yet; what they were answered is kept."""
    if not recipients:
        return message
    return replace(
        message,
        recipients=tuple(
            replace(recipient, status=RecipientStatus.PENDING) if recipient in recipients else recipient
            for recipient in message.recipients
        ),
    )
