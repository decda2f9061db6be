"""The nodes with their drivers, and how many places each has free in this process.

A place is the right to run one attempt with a node. A node has as many places as connections, and as many again for
attempts that wait for one: without that waiting line, rotation would hand every message to whichever node answers
first instead of to the node whose turn it is; without its bound, one hanging node would collect everybody's mail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from relay.pools.pool import Node, Pool
from relay.upstreams.base import Upstream

_NONE: frozenset[str] = frozenset()


@dataclass(slots=True, eq=False)
class _Berth:
    pool: Pool
    node: Node
    upstream: Upstream
    places: int
    taken: int = 0


class Fleet:
    """All nodes of this process.

    Args:
        drivers: by node name; every node of every pool has one.
        on_free: called with a pool's name when a full node of it has a place again.
    """

    def __init__(self, pools: Iterable[Pool], drivers: Mapping[str, Upstream], on_free: Callable[[str], None]) -> None:
        self.pools = {pool.name: pool for pool in pools}
        self._berths = {
            node.name: _Berth(pool, node, drivers[node.name], 2 * max(1, node.connections))
            for pool in self.pools.values()
            for node in pool.nodes
        }
        self._full: dict[str, set[str]] = {name: set() for name in self.pools}
        self._on_free = on_free

    def __contains__(self, node: str) -> bool:
        return node in self._berths

    def names(self) -> list[str]:
        return list(self._berths)

    def pool_of(self, node: str) -> Pool:
        return self._berths[node].pool

    def upstream(self, node: str) -> Upstream:
        return self._berths[node].upstream

    def full(self, pool: str) -> AbstractSet[str]:
        """Names of the nodes of this pool without a free place."""
        return self._full.get(pool, _NONE)

    def is_full(self, pool: str) -> bool:
        """True when no node of the pool has a free place."""
        return len(self._full[pool]) == len(self.pools[pool].nodes)

    def running(self, node: str) -> int:
        """Attempts with this node right now, those that wait for a connection included."""
        return self._berths[node].taken

    def enter(self, node: str) -> Upstream:
        """Take a place. Decisions made at the same moment may overshoot by a few; the driver bounds connections."""
        berth = self._berths[node]
        berth.taken += 1
        if berth.taken >= berth.places:
            self._full[berth.pool.name].add(node)
        return berth.upstream

    def leave(self, node: str) -> None:
        """Give a place back."""
        berth = self._berths[node]
        berth.taken -= 1
        full = self._full[berth.pool.name]
        if node in full and berth.taken < berth.places:
            full.discard(node)
            self._on_free(berth.pool.name)

    async def close(self) -> None:
        for berth in self._berths.values():
            await berth.upstream.close()
