"""Reaching a relay from the command line: control sockets of running workers, files of stopped ones.

A stopped relay is opened with the same parts that run it, but for the network. What it has never made is not made
here either: a command that only looks leaves no trace. What it needs is imported when a shard turns out to be stopped,
because a command that talks to a running relay has no use for it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from relay.app.site import Site, site_of
from relay.config.load import Loaded
from relay.control.client import RemoteShard, Shard, connect, open_shards
from relay.process.run_lock import running_process
from relay.spool.sqlite_claim import shards as shards_in

if TYPE_CHECKING:
    from relay.app.settings import Settings
    from relay.control.operator import Operator
    from relay.spool.redis_store import RedisSpool
    from relay.state import State
    from relay.upstreams.base import Upstream

_SOCKET = re.compile(r"control-([A-Za-z0-9_]{1,40})\.sock")


@asynccontextmanager
async def open_relay(path: Path, loaded: Loaded, *, lasting: bool = False) -> AsyncIterator[list[Shard]]:
    """All shards, each running or opened here.

    Args:
        path: of the configuration, `loaded` from it.
        lasting: the command changes the state of nodes, so that must be kept even if the relay never ran.

    Raises:
        ConfigError, RelayError, OSError: with the reason.
    """
    site = site_of(loaded.config)
    async with AsyncExitStack() as stack:
        stopped = _Stopped(site, path, loaded, stack, lasting)
        names = all_shards(site)
        yield await stack.enter_async_context(open_shards(site.directory, names, stopped.open, partial(_owner, site)))


@asynccontextmanager
async def running_workers(site: Site) -> AsyncIterator[list[RemoteShard]]:
    """The workers that listen on their control sockets; no file of the relay is opened."""
    async with AsyncExitStack() as stack:
        found = []
        for shard in all_shards(site):
            if (remote := await connect(site.directory, shard)) is not None:
                stack.callback(remote.close)
                found.append(remote)
        yield found


def all_shards(site: Site) -> list[str]:
    """The configured shards, and those that are left from a time with more workers or belong to ones that still run."""
    names = dict.fromkeys(site.shards)
    names.update(dict.fromkeys(shard.name for shard in shards_in(site.directory)))
    sockets = (_SOCKET.fullmatch(path.name) for path in sorted(site.directory.glob("control-*.sock")))
    names.update(dict.fromkeys(match[1] for match in sockets if match))
    return list(names)


def _owner(site: Site, shard: str) -> int | None:
    """Who works on a shard: the process that has it open, or the relay whose worker for it restarts just now."""
    there = next((found for found in shards_in(site.directory) if found.name == shard), None)
    if there is None:
        return None  # never made: there is nothing to keep apart
    if there.owner is None and shard in site.shards:
        return running_process(site.directory)
    return there.owner


class _Stopped:
    """Opens shards of a stopped relay; what they share is opened once and lives as long as `stack`."""

    def __init__(self, site: Site, path: Path, loaded: Loaded, stack: AsyncExitStack, lasting: bool) -> None:
        self._site = site
        self._path = path
        self._loaded = loaded
        self._stack = stack
        self._lasting = lasting
        self._parts: tuple[Settings, Mapping[str, Upstream], State] | None = None

    @asynccontextmanager
    async def open(self, shard: str) -> AsyncIterator[Operator]:
        from relay.app.stores import make_spool
        from relay.control.operator import Operator
        from relay.events import Events
        from relay.history import HistorySink
        from relay.history.sqlite import SqliteHistory
        from relay.spool.memory import MemorySpool
        from relay.spool.sqlite import SqliteSpool

        directory = self._site.directory
        settings, drivers, state = self._parts or await self._shared()
        async with AsyncExitStack() as stack:
            spool: SqliteSpool | MemorySpool | RedisSpool = MemorySpool()
            history = SqliteHistory(directory, shard=shard)
            if self._site.shared_spool:
                if shard == self._site.shards[0]:  # all show the same
                    spool = make_spool(settings, f"cli-{os.getpid()}", Events([], time.time))
                    await spool.start()
                    stack.push_async_callback(spool.close)
                if (directory / f"history-{shard}.db").exists():
                    await history.start()
                    stack.push_async_callback(history.close)
            elif (directory / f"spool-{shard}.db").exists():
                ballast = directory / f"ballast-{shard}"
                # A reserve that is there may be needed to write on a full disk; to look needs no new one.
                spool = SqliteSpool(
                    directory, shard=shard, ballast_bytes=ballast.stat().st_size if ballast.exists() else 0
                )
                await spool.start()
                stack.push_async_callback(spool.close)
                await history.start()  # without it nothing is written, and the stories can be read all the same
                stack.push_async_callback(history.close)
            yield Operator(
                shard=shard,
                spool=spool,
                state=state,
                history=history,
                pools={pool.name: pool for pool in settings.pools},
                drivers=drivers,
                events=Events([HistorySink(history)], time.time),
                policy=settings.retry,
            )

    async def _shared(self) -> tuple[Settings, Mapping[str, Upstream], State]:
        import random

        from relay.app.drivers import make_desk, make_drivers
        from relay.app.settings import Settings
        from relay.app.stores import open_state, state_file
        from relay.state.memory import MemoryState

        settings = Settings(self._path, self._loaded)
        desk = make_desk(settings, lambda _node, _error, _account: None)
        drivers = make_drivers(settings, rng=random.Random(), desk=desk)
        self._stack.push_async_callback(desk.close)
        for driver in drivers.values():
            self._stack.push_async_callback(driver.close)
        become_owner(self._site.directory)  # all is imported: the other user might not be able to read our code
        file = state_file(settings)
        state: State = MemoryState()
        if self._lasting or file is None or file.exists():
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            state = await open_state(settings)
            self._stack.push_async_callback(state.close)
        self._parts = settings, drivers, state
        return self._parts


def become_owner(directory: Path) -> None:
    """Go on as the user that the relay runs as: files that root left behind would keep it from starting."""
    if os.geteuid() != 0 or not directory.exists():
        return
    facts = directory.stat()
    if facts.st_uid != 0:
        os.setegid(facts.st_gid)
        os.seteuid(facts.st_uid)
