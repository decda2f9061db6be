"""One worker process: the order in which its parts start and stop, and what goes on beside the mail."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import signal
import socket
import time
from dataclasses import asdict
from typing import Any

from relay.acceptance import Acceptance
from relay.app.drivers import make_desk
from relay.app.frozen import thaw
from relay.app.parts import ListenerParts, Parts, make_parts
from relay.app.plant import Plant
from relay.app.reload import Reloader
from relay.app.settings import Settings
from relay.app.shared import Shared
from relay.app.store_set import open_stores
from relay.app.stores import is_shared, shared_up, tell_weaknesses, troubles, watch_sleep
from relay.bridges.registry import BridgeGate
from relay.control.intake import Intake, IntakeLimits
from relay.control.operator import Operator
from relay.control.protocol import ControlError, socket_path
from relay.control.server import ControlServer
from relay.delivery.dispatcher import Dispatcher
from relay.delivery.suspects import Verdict, judge
from relay.envelope import Message
from relay.errors import ConfigError, SpoolError, StateUnavailable
from relay.history.sqlite import forget_abandoned
from relay.listener.server import Listener
from relay.logs.log import Log
from relay.process.listen_sockets import ListenAddress, bind_one, is_own, shut
from relay.process.supervisor import WorkerContext
from relay.spool import Selection, Standing
from relay.spool.memory import MemorySpool
from relay.spool.redis_store import RedisSpool
from relay.spool.sqlite import SqliteSpool
from relay.spool.sqlite_claim import shards as shards_in
from relay.state.redis_store import RedisState
from relay.tap import Tap

ADOPT_EVERY_S = 60.0
"""How often shards without a worker are looked for."""

TAKE_OVER_EVERY_S = 1.0
"""How often replicas that are gone are looked for."""

FLUSH_S = 1.0
USAGE_EVERY = 5


def _calm_collector() -> None:
    """What was built so far lives as long as the process: the garbage collector need not walk it again, and what a
    message leaves behind is freed by reference counts. Worth 3 % of a message."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


