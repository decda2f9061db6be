"""What a worker keeps on disk: its shard of the spool, the state it shares, its history. Opened and closed in order."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from relay.app.settings import Settings
from relay.app.stores import make_spool, open_state, refuse_forgetful
from relay.events import Events
from relay.history import HistorySink
from relay.history.sqlite import SqliteHistory
from relay.idempotency.sqlite import SqliteKeys
from relay.logs.log import Log
from relay.sinks import CountSink, LogSink
from relay.spool.redis_store import RedisSpool
from relay.spool.sqlite import SqliteSpool
from relay.state import State

EVENTS_A_MESSAGE = 3
"""Accepted, attempted, and one to spare for those that are deferred."""


@dataclass(frozen=True, slots=True)
class Stores:
    """`counts`: of events, since the start of this worker."""

    spool: SqliteSpool | RedisSpool
    state: State
    history: SqliteHistory
    events: Events
    counts: CountSink
    keys: SqliteKeys

    def set_bounds(self, settings: Settings) -> None:
        """Those of this configuration, from now on."""
        config = settings.config
        self.history.set_bounds(max_age_s=config.history.keep_for, max_events=_max_events(settings))
        self.spool.set_bounds(
            min_free=config.spool.min_free,
            max_messages=config.spool.max_messages,
            max_bytes=config.spool.max_bytes,
        )

    async def close(self) -> None:
        await self.keys.close()
        await self.spool.close()
        await self.state.close()
        await self.history.close()


async def open_stores(settings: Settings, shard: str, log: Log, *, on_lost: Callable[[], None] | None = None) -> Stores:
    """Raises RelayError or OSError in words for an operator; what was opened is closed again.

    Args:
        on_lost: told when all that was leased from a shared spool was lost.
    """
    config, directory, clock = settings.config, settings.directory, time.time
    (directory / "incoming").mkdir(parents=True, exist_ok=True, mode=0o700)
    history = SqliteHistory(directory, shard, max_age_s=config.history.keep_for, max_events=_max_events(settings))
    await history.start()
    counts = CountSink(clock)
    events = Events([LogSink(log), HistorySink(history), counts], clock)
    spool = make_spool(settings, shard, events, on_lost=on_lost)
    try:
        await spool.start()
        await refuse_forgetful(spool)
        state = await open_state(settings, on_change=events.store_changed)
    except BaseException:
        await spool.close()
        await history.close()
        raise
    return Stores(spool, state, history, events, counts, SqliteKeys(directory / "idempotency.db", shard))


def _max_events(settings: Settings) -> int:
    return EVENTS_A_MESSAGE * settings.config.history.max_messages or sys.maxsize
