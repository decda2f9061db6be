"""The moving parts of a worker, put together once, and how they take over another configuration.

Everything on the way of a message is made here and lives as long as the worker. What a configuration decides about is
handed to it as plain values (`parts`), so that the way itself pays nothing for being reconfigurable: `take_over` swaps
the values in one step of the event loop, between two steps of everything else.

Sessions, attempts and waiting messages go on over a swap. An attempt ends with the driver it began with; a transaction
ends under the rules it began with, but for the bridge it leads to.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from relay.acceptance import Acceptance
from relay.app.parts import Bind, ListenerParts, Parts
from relay.app.shared import Shared
from relay.app.stores import Stores
from relay.bridges.credentials import PasswordChecker
from relay.bridges.registry import BridgeGate
from relay.delivery.attempt import Attempts
from relay.delivery.direct import Direct
from relay.delivery.dispatcher import Dispatcher
from relay.delivery.fleet import Fleet
from relay.delivery.keeper import HealthKeeper
from relay.delivery.render import Renderer
from relay.delivery.reports import Reports
from relay.delivery.tally import Tally
from relay.ids import IdSource
from relay.listener.server import Listener
from relay.logs.log import Log
from relay.pools.pool import Node
from relay.router.router import Router
from relay.tap import Tap


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """What a take-over changed: names of nodes, sorted. `touched`: those that are new or work in another way."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    touched: tuple[str, ...]


