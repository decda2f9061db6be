"""What tells pages that something happened, so that they ask for the parts of them that show it.

One event a second at most, whatever the traffic: pages are for people. It names kinds (`message`, `attempt`, `route`,
`node`, …), never content. When nothing happens, a tick lets clocks and caps move on.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import orjson
from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from relay.admin.api.wiring import Served, Viewer
from relay.admin.feed import STREAMS
from relay.admin.refusals import Refused
from relay.admin.web.forms import PageRoute

router = APIRouter(route_class=PageRoute, include_in_schema=False)

NEWS_EVERY_S = 1.0
TICK_EVERY_S = 5.0


@router.get("/live")
async def live(served: Served, _: Viewer) -> StreamingResponse:
    feed = served.context.feed
    if feed.streams >= STREAMS:
        raise Refused(503, "too many pages are open", headers={"Retry-After": "10"})

    async def pieces() -> AsyncIterator[bytes]:
        yield b"retry: 3000\n\n"
        kinds: set[str] = set()
        last = time.monotonic()
        async for batch in feed.follow():
            kinds.update(told.event.name.partition(".")[0] for told in batch)
            since = time.monotonic() - last
            if (kinds and since >= NEWS_EVERY_S) or since >= TICK_EVERY_S:
                yield b"event: %s\ndata: %s\n\n" % (b"news" if kinds else b"tick", orjson.dumps(sorted(kinds)))
                kinds.clear()
                last = time.monotonic()

    return StreamingResponse(pieces(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
