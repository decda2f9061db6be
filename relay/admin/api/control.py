"""Tokens, the caller's own session, webhooks."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query

from relay.admin.api import shapes
from relay.admin.api.wiring import Admin, Operator, Served, Services, StrictRoute, Viewer
from relay.admin.refusals import Refused, not_found
from relay.admin.security.access import NameTaken
from relay.admin.security.roles import Role
from relay.admin.webhooks.store import State

router = APIRouter(prefix="/api/v1", route_class=StrictRoute)


@router.get("/session", response_model=shapes.SessionRow, tags=["access"])
async def session(caller: Viewer) -> Any:
    """Who the caller is."""
    return {"name": caller.name, "role": caller.role, "csrf": caller.csrf}


@router.get("/tokens", response_model=list[shapes.TokenRow], tags=["access"])
async def tokens(served: Served, _: Admin) -> Any:
    """Every token, without its secret."""
    return [asdict(token) for token in await asyncio.to_thread(served.context.access.tokens)]


@router.post("/tokens", status_code=201, response_model=shapes.TokenMade, tags=["access"])
async def add_token(served: Served, caller: Admin, body: shapes.TokenBody) -> Any:
    """Make a token; its secret is told only now."""
    expires = time.time() + body.days * 86400 if body.days else 0.0
    try:
        token, secret = await asyncio.to_thread(
            served.context.access.add, body.name, body.role, by=caller.name, expires=expires
        )
    except NameTaken as error:
        raise Refused(409, str(error)) from None
    await served.context.audit.note(caller, "token.add", token.id, after={"name": token.name, "role": token.role})
    return {"token": asdict(token), "secret": secret}


@router.delete("/tokens/{id}", response_model=shapes.TokenRow, tags=["access"])
async def revoke_token(served: Served, caller: Admin, id: str) -> Any:
    """Take a token away, with the sessions that were opened with it. The last admin token stays."""
    access = served.context.access
    known = await asyncio.to_thread(access.tokens)
    chosen = next((token for token in known if token.id == id), None)
    if chosen is None:
        raise not_found("token", id)
    if chosen.role is Role.ADMIN and sum(token.role is Role.ADMIN for token in known) == 1:
        raise Refused(409, "this is the last admin token; make another one first, or use `relay token revoke`")
    await asyncio.to_thread(access.revoke, id)
    await served.context.audit.note(caller, "token.revoke", id, before={"name": chosen.name, "role": chosen.role})
    return asdict(chosen)


@router.get("/webhooks", response_model=list[shapes.WebhookRow], tags=["webhooks"])
async def webhooks(served: Served, _: Viewer) -> Any:
    """Receivers of events, and how their calls stand."""
    return await served.context.webhooks.rows()


@router.get("/webhooks/{name}/calls", response_model=list[shapes.CallRow], tags=["webhooks"])
async def calls(
    served: Served,
    _: Viewer,
    name: str,
    state: Literal["", "waiting", "taken", "given-up"] = "",
    before: Annotated[int, Query(ge=0, le=2**62)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Any:
    """Calls of one receiver, newest first."""
    _known(served, name)
    wanted = State(state) if state else None
    return await served.context.webhooks.calls(name, state=wanted, before=before, limit=limit)


@router.post("/webhooks/{name}/replay", response_model=shapes.Replayed, tags=["webhooks"])
async def replay(served: Served, caller: Operator, name: str, body: shapes.ReplayBody) -> Any:
    """Call again: some events, those of one state, or all from a moment on."""
    _known(served, name)
    if not (body.ids or body.state or body.since):
        raise Refused(422, "say which: ids, a state, or since")
    wanted = State(body.state) if body.state else None
    count = await served.context.webhooks.replay(name, ids=body.ids, state=wanted, since=body.since)
    told = {"ids": body.ids[:20], "state": body.state, "since": body.since, "replayed": count}
    await served.context.audit.note(caller, "webhook.replay", name, after=told)
    return {"replayed": count}


def _known(served: Services, name: str) -> None:
    if not served.context.webhooks.knows(name):
        raise not_found("webhook", name)
