"""What follows from the outcomes of one attempt: for each recipient, for the message, for the node.

The rules, by status and scope. Left: what becomes of the recipient. Right: what the node's health learns.

                RECIPIENT, MESSAGE      NODE, ACCOUNT            QUOTA
    DELIVERED   delivered │ well        delivered │ well         delivered │ well
    DEFERRED    wait      │ nothing     elsewhere │ fault        elsewhere │ cool down
    REFUSED     failed    │ nothing     elsewhere │ fault        elsewhere │ cool down
    UNCERTAIN   bound     │ nothing     bound     │ fault        bound     │ cool down

- *failed*: for good; reported to the sender. No other node is burnt on a bad message.
- *wait*: later by schedule, over the same pool.
- *elsewhere*: another node now; later by schedule when no node is left in this run.
- *bound*: the node may have delivered it (RFC 1047). Later by schedule, and with the same node only, until
  `uncertain_wait_s` have passed: another node would make a second copy certain if the first one arrived.

Three refinements
- A refusal that speaks of what this node can carry (size, SMTPUTF8, 8-bit) goes *elsewhere* without harm to the node,
  as long as an untried node could take the message. Else it is *failed*.
- "Too many recipients" (4.5.3) next to recipients that were taken leaves the rest for the next batch, at once and with
  the same node if its turn comes (RFC 5321 §4.5.3.1.10).
- While a message is bound, *elsewhere* is *wait*.

A recipient still pending when the message reaches its maximum age is expired, here or by `expire`.

Pure: time and jitter are arguments. Nothing here raises for any combination of outcomes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from relay.envelope import Message, Recipient, RecipientStatus
from relay.outcome import Outcome, RecipientOutcome, Scope, Status
from relay.pools.pool import Node, Pool
from relay.router.selection import unfit
from relay.schedule import RetryPolicy, age_s, next_attempt
from relay.values import evolve, thawed

COOL_DEFAULT_S = 60.0
"""Cool-down when the upstream says "slower" but not how long: the shortest common window of vendors' rate limits."""

COOL_MAX_S = 3600.0
"""Longest wait that is believed of an upstream; some have answered years (B432)."""

MAX_TEXT = 500
"""Characters kept of an upstream's words."""


class Next(StrEnum):
    """What the owner of the message does now."""

    DONE = "done"  # no recipient is pending: settle
    CONTINUE = "continue"  # route again now: recipients are left that nobody has tried yet in this run
    ANOTHER_NODE = "another-node"  # route again now, without the nodes in `tried`
    LATER = "later"  # settle, due at `due`
    HOLD = "hold"  # release, due at `due`: no upstream was offered anything, so this was no attempt


@dataclass(frozen=True, slots=True)
class NoEffect:
    """The outcome says nothing about the node."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """The node is well."""


@dataclass(frozen=True, slots=True)
class Fault:
    """The node is out of order. `error`: its exact words. `account`: an operator must act (credentials, suspension)."""

    error: str
    account: bool


@dataclass(frozen=True, slots=True)
class CoolDown:
    """The node takes nothing before `until` (epoch seconds) and stays active."""

    until: float
    reason: str


Effect = NoEffect | Delivered | Fault | CoolDown


@thawed
@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one run over a message has come to so far. A run begins when the message is taken up, with `Run()`, and
    ends when it is settled or released.

    Attributes:
        tried: nodes that are out for the rest of the run.
        waiting: addresses that wait for the schedule; the rest of the run is not about them.
        attempted: something of the message was offered to an upstream, or a recipient became final: the results must
            be kept, so the run cannot end in a mere hold.
        wait_s: longest wait that upstreams asked for.
        reason: the last error, in words.
    """

    tried: frozenset[str] = frozenset()
    waiting: frozenset[str] = frozenset()
    attempted: bool = False
    wait_s: float = 0.0
    reason: str = ""

    def open(self, message: Message) -> tuple[Recipient, ...]:
        """The recipients the rest of this run is about."""
        return tuple(recipient for recipient in message.pending if recipient.address not in self.waiting)


