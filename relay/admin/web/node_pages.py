"""Nodes: the list, one of them, and the form that follows their type."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from relay.admin.api.wiring import Admin, Operator, Served, Services, Viewer
from relay.admin.refusals import Refused, not_found, refusal_of
from relay.admin.services.nodes import TYPES
from relay.admin.services.recent import recent_events
from relay.admin.web.forms import Form, PageRoute, text_of
from relay.admin.web.node_view import node_view
from relay.admin.web.option_form import Field, filled, mapping_of, node_fields
from relay.admin.web.render import fragment, go, page
from relay.history import Filter
from relay.units import parse_duration

router = APIRouter(route_class=PageRoute, include_in_schema=False)

Name = Annotated[str, Query(max_length=100)]


@router.get("/nodes")
async def nodes(request: Request, served: Served, _: Viewer, pool: Name = "") -> Response:
    rows = await served.nodes.list(pool=pool)
    return page(request, "nodes.html", nodes=[node_view(row) for row in rows], pool=pool)


@router.get("/nodes/new")
async def new(request: Request, served: Served, _: Admin, type: Name = "smtp", pool: Name = "") -> Response:
    """The form of a node to be; asked for again with another type it re-flows."""
    if type not in TYPES:
        raise not_found("type", type)
    return await _form_page(request, served, node_fields(type), type=type, pool=pool)


@router.post("/nodes/new")
async def add(request: Request, served: Served, caller: Admin, form: Form) -> Response:
    kind = _kind(form)
    body = {"name": text_of(form, "name"), "type": kind, "pool": text_of(form, "pool")}
    body = {key: value for key, value in body.items() if value}
    try:
        body |= mapping_of(node_fields(kind), form)
        done = await served.nodes.create(caller, body, force="force" in form)
    except Exception as error:
        return await _refused(request, served, error, form, node_fields(kind), name="")
    return go(f"/node/{body['name']}", _told("added", done))


@router.post("/nodes/test")
async def try_out(request: Request, served: Served, _: Admin, form: Form) -> Response:
    """Test Connection: what the form says now, with the real transport; nothing is saved."""
    kind, name = _kind(form), text_of(form, "name")
    try:
        current = (await served.nodes.show(name))["options"] if text_of(form, "known") else None
        body = {"name": name or "unnamed", "type": kind, **mapping_of(node_fields(kind, current), form)}
        result = await served.nodes.try_out(body)
    except Exception as error:
        return fragment(request, "node_form.html", "tested", test=None, is_test=True, refused=_expected(error))
    return fragment(request, "node_form.html", "tested", test=result, refused=None)


@router.get("/node/{name}")
async def node(request: Request, served: Served, _: Viewer, name: str) -> Response:
    row = await served.nodes.show(name)
    pools = [pool["name"] for pool in await served.pools.list()]
    events = await recent_events(served.context, 12, Filter(text=f'"node":"{name}"'))
    return page(request, "node.html", node=node_view(row), row=row, pools=pools, events=events)


@router.get("/node/{name}/edit")
async def edit(request: Request, served: Served, _: Admin, name: str, type: Name = "") -> Response:
    row = await served.nodes.show(name)
    kind = type or row["type"]
    if kind not in TYPES:
        raise not_found("type", kind)
    fields = node_fields(kind, row["options"] if kind == row["type"] else None)
    return await _form_page(request, served, fields, type=kind, pool=row["pool"], name=name)


@router.post("/node/{name}/edit")
async def change(request: Request, served: Served, caller: Admin, name: str, form: Form) -> Response:
    row = await served.nodes.show(name)
    kind = _kind(form)
    fields = node_fields(kind, row["options"] if kind == row["type"] else None)
    try:
        body = {"type": kind, "pool": text_of(form, "pool") or row["pool"], **mapping_of(fields, form)}
        done = await served.nodes.update(caller, name, body, partial=False, force="force" in form)
    except Exception as error:
        return await _refused(request, served, error, form, fields, name=name)
    return go(f"/node/{name}", _told("changed", done))


@router.post("/node/{name}/test")
async def check(request: Request, served: Served, _: Operator, name: str, form: Form) -> Response:
    del form
    result = await served.nodes.test(name)
    if request.headers.get("hx-request"):
        return fragment(request, "node_form.html", "tested", test=result, refused=None)
    words = "is well" if result["ok"] else "fails its test"
    return go(f"/node/{name}", f"{name} {words}: {result['answer']}", fault=not result["ok"])


@router.post("/node/{name}/pause")
async def pause(served: Served, caller: Operator, name: str, form: Form) -> Response:
    reason = text_of(form, "reason", 300) or "paused in the dashboard"
    length = text_of(form, "for", 20)
    try:
        until = time.time() + parse_duration(length) if length else 0.0
    except ValueError as error:
        raise Refused(422, f"for how long: {error}") from None
    row = await served.nodes.pause(caller, name, reason, until)
    left = f"; {row['in_flight']} under way are finished" if row["in_flight"] else ""
    return go(f"/node/{name}", f"{name} is paused{left}.")


@router.post("/node/{name}/resume")
async def resume(served: Served, caller: Operator, name: str, form: Form) -> Response:
    del form
    await served.nodes.resume(caller, name)
    return go(f"/node/{name}", f"{name} is back in the rotation.")


@router.post("/node/{name}/move")
async def move(served: Served, caller: Admin, name: str, form: Form) -> Response:
    pool = text_of(form, "pool")
    done = await served.nodes.reassign(caller, name, pool)
    return go(f"/node/{name}", f"{name} is in pool {pool} now; {done['in_flight']} attempts under way are finished.")


@router.post("/node/{name}/delete")
async def delete(served: Served, caller: Admin, name: str, form: Form) -> Response:
    del form
    await served.nodes.delete(caller, [name])
    return go("/nodes", f"Node {name} is removed; its queued mail goes through the others.")


async def _form_page(
    request: Request,
    served: Services,
    fields: list[Field],
    *,
    type: str,
    pool: str = "",
    name: str = "",
    typed: str = "",
    refused: Refused | None = None,
) -> Response:
    pools = [row["name"] for row in await served.pools.list()]
    return page(
        request, "node_form.html", fields=fields, type=type, types=TYPES, pool=pool, pools=pools, name=name,
        typed=typed or name, refused=refused, test=None,
    )  # fmt: skip


async def _refused(
    request: Request, served: Services, error: Exception, form: Mapping[str, Any], fields: list[Field], *, name: str
) -> Response:
    """The form again, with what was typed and what is wrong with it."""
    return await _form_page(
        request, served, filled(fields, form), type=_kind(form), pool=str(form.get("pool", "")), name=name,
        typed=str(form.get("name", "")), refused=_expected(error),
    )  # fmt: skip


def _expected(error: Exception) -> Refused:
    refused = refusal_of(error)
    if refused is None:
        raise error
    return refused


def _kind(form: Mapping[str, Any]) -> str:
    kind = str(form.get("type", ""))
    if kind not in TYPES:
        raise not_found("type", kind)
    return kind


def _told(what: str, done: Mapping[str, Any]) -> str:
    test, reload = done["test"], done["reload"]
    words = [f"Node {done['node']['name']} is {what}."]
    if test is not None:
        words.append(f"Test: {test['answer']}.")
    if reload["problem"]:
        words.append(f"The running relay did not take it over: {reload['problem']}")
    return " ".join(words)
