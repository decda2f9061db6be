"""Whether delivery broke right after a configuration was taken over, so that the one before should come back.

The question is narrow on purpose: a return undoes what an operator ordered, so it must not be taken for a bad moment of
an upstream. Delivery of a pool counts as broken by a configuration when

- the pool had delivered before and a node of it was in use at that moment,
- now every node that it uses is inactive, taken out by faults of node or account or by failed tests,
- at least one of them was taken out after the swap, and every one that was is a node that the swap touched: new,
  reconnecting in another way, or sending under another identity. A node that nobody touched and that fails as well
  points to the network.

Paused, cooling and capped nodes are not inactive: somebody or something wants them to wait.

Pure; times are epoch seconds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from relay.pools.health import NodeHealth, NodeStatus, settled
from relay.pools.pool import Pool

_WELL = NodeHealth()


@dataclass(frozen=True, slots=True)
class WatchedPool:
    """`nodes`: all that it uses. `touched`: those of them that the swap touched."""

    name: str
    nodes: tuple[str, ...]
    touched: frozenset[str]


@dataclass(frozen=True, slots=True)
class Aftermath:
    """What is watched from `since` to `until`."""

    since: float
    until: float
    pools: tuple[WatchedPool, ...]


def watch(
    before: Mapping[str, Pool],
    after: Mapping[str, Pool],
    *,
    touched: Collection[str],
    delivered: Collection[str],
    health: Mapping[str, NodeHealth],
    since: float,
    now: float,
    for_s: float,
) -> Aftermath | None:
    """What to watch after a swap at `now`; None when there is nothing that it could have broken.

    Args:
        touched: names of nodes.
        delivered: names of pools that have delivered before.
        health: by node name, as it was at the swap; absent means active.
        since: of the swap, or of the first of several that are watched together.
    """
    pools = []
    for pool in after.values():
        nodes = _used(pool)
        ours = frozenset(nodes).intersection(touched)
        old = before.get(pool.name)
        if ours and old is not None and pool.name in delivered and not _all_out(_used(old), health, since):
            pools.append(WatchedPool(pool.name, nodes, ours))
    return Aftermath(since, now + for_s, tuple(pools)) if pools and for_s > 0 else None


def broken(aftermath: Aftermath, health: Mapping[str, NodeHealth], now: float) -> tuple[str, ...]:
    """The pools that the swap broke, each with what its nodes were answered; empty while there are none."""
    found = []
    for pool in aftermath.pools:
        if not _all_out(pool.nodes, health, now):
            continue
        fresh = [node for node in pool.nodes if settled(health[node], now).since >= aftermath.since]
        if fresh and pool.touched.issuperset(fresh):
            said = "; ".join(f"{node}: {health[node].test_status}" for node in fresh)
            found.append(f"pool {pool.name} has no node left ({said})")
    return tuple(found)


def _used(pool: Pool) -> tuple[str, ...]:
    return tuple(node.name for node in pool.nodes if node.weight)


def _all_out(nodes: Collection[str], health: Mapping[str, NodeHealth], now: float) -> bool:
    return all(settled(health.get(node, _WELL), now).status is NodeStatus.INACTIVE for node in nodes)