@thawed
@dataclass(frozen=True, slots=True, kw_only=True)
class Disposition:
    """What follows from an attempt.

    Attributes:
        message: with the results recorded.
        run: for the next `dispose` and `route` of the same run.
        next: see `Next`.
        due: epoch seconds; for LATER and HOLD, and for the rest in case routing again finds no node. `now` for DONE.
        reason: why it waits, in words; empty for DONE.
        effect: for the node's health.
        delivered, failed, expired: the recipients that became final just now, each in one of the three. The failed
            and expired ones are to be reported to the sender.
        refund: recipients for whom the permit goes back, because nothing was offered to the upstream.
    """

    message: Message
    run: Run
    next: Next
    due: float
    reason: str
    effect: Effect
    delivered: tuple[Recipient, ...]
    failed: tuple[Recipient, ...]
    expired: tuple[Recipient, ...]
    refund: int


def dispose(
    message: Message,
    node: Node,
    outcomes: Sequence[RecipientOutcome],
    *,
    run: Run,
    pool: Pool,
    policy: RetryPolicy,
    now: float,
    jitter: float,
    lead_s: float = 0.0,
) -> Disposition:
    """Decide what follows from one attempt with `node`.

    Args:
        outcomes: for some of the recipients that were `run.open`; those of others are ignored. An address that occurs
            several times has one fate.
        run: as the last disposition of this run left it.
        pool: as it is configured now; tells whether a node is left to try.
        jitter: in [0, 1].
        lead_s: how much older the message looks than it is (`schedule.ClockSteps`).
    """
    answers = {entry.address: entry.outcome for entry in outcomes}
    if (taken := _all_taken(message, answers, node, run, now)) is not None:
        return taken
    offered = {r.address: answers[r.address] for r in message.pending if r.address in answers}
    fates = _judge(offered, others=lambda: _others(message, pool, run.tried | {node.name}))
    before = message
    message = _record(before, offered, fates, node)
    if _Fate.BOUND in fates.values() and not _is_bound(message, now):
        message = evolve(message, bound_node=node.name, bound_until=now + policy.uncertain_wait_s)
    run = _advance(run, message, offered, fates, node, now)

    wait_s = next_attempt(policy, message.attempts, age_s(message.received_at + lead_s, now), jitter)
    expired: tuple[Recipient, ...] = ()
    due = now
    if wait_s is None:
        message, expired = _expired(message)
    elif message.pending:
        due = min(now + max(wait_s, run.wait_s), _expires_at(message, now, policy, lead_s))
    became = [new for old, new in zip(before.recipients, message.recipients, strict=True) if old.status != new.status]
    return Disposition(
        message=message,
        run=run,
        next=_next(message, run, node, pool),
        due=due,
        reason=run.reason if message.pending else "",
        effect=_effect(offered.values(), now),
        delivered=tuple(r for r in became if r.status is RecipientStatus.DELIVERED),
        failed=tuple(r for r in became if r.status is RecipientStatus.FAILED),
        expired=expired,
        refund=sum(not outcome.attempted for outcome in offered.values()),
    )


def _all_taken(
    message: Message, answers: Mapping[str, Outcome], node: Node, run: Run, now: float
) -> Disposition | None:
    """The end of nearly every message, at a fifth of the price: nobody was left from before and all were delivered now.
    None when it is not that simple; says nothing else than the rules."""
    recipients = message.recipients
    if message.bound_node or len(answers) != len(recipients):
        return None
    delivered = []
    for recipient in recipients:
        outcome = answers.get(recipient.address)
        if (
            outcome is None
            or outcome.status is not Status.DELIVERED
            or not outcome.attempted
            or recipient.status is not RecipientStatus.PENDING
        ):
            return None
        delivered.append(_answered(recipient, outcome, RecipientStatus.DELIVERED, node))
    done = tuple(delivered)
    return Disposition(
        message=evolve(message, recipients=done),
        run=evolve(run, attempted=True),
        next=Next.DONE,
        due=now,
        reason="",
        effect=Delivered(),
        delivered=done,
        failed=(),
        expired=(),
        refund=0,
    )


def expire(message: Message, now: float, policy: RetryPolicy, *, lead_s: float = 0.0) -> Disposition | None:
    """Give up what is still pending at the maximum age; None before it, or when nothing is pending."""
    if now < _expires_at(message, now, policy, lead_s) or not message.pending:
        return None
    message, expired = _expired(message)
    return Disposition(
        message=message,
        run=Run(),
        next=Next.DONE,
        due=now,
        reason="",
        effect=NoEffect(),
        delivered=(),
        failed=(),
        expired=expired,
        refund=0,
    )


