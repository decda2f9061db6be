"""Node health: the record and its transitions.

::

    (never tested: INACTIVE until its first test)
                 fault, failed check                      pause
    ACTIVE ─────────────────────────────► INACTIVE ─────────────────► PAUSED
      ▲  ◄───────────────────────────────    │  ▲                      │
      │     passed check, resume             │  └── its time is up ────┤  (INACTIVE before, or by faults since)
      │                                      └─ failed check: again    │
      └───────────────────────── resume, or its time is up (ACTIVE before) ─┘

- Every transition takes a health and gives a health, the very same object when nothing changes, so that stores need
  not write. None reads a clock.
- A fault takes a node out at once; it comes back by a passed check or by an operator. What came from attempts begun
  before the present status is old news and changes nothing.
- What lies under a pause lives on: `give_up_at` ≠ 0 says that the node was, or meanwhile became, inactive.
- Quota replies only cool an active node down.
- Checks follow the policy's rhythm exactly; whoever runs them adds jitter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

MAX_COOL_S: Final = 3600.0
"""Longest cool-down that is believed: vendors have answered Retry-After values of years (B432)."""

MAX_ERROR: Final = 500
"""Characters kept of an error."""

LOOK_AGAIN_S: Final = 1.0
"""When to look again for a node whose check is due or running: its result comes at any moment."""

OK: Final = "ok"
UNTESTED: Final = "not tested yet"
AWAITS_OPERATOR: Final = "ok, but auto_recover is off: an operator must resume the node"


class NodeStatus(StrEnum):
    ACTIVE = "active"
    INACTIVE = "inactive"  # taken out by a fault or a failed test; re-checked until `give_up_at`
    PAUSED = "paused"  # by an operator, until `paused_until` or until resumed


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeHealth:
    """What is known of a node.

    Attributes:
        test_status: `ok`, `not tested yet`, or the exact last error of the upstream (secrets masked, at most 500
            characters).
        since: epoch seconds at which `status` began.
        next_check: when an INACTIVE node is tested next; 0 = not at all.
        give_up_at: after this an INACTIVE node stays off until an operator acts; 0 = not inactive.
        cool_until: an ACTIVE node takes nothing before this (quota replies); 0 = free.
        cool_reason: the reply that asked for it.
        pause_reason, paused_by, paused_until: of PAUSED; `paused_until` 0 = no expiry.
        failures: consecutive node faults and failed tests.
    """

    status: NodeStatus = NodeStatus.ACTIVE
    test_status: str = ""
    since: float = 0.0
    next_check: float = 0.0
    give_up_at: float = 0.0
    cool_until: float = 0.0
    cool_reason: str = ""
    pause_reason: str = ""
    paused_by: str = ""
    paused_until: float = 0.0
    failures: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthPolicy:
    """How faults are answered.

    Attributes:
        recheck_every_s: between tests of an inactive node.
        recheck_for_s: how long it is tested before it is given up.
        auto_deactivate: faults and failed tests take a node out; otherwise they are only recorded.
        auto_recover: a passed test brings it back; otherwise an operator does.
    """

    recheck_every_s: float = 900.0
    recheck_for_s: float = 86400.0
    auto_deactivate: bool = True
    auto_recover: bool = True


# Transitions by what attempts and tests showed


def begin(health: NodeHealth, now: float, policy: HealthPolicy) -> NodeHealth:
    """The relay starts. A node of which nothing is known takes no mail before its first test, which is due at once;
    what is known of the others from before goes on. Under `auto_deactivate` off nothing is held back by tests."""
    if health != NodeHealth() or not policy.auto_deactivate:
        return health
    return replace(
        health,
        status=NodeStatus.INACTIVE,
        test_status=UNTESTED,
        since=now,
        next_check=now,
        give_up_at=now + policy.recheck_for_s,
    )


def fault(
    health: NodeHealth, now: float, error: str, policy: HealthPolicy, *, began_at: float | None = None
) -> NodeHealth:
    """An attempt showed that the node or its account does not work.

    Args:
        error: the upstream's exact words, secrets masked.
        began_at: when the attempt began; None = now. Attempts older than the present status say nothing new about
            it: those in flight when the node went down must not count twenty times over, nor those that began before
            it recovered take it out again.
    """
    health = settled(health, now)
    # A status from the future was written before the clock was set back, and tells nothing of what is old.
    old = began_at is not None and began_at < health.since <= now
    if old and health.status is not NodeStatus.PAUSED:
        return health
    return _failed(health, now, error, policy)


def check_failed(health: NodeHealth, now: float, error: str, policy: HealthPolicy) -> NodeHealth:
    """A test failed. The next one comes after `recheck_every_s`, and none after `give_up_at`."""
    health = settled(health, now)
    if not _is_out(health):
        return _failed(health, now, error, policy)
    return replace(_checked(health, now, policy), test_status=error[:MAX_ERROR], failures=health.failures + 1)


def check_passed(health: NodeHealth, now: float, policy: HealthPolicy) -> NodeHealth:
    """A test passed: the node is active again, or would be if `auto_recover` allowed it. A first test asks nobody."""
    health = settled(health, now)
    if _is_out(health) and not policy.auto_recover and not is_untested(health):
        return _or_same(health, replace(_checked(health, now, policy), test_status=AWAITS_OPERATOR, failures=0))
    well = replace(health, test_status=OK, failures=0, next_check=0.0, give_up_at=0.0)
    if health.status is NodeStatus.INACTIVE:
        return replace(well, status=NodeStatus.ACTIVE, since=now)
    return _or_same(health, well)


def delivered(health: NodeHealth) -> NodeHealth:
    """The node took a message: earlier failures are over. A node that is out stays so until it is tested: what it
    took may have been in flight when it went down."""
    if _is_out(health) or (not health.failures and health.test_status in ("", OK)):
        return health
    return replace(health, failures=0, test_status=OK)


def cool_down(health: NodeHealth, until: float, reason: str, *, now: float) -> NodeHealth:
    """The upstream asked for a slower pace: nothing for it before `until`, at most an hour. The longest wish wins."""
    until = min(until, now + MAX_COOL_S)
    if until <= max(now, health.cool_until):
        return health
    return replace(health, cool_until=until, cool_reason=reason[:MAX_ERROR])


def changed(health: NodeHealth, now: float, policy: HealthPolicy) -> NodeHealth:
    """The node is configured otherwise now: when it is out, it is tested at once, and its time begins anew."""
    health = settled(health, now)
    if not _is_out(health):
        return health
    return replace(health, next_check=now, give_up_at=now + policy.recheck_for_s)


# Transitions by operators


def pause(health: NodeHealth, now: float, *, by: str, reason: str, until: float = 0.0) -> NodeHealth:
    """Take a node out for a while or, with `until` 0, until it is resumed. Pausing again replaces words and time."""
    health = settled(health, now)
    paused = replace(
        health, status=NodeStatus.PAUSED, paused_by=by, pause_reason=reason[:MAX_ERROR], paused_until=until
    )
    return _or_same(health, paused if health.status is NodeStatus.PAUSED else replace(paused, since=now))


def resume(health: NodeHealth, now: float) -> NodeHealth:
    """An operator says: use it. Ends pause, inactivity and cool-down; the next fault decides anew."""
    fresh = replace(
        health,
        next_check=0.0,
        give_up_at=0.0,
        cool_until=0.0,
        cool_reason="",
        pause_reason="",
        paused_by="",
        paused_until=0.0,
        failures=0,
    )
    if health.status is not NodeStatus.ACTIVE:
        return replace(fresh, status=NodeStatus.ACTIVE, since=now)
    return _or_same(health, fresh)


def settled(health: NodeHealth, now: float) -> NodeHealth:
    """The health as it is at `now`: a pause whose time is up has returned to what was before."""
    if health.status is not NodeStatus.PAUSED or not health.paused_until or now < health.paused_until:
        return health
    status = NodeStatus.INACTIVE if _is_out(health) else NodeStatus.ACTIVE
    return replace(health, status=status, since=health.paused_until, pause_reason="", paused_by="", paused_until=0.0)


# Questions


def is_available(health: NodeHealth, now: float) -> str | None:
    """Why the node may take nothing now, in an operator's words; None when it may. No I/O: hot path."""
    health = settled(health, now)
    match health.status:
        case NodeStatus.PAUSED:
            until = f" until {_clock(health.paused_until)}" if health.paused_until else ""
            by = f" by {health.paused_by}" if health.paused_by else ""
            return f"paused{by}{until}" + (f": {health.pause_reason}" if health.pause_reason else "")
        case NodeStatus.INACTIVE if is_untested(health):
            return "waits for its first test"
        case NodeStatus.INACTIVE:
            then = f"next check {_clock(health.next_check)}" if health.next_check else "no more checks, resume by hand"
            return f"inactive since {_clock(health.since)}, {then}: {health.test_status}"
        case NodeStatus.ACTIVE:
            if now < health.cool_until:
                return f"cooling down until {_clock(health.cool_until)}: {health.cool_reason}"
            return None


