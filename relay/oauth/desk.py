"""The token sources of a process, and what they share: a store, and an HTTP client that is loaded when it is needed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from relay.oauth.requests import Answer, Form
from relay.oauth.source import NodeTokens
from relay.oauth.store import TokenStore
from relay.upstreams.oauth_options import TokenPlan

if TYPE_CHECKING:
    from relay.oauth.endpoint import Endpoint

Told = Callable[[str, str, bool], None]
"""Takes the node, what went wrong, and whether only an operator can mend it."""


class TokenDesk:
    """Makes sources and ends them."""

    def __init__(self, store: TokenStore, told: Told, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._told = told
        self._clock = clock
        self._endpoint: Endpoint | None = None
        self._sources: list[NodeTokens] = []

    def source(self, node: str, plan: TokenPlan) -> NodeTokens:
        made = NodeTokens(
            node,
            plan,
            ask=self._post,
            store=self._store,
            clock=self._clock,
            tell=lambda text, account: self._told(node, text, account),
        )
        # Those of drivers that a reload has replaced are only waited for while they renew.
        self._sources = [source for source in self._sources if source.node != node or source.is_busy]
        self._sources.append(made)
        return made

    async def _post(self, form: Form) -> Answer:
        if self._endpoint is None:
            from relay.oauth.endpoint import Endpoint

            self._endpoint = Endpoint()
        return await self._endpoint.post(form)

    async def close(self) -> None:
        """Renewals that run are finished: their tokens must be stored."""
        for source in self._sources:
            await source.close()
        if self._endpoint is not None:
            await self._endpoint.close()