def describe(outcome: Outcome) -> str:
    """An upstream's answer in one line: `rcpt: 550 5.1.1 no such user`."""
    said = " ".join(part for part in (str(outcome.code or ""), outcome.enhanced, outcome.text) if part)
    words = said or f"{outcome.status} without a word"
    return (f"{outcome.phase}: {words}" if outcome.phase else words)[:MAX_TEXT]


class _Fate(StrEnum):
    """What becomes of one recipient."""

    DELIVERED = "delivered"
    FAILED = "failed"
    WAIT = "wait"
    ELSEWHERE = "elsewhere"
    UNHARMED = "unharmed"  # elsewhere, because this node cannot carry the message
    NEXT_BATCH = "next-batch"
    BOUND = "bound"


def _fate(status: Status, scope: Scope) -> _Fate:
    """The left side of the table."""
    match status:
        case Status.DELIVERED:
            return _Fate.DELIVERED
        case Status.UNCERTAIN:
            return _Fate.BOUND
        case Status.DEFERRED:
            return _Fate.WAIT if scope in _OF_MESSAGE else _Fate.ELSEWHERE
        case Status.REFUSED:
            return _Fate.FAILED if scope in _OF_MESSAGE else _Fate.ELSEWHERE
        case _:
            assert_never(status)


_OF_MESSAGE = frozenset({Scope.RECIPIENT, Scope.MESSAGE})
_FINAL = {_Fate.DELIVERED: RecipientStatus.DELIVERED, _Fate.FAILED: RecipientStatus.FAILED}


def _judge(offered: Mapping[str, Outcome], *, others: Callable[[], bool]) -> dict[str, _Fate]:
    """The fate of each address that was answered. `others`: could an untried node take the message?"""
    fates = {
        address: _Fate.UNHARMED if _is_about_capacity(outcome) and others() else _fate(outcome.status, outcome.scope)
        for address, outcome in offered.items()
    }
    surplus = [address for address, outcome in offered.items() if _is_too_many(outcome)]
    if len(surplus) < len(fates) and any(fates[address] in _FINAL for address in fates.keys() - set(surplus)):
        # Only next to others that got somewhere: else the next batch would be the same batch.
        for address in surplus:
            fates[address] = _Fate.NEXT_BATCH
    return fates


def _is_about_capacity(outcome: Outcome) -> bool:
    """The whole message is refused for what it is, in a way another node may not mind: larger than this node takes
    (552, 5.3.4, HTTP 413; not 5.2.x, which is about one mailbox), or in need of SMTPUTF8 (5.6.7)
    or of a conversion that nobody may make (5.6.3), or of a sender that a vendor's account is not verified for (5.7.1
    from our own drivers; in SMTP that code says too many things)."""
    if outcome.status is not Status.REFUSED or outcome.scope is not Scope.MESSAGE:
        return False
    if outcome.enhanced == "5.7.1":
        return outcome.phase == "http"
    if outcome.enhanced:
        return outcome.enhanced in ("5.3.4", "5.6.3", "5.6.7")
    return outcome.code in (552, 413)


def _is_too_many(outcome: Outcome) -> bool:
    if outcome.scope is not Scope.RECIPIENT or outcome.status not in (Status.DEFERRED, Status.REFUSED):
        return False
    return outcome.enhanced in ("4.5.3", "5.5.3") and outcome.code in (0, 452, 552)


def _others(message: Message, pool: Pool, out: AbstractSet[str]) -> bool:
    """Is there a node that could ever take the message, and is not out of this run?"""
    return any(node.name not in out and unfit(node, message) is None for node in pool.nodes)


def _record(message: Message, offered: Mapping[str, Outcome], fates: Mapping[str, _Fate], node: Node) -> Message:
    """The message with what each recipient was answered."""

    def recorded(recipient: Recipient) -> Recipient:
        if recipient.status is not RecipientStatus.PENDING or recipient.address not in offered:
            return recipient
        address = recipient.address
        return _answered(recipient, offered[address], _FINAL.get(fates[address], RecipientStatus.PENDING), node)

    return evolve(message, recipients=tuple(recorded(recipient) for recipient in message.recipients))


