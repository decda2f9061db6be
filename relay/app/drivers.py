"""Drivers of all configured nodes."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relay.app.settings import Settings
from relay.errors import UpstreamError
from relay.upstreams import make
from relay.upstreams.base import Setting, Upstream

if TYPE_CHECKING:
    from relay.oauth.desk import TokenDesk, Told
    from relay.upstreams.oauth_options import TokenPlan
    from relay.upstreams.tokens import TokenSource

TOKENS = "oauth"
"""Folder of stored tokens, below the store's."""


def make_drivers(settings: Settings, *, rng: random.Random, desk: TokenDesk | None) -> dict[str, Upstream]:
    """Node name → driver. Opens no connection.

    Args:
        desk: gives tokens to the nodes that have a plan for them; None as long as there are none.

    Raises:
        UpstreamError: options that cannot work, naming the node.
    """

    def tokens(name: str) -> TokenSource | None:
        plan = plan_of(settings.node_options[name])
        return desk.source(name, plan) if desk and plan else None

    setting = Setting(ehlo=settings.hostname, random=rng, tokens=tokens)
    return {
        node.name: make(node.type, node.name, settings.node_options[node.name], setting)
        for pool in settings.pools
        for node in pool.nodes
    }


def make_desk(settings: Settings, told: Told) -> TokenDesk | None:
    """What gives tokens to this relay's nodes; None when none of them asks, which spares loading an HTTP client."""
    if all(plan_of(options) is None for options in settings.node_options.values()):
        return None
    from relay.oauth.desk import TokenDesk
    from relay.oauth.store import FileTokenStore

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
