"""The FastAPI application over a context."""

from __future__ import annotations

import math
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp

from relay.admin.api import alerts, control, legacy, mail, observe, openapi, problems, traffic
from relay.admin.api.wiring import Services, Viewer
from relay.admin.context import Context
from relay.admin.security.guard import BODY_LIMIT, Guard
from relay.admin.web import pages

IMPORT_OCTETS = 16 * 1024 * 1024


def make_app(context: Context) -> FastAPI:
    """The application without its door; `guarded` puts it in front."""
    app = FastAPI(
        title="relay",
        openapi_url=None,  # behind a token, below
        docs_url=None,
        redoc_url=None,
        responses=problems.RESPONSES,
        generate_unique_id_function=lambda route: f"{route.tags[0] if route.tags else 'web'}-{route.name}",
    )
    app.router.redirect_slashes = False
    app.state.services = Services.over(context)
    for part in (
        observe.probes,
        observe.router,
        mail.router,
        traffic.router,
        control.router,
        alerts.router,
        legacy.router,
    ):
        app.include_router(part)
    for part in pages.ROUTERS:
        app.include_router(part)

    @app.get("/openapi.json", include_in_schema=False)
    async def document(_: Viewer) -> Any:
        """The API, described."""
        return JSONResponse(app.openapi())

    problems.install(app, context.tell)
    openapi.install(app)
    return app


def guarded(app: FastAPI, context: Context) -> ASGIApp:
    """The application behind its door."""

    def hosts() -> set[str]:
        config = context.current.config
        known = set(config.admin.hosts) if config.admin is not None else set()
        return known | ({config.hostname} if config.hostname else set())

    def limit_of(path: str) -> int:
        if path.startswith("/api/v1/messages"):
            # Base64 and JSON make a third more of it; a batch may be several.
            return math.ceil(context.current.config.limits.size * 1.4) + BODY_LIMIT
        return IMPORT_OCTETS if path == "/api/v1/nodes/import" else BODY_LIMIT

    return Guard(app, access=context.access, hosts=hosts, limit_of=limit_of)
