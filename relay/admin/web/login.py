"""Logging in with a token, and out."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Mapping

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.datastructures import FormData

from relay.admin.api.wiring import Served, StrictRoute
from relay.admin.security.guard import COOKIE, CSRF_FIELD, check_csrf, check_origin, peer_of
from relay.admin.security.guess import unauthorized
from relay.admin.security.roles import Caller

router = APIRouter(route_class=StrictRoute, include_in_schema=False)

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Log in - relay</title></head>
<body><main><h1>relay</h1>{said}
<form method="post" action="/login">
<p><label for="token">Token</label><br>
<input id="token" name="token" type="password" size="50" required autofocus autocomplete="current-password"></p>
<p><button>Log in</button></p>
</form>
<p>Tokens are made with <code>relay token add</code>.</p></main></body></html>
"""

FORM_OCTETS = 4096


def _page(said: str = "", status: int = 200, headers: Mapping[str, str] | None = None) -> HTMLResponse:
    text = f'<p role="alert">{html.escape(said)}</p>' if said else ""
    return HTMLResponse(_PAGE.format(said=text), status_code=status, headers=dict(headers or {}))


@router.get("/login")
async def form() -> Response:
    return _page()


@router.post("/login")
async def log_in(request: Request, served: Served) -> Response:
    """A session for a token. Each login opens a new one; the cookie is the browser's alone."""
    check_origin(request.headers)
    peer = peer_of(request.scope)
    fields = await _form(request)
    token = fields.get("token")
    access = served.context.access
    caller = None
    if isinstance(token, str):
        caller = await asyncio.to_thread(access.by_token, token.strip(), peer=peer)
    if caller is None:
        refused = served.context.guesses.wrong(peer)
        return _page(f"{refused.detail[0].upper()}{refused.detail[1:]}.", refused.status, refused.headers)
    admin = served.context.current.config.admin
    lasts_s = admin.session if admin is not None else 3600.0
    session = await asyncio.to_thread(access.open_session, caller, lasts_s)
    answer = RedirectResponse("/", status_code=303)
    answer.set_cookie(
        COOKIE, session, max_age=int(lasts_s), httponly=True, samesite="strict", secure=request.url.scheme == "https"
    )
    return answer


@router.post("/logout")
async def log_out(request: Request, served: Served) -> Response:
    """End the session here and at the browser."""
    caller: Caller | None = request.scope.get("state", {}).get("caller")
    if caller is None or not caller.session:
        raise unauthorized("there is no session to end")
    fields = await _form(request)
    check_csrf(caller, request.headers.get("x-csrf-token") or str(fields.get(CSRF_FIELD, "")))
    await asyncio.to_thread(served.context.access.close_session, caller)
    answer = RedirectResponse("/login", status_code=303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer


@router.get("/")
async def home(request: Request) -> Response:
    """Until there are pages: who is logged in, and where the API is described."""
    caller: Caller = request.scope["state"]["caller"]
    return HTMLResponse(
        "<!doctype html><html lang=en><meta charset=utf-8><title>relay</title>"
        f"<main><h1>relay</h1><p>Logged in as {html.escape(caller.name)} ({caller.role}).</p>"
        '<p><a href="/openapi.json">The API</a></p>'
        f'<form method="post" action="/logout"><input type="hidden" name="{CSRF_FIELD}" '
        f'value="{html.escape(caller.csrf)}"><button>Log out</button></form></main></html>'
    )


async def _form(request: Request) -> FormData:
    """The fields of a small form; empty for anything else."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        return FormData()
    if len(await request.body()) > FORM_OCTETS:
        return FormData()
    return await request.form(max_fields=20)