def free_at(health: NodeHealth, now: float) -> float | None:
    """The earliest time at which the node might be available; None when only an operator can bring it back.

    A node that is available is so `now`. One whose check is due is worth a look in a second.
    """
    health = settled(health, now)
    at = max(now, health.cool_until)
    if health.status is NodeStatus.PAUSED:
        if not health.paused_until:
            return None
        at = max(at, health.paused_until)
    if _is_out(health):
        if not health.next_check:
            return None
        at = max(at, health.next_check, now + LOOK_AGAIN_S)
    return at


def is_untested(health: NodeHealth) -> bool:
    """Never used, and its first test has no result."""
    return _is_out(health) and health.test_status == UNTESTED


def is_start_test_due(health: NodeHealth, now: float) -> bool:
    """The relay has started and tests this node once, whatever was known of it; not under a pause. What is untested is
    due by itself."""
    health = settled(health, now)
    return health.status is not NodeStatus.PAUSED and not is_untested(health)


def is_check_due(health: NodeHealth, now: float) -> bool:
    """An inactive node is to be tested now. Not under a pause: its operator may want it left alone.

    A time of check that lies ahead of a status which has not even begun was written before the clock was set back;
    waiting for it could take years.
    """
    health = settled(health, now)
    if health.status is not NodeStatus.INACTIVE or not health.next_check:
        return False
    return health.next_check <= now or now < health.since


