"""Logging in with a token, and out."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from starlette.datastructures import FormData

from relay.admin.api.wiring import Served
from relay.admin.security.guard import COOKIE, CSRF_FIELD, check_csrf, check_origin, peer_of
from relay.admin.security.guess import unauthorized
from relay.admin.security.roles import Caller
from relay.admin.web.render import page

router = APIRouter(include_in_schema=False)

FORM_OCTETS = 4096


@router.get("/login")
async def form(request: Request) -> Response:
    return page(request, "login.html", fault="")


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
        answer = page(request, "login.html", fault=refused.detail, status=refused.status)
        answer.headers.update(refused.headers)
        return answer
    admin = served.context.current.config.admin
    lasts_s = admin.session if admin is not None else 3600.0
    session = await asyncio.to_thread(access.open_session, caller, lasts_s)
    redirect = RedirectResponse("/", status_code=303)
    redirect.set_cookie(
        COOKIE, session, max_age=int(lasts_s), httponly=True, samesite="strict", secure=request.url.scheme == "https"
    )
    return redirect


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


async def _form(request: Request) -> FormData:
    """The fields of a small form; empty for anything else."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        return FormData()
    if len(await request.body()) > FORM_OCTETS:
        return FormData()
    return await request.form(max_fields=20)
