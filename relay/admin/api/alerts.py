"""Issues, and targets of alerts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query

from relay.admin.api import shapes
from relay.admin.api.wiring import Operator, Served, StrictRoute, Viewer

router = APIRouter(prefix="/api/v1", route_class=StrictRoute, tags=["alerts"])


@router.get("/issues", response_model=shapes.IssuePage)
async def issues(
    served: Served,
    _: Viewer,
    state: Literal["", "open", "closed"] = "",
    node: Annotated[str, Query(max_length=100)] = "",
    rule: Literal["", "node", "cap", "queue", "reload", "expiry", "spool"] = "",
    before: Annotated[int, Query(ge=0, le=2**62)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Any:
    """Troubles and how they ended, newest first; `before` a number for what is older."""
    return {"items": await served.issues.page(state=state, node=node, rule=rule, before=before, limit=limit)}


@router.get("/issues/{number}", response_model=shapes.IssueStory)
async def issue(served: Served, _: Viewer, number: Annotated[int, Path(ge=0, le=2**62)]) -> Any:
    """One issue, with what was told of it and to whom."""
    return await served.issues.one(number)


@router.get("/alerts/targets", response_model=list[shapes.TargetRow])
async def targets(served: Served, _: Viewer) -> Any:
    """Who is told of issues."""
    return await served.issues.targets()


@router.post("/alerts/targets/{name}/test", response_model=shapes.TargetTested)
async def test(served: Served, caller: Operator, name: str) -> Any:
    """Tell a target that this is a test. `taken`: whether it took it."""
    return await served.issues.test(caller, name)
