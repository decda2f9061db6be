"""One worker process: its objects, the order in which they start and stop."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import ssl
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relay.acceptance import Acceptance
from relay.app.drivers import make_desk, make_drivers
from relay.app.settings import Settings
from relay.app.shared import Shared
from relay.bridges.credentials import PasswordChecker
from relay.bridges.registry import BridgeGate, Registry
from relay.config.load import load
from relay.control.operator import Operator
from relay.control.protocol import socket_path
from relay.control.server import ControlServer
from relay.delivery.attempt import Attempts
from relay.delivery.direct import Direct
from relay.delivery.dispatcher import Dispatcher
from relay.delivery.fleet import Fleet
from relay.delivery.keeper import HealthKeeper
from relay.delivery.render import Renderer
from relay.delivery.reports import Reports
from relay.delivery.suspects import Verdict, judge
from relay.delivery.tally import Tally
from relay.envelope import Message
from relay.errors import ConfigError, SpoolError, StateUnavailable
from relay.events import Events
from relay.history import HistorySink
from relay.history.sqlite import SqliteHistory
from relay.ids import IdSource
from relay.listener.server import Listener
from relay.logs.log import Log
from relay.process.supervisor import WorkerContext
from relay.router.router import Router
from relay.sinks import CountSink, LogSink
from relay.spool import Selection, Standing
from relay.spool.sqlite import SqliteSpool
from relay.spool.sqlite_claim import shards as shards_in
from relay.state.sqlite import SqliteState

EVENTS_A_MESSAGE = 3
"""Accepted, attempted, and one to spare for those that are deferred."""

ADOPT_EVERY_S = 60.0
"""How often shards without a worker are looked for."""

FLUSH_S = 1.0
USAGE_EVERY = 5


def _calm_collector() -> None:
    """What was built so far lives as long as the process: the garbage collector need not walk it again, and what a
    message leaves behind is freed by reference counts. Worth 3 % of a message."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


