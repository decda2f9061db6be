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
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from relay.acceptance import Acceptance
from relay.app.parts import Bind, ListenerParts, Parts
from relay.app.shared import Shared
from relay.app.store_set import Stores
from relay.app.stores import is_shared, place_of
from relay.bridges.credentials import PasswordChecker
from relay.bridges.registry import BridgeGate
from relay.delivery.attempt import Attempts
from relay.delivery.direct import Direct
from relay.delivery.dispatcher import Dispatcher
from relay.delivery.fleet import Fleet
from relay.delivery.keeper import HealthKeeper
from relay.delivery.quotas import Quotas
from relay.delivery.render import Renderer
from relay.delivery.reports import Reports
from relay.delivery.tally import Tally
from relay.ids import IdSource
from relay.listener.server import Listener
from relay.logs.log import Log
from relay.oauth.desk import TokenDesk
from relay.pools.pool import Node, Pool
from relay.process.listen_sockets import is_own, shut
from relay.router.router import Router
from relay.tap import Tap


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """What a take-over changed: names of nodes, sorted. `touched`: those that are new or work in another way."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    touched: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Door:
    """A place where connections come in. `sock`: the listener's, to be duplicated or ended."""

    listener: Listener
    sock: socket.socket


class Plant:
    """Args:
    doors: listeners with their sockets, bound; see `open`.
    shard: of this worker; index: its number.
    tap: where dialogue is listened to; the drivers of all parts must have the same one.
    desk: gives the drivers of all parts their tokens.
    """

    def __init__(
        self,
        parts: Parts,
        stores: Stores,
        shared: Shared,
        log: Log,
        *,
        doors: Sequence[tuple[ListenerParts, socket.socket]],
        shard: str,
        index: int,
        tap: Tap,
        desk: TokenDesk,
    ) -> None:
        self.parts = parts
        self.stores = stores
        self.tap = tap
        self.desk = desk
        self._log = log
        self._shares = {bridge.name: bridge.share for bridge in parts.settings.bridges}
        settings, clock, rng = parts.settings, time.time, random.Random()
        spool, state, events = stores.spool, stores.state, stores.events
        ids = IdSource(clock, shard=place_of(parts.settings, shard) if is_shared(spool) else shard)
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
            start=shared.start if settings.config.health.test_at_start else "",
        )
        self.quotas = Quotas(self.fleet, events, self._use_quotas)
        self.on_caps: Callable[[Mapping[str, Pool]], None] = lambda _: None
        """Called with the pools whenever vendors told other caps than before."""
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
            ready=self.keeper.first_tests,
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
            keys=stores.keys,
        )
        self._connections = shared.connections.worker(index)
        self._doors = {parts.bind: Door(self._listener(parts), sock) for parts, sock in doors}
        self._retired: list[Listener] = []  # that accept nothing more, while somebody is connected

    def _listener(self, parts: ListenerParts) -> Listener:
        return Listener(
            parts.options, self.acceptance, self.stores.events, self._connections, parts.tls_context, self.tap
        )

    @property
    def pools(self) -> Mapping[str, Pool]:
        """With the caps that hold: of the configuration and of the vendors."""
        return self.quotas.over(self.parts.pools)

    def _use_quotas(self) -> None:
        pools = self.pools
        self.router.replace_pools(pools.values())
        self.on_caps(pools)
        self.dispatcher.changed()

    @property
    def listeners(self) -> list[Listener]:
        """All that have sessions or may get some."""
        return [*(door.listener for door in self._doors.values()), *self._retired]

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
        self.router.replace_pools(self.pools.values())
        self.quotas.look_anew()
        self._attempts.policy = settings.retry
        self._renderer.headers = tuple(settings.config.headers.items())
        self._renderer.signer = parts.signer
        self._reports.use(parts.pools, settings.reports)
        self._shares = {bridge.name: bridge.share for bridge in settings.bridges}
        self.gate.replace(parts.registry)
        self.acceptance.use(parts.pools, settings.acceptance)
        for fresh in parts.listeners:
            door = self._doors.get(fresh.bind)
            if door is not None and door.listener.accepts_like(fresh.options):
                door.listener.use(fresh.options, fresh.tls_context)
        self.stores.set_bounds(settings)
        self._log.set_level("error" if settings.log.errors_only else settings.log.level)
        self.dispatcher.replaced()
        return swap

    # Doors

    async def open(self) -> None:
        """Accept at all doors. Raises OSError."""
        for door in self._doors.values():
            await door.listener.start(sock=door.sock)

    def new_binds(self, parts: Parts) -> list[Bind]:
        """Where these parts want a door and there is none: `reopen` needs a socket for each."""
        return [listener.bind for listener in parts.listeners if listener.bind not in self._doors]

    async def reopen(self, sockets: Mapping[Bind, socket.socket]) -> None:
        """After `take_over`: open the doors that are new, on `sockets`, and close those that are gone. Sessions stay.

        Raises:
            OSError: a socket cannot be listened on; the others are.
        """
        wanted = {listener.bind: listener for listener in self.parts.listeners}
        for bind, door in list(self._doors.items()):
            fresh = wanted.get(bind)
            if fresh is None and is_own(door.sock):
                shut(door.sock.dup())
                await self._retire(bind)
            elif fresh is not None and not door.listener.accepts_like(fresh.options):
                again = door.sock.dup()  # connections that wait in its queue are accepted by the next one
                await self._retire(bind)
                await self._add(fresh, again)
        failed: OSError | None = None
        for bind, sock in sockets.items():
            try:
                await self._add(wanted[bind], sock)
            except OSError as error:
                del self._doors[bind]
                sock.close()
                failed = error
        if failed is not None:
            raise failed

    async def sweep(self) -> None:
        """Close what accepted nothing more and has nobody left. For a ticker."""
        if self._retired:
            self._retired = [listener for listener in self._retired if not await _ended(listener)]

    async def _add(self, parts: ListenerParts, sock: socket.socket) -> None:
        door = self._doors[parts.bind] = Door(self._listener(parts), sock)
        await door.listener.start(sock=sock)

    async def _retire(self, bind: Bind) -> None:
        listener = self._doors.pop(bind).listener
        await listener.retire()
        self._retired.append(listener)

    def doors_left_alone(self, parts: Parts) -> list[str]:
        """Binds that only a start can close: the service manager has them."""
        wanted = {listener.bind for listener in parts.listeners}
        return [
            f"{host}:{port}"
            for (host, port), door in self._doors.items()
            if (host, port) not in wanted and not is_own(door.sock)
        ]

    async def close(self) -> None:
        """The network ends; stores are closed by who opened them."""
        for listener in self.listeners:
            await listener.close()
        await self.fleet.close()
        await self.desk.close()
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


async def _ended(listener: Listener) -> bool:
    """Whether a retired listener has nobody left; then it is closed."""
    if listener.idle:
        await listener.close()
    return listener.idle