def _answered(recipient: Recipient, outcome: Outcome, status: RecipientStatus, node: Node) -> Recipient:
    return Recipient(
        address=recipient.address,
        status=status,
        notify=recipient.notify,
        orcpt=recipient.orcpt,
        code=outcome.code,
        enhanced=outcome.enhanced,
        text=outcome.text[:MAX_TEXT],
        node=node.name,
    )


def _advance(
    run: Run,
    message: Message,
    offered: Mapping[str, Outcome],
    fates: Mapping[str, _Fate],
    node: Node,
    now: float,
) -> Run:
    """The run after this attempt."""
    if not offered:
        # Against the drivers' contract. Going on at once would ask the same question for ever.
        return evolve(run, waiting=_addresses(message), attempted=True, reason=f"{node.name}: no answer")
    waiting = run.waiting | {address for address, fate in fates.items() if fate in (_Fate.WAIT, _Fate.BOUND)}
    if _is_bound(message, now):
        waiting = _addresses(message)
    tried = run.tried
    if any(fate in (_Fate.ELSEWHERE, _Fate.UNHARMED) for fate in fates.values()):
        tried = tried | {node.name}
    return Run(
        tried=tried,
        waiting=waiting,
        attempted=run.attempted
        or any(outcome.attempted for outcome in offered.values())
        or any(fate in _FINAL for fate in fates.values()),
        wait_s=max([run.wait_s, *(_asked_s(offered[a], 0.0) for a, fate in fates.items() if fate is _Fate.WAIT)]),
        reason=_reason(offered, fates, node) or run.reason,
    )


def _reason(offered: Mapping[str, Outcome], fates: Mapping[str, _Fate], node: Node) -> str:
    """Why recipients are left, by the answer that reaches furthest; empty when none is."""
    for fate in (_Fate.BOUND, _Fate.ELSEWHERE, _Fate.UNHARMED, _Fate.WAIT, _Fate.NEXT_BATCH):
        for address, its in fates.items():
            if its is fate:
                said = describe(offered[address])
                return f"{node.name} may have delivered it ({said})" if fate is _Fate.BOUND else f"{node.name}: {said}"
    return ""


def _next(message: Message, run: Run, node: Node, pool: Pool) -> Next:
    if not message.pending:
        return Next.DONE
    if run.open(message) and _others(message, pool, run.tried):
        return Next.ANOTHER_NODE if node.name in run.tried else Next.CONTINUE
    return Next.LATER if run.attempted else Next.HOLD


def _effect(outcomes: Collection[Outcome], now: float) -> Effect:
    """The right side of the table; of several, the worst."""
    troubles = [outcome for outcome in outcomes if outcome.status is not Status.DELIVERED]
    for scope in (Scope.ACCOUNT, Scope.NODE):
        for outcome in troubles:
            if outcome.scope is scope:
                return Fault(describe(outcome), account=scope is Scope.ACCOUNT)
    slower = [outcome for outcome in troubles if outcome.scope is Scope.QUOTA]
    if slower:
        longest = max(slower, key=lambda outcome: _asked_s(outcome, COOL_DEFAULT_S))
        return CoolDown(now + _asked_s(longest, COOL_DEFAULT_S), describe(longest))
    return Delivered() if len(troubles) < len(outcomes) else NoEffect()


def _asked_s(outcome: Outcome, default_s: float) -> float:
    """How long the upstream asked us to wait, as far as that is believed."""
    asked_s = outcome.retry_after_s
    if asked_s is None or not asked_s > 0:  # NaN is not above 0 either
        return default_s
    return min(asked_s, COOL_MAX_S)


def _is_bound(message: Message, now: float) -> bool:
    return bool(message.bound_node) and now < message.bound_until


def _expires_at(message: Message, now: float, policy: RetryPolicy, lead_s: float) -> float:
    """When the message reaches its maximum age; for one from the future, as if it came now."""
    return min(message.received_at + lead_s, now) + policy.max_age_s


def _addresses(message: Message) -> frozenset[str]:
    return frozenset(recipient.address for recipient in message.pending)


def _expired(message: Message) -> tuple[Message, tuple[Recipient, ...]]:
    """The message with nothing pending, and the recipients that were."""
    expired = evolve(
        message,
        recipients=tuple(
            evolve(r, status=RecipientStatus.EXPIRED) if r.status is RecipientStatus.PENDING else r
            for r in message.recipients
        ),
    )
    changed = zip(message.recipients, expired.recipients, strict=True)
    return expired, tuple(new for old, new in changed if new is not old)
