"""What one configuration comes to in a worker: all that a reload swaps, made before anything is swapped.

Making parts can fail, changes nothing that runs and may take its time in a thread; taking them over (`plant`) cannot
fail. What did not change is the very same object as before, so that caches, connections and sessions built on it stay.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace

from relay.app.drivers import Print, driver_prints, make_drivers
from relay.app.settings import Settings
from relay.bridges.registry import Registry
from relay.config.models.server import ListenerModel
from relay.errors import ConfigError, UpstreamError
from relay.listener.options import ListenerOptions
from relay.oauth.desk import TokenDesk
from relay.pools.pool import Pool
from relay.signing.signer import Signer
from relay.tap import SILENT, Tap
from relay.upstreams.base import Upstream

Bind = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerParts:
    """`tls_context` is None without TLS."""

    bind: Bind
    options: ListenerOptions
    tls_context: ssl.SSLContext | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """
    Attributes:
        pools: by name.
        drivers: by node name; prints: what each was made from.
        listeners: in the order of the configuration.
    """

    settings: Settings
    pools: Mapping[str, Pool]
    drivers: Mapping[str, Upstream]
    prints: Mapping[str, Print]
    registry: Registry
    signer: Signer | None
    listeners: tuple[ListenerParts, ...]


def make_parts(
    settings: Settings,
    previous: Parts | None = None,
    *,
    rng: random.Random,
    tap: Tap = SILENT,
    desk: TokenDesk | None = None,
) -> Parts:
    """Make what is new and keep what is not. Opens no connection; reads keys and certificates.

    Raises:
        ConfigError: something cannot work, saying what.
    """
    pools = {pool.name: pool for pool in settings.pools}
    kept: Mapping[str, Upstream] = {}
    try:
        prints = driver_prints(settings)
        if previous is not None:
            pools = {name: _kept(pool, previous.pools.get(name)) for name, pool in pools.items()}
            kept = {name: previous.drivers[name] for name in prints if previous.prints.get(name) == prints[name]}
        return Parts(
            settings=settings,
            pools=pools,
            drivers=make_drivers(settings, rng=rng, kept=kept, tap=tap, desk=desk),
            prints=prints,
            registry=Registry(settings.bridges, previous=previous.registry if previous else None),
            signer=settings.signer(),
            listeners=tuple(listener_parts(settings, listener) for listener in settings.config.listeners),
        )
    except UpstreamError as error:
        raise ConfigError(str(error)) from error
    except OSError as error:  # ssl.SSLError among them: written to since it was checked
        raise ConfigError(f"a key or certificate cannot be read: {error}") from error


def listener_parts(settings: Settings, listener: ListenerModel) -> ListenerParts:
    """Raises OSError when its certificate cannot be read."""
    host, port = listener.bind
    return ListenerParts(
        bind=(host, port), options=settings.listener_options(listener), tls_context=settings.tls_context(listener)
    )


def _kept(pool: Pool, before: Pool | None) -> Pool:
    """The pool, made of what is there already as far as it is equal."""
    if before is None or before == pool:
        return before or pool
    there = {node.name: node for node in before.nodes}
    return replace(pool, nodes=tuple(there[n.name] if there.get(n.name) == n else n for n in pool.nodes))
