"""What would happen to a waiting message: the router's decision without a router, a permit or a turn.

The router decides when a message's turn comes and takes a permit with it. To tell an operator why a message waits,
also one that was not asked itself, and also while the relay is stopped, the same pure parts (`router.selection`) are
run over what the state has stored. Nothing is reserved and nothing changes.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum

from relay.envelope import Message
from relay.pools.health import NodeHealth
from relay.pools.pool import Pool
from relay.router.selection import Busy, Considered, Full, Hold, Trace, Unroutable, Verdict, dead_end, screen
from relay.router.words import clock_words, missing_pool, span_words
from relay.state import Usage

BUSY = "every node that could take it has all connections in use"


class Chance(StrEnum):
    """What becomes of a message as things stand."""

    GOES = "goes"  # a node may take it
    WAITS = "waits"  # none may, before a known time
    NEVER = "never"  # none ever could, as the pool is configured


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """
    Attributes:
        until: epoch seconds, for WAITS; None when it waits for a connection.
        reason: in words, empty for GOES.
        trace: every node once.
    """

    chance: Chance
    until: float | None = None
    reason: str = ""
    trace: Trace = ()


def outlook(
    message: Message,
    pool: Pool | None,
    *,
    health: Mapping[str, NodeHealth],
    usage: Mapping[str, Sequence[Usage]],
    busy: AbstractSet[str] = frozenset(),
    at: float,
) -> Outlook:
    """The decision about `message` at a time, if nothing changes until then but the clock.

    Args:
        pool: None when the configuration does not have it.
        usage: fill of the caps by `node:<name>`.
        busy: names of the nodes without a free place.
        at: epoch seconds.
    """
    if pool is None:
        return Outlook(chance=Chance.NEVER, reason=missing_pool(message.pool))
    screening = screen(pool, message, health=health, tried=frozenset(), busy=busy, now=at)
    full = {node.name: why for node in screening.eligible if (why := _full(usage.get(f"node:{node.name}", ()), at))}
    if len(full) == len(screening.eligible):
        free_at = min((at_ for at_, _ in full.values()), default=float("inf"))
        decision = dead_end(screening, message, now=at, full=Full({n: why for n, (_, why) in full.items()}, free_at))
        if isinstance(decision, Unroutable):
            return Outlook(chance=Chance.NEVER, reason=decision.reason, trace=decision.trace)
        if isinstance(decision, Hold):
            return Outlook(chance=Chance.WAITS, until=decision.until, reason=decision.reason, trace=decision.trace)
        if isinstance(decision, Busy):
            return Outlook(chance=Chance.WAITS, reason=BUSY, trace=decision.trace)
    trace = tuple(
        Considered(line.node, Verdict.CAPPED, full[line.node][1]) if line.node in full else line
        for line in screening.trace
    )
    return Outlook(chance=Chance.GOES, trace=trace)


def _full(usages: Sequence[Usage], at: float) -> tuple[float, str] | None:
    """When a node has room for one more recipient again, and the cap that stands in the way longest."""
    blocks = [usage for usage in usages if usage.free_at > at]
    if not blocks:
        return None
    last = max(blocks, key=lambda usage: usage.free_at)
    return last.free_at, (
        f"{last.used} of {last.limit} recipients in {span_words(last.window_s)} used, "
        f"room again {clock_words(last.free_at)}"
    )