class Worker:
    """Opens the stores, puts the plant together, runs it, and takes it down again.

    Args:
        settings: what the relay was started with. Where another configuration was taken over since, a worker that
            starts later begins with that one.
    """

    def __init__(self, settings: Settings, context: WorkerContext, shared: Shared, log: Log) -> None:
        self._settings = settings
        self._context = context
        self._shard = settings.shards[context.index]
        self._log = log
        self._shared = shared
        self._stop = asyncio.Event()
        self._reload_wanted = asyncio.Event()
        self._phase = "starting"
        self._tap = Tap()
        self._desk = make_desk(settings, self._token_failed)
        self._unadoptable: set[str] = set()

    # What tests and tools look at

    @property
    def spool(self) -> SqliteSpool | RedisSpool:
        return self.stores.spool

    @property
    def dispatcher(self) -> Dispatcher:
        return self.plant.dispatcher

    @property
    def gate(self) -> BridgeGate:
        return self.plant.gate

    @property
    def acceptance(self) -> Acceptance:
        return self.plant.acceptance

    @property
    def listeners(self) -> list[Listener]:
        return self.plant.listeners

    async def run(self) -> int:
        """Serve until SIGTERM; the exit code."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload_wanted.set)
        loop.add_reader(self._context.parent_fd, self._stop.set)
        await self._open()
        _calm_collector()
        try:
            suspects = await self._recover()
            await self.control.start()
            async with asyncio.TaskGroup() as tasks:
                background = [
                    tasks.create_task(self._deliver(suspects), name="dispatcher"),
                    tasks.create_task(self.plant.keeper.run(), name="keeper"),
                    tasks.create_task(self.plant.quotas.run(), name="quotas"),
                    tasks.create_task(self._flush(), name="flush"),
                    tasks.create_task(self._reload_when_asked(), name="reload"),
                    tasks.create_task(self.reloader.follow(), name="follow"),
                    tasks.create_task(self._watch_spool(), name="watch"),
                    tasks.create_task(self._adopt_later(), name="adopt"),
                    tasks.create_task(self._take_over(), name="take over"),
                    tasks.create_task(self._tell_weaknesses(), name="weaknesses"),
                ]
                await self.plant.open()
                self.events.started(shard=self._shard, pid=os.getpid())
                self._phase = "running"
                self._context.ready()
                await self._stop.wait()
                self._phase = "stopping"
                failed = bool(self.spool.broken_reason())
                await self._drain()
                for task in background:
                    task.cancel()
        finally:
            await self._close()
        return os.EX_IOERR if failed else 0

    async def reload(self) -> dict[str, Any]:
        """See `Reloader.reload`."""
        return await self.reloader.reload()

    def _token_failed(self, node: str, error: str, account: bool) -> None:
        fleet = self.plant.fleet
        pool = fleet.pool_of(node).name if node in fleet else ""
        self.events.node_token_failed(node=node, pool=pool, error=error, account=account)

    # Starting

    async def _open(self) -> None:
        """Raises ConfigError before anything is opened when the configuration cannot work."""
        generation, parts = self._parts()
        doors = self._doors(parts)
        self.stores = await open_stores(parts.settings, self._shard, self._log, on_lost=self._lost)
        watch_sleep(self.stores.spool)
        self.events = self.stores.events
        self.plant = Plant(
            parts,
            self.stores,
            self._shared,
            self._log,
            doors=doors,
            shard=self._shard,
            index=self._context.index,
            tap=self._tap,
            desk=self._desk,
        )
        self.reloader = Reloader(
            self.plant,
            self._shared.configuration,
            started=self._settings,
            generation=generation,
            others=[shard for shard in self._settings.shards if shard != self._shard],
            events=self.events,
            taken=self._taken,
        )
        plant = self.plant
        self.operator = Operator(
            shard=self._shard,
            # One worker speaks for the queue that all share.
            spool=MemorySpool() if self._context.index and is_shared(self.spool) else self.spool,
            state=self.stores.state,
            history=self.stores.history,
            pools=parts.pools,
            drivers=parts.drivers,
            events=self.events,
            dispatcher=plant.dispatcher,
            keeper=plant.keeper,
            sessions=lambda: plant.sessions,
            counters=lambda: self.stores.counts.snapshot()["events"],
            reloader=self.reloader,
            tap=self._tap,
            figures=self._figures,
            intake=Intake(plant.acceptance, lambda: plant.gate, self.events, self._intake_limits),
            policy=parts.settings.retry,
            attempts=plant.fleet.running,
            busy=plant.fleet.full,
            phase=lambda: self._phase,
            workers=self._settings.workers,
            troubles=lambda: troubles(self.spool, self.stores.state),
            drain=self.drain,
        )
        plant.on_caps = lambda pools: self.operator.use(pools, plant.parts.settings.retry)
        self.control = ControlServer(self.operator, socket_path(self._settings.directory, self._shard))
        try:
            await plant.router.refresh_health()
            await plant.keeper.prepare(plant.fleet.names())
        except StateUnavailable as error:  # a shared one may come back; what needs no caps goes on without it
            if not isinstance(self.stores.state, RedisState):
                raise
            self.events.fault(where="state", error=str(error))

    def _parts(self) -> tuple[int, Parts]:
        """Of what runs in the other workers, and its generation."""
        generation, frozen = self._shared.configuration.current()
        settings = self._settings
        if generation:
            settings = Settings(settings.path, thaw(frozen), started_as=settings.site)
        level = settings.log
        self._log.set_level("error" if level.errors_only else level.level)
        return generation, make_parts(settings, rng=random.Random(), tap=self._tap, desk=self._desk)

    def _doors(self, parts: Parts) -> list[tuple[ListenerParts, socket.socket]]:
        """Listeners with their sockets: those the parent has bound for us, and of our own where a reload since has
        added some. Those that a reload has closed stay so.

        Raises:
            ConfigError: an address cannot be bound.
        """
        given = {
            tuple(listener.bind): sock
            for listener, sock in zip(self._settings.config.listeners, self._context.sockets, strict=True)
        }
        doors = []
        for listener in parts.listeners:
            known = listener.bind in given
            sock = given.pop(listener.bind) if known else bind_one(ListenAddress(*listener.bind), probe=False)
            doors.append((listener, sock))
        for sock in given.values():
            if is_own(sock):
                shut(sock)
        return doors

    def _taken(self, parts: Parts) -> None:
        self.operator.use(self.plant.pools, parts.settings.retry)

    async def _recover(self) -> list[str]:
        """Close what a crash left open: name possible duplicates and set poison aside.

        Returns:
            The suspects, to be tried alone.
        """
        left_open = await self.spool.recover(time.time())
        suspects = await self._sift(left_open + await self._adopt())
        # The first worker also looks after the keys of workers that there are no more: it has their mail.
        others = {shard for shard in self._settings.shards if shard != self._shard}
        await self.stores.keys.resolve(self._holds, except_of=others)
        return suspects

    async def _holds(self, message_id: str) -> bool:
        return await self.spool.find(message_id) is not None

    def _figures(self) -> dict[str, Any]:
        """Counts for a scrape; nothing may be awaited between them."""
        return {
            "ledger": asdict(self.spool.ledger),
            "stores": shared_up(spool=self.spool, state=self.stores.state),
            **self.stores.counts.snapshot(),
        }

    def _intake_limits(self) -> IntakeLimits:
        settings = self.plant.parts.settings
        return IntakeLimits(
            hostname=settings.hostname,
            max_size=settings.config.limits.size,
            max_recipients=settings.config.limits.recipients,
            accept_deadline=settings.config.accept_deadline,
            body_dir=settings.directory / "incoming",
        )

    async def _sift(self, left_open: list[Message]) -> list[str]:
        suspects = []
        for message in left_open:
            self.events.message_recovered(message.id, crashes=message.crashes)
            verdict = judge(message.crashes, open_attempts=len(left_open))
            if verdict is Verdict.POISON:
                why = f"the process died {message.crashes} times while this message was being delivered"
                await self.spool.hold(Selection(ids=(message.id,)), reason=why, standing=Standing.QUARANTINED)
                self.events.message_quarantined(message.id, why=why)
            elif verdict is Verdict.SUSPECT:
                suspects.append(message.id)
        return suspects

    async def _adopt(self) -> list[Message]:
        """The first worker takes over the mail of workers that there are no more, because `workers` was lowered.

        Returns:
            Messages whose attempt was open when their worker ended.
        """
        left_open: list[Message] = []
        if self._context.index:
            return left_open
        for shard in await asyncio.to_thread(shards_in, self._settings.directory):
            if shard.owner is not None or shard.name in self._settings.shards or shard.name in self._unadoptable:
                continue
            try:
                adopted = await self.spool.adopt(shard.name, now=time.time())
            except SpoolError as error:
                self.events.fault(where=f"spool shard {shard.name}", error=f"its mail stays there for now: {error}")
                continue
            if adopted.damaged:
                self._unadoptable.add(shard.name)
            self.events.adopted(shard=shard.name, messages=adopted.moved, damaged=adopted.damaged)
            left_open += adopted.open
        return left_open

    # Running

    async def _deliver(self, suspects: list[str]) -> None:
        """Suspects have some time alone; mail is accepted meanwhile, because clients cannot be told to wait for it."""
        await self.dispatcher.try_alone(suspects)
        await self.dispatcher.run()

    async def _flush(self) -> None:
        """Counts to the state, and what other workers used from it."""
        tick = 0
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.plant.tally.flush()
            tick += 1
            if tick % USAGE_EVERY == 0:
                try:
                    await self.plant.router.refresh_usage()
                except StateUnavailable as error:
                    self.events.fault(where="state", error=str(error))

    async def _take_over(self) -> None:
        """From replicas that are gone, where the spool is shared."""
        while isinstance(self.spool, RedisSpool):
            await asyncio.sleep(TAKE_OVER_EVERY_S)
            try:
                await self._sift(await self.spool.take_over(time.time()))
            except SpoolError:  # said by the spool itself
                continue

    def _lost(self) -> None:
        cut = self.dispatcher.abandon()
        self.events.fault(
            where="spool",
            error=f"this process was silent for longer than its lease; its messages are others' now, {cut} attempts "
            "were cut off",
        )

    async def _tell_weaknesses(self) -> None:
        """The first worker says what the shared stores do not promise."""
        if not self._context.index:
            await tell_weaknesses(
                [self.spool, self.stores.state],
                lambda text: self._log.tell("warning", "config.warning", {"text": text}),
            )

    async def _adopt_later(self) -> None:
        """A shard may have had an owner at the start: a worker of before that drained, or a command at work on it."""
        while True:
            await asyncio.sleep(ADOPT_EVERY_S)
            await self._sift(await self._adopt())
            if self._context.index == 0:
                settings = self._settings
                await asyncio.to_thread(
                    forget_abandoned,
                    settings.directory,
                    settings.shards,
                    max_age_s=settings.config.history.keep_for,
                    now=time.time(),
                )

    async def _watch_spool(self) -> None:
        """A store that failed an fsync cannot be believed again: end, so that a fresh process opens it anew (R03)."""
        while True:
            await asyncio.sleep(0.5)
            if await self.spool.relieve():
                self.events.fault(
                    where="spool", error="the disk is full; its reserve is given up for what was accepted"
                )
            if self.spool.broken_reason():
                self.events.fault(where="spool", error=f"{self.spool.broken_reason()}; this worker restarts")
                self._stop.set()
                return

    async def _reload_when_asked(self) -> None:
        """SIGHUP, as often as it comes, is one reload at a time, and one more for what came meanwhile."""
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            with contextlib.suppress(ConfigError, ControlError):  # has been told
                await self.reload()

    # Stopping

    async def drain(self) -> dict[str, Any]:
        """For `relay drain`: take no more mail. What others can deliver goes back to them; our own is delivered on."""
        if self._phase == "running":
            self._phase = "draining"
            self.acceptance.close()
            for sock in self._context.sockets:
                with contextlib.suppress(OSError):  # the parent has it open too: nobody must wait in its backlog
                    sock.shutdown(socket.SHUT_RDWR)
            deadline = asyncio.get_running_loop().time() + self._settings.config.drain
            await asyncio.gather(*(listener.drain(deadline) for listener in self.listeners))
            if is_shared(self.spool):
                await self.dispatcher.stop(deadline)
        return {"shared": is_shared(self.spool)}

    async def _drain(self) -> None:
        """Stop accepting, let transactions and attempts finish, give the rest back."""
        drain_s = self._settings.config.drain
        self.events.stopping(shard=self._shard, drain_s=drain_s)
        deadline = asyncio.get_running_loop().time() + drain_s
        self.acceptance.close()
        await asyncio.gather(*(listener.drain(deadline) for listener in self.listeners))
        cut = await self.dispatcher.stop(deadline)
        self.events.stopped(shard=self._shard, attempts_cut=cut)

    async def _close(self) -> None:
        await self.control.close()
        await self.plant.close()
        await self.stores.close()
