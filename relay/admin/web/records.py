"""What happened (events), what is wrong (issues), and who changed what (audit)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from relay.admin.api.wiring import Admin, Served, Viewer
from relay.admin.services.recent import recent_events
from relay.admin.web.forms import PageRoute
from relay.admin.web.render import page
from relay.history import Filter

router = APIRouter(route_class=PageRoute, include_in_schema=False)

LISTED = 100
KINDS = ("", "message", "attempt", "route", "node", "dsn", "relay")

Words = Annotated[str, Query(max_length=200)]


@router.get("/events")
async def events(request: Request, served: Served, _: Viewer, name: Words = "", text: Words = "") -> Response:
    found = await recent_events(served.context, LISTED, Filter(name=name, text=text))
    return page(request, "events.html", events=found, name=name, text=text, kinds=KINDS)


@router.get("/issues")
async def issues(request: Request, served: Served, _: Viewer, node: Words = "") -> Response:
    """Open ones first; each closes itself when its trouble is over."""
    found = [await served.issues.page(state=state, node=node, limit=LISTED) for state in ("open", "closed")]
    return page(request, "issues.html", issues=found[0] + found[1], node=node)


@router.get("/audit")
async def audit(
    request: Request,
    served: Served,
    _: Admin,
    action: Words = "",
    who: Words = "",
    before: Annotated[int, Query(ge=0, le=2**62)] = 0,
) -> Response:
    entries = await served.context.audit.entries(before=before, limit=LISTED, action=action, who=who)
    return page(request, "audit.html", entries=entries, action=action, who=who, limit=LISTED)
