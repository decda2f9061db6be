"""Drivers of all configured nodes."""

from __future__ import annotations

import random

from relay.app.settings import Settings
from relay.upstreams import make
from relay.upstreams.base import Setting, Upstream


def make_drivers(settings: Settings, *, rng: random.Random) -> dict[str, Upstream]:
    """Node name → driver. Opens no connection.

    Raises:
        UpstreamError: options that cannot work, naming the node.
    """
    setting = Setting(ehlo=settings.hostname, random=rng)
    return {
        node.name: make(node.type, node.name, settings.node_options[node.name], setting)
        for pool in settings.pools
        for node in pool.nodes
    }
