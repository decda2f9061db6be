"""Drivers of all configured nodes, and when one of them is as good as one that is there."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from relay.app.settings import Settings
from relay.errors import UpstreamError
from relay.oauth.desk import TokenDesk, Told
from relay.oauth.store import FileTokenStore
from relay.tap import SILENT, Tap
from relay.upstreams import make
from relay.upstreams.base import Setting, Upstream
from relay.upstreams.oauth_options import TokenPlan
from relay.upstreams.tokens import TokenSource

TOKENS = "oauth"
"""Folder of stored tokens, below the store's."""

Print = tuple[object, ...]
"""What a driver is made from. Equal prints make equal drivers."""


def make_drivers(
    settings: Settings,
    *,
    rng: random.Random,
    kept: Mapping[str, Upstream] = MappingProxyType({}),
    tap: Tap = SILENT,
    desk: TokenDesk | None = None,
) -> dict[str, Upstream]:
    """Node name → driver. Opens no connection.

    Args:
        kept: drivers that are there and go on as they are.
        desk: gives tokens to the nodes that have a plan for them.

    Raises:
        UpstreamError: options that cannot work, naming the node.
    """

    def tokens(name: str) -> TokenSource | None:
        plan = plan_of(settings.node_options[name])
        return desk.source(name, plan) if desk and plan else None

    setting = Setting(ehlo=settings.hostname, random=rng, tap=tap, tokens=tokens)
    return {
        node.name: kept.get(node.name) or make(node.type, node.name, settings.node_options[node.name], setting)
        for pool in settings.pools
        for node in pool.nodes
    }


def make_desk(settings: Settings, told: Told) -> TokenDesk:
    """What gives tokens to this relay's nodes."""
    return TokenDesk(FileTokenStore(token_folder(settings)), told)


def token_folder(settings: Settings) -> Path:
    """Where tokens are kept on this machine."""
    return settings.directory / TOKENS


def plan_of(options: Any) -> TokenPlan | None:
    """How a node gets its tokens; None when it needs none."""
    planned: Callable[[], TokenPlan | None] | None = getattr(options, "token_plan", None)
    try:
        return planned() if planned is not None else None
    except ValueError as error:
        raise UpstreamError(str(error)) from error


def driver_prints(settings: Settings) -> dict[str, Print]:
    """Node name → type, options, and the files they name as they are now: a renewed certificate is a change."""
    return {
        node.name: _print(node.type, settings.hostname, settings.node_options[node.name])
        for pool in settings.pools
        for node in pool.nodes
    }


def _print(kind: str, hostname: str, options: Any) -> Print:
    return kind, hostname, options, tuple(_stamp(path) for path in _texts(options) if os.path.isfile(path))


def _texts(value: object) -> Iterator[str]:
    """The texts of a model that may name files. Secrets are not among them."""
    if isinstance(value, str):
        if "/" in value or "." in value:
            yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _texts(getattr(value, name))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _texts(item)


def _stamp(path: str) -> Print:
    found = os.stat(path)
    return path, found.st_ino, found.st_size, found.st_mtime_ns