class Worker:
    """Builds everything from settings, runs it, and takes it down again."""

    def __init__(self, settings: Settings, context: WorkerContext, shared: Shared, log: Log) -> None:
        self._settings = settings
        self._context = context
        self._shard = settings.shards[context.index]
        self._log = log
        self._shared = shared
        self._stop = asyncio.Event()
        self._reload_wanted = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._phase = "starting"
        self._unadoptable: set[str] = set()
        self._shares: Mapping[str, int] = {bridge.name: bridge.share for bridge in settings.bridges}

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
                    tasks.create_task(self.keeper.run(), name="keeper"),
                    tasks.create_task(self._flush(), name="flush"),
                    tasks.create_task(self._reload_when_asked(), name="reload"),
                    tasks.create_task(self._watch_spool(), name="watch"),
                    tasks.create_task(self._adopt_later(), name="adopt"),
                ]
                for listener, sock in zip(self.listeners, self._context.sockets, strict=True):
                    await listener.start(sock=sock)
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
        """Read the configuration again and take over the bridges, and certificates that were renewed under their old
        names; everything else is named as needing a restart. All of it, or nothing.

        Raises:
            ConfigError: it does not validate; nothing has changed.
        """
        async with self._reloading:
            # In a thread: a thousand bridges take a fifth of a second to read.
            fresh, registry, contexts = await asyncio.to_thread(self._read_again)
            self.gate.replace(registry)
            for listener, context in zip(self.listeners, contexts, strict=True):
                if context is not None:
                    listener.use_tls_context(context)
            return self._reloaded(fresh)

    def _read_again(self) -> tuple[Settings, Registry, list[ssl.SSLContext | None]]:
        """What a reload takes over. A message in the queue of a bridge that is gone still leaves: it was promised."""
        fresh = Settings(self._settings.path, load(self._settings.path))
        registry = Registry(fresh.bridges, previous=self.gate.registry)
        missing = sorted({b.pool for b in fresh.bridges} - {p.name for p in self._settings.pools})
        if missing:
            raise ConfigError(f"bridges lead to pools that need a restart first: {', '.join(missing)}")
        ours = self._settings.config.listeners
        try:
            contexts = [
                fresh.tls_context(listener) if listener in fresh.config.listeners else None for listener in ours
            ]
        except OSError as error:  # ssl.SSLError among them: written to since it was checked
            raise ConfigError(f"certificate: {error}") from error
        return fresh, registry, contexts

    def _reloaded(self, fresh: Settings) -> dict[str, Any]:
        self._shares = {bridge.name: bridge.share for bridge in fresh.bridges}
        old, new = self._settings.config, fresh.config
        rest = [key for key in type(old).model_fields if key != "bridges" and getattr(old, key) != getattr(new, key)]
        self.events.reloaded(bridges=len(fresh.bridges), needs_restart=rest)
        return {"bridges": len(fresh.bridges), "needs_restart": rest}

    def _token_failed(self, node: str, error: str, account: bool) -> None:
        self.events.node_token_failed(node=node, pool=self.fleet.pool_of(node).name, error=error, account=account)

    # Starting

    async def _open(self) -> None:
        settings, clock = self._settings, time.time
        config = settings.config
        directory = settings.directory
        incoming = directory / "incoming"
        incoming.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.history = SqliteHistory(
            directory,
            self._shard,
            max_age_s=config.history.keep_for,
            max_events=EVENTS_A_MESSAGE * config.history.max_messages or sys.maxsize,
        )
        await self.history.start()
        self.counts = CountSink(clock)
        self.events = Events([LogSink(self._log), HistorySink(self.history), self.counts], clock)
        self.spool = SqliteSpool(
            directory,
            shard=self._shard,
            min_free=config.spool.min_free,
            max_messages=config.spool.max_messages,
            max_bytes=config.spool.max_bytes,
            on_quarantine=lambda message_id, why: self.events.message_quarantined(message_id, why=f"damaged: {why}"),
        )
        await self.spool.start()
        self.state = await SqliteState.open(settings.state_directory / "state.db", clock=clock)
        self._build(directory, incoming)
        await self.router.refresh_health()
        await self.keeper.prepare()

    def _build(self, directory: Path, incoming: Path) -> None:
        settings, clock = self._settings, time.time
        pools = {pool.name: pool for pool in settings.pools}
        rng = random.Random()
        ids = IdSource(clock, shard=self._shard)
        self.router = Router(settings.pools, self.state, clock=clock, rng=rng.random)
        self.desk = make_desk(settings, self._token_failed)
        drivers = make_drivers(settings, rng=rng, desk=self.desk)
        self.fleet = Fleet(settings.pools, drivers, on_free=lambda pool: self.dispatcher.freed(pool))
        self.keeper = HealthKeeper(
            state=self.state,
            router=self.router,
            fleet=self.fleet,
            policy=settings.health,
            events=self.events,
            clock=clock,
            on_change=lambda: self.dispatcher.changed(),
            owner=f"{os.uname().nodename}:{os.getpid()}",
            start=self._shared.start if settings.config.health.test_at_start else "",
        )
        self.tally = Tally(self.state)
        reports = Reports(
            spool=self.spool,
            pools=pools,
            ids=ids,
            events=self.events,
            policy=settings.reports,
            clock=clock,
            stored=lambda message: self.dispatcher.stored(message),
        )
        attempts = Attempts(
            spool=self.spool,
            router=self.router,
            fleet=self.fleet,
            keeper=self.keeper,
            renderer=Renderer(
                headers=tuple(settings.config.headers.items()), signer=settings.signer(), scratch=incoming, clock=clock
            ),
            reports=reports,
            tally=self.tally,
            events=self.events,
            policy=settings.retry,
            clock=clock,
        )
        self.dispatcher = Dispatcher(
            spool=self.spool,
            router=self.router,
            fleet=self.fleet,
            attempts=attempts,
            events=self.events,
            share_of=lambda bridge: self._shares.get(bridge, 1),
            clock=clock,
            rng=rng,
        )
        direct = Direct(
            spool=self.spool,
            router=self.router,
            fleet=self.fleet,
            attempts=attempts,
            reports=reports,
            events=self.events,
            clock=clock,
            rng=rng,
            hand_in=self.dispatcher.hand_in,
            ready=self.keeper.first_tests,
        )
        self.gate = BridgeGate(Registry(settings.bridges), PasswordChecker(), self._shared.throttle)
        self.acceptance = Acceptance(
            gate=self.gate,
            pools=pools,
            spool=self.spool,
            state=self.state,
            dispatcher=self.dispatcher,
            direct=direct,
            ids=ids,
            events=self.events,
            policy=settings.acceptance,
            clock=clock,
        )
        connections = self._shared.connections.worker(self._context.index)
        self.listeners = [
            Listener(
                settings.listener_options(listener),
                self.acceptance,
                self.events,
                connections,
                settings.tls_context(listener),
            )
            for listener in settings.config.listeners
        ]
        operator = Operator(
            shard=self._shard,
            spool=self.spool,
            state=self.state,
            history=self.history,
            pools=pools,
            drivers=drivers,
            events=self.events,
            dispatcher=self.dispatcher,
            keeper=self.keeper,
            sessions=lambda: sum(listener.sessions for listener in self.listeners),
            counters=lambda: self.counts.snapshot()["events"],
            reload=self.reload,
            policy=settings.retry,
            attempts=self.fleet.running,
            busy=self.fleet.full,
            phase=lambda: self._phase,
            workers=settings.workers,
        )
        self.control = ControlServer(operator, socket_path(directory, self._shard))

    async def _recover(self) -> list[str]:
        """Close what a crash left open: name possible duplicates and set poison aside.

        Returns:
            The suspects, to be tried alone.
        """
        left_open = await self.spool.recover(time.time())
        return await self._sift(left_open + await self._adopt())

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
            await self.tally.flush()
            tick += 1
            if tick % USAGE_EVERY == 0:
                try:
                    await self.router.refresh_usage()
                except StateUnavailable as error:
                    self.events.fault(where="state", error=str(error))

    async def _adopt_later(self) -> None:
        """A shard may have had an owner at the start: a worker of before that drained, or a command at work on it."""
        while True:
            await asyncio.sleep(ADOPT_EVERY_S)
            await self._sift(await self._adopt())

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
            try:
                await self.reload()
            except ConfigError as error:
                self.events.reload_failed(error=str(error))

    # Stopping

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
        for listener in self.listeners:
            await listener.close()
        await self.fleet.close()
        if self.desk is not None:
            await self.desk.close()
        await self.router.close()
        await self.tally.flush()
        await self.spool.close()
        await self.state.close()
        await self.history.close()
