"""How much nodes and pools may send, and how a day's mail would be shared out over them. Pure arithmetic.

Ceilings follow from caps alone: connections, refusals and the pace of a server are not in the configuration. Shares are
what a rotation comes to over a day of mail that any node of its pool can take; what does not fit under the caps of a
node goes to the others, in `priority` to the next rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import inf

from relay.pools.pool import Node, Pool, Rotation

HOUR_S, DAY_S = 3600.0, 86400.0


def ceiling(node: Node, window_s: float) -> float:
    """Recipients that the caps of a node let through in a window of this length; inf when nothing bounds them.

    A longer cap may be burnt within the window, a shorter one is used over and over.
    """
    if not node.weight:
        return 0.0
    return min((cap.limit * max(1.0, window_s / cap.window_s) for cap in node.caps), default=inf)


def pool_ceiling(pool: Pool, window_s: float) -> float:
    """Of all nodes in use together."""
    return sum(ceiling(node, window_s) for node in pool.nodes)


@dataclass(frozen=True, slots=True)
class Spread:
    """`by_node`: recipients by node name. `left`: what no node may take."""

    by_node: Mapping[str, float]
    left: float


def spread(pool: Pool, recipients: float, window_s: float = DAY_S) -> Spread:
    """Share the recipients of one window out over the nodes of a pool."""
    used = [node for node in pool.nodes if node.weight]
    by_node = dict.fromkeys((node.name for node in pool.nodes), 0.0)
    left = recipients
    for rank in _ranks(used, pool.rotation):
        left = _fill(rank, pool.rotation, left, window_s, by_node)
    return Spread(by_node, left)


def _ranks(nodes: Sequence[Node], rotation: Rotation) -> list[list[Node]]:
    """Those that come first, then those that stand by."""
    if rotation is not Rotation.PRIORITY:
        return [list(nodes)]
    ordered = sorted(nodes, key=lambda node: node.priority)
    return [list(rank) for _, rank in groupby(ordered, key=lambda node: node.priority)]


def _fill(
    rank: Sequence[Node], rotation: Rotation, recipients: float, window_s: float, by_node: dict[str, float]
) -> float:
    """Pour into the nodes of one rank by their shares until all is in or all are full; what is left."""
    open_ = list(rank)
    while open_ and recipients > 1e-9:
        shares = {node.name: float(node.weight) if rotation is Rotation.WEIGHTED else 1.0 for node in open_}
        total = sum(shares.values())
        # As much as fills the first of them, or all that is left.
        step = min([recipients, *((ceiling(n, window_s) - by_node[n.name]) * total / shares[n.name] for n in open_)])
        for node in open_:
            by_node[node.name] += step * shares[node.name] / total
        recipients -= step
        open_ = [node for node in open_ if ceiling(node, window_s) - by_node[node.name] > 1e-9]
    return max(0.0, recipients)
