"""The newest events."""

from __future__ import annotations

import asyncio

from relay.admin.context import Context
from relay.events import Event
from relay.history import Filter
from relay.history.sqlite import recent


async def recent_events(context: Context, limit: int, wanted: Filter) -> list[Event]:
    """Newest first."""
    return await asyncio.to_thread(recent, context.site.directory, limit, wanted)
