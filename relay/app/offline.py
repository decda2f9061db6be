"""Reaching a relay from the command line: control sockets of running workers, files of stopped ones."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from relay.app.drivers import make_drivers
from relay.app.settings import Settings
from relay.control.client import Shard, open_shards
from relay.control.operator import Operator
from relay.events import Events
from relay.history import HistorySink
from relay.history.sqlite import SqliteHistory
from relay.spool.sqlite import SqliteSpool
from relay.state.sqlite import SqliteState


@asynccontextmanager
async def open_relay(settings: Settings) -> AsyncIterator[list[Shard]]:
    """All shards, each running or opened here."""

    def local(shard: str) -> Any:
        return _open_shard(settings, shard)

    settings.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    settings.state_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    async with open_shards(settings.directory, settings.shards, local) as found:
        yield found


@asynccontextmanager
async def _open_shard(settings: Settings, shard: str) -> AsyncIterator[Operator]:
    async with AsyncExitStack() as stack:
        history = SqliteHistory(settings.directory, shard=shard)
        await history.start()
        stack.push_async_callback(history.close)
        spool = SqliteSpool(settings.directory, shard=shard)
        await spool.start()
        stack.push_async_callback(spool.close)
        state = await SqliteState.open(settings.state_directory / "state.db", clock=time.time)
        stack.push_async_callback(state.close)
        yield Operator(
            shard=shard,
            spool=spool,
            state=state,
            history=history,
            pools={pool.name: pool for pool in settings.pools},
            drivers=make_drivers(settings, rng=random.Random()),
            events=Events([HistorySink(history)], time.time),
        )
