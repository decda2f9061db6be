"""Drivers of all configured nodes, and when one of them is as good as one that is there."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from relay.app.settings import Settings
from relay.tap import SILENT, Tap
from relay.upstreams import make
from relay.upstreams.base import Setting, Upstream

Print = tuple[object, ...]
"""What a driver is made from. Equal prints make equal drivers."""


def make_drivers(
    settings: Settings,
    *,
    rng: random.Random,
    kept: Mapping[str, Upstream] = MappingProxyType({}),
    tap: Tap = SILENT,
) -> dict[str, Upstream]:
    """Node name → driver. Opens no connection.

    Args:
        kept: drivers that are there and go on as they are.

    Raises:
        UpstreamError: options that cannot work, naming the node.
    """
    setting = Setting(ehlo=settings.hostname, random=rng, tap=tap)
    return {
        node.name: kept.get(node.name) or make(node.type, node.name, settings.node_options[node.name], setting)
        for pool in settings.pools
        for node in pool.nodes
    }


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
