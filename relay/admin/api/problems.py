"""Every error as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match, Route

from relay.admin.context import Tell
from relay.admin.refusals import Refused, faults_of, refusal_of

MEDIA_TYPE = "application/problem+json"


class FaultModel(BaseModel):
    """One thing that is wrong."""

    where: str
    """A parameter, a key of the body, or a file with line and column."""
    what: str


class ProblemModel(BaseModel):
    """An error (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = "about:blank"
    title: str = Field(description="Words of the status.")
    status: int
    detail: str = Field(description="What happened, and what to do.")
    errors: list[FaultModel] = Field(default_factory=list, description="Single faults, where there are several.")


def problem(
    status: int,
    detail: str,
    *,
    errors: Sequence[Mapping[str, str]] = (),
    more: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    try:
        title = HTTPStatus(status).phrase
    except ValueError:
        title = "Error"
    body = {
        **(more or {}),
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": _clean(detail),
        "errors": [{"where": _clean(each["where"]), "what": _clean(each["what"])} for each in errors],
    }
    return Response(
        orjson.dumps(body, default=str), status_code=status, media_type=MEDIA_TYPE, headers=dict(headers or {})
    )


def of_refusal(refused: Refused) -> Response:
    return problem(refused.status, refused.detail, errors=refused.errors, more=refused.more, headers=refused.headers)


def install(app: FastAPI, tell: Tell) -> None:
    """Handlers for everything that can be raised."""

    async def on_refused(_: Request, error: Exception) -> Response:
        refused = refusal_of(error)
        assert refused is not None
        return of_refusal(refused)

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 405:
            allowed = _allowed(app, request)
            return problem(405, f"allowed here: {allowed}", headers={"Allow": allowed})
        return problem(error.status_code, str(error.detail), headers=error.headers)

    async def on_invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return problem(422, "the request is not as it must be", errors=faults_of(error.errors()))

    async def on_defect(request: Request, error: Exception) -> Response:
        where = traceback.extract_tb(error.__traceback__)[-1]
        fields = {
            "where": f"admin {request.method} {request.url.path[:200]}",
            "error": f"{type(error).__name__} at {where.filename.rpartition('/')[2]}:{where.lineno}",
        }
        tell("error", "relay.fault", fields)
        return problem(500, "an internal fault; the log of the relay has more")

    from relay.errors import ConfigError, RelayError

    for expected in (Refused, ConfigError, RelayError):
        app.add_exception_handler(expected, on_refused)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(Exception, on_defect)


def _allowed(app: FastAPI, request: Request) -> str:
    """Every method of a path; the router itself names those of the first route that has it."""
    methods: set[str] = set()
    for route in app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            methods |= route.methods or set()
    return ", ".join(sorted(methods))


def _clean(text: str) -> str:
    """What JSON can carry: a lone surrogate out of a request is no character."""
    return text.encode("utf-8", "replace").decode("utf-8")


RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {
        "description": HTTPStatus(status).phrase,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for status in (400, 401, 403, 404, 405, 408, 409, 412, 413, 415, 421, 422, 429, 503)
}
"""What every path may also answer."""
