"""The nodes with their drivers, and how many places each has free in this process.

A place is the right to run one attempt with a node. A node has as many places as connections, and as many again for
attempts that wait for one: without that waiting line, rotation would hand every message to whichever node answers
first instead of to the node whose turn it is; without its bound, one hanging node would collect everybody's mail.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
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
    """The places of one node. More may be taken than there are: `direct` deliveries do not queue.

    Attributes:
        on_others: of those that are taken, attempts with drivers that this node had before.
        probing: tests of the node under way.
        gone: the node is configured no more; idle: and had nothing to do when the fleet was changed last.
    """

    dock: _Dock
    node: Node
    upstream: Upstream
    places: int = 0
    taken: int = 0
    on_others: int = 0
    probing: int = 0
    gone: bool = False
    idle: bool = False


@dataclass(slots=True, eq=False)
class _Leaving:
    """A driver that is given nothing new; it is closed when the last of its users is gone."""

    upstream: Upstream
    users: int


class Fleet:
    """All nodes of this process.

    Args:
        drivers: by node name; every node of every pool has one.
        on_free: called with a pool's name when a full node of it has a place again.
    """

    def __init__(self, pools: Iterable[Pool], drivers: Mapping[str, Upstream], on_free: Callable[[str], None]) -> None:
        self.pools: Mapping[str, Pool] = {}
        self._docks: dict[str, _Dock] = {}
        self._berths: dict[str, _Berth] = {}
        self._gone: dict[str, _Berth] = {}
        self._leaving: dict[int, _Leaving] = {}  # by id of the driver
        self._closing: set[asyncio.Task[None]] = set()
        self._on_free = on_free
        self.replace({pool.name: pool for pool in pools}, drivers)

    def replace(self, pools: Mapping[str, Pool], drivers: Mapping[str, Upstream]) -> None:
        """Use these nodes and drivers from now on.

        Attempts that run go on with the driver they began with, and keep their place with the node. A driver that is
        named no more is closed after the last of them.
        """
        before = {**self._gone, **self._berths}
        docks, self._docks, self._berths, self._gone = self._docks, {}, {}, {}
        self.pools = pools
        for pool in pools.values():
            dock = self._docks[pool.name] = docks.get(pool.name) or _Dock(pool)
            dock.pool, dock.free, dock.full = pool, 0, set()
            for node in pool.nodes:
                driver = drivers[node.name]
                berth = before.pop(node.name, None) or _Berth(dock, node, driver)
                if berth.upstream is not driver:
                    self._retire(berth)
                    berth.upstream = driver
                berth.dock, berth.node, berth.places = dock, node, 2 * max(1, node.connections)
                berth.gone = berth.idle = False
                self._berths[node.name] = berth
                dock.free += max(0, berth.places - berth.taken)
                if berth.taken >= berth.places:
                    dock.full.add(node.name)
        for name, berth in before.items():
            self._retire(berth)
            if not berth.gone:
                berth.gone, berth.dock = True, _Dock(berth.dock.pool)  # its places are nobody's
            elif berth.idle:
                continue  # what had ended was told of long ago
            berth.idle = not berth.taken
            self._gone[name] = berth

    def _retire(self, berth: _Berth) -> None:
        """Give the driver of this berth nothing new, and close it in time."""
        if berth.gone:
            return  # done when the node went
        leaving = _Leaving(berth.upstream, berth.taken - berth.on_others + berth.probing)
        berth.on_others, berth.probing = berth.taken, 0
        self._leaving[id(berth.upstream)] = leaving
        self._close_idle(leaving)

    def _left(self, upstream: Upstream) -> None:
        """A user of a leaving driver is gone."""
        leaving = self._leaving[id(upstream)]
        leaving.users -= 1
        self._close_idle(leaving)

    def _close_idle(self, leaving: _Leaving) -> None:
        if leaving.users <= 0:
            task = asyncio.get_running_loop().create_task(self._close(leaving.upstream), name="close-driver")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _close(self, upstream: Upstream) -> None:
        try:
            await upstream.close()
        finally:
            del self._leaving[id(upstream)]

    def __contains__(self, node: str) -> bool:
        return node in self._berths

    def names(self) -> list[str]:
        return list(self._berths)

    def pool_of(self, node: str) -> Pool:
        """The node's pool; of a node that is configured no more, the one it was in while its attempts run."""
        return self._berth(node).dock.pool

    def upstream(self, node: str) -> Upstream:
        return self._berths[node].upstream

    def _berth(self, node: str) -> _Berth:
        berth = self._berths.get(node)
        return self._gone[node] if berth is None else berth

    def running(self, node: str) -> int:
        """Attempts with this node right now, those that wait for a connection included."""
        berth = self._berths.get(node)
        return berth.taken if berth else 0

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

    def leave(self, node: str, upstream: Upstream) -> None:
        """Give a place back.

        Args:
            upstream: what `enter` returned.
        """
        berth = self._berths.get(node)
        if berth is None or berth.upstream is not upstream:
            berth = self._berth(node)
            berth.on_others -= 1
            self._left(upstream)
        dock = berth.dock
        berth.taken -= 1
        if berth.taken < berth.places:
            dock.free += 1
            if node in dock.full:
                dock.full.discard(node)
                dock.freed += 1
                self._on_free(dock.pool.name)

    @contextlib.contextmanager
    def testing(self, node: str) -> Iterator[Upstream]:
        """The node's driver, kept open for a test."""
        berth = self._berths[node]
        upstream = berth.upstream
        berth.probing += 1
        try:
            yield upstream
        finally:
            if berth.upstream is upstream and not berth.gone:
                berth.probing -= 1
            else:
                self._left(upstream)

    async def close(self) -> None:
        """Close every driver, also those whose attempts were cut."""
        await asyncio.gather(*self._closing, return_exceptions=True)
        for leaving in tuple(self._leaving.values()):
            await leaving.upstream.close()
        for berth in self._berths.values():
            await berth.upstream.close()
