"""What vendors let an account send, kept beside what the operator allows: in each window the smaller of both counts.

Each worker asks for itself, at its start and then every hour, so that nothing has to be shared: the vendor tells all
of them the same. A vendor that does not answer changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
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
    pools: as they are configured.
    changed: called with all pools when an effective cap is another one than before.
    """

    def __init__(
        self, pools: Sequence[Pool], fleet: Fleet, events: Events, changed: Callable[[Sequence[Pool]], None]
    ) -> None:
        self._configured = tuple(pools)
        self._now = self._configured
        self._fleet = fleet
        self._events = events
        self._changed = changed
        self._told: dict[str, tuple[Cap, ...]] = {}

    async def run(self) -> None:
        """Until cancelled. Ends at once where no node has a quota to tell."""
        asked = {node.name for pool in self._configured for node in pool.nodes if self._limited(node.name)}
        while asked:
            complete = await self.refresh(asked)
            await asyncio.sleep(REFRESH_S if complete else AGAIN_S)

    async def refresh(self, nodes: Iterable[str]) -> bool:
        """Ask once. False when some vendor did not answer."""
        complete = True
        for name in nodes:
            upstream = self._limited(name)
            assert upstream is not None
            try:
                told = await upstream.quota()
            except Exception as error:  # a bug of the driver; the caps of the configuration hold all the same
                self._events.fault(where=f"node {name}", error=f"its quota: {type(error).__name__}: {error}")
                told = None
            if told is None:
                complete = False
            else:
                self._told[name] = told
        pools = tuple(
            replace(
                pool,
                nodes=tuple(
                    replace(node, caps=effective(node.caps, self._told[node.name])) if node.name in self._told else node
                    for node in pool.nodes
                ),
            )
            for pool in self._configured
        )
        if pools != self._now:
            self._now = pools
            self._changed(pools)
        return complete

    def _limited(self, name: str) -> Limited | None:
        upstream = self._fleet.upstream(name)
        return upstream if isinstance(upstream, Limited) and upstream.tells_quota else None
