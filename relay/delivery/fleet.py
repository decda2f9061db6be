"""The nodes with their drivers, and how many places each has free in this process.

A place is the right to run one attempt with a node. A node has as many places as connections, and as many again for
attempts that wait for one: without that waiting line, rotation would hand every message to whichever node answers
first instead of to the node whose turn it is; without its bound, one hanging node would collect everybody's mail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from relay.pools.pool import Node, Pool
from relay.upstreams.base import Upstream

_NONE: frozenset[str] = frozenset()


@dataclass(slots=True, eq=False)
class _Dock:
    """The places of one pool."""

    pool: Pool
    free: int = 0
    full: set[str] = field(default_factory=set)
    freed: int = 0  # how often a full node had a place again


@dataclass(slots=True, eq=False)
class _Berth:
    """The places of one node. More may be taken than there are: `direct` deliveries do not queue."""

    dock: _Dock
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
        self._docks = {pool.name: _Dock(pool) for pool in self.pools.values()}
        self._berths: dict[str, _Berth] = {}
        for dock in self._docks.values():
            for node in dock.pool.nodes:
                berth = _Berth(dock, node, drivers[node.name], 2 * max(1, node.connections))
                self._berths[node.name] = berth
                dock.free += berth.places
        self._on_free = on_free

    def __contains__(self, node: str) -> bool:
        return node in self._berths

    def names(self) -> list[str]:
        return list(self._berths)

    def pool_of(self, node: str) -> Pool:
        return self._berths[node].dock.pool

    def upstream(self, node: str) -> Upstream:
        return self._berths[node].upstream

    def running(self, node: str) -> int:
        """Attempts with this node right now, those that wait for a connection included."""
        return self._berths[node].taken

    def full(self, pool: str) -> AbstractSet[str]:
        """Names of the nodes of this pool without a free place, as they are now and will be."""
        dock = self._docks.get(pool)
        return dock.full if dock else _NONE

    def free(self, pool: str) -> int:
        """Free places over the nodes of this pool. One where there is no node at all, so that somebody asks and is
        told."""
        dock = self._docks.get(pool)
        return dock.free if dock and dock.pool.nodes else 1

    def freed(self, pool: str) -> int:
        """Grows each time a full node of this pool has a place again."""
        dock = self._docks.get(pool)
        return dock.freed if dock else 0

    def has_place(self, node: str) -> bool:
        berth = self._berths[node]
        return berth.taken < berth.places

    def enter(self, node: str) -> Upstream:
        """Take a place."""
        berth = self._berths[node]
        if berth.taken < berth.places:
            berth.dock.free -= 1
        berth.taken += 1
        if berth.taken >= berth.places:
            berth.dock.full.add(node)
        return berth.upstream

    def leave(self, node: str) -> None:
        """Give a place back."""
        berth = self._berths[node]
        dock = berth.dock
        berth.taken -= 1
        if berth.taken < berth.places:
            dock.free += 1
            if node in dock.full:
                dock.full.discard(node)
                dock.freed += 1
                self._on_free(dock.pool.name)

    async def close(self) -> None:
        for berth in self._berths.values():
            await berth.upstream.close()
