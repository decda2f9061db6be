"""The paths that operators' scripts already use for nodes ("sending nodes"); they do what `/api/v1/nodes` does.

`id` is the node's name. A batch is names joined by commas. Answers have the shapes of `/api/v1`.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from relay.admin.api import shapes
from relay.admin.api.wiring import Admin, Force, JsonObject, Served, StrictRoute, Test, Viewer, body_of
from relay.admin.refusals import Refused
from relay.admin.services.nodes import TYPES

router = APIRouter(prefix="/api/sending-node", route_class=StrictRoute, tags=["sending-node"])


@router.post("/add/{type}", status_code=201, response_model=shapes.NodeSaved, openapi_extra=body_of("Members"))
async def add(
    served: Served, caller: Admin, type: str, body: JsonObject, test: Test = True, force: Force = False
) -> Any:
    """Add a node of this type."""
    if type not in TYPES:
        raise Refused(404, f"there is no type {type[:100]!r}; there are: {', '.join(TYPES)}")
    return await served.nodes.create(caller, {**body, "type": type}, test=test, force=force)


@router.get("/get-all", response_model=list[shapes.NodeRow])
async def get_all(served: Served, _: Viewer) -> Any:
    """Every node."""
    return await served.nodes.list()


@router.get("/{id}", response_model=shapes.NodeRow)
async def get(served: Served, _: Viewer, id: str) -> Any:
    """One node."""
    return await served.nodes.show(id)


@router.put("/update/{id}", response_model=shapes.NodeSaved, openapi_extra=body_of("Members"))
async def update(
    served: Served, caller: Admin, id: str, body: JsonObject, test: Test = True, force: Force = False
) -> Any:
    """Change a node; keys that the body leaves out stay."""
    return await served.nodes.update(caller, id, body, partial=True, test=test, force=force)


@router.delete("/delete/{ids}", response_model=shapes.Deleted)
async def delete(served: Served, caller: Admin, ids: str) -> Any:
    """Remove nodes, all or none."""
    names = [name for part in ids.split(",") if (name := part.strip())]
    if not names:
        raise Refused(404, "no node is named")
    return await served.nodes.delete(caller, names)
