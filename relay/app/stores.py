"""The stores that a configuration asks for: made, opened, and looked at for what they promise."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from relay.app.settings import Settings
from relay.config import values
from relay.errors import ConfigError
from relay.events import Events
from relay.redisdb.address import Address, parse
from relay.redisdb.client import check_files
from relay.redisdb.link import Link, LinkError
from relay.redisdb.promises import Keeping, look, weaknesses
from relay.spool.sqlite import SqliteSpool
from relay.state import State
from relay.state.memory import MemoryState
from relay.state.redis_store import RedisState
from relay.state.sqlite import SqliteState

LOOK_AGAIN_S = 5.0
"""Pause before a store that is away is asked again what it promises."""


def address_of(place: values.StorePlace, key: str) -> Address:
    """Where a shared store is, its certificates loaded once.

    Raises:
        ConfigError: naming the key.
    """
    try:
        address = parse(place.url)
        check_files(address)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None
    return address


def check_stores(settings: Settings) -> None:
    """What would stop a start. Asks no server: one that is away now may be there at the start.

    Raises:
        ConfigError.
    """
    for place, key in ((values.spool_place(settings.config), "store.spool"), _state(settings)):
        if place.kind == "redis":
            address_of(place, key)


def make_spool(settings: Settings, shard: str, events: Events) -> SqliteSpool:
    """The spool of one worker; `start` it."""
    config = settings.config

    def quarantined(message_id: str, why: str) -> None:
        events.message_quarantined(message_id, why=f"damaged: {why}")

    return SqliteSpool(
        settings.directory,
        shard=shard,
        min_free=config.spool.min_free,
        max_messages=config.spool.max_messages,
        max_bytes=config.spool.max_bytes,
        on_quarantine=quarantined,
    )


async def open_state(settings: Settings, *, on_change: Callable[[str], None] | None = None) -> State:
    """The state of one worker, or of a command.

    Args:
        on_change: told when a shared one went away, with the reason, and when it is back, with an empty one.

    Raises:
        ConfigError, StateUnavailable.
    """
    place, key = _state(settings)
    match place.kind:
        case "redis":
            return await RedisState.open(address_of(place, key), on_change=on_change)
        case "memory":
            return MemoryState()
        case _:
            return await SqliteState.open(settings.state_directory / "state.db", clock=time.time)


def state_file(settings: Settings) -> Path | None:
    """The file of a local state; None for one that is elsewhere."""
    place, _ = _state(settings)
    return settings.state_directory / "state.db" if place.kind == "sqlite" else None


def troubles(*stores: object) -> list[str]:
    """What is wrong with the shared stores now, in words for `relay status`."""
    return [
        f"the shared state is away: {store.away_reason()}; mail for nodes with caps waits"
        for store in stores
        if isinstance(store, RedisState) and store.away_reason()
    ]


async def tell_weaknesses(stores: Sequence[object], tell: Callable[[str], None]) -> None:
    """Say once what the shared stores do not promise. A store that is away is asked again until it answers."""
    for store in stores:
        if isinstance(store, RedisState):
            keeping = await _keeping(store.link)
            for weakness in weaknesses(keeping, spool=False, min_replicas=store.link.address.min_replicas):
                tell(f"store.state ({store.link.address}): {weakness.text}")


async def _keeping(link: Link) -> Keeping:
    while True:
        try:
            return await look(link)
        except LinkError:
            await asyncio.sleep(LOOK_AGAIN_S)


def _state(settings: Settings) -> tuple[values.StorePlace, str]:
    return values.state_place(settings.config), "store.state"
