"""Health, metrics, status, events, audit, configuration: what is only looked at."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from ipaddress import ip_address
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse

import relay
from relay import metrics
from relay.admin.api import shapes
from relay.admin.api.wiring import Admin, Served, Services, StrictRoute, Tagged, Viewer
from relay.admin.feed import STREAMS, Position, event_row
from relay.admin.refusals import Refused
from relay.admin.security.guard import peer_of
from relay.admin.security.guess import unauthorized
from relay.admin.services.masking import shown
from relay.history import Filter
from relay.history.sqlite import recent

probes = APIRouter(route_class=StrictRoute, tags=["health"])
router = APIRouter(prefix="/api/v1", route_class=StrictRoute, tags=["observe"])

HEARTBEAT_S = 15.0

Name = Annotated[str, Query(max_length=100)]


@probes.get("/livez", response_class=PlainTextResponse)
async def livez() -> str:
    """The control process answers."""
    return "ok\n"


@probes.get(
    "/readyz",
    response_class=PlainTextResponse,
    responses={503: {"description": "Not ready", "content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def readyz(served: Served) -> Response:
    """Every worker runs and takes mail; else 503. The reasons are for callers with a token, at /api/v1/health."""
    troubles = await served.overview.troubles()
    return PlainTextResponse("not ready\n" if troubles else "ok\n", status_code=503 if troubles else 200)


@probes.get("/metrics", response_class=PlainTextResponse)
async def scrape(request: Request, served: Served) -> Response:
    """Prometheus metrics. Without a token only as `admin.metrics` says."""
    if request.scope.get("state", {}).get("caller") is None and not _may_scrape(request, served):
        raise unauthorized("metrics need a token here; see admin.metrics")
    workers, nodes, control = await served.overview.figures()
    text = metrics.exposition(relay.__version__, workers, nodes, control)
    return Response(text, media_type=metrics.CONTENT_TYPE)


def _may_scrape(request: Request, served: Services) -> bool:
    admin = served.context.current.config.admin
    mode = admin.metrics if admin is not None else "token"
    if mode == "open":
        return True
    try:
        local = ip_address(peer_of(request.scope)).is_loopback
    except ValueError:
        local = False
    # What a proxy on this machine passes on comes from somewhere else.
    forwarded = any(name in request.headers for name in ("x-forwarded-for", "forwarded", "via"))
    return mode == "local" and local and not forwarded


@router.get("/health")
async def health(served: Served, _: Viewer) -> dict[str, Any]:
    """Why the relay cannot take mail now; `ready` when nothing stands in the way."""
    troubles = await served.overview.troubles()
    return {"ready": not troubles, "troubles": troubles}


@router.get("/status", response_model=shapes.StatusRow)
async def status(served: Served, _: Viewer) -> Any:
    """Workers, queues and nodes at a glance."""
    return await served.overview.status()


@router.get("/events", response_model=shapes.EventList)
async def events(
    served: Served,
    _: Viewer,
    name: Name = "",
    text: Annotated[str, Query(max_length=200)] = "",
    since: Annotated[float, Query(ge=0, le=1e11)] = 0.0,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Any:
    """The last events, newest first. `name`: of an event, or the part before its dot for all of the kind."""
    wanted = Filter(name=name, text=text, since=since)
    found = await asyncio.to_thread(recent, served.context.site.directory, limit, wanted)
    return {"items": [event_row(event) for event in found]}


@router.get(
    "/stream",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def stream(
    served: Served,
    _: Viewer,
    name: Name = "",
    last_event_id: Annotated[str | None, Header(max_length=1000)] = None,
    follow: Annotated[
        Literal["true", "false"], Query(description="`false` ends the stream after what is there.")
    ] = "true",
) -> StreamingResponse:
    """Events as they happen, as server-sent events; a client that comes back goes on where it was."""
    feed = served.context.feed
    if feed.streams >= STREAMS:
        raise Refused(503, "too many streams are open", headers={"Retry-After": "10"})
    position = _position(last_event_id or "")

    async def pieces() -> AsyncIterator[bytes]:
        here: Position = dict(position) if position is not None else await asyncio.to_thread(feed.end)
        beat = time.monotonic()
        yield b": welcome\n\n"
        if follow == "false":
            return
        async for batch in feed.follow(here):
            for told in batch:
                here[told.shard] = told.number
                if name and told.event.name != name and not told.event.name.startswith(f"{name}."):
                    continue
                where = ",".join(f"{shard}:{number}" for shard, number in here.items())
                data = orjson.dumps(event_row(told.event))
                yield b"id: %s\nevent: %s\ndata: %s\n\n" % (where.encode(), told.event.name.encode(), data)
                beat = time.monotonic()
            if time.monotonic() - beat > HEARTBEAT_S:
                beat = time.monotonic()
                yield b": still here\n\n"

    return StreamingResponse(pieces(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def _position(text: str) -> Position | None:
    """`0:17,1:4` → shard and number; None for anything else."""
    found: Position = {}
    for part in text.split(","):
        shard, _, number = part.partition(":")
        if not shard or not number.isdecimal() or len(number) > 18:
            return None
        found[shard] = int(number)
    return found


@router.get("/config", response_model=shapes.ConfigView, dependencies=[Tagged])
async def config(served: Served, _: Viewer) -> Any:
    """The configuration of the files: as written and in effect, secrets masked; its ETag."""
    return await served.configuration.view()


@router.post("/config/reload", response_model=shapes.ReloadRow)
async def reload(served: Served, caller: Admin) -> Any:
    """Tell the running relay to read its files again."""
    answer = await served.configuration.reload()
    await served.context.audit.note(caller, "config.reload", "", after=answer)
    return answer


@router.get("/audit", response_model=shapes.AuditPage)
async def audit(
    served: Served,
    _: Admin,
    before: Annotated[int, Query(ge=0, le=2**62)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    action: Annotated[str, Query(max_length=100)] = "",
    who: Annotated[str, Query(max_length=100)] = "",
) -> Any:
    """Who changed what, newest first; `before` a number for what is older."""
    entries = await served.context.audit.entries(before=before, limit=limit, action=action, who=who)
    return {
        "items": [
            {
                "number": e.number, "at": e.at, "who": e.who, "role": e.role, "peer": e.peer, "action": e.action,
                "target": e.target, "before": e.before, "after": e.after,
            }
            for e in entries
        ]
    }  # fmt: skip


@router.get("/settings")
async def settings(served: Served, _: Viewer) -> dict[str, Any]:
    """Settings of the control process itself."""
    config = (await served.context.current.look()).config
    return {"admin": shown(config.admin) if config.admin else None, "version": relay.__version__}
