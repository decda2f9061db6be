"""The first page."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from relay.admin.api.wiring import Served, Viewer
from relay.admin.services.ceiling import ceiling
from relay.admin.services.waits import notes, standing
from relay.admin.web.forms import PageRoute
from relay.admin.web.node_view import node_view
from relay.admin.web.render import page

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/")
async def overview(request: Request, served: Served, _: Viewer) -> Response:
    status = await served.overview.status()
    nodes = [node_view(row) for row in status["nodes"]]
    workers = status["workers"]
    current = served.context.current
    troubles = notes(workers) if workers else ["no worker runs: no mail is taken"]
    if current.trouble is not None:
        troubles.append(f"the configuration files do not validate: {str(current.trouble).splitlines()[0]}")
    return page(
        request,
        "overview.html",
        ceiling=ceiling(status["nodes"]),
        queue=standing(workers),
        rates=served.rates.lately(time.time()),
        nodes=nodes,
        watched=[node for node in nodes if node.is_watched],
        off=[node for node in nodes if node.state == "inactive" and not node.is_watched],
        troubles=troubles,
        sessions=sum(worker.get("sessions", 0) for worker in workers),
        attempts=sum(worker.get("attempts", 0) for worker in workers),
        workers=workers,
    )


@router.get("/chart.json")
async def chart(served: Served, _: Viewer) -> Response:
    """Messages a minute over the last hour, for the chart."""
    return JSONResponse(served.rates.chart(time.time()))
