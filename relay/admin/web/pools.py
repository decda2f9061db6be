"""Pools: Sent, Delivered and Bounced, down to each node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from relay.admin.api.wiring import Admin, Served, Viewer
from relay.admin.refusals import Refused, refusal_of
from relay.admin.services.ceiling import ceiling
from relay.admin.web.forms import Form, PageRoute, text_of
from relay.admin.web.node_view import NodeView, node_view
from relay.admin.web.option_form import filled, mapping_of, pool_fields
from relay.admin.web.render import go, page

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/pools")
async def pools(request: Request, served: Served, _: Viewer) -> Response:
    rows = await served.pools.list()
    nodes = [node_view(row) for row in await served.nodes.list()]
    shown = [{**row, **_sums([node for node in nodes if node.pool == row["name"]])} for row in rows]
    return page(request, "pools.html", pools=shown)


@router.get("/pools/new")
async def new(request: Request, _: Admin) -> Response:
    return page(request, "pool_form.html", fields=pool_fields(), name="", refused=None)


@router.post("/pools/new")
async def add(request: Request, served: Served, caller: Admin, form: Form) -> Response:
    fields = pool_fields()
    try:
        body = mapping_of(fields, form)
        await served.pools.create(caller, body)
    except Exception as error:
        refused = refusal_of(error)
        if refused is None:
            raise
        return page(request, "pool_form.html", fields=filled(fields, form), name="", refused=refused)
    return go(f"/pool/{body['name']}", f"Pool {body['name']} is added. Give it nodes next.")


@router.get("/pool/{name}")
async def pool(request: Request, served: Served, _: Viewer, name: str) -> Response:
    row = await served.pools.show(name)
    rows = await served.nodes.list(pool=name)
    nodes = [node_view(each) for each in rows]
    running = [each["state"] for each in rows if each["state"]]
    return page(request, "pool.html", pool={**row, **_sums(nodes)}, nodes=nodes, ceiling=ceiling(running))


@router.get("/pool/{name}/edit")
async def edit(request: Request, served: Served, _: Admin, name: str) -> Response:
    row = await served.pools.show(name)
    return page(request, "pool_form.html", fields=pool_fields(row["options"]), name=name, refused=None)


@router.post("/pool/{name}/edit")
async def change(request: Request, served: Served, caller: Admin, name: str, form: Form) -> Response:
    row = await served.pools.show(name)
    fields = pool_fields(row["options"])
    try:
        await served.pools.update(caller, name, mapping_of(fields, form), partial=False)
    except Exception as error:
        refused = refusal_of(error)
        if refused is None:
            raise
        return page(request, "pool_form.html", fields=filled(fields, form), name=name, refused=refused)
    return go(f"/pool/{name}", f"Pool {name} is changed.")


@router.post("/pool/{name}/delete")
async def delete(request: Request, served: Served, caller: Admin, name: str, form: Form) -> Response:
    """Remove a pool that nothing belongs to; else its page says what to move first."""
    if text_of(form, "confirm") != name:
        return go(f"/pool/{name}", f"Type {name} to remove it.", fault=True)
    try:
        await served.pools.delete(caller, name)
    except Refused as refused:
        if "move_first" not in refused.more:
            raise
        row = await served.pools.show(name)
        rows = await served.nodes.list(pool=name)
        nodes = [node_view(each) for each in rows]
        running = [each["state"] for each in rows if each["state"]]
        return page(
            request, "pool.html", pool={**row, **_sums(nodes)}, nodes=nodes, ceiling=ceiling(running), refused=refused
        )
    return go("/pools", f"Pool {name} is removed.")


def _sums(nodes: Sequence[NodeView]) -> dict[str, Any]:
    return {
        "sent": sum(node.sent for node in nodes),
        "delivered": sum(node.delivered for node in nodes),
        "bounced": sum(node.bounced for node in nodes),
        "views": nodes,
    }
