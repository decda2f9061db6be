"""Bridges: their logins, which are never shown, what they may do, and when they were last used."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from relay.admin.api.wiring import Admin, Served, Services, Viewer
from relay.admin.refusals import Refused, refusal_of
from relay.admin.web.forms import Form, PageRoute, text_of
from relay.admin.web.option_form import Field, bridge_fields, filled, mapping_of
from relay.admin.web.render import go, page

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/bridges")
async def bridges(request: Request, served: Served, _: Viewer) -> Response:
    uses = await served.last_use.of_bridges()
    return page(request, "bridges.html", bridges=await served.bridges.list(), uses=uses)


@router.get("/bridges/new")
async def new(request: Request, served: Served, _: Admin) -> Response:
    return await _form(request, served, bridge_fields())


@router.post("/bridges/new")
async def add(request: Request, served: Served, caller: Admin, form: Form) -> Response:
    fields = bridge_fields()
    try:
        body = mapping_of(fields, form)
        if pool := text_of(form, "pool"):
            body["pool"] = pool
        username = text_of(form, "username", 255)
        body["username"] = username or (None if body.get("networks") else body.get("name"))
        done = await served.bridges.create(caller, body)
    except Exception as error:
        return await _form(request, served, filled(fields, form), refused=_expected(error))
    return await _shown(request, served, str(body["name"]), secret=done)


@router.get("/bridge/{name}")
async def bridge(request: Request, served: Served, _: Viewer, name: str) -> Response:
    return await _shown(request, served, name)


@router.get("/bridge/{name}/edit")
async def edit(request: Request, served: Served, _: Admin, name: str) -> Response:
    row = await served.bridges.show(name)
    return await _form(request, served, bridge_fields(row["options"]), name=name, pool=row["pool"])


@router.post("/bridge/{name}/edit")
async def change(request: Request, served: Served, caller: Admin, name: str, form: Form) -> Response:
    row = await served.bridges.show(name)
    fields = bridge_fields(row["options"])
    try:
        body = mapping_of(fields, form)
        if pool := text_of(form, "pool"):
            body["pool"] = pool
        await served.bridges.update(caller, name, body, partial=False)
    except Exception as error:
        return await _form(request, served, filled(fields, form), name=name, refused=_expected(error))
    return go(f"/bridge/{name}", f"Bridge {name} is changed.")


@router.post("/bridge/{name}/rotate")
async def rotate(request: Request, served: Served, caller: Admin, name: str, form: Form) -> Response:
    done = await served.bridges.rotate(caller, name, username=text_of(form, "username", 255), keep="keep" in form)
    return await _shown(request, served, name, secret=done)


@router.post("/bridge/{name}/revoke")
async def revoke(served: Served, caller: Admin, name: str, form: Form) -> Response:
    username = text_of(form, "username", 255)
    await served.bridges.revoke(caller, name, username)
    return go(f"/bridge/{name}", f"Login {username} is revoked.")


@router.post("/bridge/{name}/delete")
async def delete(served: Served, caller: Admin, name: str, form: Form) -> Response:
    if text_of(form, "confirm") != name:
        return go(f"/bridge/{name}", f"Type {name} to remove it.", fault=True)
    await served.bridges.delete(caller, name)
    return go("/bridges", f"Bridge {name} is removed; mail that was taken from it is still delivered.")


async def _shown(request: Request, served: Services, name: str, secret: dict[str, object] | None = None) -> Response:
    """`secret`: a password that was just made, told only in this answer."""
    row = await served.bridges.show(name)
    uses = await served.last_use.of_bridges()
    return page(request, "bridge.html", bridge=row, use=uses.get(name), secret=secret)


async def _form(
    request: Request,
    served: Services,
    fields: list[Field],
    *,
    name: str = "",
    pool: str = "",
    refused: Refused | None = None,
) -> Response:
    pools = [row.name for row in served.context.current.config.pools]
    return page(request, "bridge_form.html", fields=fields, name=name, pool=pool, pools=pools, refused=refused)


def _expected(error: Exception) -> Refused:
    refused = refusal_of(error)
    if refused is None:
        raise error
    return refused
