"""The token sources of a process, and what they share: one HTTP client, one store."""

from __future__ import annotations

import time
from collections.abc import Callable

from relay.oauth.endpoint import Endpoint
from relay.oauth.source import NodeTokens
from relay.oauth.store import TokenStore
from relay.upstreams.oauth_options import TokenPlan

Told = Callable[[str, str, bool], None]
"""Takes the node, what went wrong, and whether only an operator can mend it."""


class TokenDesk:
    """Makes sources and ends them."""

    def __init__(self, store: TokenStore, told: Told, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._told = told
        self._clock = clock
        self._endpoint = Endpoint()
        self._sources: list[NodeTokens] = []

    def source(self, node: str, plan: TokenPlan) -> NodeTokens:
        made = NodeTokens(
            node,
            plan,
            ask=self._endpoint.post,
            store=self._store,
            clock=self._clock,
            tell=lambda text, account: self._told(node, text, account),
        )
        self._sources.append(made)
        return made

    async def close(self) -> None:
        """Renewals that run are finished: their tokens must be stored."""
        for source in self._sources:
            await source.close()
        await self._endpoint.close()
