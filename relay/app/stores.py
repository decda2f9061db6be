"""The stores that a configuration asks for: made, opened, and looked at for what they promise."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
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
from relay.spool.redis_store import RedisSpool
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


def make_spool(
    settings: Settings, shard: str, events: Events, *, on_lost: Callable[[], None] | None = None
) -> SqliteSpool | RedisSpool:
    """The spool of one worker; `start` it.

    Args:
        on_lost: told when all that it leased from a shared one was lost.
    """
    config = settings.config
    place = values.spool_place(config)

    def quarantined(message_id: str, why: str) -> None:
        events.message_quarantined(message_id, why=f"damaged: {why}")

    def unpromised(message_id: str) -> None:
        what = "refused with 451 because the store gave no answer, and on its way all the same"
        events.fault(where="spool", error=f"{message_id}: {what}: the client's next one is a second copy")

    if place.kind == "redis":
        return RedisSpool(
            address_of(place, "store.spool"),
            settings.directory / f"shared-{shard}",
            place=place_of(settings, shard),
            max_messages=config.spool.max_messages,
            max_bytes=config.spool.max_bytes,
            on_quarantine=quarantined,
            on_change=events.store_changed,
            on_unpromised=unpromised,
            on_lost=on_lost,
        )
    return SqliteSpool(
        settings.directory,
        shard=shard,
        min_free=config.spool.min_free,
        max_messages=config.spool.max_messages,
        max_bytes=config.spool.max_bytes,
        on_quarantine=quarantined,
    )


def is_shared(spool: object) -> bool:
    """Whether other replicas work on the same messages."""
    return isinstance(spool, RedisSpool)


def place_of(settings: Settings, shard: str) -> str:
    """Name of a worker that no worker of another replica has, and that a restart keeps as long as its folder lasts."""
    path = settings.directory / "replica-id"
    with contextlib.suppress(FileExistsError):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(handle, secrets.token_hex(6).encode())
        os.close(handle)
    return f"{path.read_text().strip() or secrets.token_hex(6)}.{shard}"


def watch_sleep(spool: object) -> None:
    """A process that was stopped and goes on looks at its lease before anything else."""
    if isinstance(spool, RedisSpool):
        signal.signal(signal.SIGCONT, lambda *_: spool.look_at_clock())


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
    found = []
    for store in stores:
        if isinstance(store, RedisState) and (why := store.away_reason()):
            found.append(f"the shared state is away: {why}; mail for nodes with caps waits")
        if isinstance(store, RedisSpool) and (why := store.link.reason):
            found.append(f"the shared spool is away: {why}; no mail is taken")
    return found


def shared_up(**stores: object) -> dict[str, int]:
    """1 for each shared store that answers, 0 for one that is away. No I/O."""
    shared = {name: store for name, store in stores.items() if isinstance(store, (RedisSpool, RedisState))}
    return {name: int(not store.link.reason) for name, store in shared.items()}


async def tell_weaknesses(stores: Sequence[object], tell: Callable[[str], None]) -> None:
    """Say once what the shared stores do not promise. A store that is away is asked again until it answers."""
    for store in stores:
        if isinstance(store, (RedisSpool, RedisState)):
            holds_mail = isinstance(store, RedisSpool)
            address = store.link.address
            keeping = await _keeping(store.link)
            for weakness in weaknesses(keeping, spool=holds_mail, min_replicas=address.min_replicas):
                tell(f"store.{'spool' if holds_mail else 'state'} ({address}): {weakness.text}")


async def refuse_forgetful(spool: object) -> None:
    """Raises ConfigError for a shared spool that throws mail away when memory runs out."""
    if isinstance(spool, RedisSpool):
        try:
            keeping = await look(spool.link)
        except LinkError:
            return
        for weakness in weaknesses(keeping, spool=True, min_replicas=spool.address.min_replicas):
            if weakness.loses_mail:
                raise ConfigError(f"store.spool ({spool.address}): {weakness.text}")


async def _keeping(link: Link) -> Keeping:
    while True:
        try:
            return await look(link)
        except LinkError:
            await asyncio.sleep(LOOK_AGAIN_S)


def _state(settings: Settings) -> tuple[values.StorePlace, str]:
    return values.state_place(settings.config), "store.state"
