"""Taking over another configuration in all workers or in none, and going back when it breaks delivery.

One worker leads: the one that was asked, by signal or over its control socket, kept alone by a lock on a file.

1. It reads the files, validates, and makes its own parts. 2. It offers the result in the memory that all workers share,
and asks each of the others to make theirs from the very same values. 3. Only when all have, it commits: one store of a
number in the shared memory is the point of no return. 4. All swap, each in one step of its loop.

Who refuses or does not answer before that point makes all stay as they are. Who is lost after it, the leader included,
changes nothing any more: the others see the number within a second and follow, and a worker that starts takes what the
shared memory holds, not what the files may say by then.

What only a start can change is named (`needs_restart`) and left. The configuration before is kept in the leader's
memory for `reload.watch`, to come back by itself (`aftermath`). A relay that is started anew reads its files.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import random
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relay.app.aftermath import Aftermath, broken, watch
from relay.app.frozen import freeze, thaw
from relay.app.parts import Bind, Parts, make_parts
from relay.app.plan import plan
from relay.app.plant import Plant
from relay.app.restart import needs_restart
from relay.app.settings import Settings
from relay.config.load import Loaded, load
from relay.control.client import RemoteShard, connect
from relay.control.protocol import ControlError, TryAgain
from relay.errors import ConfigError, RelayError, SpoolError, StateUnavailable
from relay.events import Events
from relay.pools.health import NodeHealth
from relay.pools.pool import Pool
from relay.process.listen_sockets import ListenAddress, bind_one
from relay.process.shared_value import SharedValue

TURN_S = 60.0
"""How long another reload is waited for."""

FOLLOW_S = 0.5
"""How often a worker looks whether another one has committed, and whether delivery broke."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """`at`: monotonic seconds."""

    generation: int
    parts: Parts
    sockets: Mapping[Bind, socket.socket]
    at: float

    def drop(self) -> None:
        """It will not be taken over."""
        for sock in self.sockets.values():
            sock.close()


@dataclass(slots=True)
class _Trial:
    """What was known to be good, and how things stood when something else was taken over.

    Attributes:
        since: epoch seconds of the first swap away from it.
        touched: nodes that any swap since has touched.
    """

    good: Loaded
    pools: Mapping[str, Pool]
    delivered: frozenset[str]
    health: Mapping[str, NodeHealth]
    since: float
    touched: set[str] = field(default_factory=set)
    aftermath: Aftermath | None = None


class Reloader:
    """One per worker.

    Args:
        started: what the relay was started with; decides where it lives and what only a start can change.
        generation: of the configuration that `plant` was built with.
        others: shards of the other workers.
        taken: called after each swap in this worker.
    """

    def __init__(
        self,
        plant: Plant,
        shared: SharedValue,
        *,
        started: Settings,
        generation: int,
        others: Sequence[str],
        events: Events,
        taken: Callable[[Parts], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._plant = plant
        self._shared = shared
        self._started = started
        self._generation = generation
        self._others = others
        self._events = events
        self._taken = taken
        self._clock = clock
        self._rng = random.Random()
        self._leading = asyncio.Lock()
        self._swapping = asyncio.Lock()
        self._prepared: _Prepared | None = None
        self._trial: _Trial | None = None
        self._since: float | None = None
        self._failure: dict[str, Any] | None = None
        self._returned: dict[str, Any] | None = None
        self._stuck = 0

    # For the operator

    async def reload(self) -> dict[str, Any]:
        """Read the files again and take them over, in all workers or in none.

        Raises:
            ConfigError: the files do not validate or a worker cannot work with them; nothing has changed.
            TryAgain: another reload does not end, or a worker does not answer; nothing has changed.
        """
        async with self._turn():
            try:
                loaded = await asyncio.to_thread(load, self._started.path)
                done = await self._change(loaded)
            except (ConfigError, ControlError) as error:
                self._failure = {"at": self._clock(), "error": str(error)}
                self._events.reload_failed(error=str(error))
                raise
            self._failure = self._returned = None
            return done

    async def plan(self, path: str, volumes: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
        """What the files at `path` would change; see `app.plan`, for `volumes` too. Nothing changes.

        Raises:
            ConfigError: they do not validate.
        """
        running = self._plant.parts.settings

        def compare() -> dict[str, Any]:
            fresh = Settings(Path(path), load(path), started_as=running.started_as or running.site)
            return {**plan(running, fresh, **volumes), "needs_restart": needs_restart(self._started, fresh)}

        return await asyncio.to_thread(compare)

    def status(self) -> dict[str, Any]:
        """What runs here and how the last reload went, as far as this worker led it."""
        aftermath = self._trial.aftermath if self._trial else None
        return {
            "generation": self._generation,
            "since": self._since,
            "needs_restart": self._needs_restart(self._plant.parts),
            "failure": self._failure,
            "returned": self._returned,
            "watched_until": aftermath.until if aftermath else None,
        }

    # For the leader

    async def prepare(self, generation: int) -> None:
        """Make parts of what is offered.

        Raises:
            ConfigError: this worker cannot work with it.
        """
        self.abort()
        self._prepared = await asyncio.to_thread(
            lambda: self._ready(thaw(self._shared.candidate()), generation, probe=False)
        )

    def abort(self) -> None:
        """What was prepared is not wanted."""
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            prepared.drop()

    async def commit(self, generation: int) -> dict[str, Any]:
        """Swap; the number in the shared memory has been raised to `generation`."""
        async with self._swapping:
            prepared, self._prepared = self._prepared, None
            if prepared is not None and prepared.generation == generation > self._generation:
                await self._take(prepared)
        return {"unrouted": await self._unrouted()}

    # Running

    async def follow(self) -> None:
        """See to it that this worker runs what was committed, and that what broke delivery is undone."""
        while True:
            await asyncio.sleep(FOLLOW_S)
            await self._plant.sweep()
            if self._prepared is not None and time.monotonic() > self._prepared.at + TURN_S:
                self.abort()  # its leader was lost
            if self._shared.generation > self._generation:
                await self._catch_up()
            if self._trial is not None and self._trial.aftermath is not None:
                await self._look_back(self._trial, self._trial.aftermath)

    async def _catch_up(self) -> None:
        """The leader was lost, or we were not there when it asked."""
        async with self._swapping:
            generation, frozen = self._shared.current()
            if generation <= self._generation or generation == self._stuck:
                return
            self.abort()
            try:
                prepared = await asyncio.to_thread(lambda: self._ready(thaw(frozen), generation, probe=False))
            except ConfigError as error:
                self._stuck = generation
                self._events.fault(
                    where="reload", error=f"this worker stays behind the others until the next reload: {error}"
                )
                return
            await self._take(prepared)

    async def _look_back(self, trial: _Trial, aftermath: Aftermath) -> None:
        now = self._clock()
        if now >= aftermath.until:
            self._trial = None
            return
        why = broken(aftermath, self._health(), now)
        if not why:
            return
        text = "; ".join(why)
        self._trial = None
        generation = self._generation
        try:
            async with self._turn():
                if self._generation != generation:
                    return  # another worker has led another reload
                await self._change(trial.good, is_return=True)
        except (ConfigError, RelayError) as error:
            self._events.fault(where="reload", error=f"the last good configuration cannot come back: {error}")
            return
        self._returned = {"at": self._clock(), "why": text}
        self._events.reload_returned(why=text)

    # Leading

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One reload at a time over all workers. The system frees the lock of a worker that dies."""
        async with self._leading, AsyncExitStack() as stack:
            lock = os.open(self._started.directory / "reload.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, lock)
            give_up_at = time.monotonic() + TURN_S
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= give_up_at:
                        raise TryAgain("another reload is under way and does not end") from None
                await asyncio.sleep(0.02)
            if self._shared.generation > self._generation:
                await self._catch_up()
            yield

    async def _change(self, loaded: Loaded, *, is_return: bool = False) -> dict[str, Any]:
        """Take a configuration over in all workers. Only in one's `_turn`."""
        generation = self._shared.generation + 1
        prepared = await asyncio.to_thread(self._ready, loaded, generation, probe=True)
        parts = prepared.parts
        async with AsyncExitStack() as stack:
            stack.callback(prepared.drop)
            await asyncio.to_thread(lambda: self._shared.offer(freeze(loaded)))
            trial = None if is_return else self._trial or await self._begin_trial()
            others = await self._reach(stack)
            await self._each(others, lambda other: other.call("reload_prepare", generation=generation))
            now = self._clock()
            async with self._swapping:
                self._shared.commit()  # the point of no return
                touched = await self._take(prepared)
            if trial is not None:
                self._watch(parts, trial, touched, now)
            answers = await asyncio.gather(
                *(other.call("reload_commit", generation=generation) for other in others), return_exceptions=True
            )
        with contextlib.suppress(StateUnavailable):
            await self._plant.keeper.look_anew(touched)
        unrouted = Counter(await self._unrouted())
        for answer in answers:
            if isinstance(answer, dict):
                unrouted.update(answer["unrouted"])
        return {
            "generation": generation,
            "workers": 1 + len(others),
            "bridges": len(parts.registry),
            "needs_restart": self._needs_restart(parts),
            "unrouted": dict(unrouted),
            "warnings": [str(warning) for warning in loaded.warnings],
        }

    def _watch(self, after: Parts, trial: _Trial, touched: Collection[str], now: float) -> None:
        """A configuration that is still being watched is not known to be good: the trial goes on with the next."""
        policy = after.settings.config.reload
        if trial.aftermath is None:
            trial.since = now
        trial.touched.update(touched)
        trial.aftermath = watch(
            trial.pools,
            after.pools,
            touched=trial.touched,
            delivered=trial.delivered,
            health=trial.health,
            since=trial.since,
            now=now,
            for_s=policy.watch,
        )
        self._trial = trial if policy.auto_return and trial.aftermath else None

    async def _reach(self, stack: AsyncExitStack) -> list[RemoteShard]:
        """The other workers that listen. One that starts takes its configuration from the shared memory."""
        found = []
        for shard in self._others:
            remote = await connect(self._started.directory, shard)
            if remote is not None:
                stack.callback(remote.close)
                found.append(remote)
        return found

    async def _each(self, others: Sequence[RemoteShard], order: Callable[[RemoteShard], Awaitable[Any]]) -> None:
        """Raises the first refusal, with the worker's name."""
        answers = await asyncio.gather(*(order(other) for other in others), return_exceptions=True)
        if any(isinstance(answer, BaseException) for answer in answers):
            await asyncio.gather(*(other.call("reload_abort") for other in others), return_exceptions=True)
        for other, answer in zip(others, answers, strict=True):
            if isinstance(answer, ConfigError | ControlError):
                text = f"worker {other.name} refuses it, and so nothing has changed: {answer}"
                raise (TryAgain(text) if isinstance(answer, TryAgain) else ConfigError(text)) from answer
            if isinstance(answer, BaseException):
                raise answer

    async def _begin_trial(self) -> _Trial:
        """How things stand now."""
        parts = self._plant.parts
        delivered: frozenset[str] = frozenset()
        with contextlib.suppress(StateUnavailable):  # then nothing is watched
            counts = await self._plant.stores.state.counts()
            delivered = frozenset(key.pool for key, count in counts.items() if key.what == "delivered" and count)
        return _Trial(parts.settings.loaded, parts.pools, delivered, self._health(), self._clock())

    def _health(self) -> dict[str, NodeHealth]:
        return {node: self._plant.router.health_of(node) for node in self._plant.fleet.names()}

    # Here

    def _ready(self, loaded: Loaded, generation: int, *, probe: bool) -> _Prepared:
        """All that can fail; in a thread, because a thousand bridges take a fifth of a second.

        Args:
            probe: see to it that nobody else has the addresses that are new.
        """
        started = self._started
        fresh = Settings(started.path, loaded, started_as=started.site)
        parts = make_parts(fresh, self._plant.parts, rng=self._rng, tap=self._plant.tap, desk=self._plant.desk)
        ours = {tuple(listener.bind) for listener in started.config.listeners}
        sockets: dict[Bind, socket.socket] = {}
        try:
            for bind in self._plant.new_binds(parts):
                sockets[bind] = bind_one(ListenAddress(*bind), probe=probe and bind not in ours)
        except ConfigError:
            for sock in sockets.values():
                sock.close()
            raise
        return _Prepared(generation, parts, sockets, time.monotonic())

    async def _take(self, prepared: _Prepared) -> tuple[str, ...]:
        """Swap. Returns the names of the nodes that were touched."""
        parts = prepared.parts
        with contextlib.suppress(StateUnavailable):  # a node that is new may take mail untested rather than never
            await self._plant.keeper.prepare(parts.drivers.keys() - self._plant.parts.drivers.keys())
        swap = self._plant.take_over(parts)
        self._generation = prepared.generation
        self._since = self._clock()
        self._taken(parts)
        sockets = {bind: sock.dup() for bind, sock in prepared.sockets.items()}
        prepared.drop()
        try:
            await self._plant.reopen(sockets)
        except OSError as error:
            self._events.fault(where="reload", error=f"a listener cannot be opened: {error}")
        self._events.reloaded(
            generation=self._generation,
            bridges=len(parts.registry),
            nodes_added=swap.added,
            nodes_removed=swap.removed,
            nodes_changed=tuple(name for name in swap.touched if name not in swap.added),
            needs_restart=self._needs_restart(parts),
        )
        return swap.touched

    def _needs_restart(self, parts: Parts) -> list[str]:
        left_alone = self._plant.doors_left_alone(parts)
        return needs_restart(self._started, parts.settings) + (["listeners"] if left_alone else [])

    async def _unrouted(self) -> dict[str, int]:
        """Messages that wait for pools that are configured no more."""
        found: Counter[str] = Counter()
        with contextlib.suppress(SpoolError):
            for depth in await self._plant.stores.spool.depths():
                if depth.key.pool not in self._plant.parts.pools:
                    found[depth.key.pool] += depth.queued + depth.held + depth.quarantined
        return dict(found)
