"""What vendors let an account send, kept beside what the operator allows: in each window the smaller of both counts.

Each worker asks for itself, at its start, after a reload and then every hour, so that nothing has to be shared: the
vendor tells all of them the same. A vendor that does not answer changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from relay.delivery.fleet import Fleet
from relay.events import Events
from relay.pools.pool import Cap, Pool
from relay.upstreams.base import Limited

REFRESH_S = 3600.0
"""Vendors raise a quota by hand or over days; an hour is soon enough, and no load for anybody."""

AGAIN_S = 60.0
"""Pause after a round in which a vendor did not answer."""


def effective(own: Iterable[Cap], vendors: Iterable[Cap]) -> tuple[Cap, ...]:
    """The caps that hold: in each window the smaller limit; the shortest window first."""
    windows = {cap.window_s: cap for cap in own}
    for cap in vendors:
        mine = windows.get(cap.window_s)
        if mine is None or cap.limit < mine.limit:
            windows[cap.window_s] = cap if mine is None else replace(cap, spread=mine.spread)
    return tuple(windows[width] for width in sorted(windows))


class Quotas:
    """Args:
    changed: called when `over` would give other caps than before.
    """

    def __init__(self, fleet: Fleet, events: Events, changed: Callable[[], None]) -> None:
        self._fleet = fleet
        self._events = events
        self._changed = changed
        self._told: dict[str, tuple[Cap, ...]] = {}
        self._wake = asyncio.Event()

    def over(self, pools: Mapping[str, Pool]) -> Mapping[str, Pool]:
        """These pools with the caps that hold. What no vendor has a word in is the same object as before."""
        return {name: self._of_pool(pool) for name, pool in pools.items()}

    def look_anew(self) -> None:
        """Nodes are others than before: ask soon."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._wake.clear()
            complete = await self.refresh()
            try:
                async with asyncio.timeout(REFRESH_S if complete else AGAIN_S):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def refresh(self) -> bool:
        """Ask once. False when some vendor did not answer."""
        complete, before = True, dict(self._told)
        names = self._fleet.names()
        for name in set(self._told).difference(names):
            del self._told[name]
        for name in names:
            if name not in self._fleet:  # gone while another one was asked
                continue
            upstream = self._fleet.upstream(name)
            if not isinstance(upstream, Limited) or not upstream.tells_quota:
                self._told.pop(name, None)
                continue
            try:
                with self._fleet.testing(name):
                    told = await upstream.quota()
            except Exception as error:  # a bug of the driver; the caps of the configuration hold all the same
                self._events.fault(where=f"node {name}", error=f"its quota: {type(error).__name__}: {error}")
                told = None
            if told is None:
                complete = False
            else:
                self._told[name] = told
        if self._told != before:
            self._changed()
        return complete

    def _of_pool(self, pool: Pool) -> Pool:
        nodes = tuple(
            replace(node, caps=caps)
            if node.name in self._told and (caps := effective(node.caps, self._told[node.name])) != node.caps
            else node
            for node in pool.nodes
        )
        return pool if nodes == pool.nodes else replace(pool, nodes=nodes)
