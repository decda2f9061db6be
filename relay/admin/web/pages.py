"""The routers of all pages."""

from __future__ import annotations

from relay.admin.web import (
    assets,
    bridges,
    inbox,
    live,
    login,
    messages,
    node_pages,
    overview,
    pools,
    records,
    test_message,
)

ROUTERS = (
    assets.router,
    login.router,
    live.router,
    overview.router,
    node_pages.router,
    pools.router,
    messages.router,
    inbox.router,
    bridges.router,
    records.router,
    test_message.router,
)