class Plant:
    """Args:
    listeners: one for each socket there will be, in their order.
    shard: of this worker; index: its number.
    tap: where dialogue is listened to; the drivers of all parts must have the same one.
    """

    def __init__(
        self,
        parts: Parts,
        stores: Stores,
        shared: Shared,
        log: Log,
        *,
        listeners: Sequence[ListenerParts],
        shard: str,
        index: int,
        tap: Tap,
    ) -> None:
        self.parts = parts
        self.stores = stores
        self.tap = tap
        self._log = log
        self._shares = {bridge.name: bridge.share for bridge in parts.settings.bridges}
        settings, clock, rng = parts.settings, time.time, random.Random()
        spool, state, events = stores.spool, stores.state, stores.events
        ids = IdSource(clock, shard=shard)
        self.router = Router(parts.pools.values(), state, clock=clock, rng=rng.random)
        self.fleet = Fleet(parts.pools.values(), parts.drivers, on_free=lambda pool: self.dispatcher.freed(pool))
        self.keeper = HealthKeeper(
            state=state,
            router=self.router,
            fleet=self.fleet,
            policy=settings.health,
            events=events,
            clock=clock,
            on_change=lambda: self.dispatcher.changed(),
            owner=f"{os.uname().nodename}:{os.getpid()}",
        )
        self.tally = Tally(state)
        self._renderer = Renderer(
            headers=tuple(settings.config.headers.items()),
            signer=parts.signer,
            scratch=settings.directory / "incoming",
            clock=clock,
        )
        self._reports = Reports(
            spool=spool,
            pools=parts.pools,
            ids=ids,
            events=events,
            policy=settings.reports,
            clock=clock,
            stored=lambda message: self.dispatcher.stored(message),
        )
        self._attempts = Attempts(
            spool=spool,
            router=self.router,
            fleet=self.fleet,
            keeper=self.keeper,
            renderer=self._renderer,
            reports=self._reports,
            tally=self.tally,
            events=events,
            policy=settings.retry,
            clock=clock,
        )
        self.dispatcher = Dispatcher(
            spool=spool,
            router=self.router,
            fleet=self.fleet,
            attempts=self._attempts,
            events=events,
            share_of=lambda bridge: self._shares.get(bridge, 1),
            clock=clock,
            rng=rng,
        )
        direct = Direct(
            spool=spool,
            router=self.router,
            fleet=self.fleet,
            attempts=self._attempts,
            reports=self._reports,
            events=events,
            clock=clock,
            rng=rng,
            hand_in=self.dispatcher.hand_in,
        )
        self.gate = BridgeGate(parts.registry, PasswordChecker(), shared.throttle)
        self.acceptance = Acceptance(
            gate=self.gate,
            pools=parts.pools,
            spool=spool,
            state=state,
            dispatcher=self.dispatcher,
            direct=direct,
            ids=ids,
            events=events,
            policy=settings.acceptance,
            clock=clock,
        )
        connections = shared.connections.worker(index)
        self.listeners = [
            Listener(listener.options, self.acceptance, events, connections, listener.tls_context, tap)
            for listener in listeners
        ]
        self._binds = [listener.bind for listener in listeners]

    @property
    def sessions(self) -> int:
        """Client connections that are being served."""
        return sum(listener.sessions for listener in self.listeners)

    def take_over(self, parts: Parts) -> Swap:
        """Go on with these parts. Cannot fail."""
        before, self.parts = self.parts, parts
        settings = parts.settings
        swap = _difference(before, parts)
        # Who is asked for a node must know it: fleet before router, both before those who ask them.
        self.keeper.replaced(settings.health, swap.touched + swap.removed)
        self.fleet.replace(parts.pools, parts.drivers)
        self.router.replace_pools(parts.pools.values())
        self._attempts.policy = settings.retry
        self._renderer.headers = tuple(settings.config.headers.items())
        self._renderer.signer = parts.signer
        self._reports.use(parts.pools, settings.reports)
        self._shares = {bridge.name: bridge.share for bridge in settings.bridges}
        self.gate.replace(parts.registry)
        self.acceptance.use(parts.pools, settings.acceptance)
        for listener, fresh in self._matched(parts.listeners):
            if listener.accepts_like(fresh.options):
                listener.use(fresh.options, fresh.tls_context)
        self.stores.set_bounds(settings)
        self._log.set_level("error" if settings.log.errors_only else settings.log.level)
        self.dispatcher.replaced()
        return swap

    def listeners_left_alone(self, parts: Parts) -> list[str]:
        """Binds that `take_over` of these parts does not bring about, because only a start can."""
        wanted = [listener.bind for listener in parts.listeners]
        other_way = [
            fresh.bind for listener, fresh in self._matched(parts.listeners) if not listener.accepts_like(fresh.options)
        ]
        unmatched = _without(wanted, self._binds) + _without(self._binds, wanted)
        return sorted({f"{host}:{port}" for host, port in unmatched + other_way})

    def _matched(self, fresh: Collection[ListenerParts]) -> list[tuple[Listener, ListenerParts]]:
        """Listeners with what is configured for their bind now."""
        left = list(fresh)
        found = []
        for listener, bind in zip(self.listeners, self._binds, strict=True):
            for candidate in left:
                if candidate.bind == bind:
                    left.remove(candidate)
                    found.append((listener, candidate))
                    break
        return found

    async def close(self) -> None:
        """The network ends; stores are closed by who opened them."""
        for listener in self.listeners:
            await listener.close()
        await self.fleet.close()
        await self.router.close()
        await self.tally.flush()


def _difference(before: Parts, after: Parts) -> Swap:
    old = {node.name: node for pool in before.pools.values() for node in pool.nodes}
    new = {node.name: node for pool in after.pools.values() for node in pool.nodes}
    touched = {
        name
        for name, node in new.items()
        if name not in old or _identity(old[name]) != _identity(node) or before.drivers[name] is not after.drivers[name]
    }
    return Swap(
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        touched=tuple(sorted(touched)),
    )


def _identity(node: Node) -> Node:
    """The node without what only decides how much of the mail it gets."""
    return replace(node, weight=1, priority=1, caps=(), connections=1)


def _without(binds: list[Bind], others: list[Bind]) -> list[Bind]:
    """Those of `binds` that are not among `others`, each of which stands for one."""
    left = list(others)
    found = []
    for bind in binds:
        if bind in left:
            left.remove(bind)
        else:
            found.append(bind)
    return found
