"""The order in which the nodes of a pool take their turn.

Every mode yields all eligible nodes, each once: the first is the choice, the others follow when it has no room. The
order is a function of a turn number, so that workers and replicas which share a cursor share the rotation, and it is
produced lazily, because most messages need only the first node.

The rule for what follows the first is the same everywhere: a node that falls out hands its turns to the others in the
proportions they already have, not to its neighbour. For the sequence modes this is exact. Say a node takes `w` of the
`W` turns of a cycle. Number its own turns 0, 1, 2, …; its n-th turn, when it cannot take it, is turn n of the same
sequence made without it. Over `w` such turns the others then get their own proportions. With equal weights this is the
factorial number system: digit by digit, the turn number picks one of the nodes that are left.

Pure: time, randomness and counts are arguments.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from math import gcd
from typing import NamedTuple, assert_never

from relay.pools.pool import Node, Rotation

CYCLE = 10_000
"""Longest cycle of turns kept as a table (40 kB). Weights with a larger sum are scaled to it, exact to 0.01 %."""

FALLBACK_CYCLE = 200
"""The same for second and later choices, where sets of nodes are many and shares exact to 0.5 % are plenty."""

_RANDOM_BITS = 53
"""Random bits in a float from [0, 1): enough to draw the first 13 of any number of nodes up to 16 without bias worth
naming; what is left of a longer list stays in the pool's order."""


def order(
    mode: Rotation,
    eligible: Sequence[Node],
    *,
    members: Sequence[Node],
    turn: int,
    draw: float,
    used: Mapping[str, float],
    now: float,
    interval_s: float,
) -> Iterator[Node]:
    """The eligible nodes in the order in which they may take this message.

    Args:
        eligible: in the pool's order, weight ≥ 1.
        members: all nodes of the pool; `interval` keeps its slices by them while some are away.
        turn: ≥ 0, from the cursor of this rotation.
        draw: in [0, 1), for `random`.
        used: recent recipients by node name, for `least-used`; absent is 0.
        now, interval_s: epoch seconds and slice length, for `interval`.
    """
    match mode:
        case Rotation.ROUND_ROBIN:
            return _equal(eligible, turn)
        case Rotation.WEIGHTED:
            return _weighted(eligible, turn)
        case Rotation.PRIORITY:
            return _by_priority(eligible, turn)
        case Rotation.RANDOM:
            return _equal(eligible, int(draw * (1 << _RANDOM_BITS)))
        case Rotation.LEAST_USED:
            return iter(_least_used(eligible, turn, used))
        case Rotation.INTERVAL:
            return _by_interval(eligible, members, now, interval_s)
        case _:
            assert_never(mode)


def _equal(nodes: Sequence[Node], turn: int) -> Iterator[Node]:
    """Each node in turn; the digits of `turn` in the factorial number system say who follows."""
    rest = list(nodes)
    while rest:
        turn, index = divmod(turn, len(rest))
        yield rest.pop(index)


def _weighted(nodes: Sequence[Node], turn: int) -> Iterator[Node]:
    """Shares by weight, spread evenly over the cycle."""
    rest = list(nodes)
    weights = [node.weight for node in rest]
    longest = CYCLE
    while rest:
        cycle = _cycle(tuple(weights), longest)
        rounds, slot = divmod(turn, len(cycle.owner))
        index = cycle.owner[slot]
        turn = rounds * cycle.share[index] + cycle.nth[slot]
        del weights[index]
        yield rest.pop(index)
        longest = FALLBACK_CYCLE


def _by_priority(nodes: Sequence[Node], turn: int) -> Iterator[Node]:
    """Lower priorities first; equal ones take turns."""
    for level in sorted({node.priority for node in nodes}):
        yield from _equal([node for node in nodes if node.priority == level], turn)


def _least_used(nodes: Sequence[Node], turn: int, used: Mapping[str, float]) -> list[Node]:
    """Lowest use for its size first; equal ones take turns (the sort is stable).

    The size of a node is what its caps allow in the long run when all nodes have caps, else its weight: rates and
    weights have no common unit.
    """
    by_caps = all(node.caps for node in nodes)

    def fill(node: Node) -> float:
        size = min(cap.limit / cap.window_s for cap in node.caps) if by_caps else node.weight
        return used.get(node.name, 0.0) / size if size > 0 else float("inf")

    return sorted(_equal(nodes, turn), key=fill)


def _by_interval(nodes: Sequence[Node], members: Sequence[Node], now: float, interval_s: float) -> Iterator[Node]:
    """One node for each slice of time.

    Slices are dealt over all members that take mail at all, so that a node which cools down for a minute does not
    move everybody else's slice.
    """
    eligible = {node.name for node in nodes}
    members = [node for node in members if node.weight > 0]
    slice_number = int(max(now, 0.0) // interval_s) if interval_s > 0 else 0
    return (node for node in _equal(members, slice_number) if node.name in eligible)


class _Cycle(NamedTuple):
    """One cycle of a weighted sequence.

    Attributes:
        owner: which node has the slot.
        nth: the how-manieth of its own turns in this cycle that is.
        share: slots of each node.
    """

    owner: array[int]
    nth: array[int]
    share: tuple[int, ...]


@lru_cache(maxsize=256)
def _cycle(weights: tuple[int, ...], longest: int) -> _Cycle:
    """The turns of one cycle, each node's spread as evenly as whole turns allow.

    The k-th of a node's w turns belongs in the middle of the k-th of w equal parts of the cycle, at (2k+1)/2w; sorting
    all turns by that place merges them (the Webster rule of apportionment), and one cycle holds exactly w of each.
    """
    divisor = gcd(*weights)
    share = [weight // divisor for weight in weights]
    if (total := sum(share)) > longest:
        share = [max(1, weight * longest // total) for weight in share]
    places = sorted(((2 * k + 1) / w, index) for index, w in enumerate(share) for k in range(w))
    owner = array("H", (index for _, index in places))
    nth = array("H")
    seen = [0] * len(share)
    for index in owner:
        nth.append(seen[index])
        seen[index] += 1
    return _Cycle(owner, nth, tuple(share))
