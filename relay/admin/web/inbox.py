"""Mail that sandbox nodes took.

A message's HTML is the work of strangers. It is served by a path of its own, under a policy that allows nothing but
its own styles and `data:` pictures, in an origin of its own; the page shows it in a frame that adds the same by its
`sandbox` attribute. Text and headers are escaped like everything else.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, Response

from relay.admin.api.wiring import Served, Viewer
from relay.admin.web.forms import PageRoute
from relay.admin.web.render import page

router = APIRouter(route_class=PageRoute, include_in_schema=False)

Words = Annotated[str, Query(max_length=200)]

FRAME_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'; "
    "form-action 'none'; base-uri 'none'"
)


@router.get("/inbox")
async def inbox(request: Request, served: Served, _: Viewer, node: Words = "", text: Words = "") -> Response:
    mails = await served.inbox.list(node=node, text=text)
    return page(request, "inbox.html", mails=mails, nodes=await served.inbox.nodes(), node=node, text=text)


@router.get("/inbox/{node}/{key}")
async def mail(request: Request, served: Served, _: Viewer, node: str, key: str) -> Response:
    return page(request, "mail.html", mail=await served.inbox.show(node, key))


@router.get("/inbox/{node}/{key}/html")
async def framed(served: Served, _: Viewer, node: str, key: str) -> Response:
    found = await served.inbox.show(node, key)
    return HTMLResponse(
        found.view.html.encode("utf-8", "replace"),
        headers={"Content-Security-Policy": FRAME_POLICY, "X-Frame-Options": "SAMEORIGIN"},
    )


@router.get("/inbox/{node}/{key}/source")
async def source(served: Served, _: Viewer, node: str, key: str) -> Response:
    """The message as a file."""
    found = await served.inbox.show(node, key)
    return Response(
        found.view.source.encode("utf-8", "replace"),
        media_type="text/plain; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="message.eml"'},
    )