def _failed(health: NodeHealth, now: float, error: str, policy: HealthPolicy) -> NodeHealth:
    worse = replace(health, test_status=error[:MAX_ERROR], failures=health.failures + 1)
    if not policy.auto_deactivate or _is_out(health):
        return worse
    out = replace(worse, next_check=now + policy.recheck_every_s, give_up_at=now + policy.recheck_for_s)
    return replace(out, status=NodeStatus.INACTIVE, since=now) if health.status is NodeStatus.ACTIVE else out


def _checked(health: NodeHealth, now: float, policy: HealthPolicy) -> NodeHealth:
    """Was tested now and stays out. Times beyond what the policy can have set are from before a clock was set back."""
    give_up_at = min(health.give_up_at, now + policy.recheck_for_s)
    next_check = now + policy.recheck_every_s if now < give_up_at else 0.0
    return replace(health, since=min(health.since, now), next_check=next_check, give_up_at=give_up_at)


def _or_same(before: NodeHealth, after: NodeHealth) -> NodeHealth:
    return before if after == before else after


def _is_out(health: NodeHealth) -> bool:
    """Inactive, or would be without the pause."""
    return health.give_up_at != 0.0


def _clock(at: float) -> str:
    try:
        return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):  # a time that was read from a store, or a far clock
        return f"@{at:.0f}"
