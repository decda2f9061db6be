"""Nodes, pools and bridges: shown, changed in the configuration files, acted on."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from relay.admin.api import shapes
from relay.admin.api.wiring import (
    Admin,
    Force,
    IfMatch,
    JsonObject,
    Operator,
    Served,
    StrictRoute,
    Tagged,
    Test,
    Viewer,
    body_of,
)
from relay.admin.services.exchange import Exchange, Format

router = APIRouter(prefix="/api/v1", route_class=StrictRoute)

Flag = Annotated[bool, Query()]

MEDIA = {"json": "application/json", "yaml": "application/yaml", "csv": "text/csv"}


@router.get("/nodes", response_model=list[shapes.NodeRow], dependencies=[Tagged], tags=["nodes"])
async def nodes(
    served: Served,
    _: Viewer,
    pool: Annotated[str, Query(max_length=100)] = "",
    type: Annotated[str, Query(max_length=100)] = "",
) -> Any:
    """Every node: what is written of it, and its state in the running relay."""
    return await served.nodes.list(pool=pool, type=type)


@router.post("/nodes", status_code=201, response_model=shapes.NodeSaved, tags=["nodes"], openapi_extra=body_of("Node"))
async def add_node(
    served: Served, caller: Admin, body: JsonObject, match: IfMatch, test: Test = True, force: Force = False
) -> Any:
    """Add a node, to its `pool` or the default one. One whose test fails is not saved (409), unless forced."""
    return await served.nodes.create(caller, body, test=test, force=force, if_match=match)


@router.post("/nodes/test", response_model=shapes.TestRow, tags=["nodes"], openapi_extra=body_of("Node"))
async def try_out(served: Served, _: Admin, body: JsonObject) -> Any:
    """Test what a node would be, without saving it: connection, TLS, login; no mail is sent."""
    return await served.nodes.try_out(body)


@router.get(
    "/nodes/export",
    tags=["nodes"],
    responses={
        200: {
            "content": {
                "application/json": {"schema": {"type": "object", "required": ["nodes"]}},
                "application/yaml": {"schema": {}},
                "text/csv": {"schema": {"type": "string"}},
            }
        }
    },
    response_class=Response,
)
async def export(served: Served, _: Viewer, format: Format = "json") -> Response:
    """All nodes as they are written, secrets masked."""
    content = await Exchange(served.nodes).export(format)
    return Response(
        content,
        media_type=MEDIA[format],
        headers={"Content-Disposition": f'attachment; filename="nodes.{format}"'},
    )


@router.post(
    "/nodes/import",
    response_model=shapes.Imported,
    tags=["nodes"],
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {media: {"schema": {"type": "string", "format": "binary"}} for media in MEDIA.values()},
        }
    },
)
async def import_(
    served: Served,
    caller: Admin,
    request: Request,
    format: Format = "json",
    dry_run: Flag = False,
    update: Flag = False,
    test: Test = False,
    force: Force = False,
) -> Any:
    """Add nodes from a file, each by itself; with `update` those that exist are changed."""
    return await Exchange(served.nodes).take_in(
        caller, await request.body(), format, dry_run=dry_run, update=update, test=test, force=force
    )


@router.get("/nodes/{name}", response_model=shapes.NodeRow, dependencies=[Tagged], tags=["nodes"])
async def node(served: Served, _: Viewer, name: str) -> Any:
    """One node."""
    return await served.nodes.show(name)


@router.put("/nodes/{name}", response_model=shapes.NodeSaved, tags=["nodes"], openapi_extra=body_of("Members"))
async def put_node(
    served: Served, caller: Admin, name: str, body: JsonObject, match: IfMatch, test: Test = True, force: Force = False
) -> Any:
    """Make a node what the body says; keys it leaves out go back to their defaults. `***` keeps a secret."""
    return await served.nodes.update(caller, name, body, partial=False, test=test, force=force, if_match=match)


@router.patch("/nodes/{name}", response_model=shapes.NodeSaved, tags=["nodes"], openapi_extra=body_of("Members"))
async def patch_node(
    served: Served, caller: Admin, name: str, body: JsonObject, match: IfMatch, test: Test = True, force: Force = False
) -> Any:
    """Change some keys of a node; null takes one away."""
    return await served.nodes.update(caller, name, body, partial=True, test=test, force=force, if_match=match)


@router.delete("/nodes/{name}", response_model=shapes.Deleted, tags=["nodes"])
async def delete_node(served: Served, caller: Admin, name: str, match: IfMatch) -> Any:
    """Remove a node; what it has under way is finished, and queued mail goes through the others."""
    return await served.nodes.delete(caller, [name], if_match=match)


@router.post("/nodes/{name}/test", response_model=shapes.TestRow, tags=["nodes"])
async def check_node(served: Served, _: Operator, name: str) -> Any:
    """Test a node of the running relay; the result also decides whether it is used."""
    return await served.nodes.test(name)


@router.post("/nodes/{name}/pause", response_model=shapes.NodeState, tags=["nodes"])
async def pause(served: Served, caller: Operator, name: str, body: shapes.PauseBody) -> Any:
    """Give it nothing more; deliveries that run are finished."""
    until = time.time() + body.for_seconds if body.for_seconds else 0.0
    return await served.nodes.pause(caller, name, body.reason, until)


@router.post("/nodes/{name}/drain", response_model=shapes.NodeState, tags=["nodes"])
async def drain(served: Served, caller: Operator, name: str, body: shapes.DrainBody) -> Any:
    """Give it nothing more, until it is resumed; `in_flight` of its state tells when it is empty."""
    return await served.nodes.drain(caller, name, body.reason)


@router.post("/nodes/{name}/resume", response_model=shapes.NodeState, tags=["nodes"])
async def resume(served: Served, caller: Operator, name: str) -> Any:
    """Put a paused, inactive or cooling node back into the rotation."""
    return await served.nodes.resume(caller, name)


@router.post("/nodes/{name}/reassign", response_model=shapes.NodeMoved, tags=["nodes"])
async def reassign(served: Served, caller: Admin, name: str, body: shapes.ReassignBody, match: IfMatch) -> Any:
    """Move a node to another pool; queued mail and attempts that run are not disturbed."""
    return await served.nodes.reassign(caller, name, body.pool, if_match=match)


# Pools


@router.get("/pools", response_model=list[shapes.PoolRow], dependencies=[Tagged], tags=["pools"])
async def pools(served: Served, _: Viewer) -> Any:
    """Every pool with its nodes, bridges and waiting mail."""
    return await served.pools.list()


@router.post("/pools", status_code=201, response_model=shapes.PoolSaved, tags=["pools"], openapi_extra=body_of("Pool"))
async def add_pool(served: Served, caller: Admin, body: JsonObject, match: IfMatch) -> Any:
    """Add a pool; its id is the next free one when it has none."""
    return await served.pools.create(caller, body, if_match=match)


@router.get("/pools/{name}", response_model=shapes.PoolRow, dependencies=[Tagged], tags=["pools"])
async def pool(served: Served, _: Viewer, name: str) -> Any:
    """One pool."""
    return await served.pools.show(name)


@router.put("/pools/{name}", response_model=shapes.PoolSaved, tags=["pools"], openapi_extra=body_of("Members"))
async def put_pool(served: Served, caller: Admin, name: str, body: JsonObject, match: IfMatch) -> Any:
    """Make a pool what the body says, but for its nodes; name, id and mta never change."""
    return await served.pools.update(caller, name, body, partial=False, if_match=match)


@router.patch("/pools/{name}", response_model=shapes.PoolSaved, tags=["pools"], openapi_extra=body_of("Members"))
async def patch_pool(served: Served, caller: Admin, name: str, body: JsonObject, match: IfMatch) -> Any:
    """Change some keys of a pool; null takes one away."""
    return await served.pools.update(caller, name, body, partial=True, if_match=match)


@router.delete("/pools/{name}", response_model=shapes.Deleted, tags=["pools"])
async def delete_pool(served: Served, caller: Admin, name: str, match: IfMatch) -> Any:
    """Remove a pool. 409 while nodes, bridges or messages belong to it: `move_first` names them."""
    return await served.pools.delete(caller, name, if_match=match)


# Bridges


@router.get("/bridges", response_model=list[shapes.BridgeRow], dependencies=[Tagged], tags=["bridges"])
async def bridges(served: Served, _: Viewer) -> Any:
    """Every bridge; its passwords are never shown."""
    return await served.bridges.list()


@router.post(
    "/bridges", status_code=201, response_model=shapes.BridgeSecret, tags=["bridges"], openapi_extra=body_of("Bridge")
)
async def add_bridge(served: Served, caller: Admin, body: JsonObject, match: IfMatch) -> Any:
    """Add a bridge; its generated password is told only now. `username`: its name when left out, null for no login."""
    return await served.bridges.create(caller, body, if_match=match)


@router.get("/bridges/{name}", response_model=shapes.BridgeRow, dependencies=[Tagged], tags=["bridges"])
async def bridge(served: Served, _: Viewer, name: str) -> Any:
    """One bridge."""
    return await served.bridges.show(name)


@router.put("/bridges/{name}", response_model=shapes.BridgeSaved, tags=["bridges"], openapi_extra=body_of("Members"))
async def put_bridge(served: Served, caller: Admin, name: str, body: JsonObject, match: IfMatch) -> Any:
    """Make a bridge what the body says; its logins stay."""
    return await served.bridges.update(caller, name, body, partial=False, if_match=match)


@router.patch("/bridges/{name}", response_model=shapes.BridgeSaved, tags=["bridges"], openapi_extra=body_of("Members"))
async def patch_bridge(served: Served, caller: Admin, name: str, body: JsonObject, match: IfMatch) -> Any:
    """Change some keys of a bridge; null takes one away."""
    return await served.bridges.update(caller, name, body, partial=True, if_match=match)


@router.delete("/bridges/{name}", response_model=shapes.Deleted, tags=["bridges"])
async def delete_bridge(served: Served, caller: Admin, name: str, match: IfMatch) -> Any:
    """Remove a bridge; mail that was accepted from it is still delivered."""
    return await served.bridges.delete(caller, name, if_match=match)


@router.post("/bridges/{name}/rotate", response_model=shapes.BridgeSecret, tags=["bridges"])
async def rotate(served: Served, caller: Admin, name: str, body: shapes.RotateBody, match: IfMatch) -> Any:
    """A new password for a login, told only now."""
    return await served.bridges.rotate(caller, name, username=body.username, keep=body.keep, if_match=match)


@router.delete("/bridges/{name}/logins/{username}", response_model=shapes.BridgeSaved, tags=["bridges"])
async def revoke(served: Served, caller: Admin, name: str, username: str, match: IfMatch) -> Any:
    """Take one login of a bridge away."""
    return await served.bridges.revoke(caller, name, username, if_match=match)
