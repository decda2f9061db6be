"""A test message through a bridge: same rules, limits and queue as a client's."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from relay.admin.api.wiring import Operator, Served
from relay.admin.refusals import Refused, refusal_of
from relay.admin.web.forms import Form, PageRoute, text_of
from relay.admin.web.render import go, page

router = APIRouter(route_class=PageRoute, include_in_schema=False)

FIELDS = ("bridge", "from", "to", "subject", "text")
TEXT_LIMIT = 100_000


@router.get("/send")
async def form(request: Request, served: Served, _: Operator, bridge: str = "") -> Response:
    config = served.context.current.config
    domain = config.hostname or "localhost"
    typed = {
        "bridge": bridge,
        "from": f"test@{domain}",
        "to": "",
        "subject": "A test message",
        "text": "Sent from the dashboard to see the way a message takes.",
    }
    return page(request, "send.html", bridges=[each.name for each in config.bridges], typed=typed, refused=None)


@router.post("/send")
async def send(request: Request, served: Served, caller: Operator, form: Form) -> Response:
    typed = {key: text_of(form, key, TEXT_LIMIT) for key in FIELDS}
    recipients = [each.strip() for each in typed["to"].replace("\n", ",").split(",") if each.strip()]
    fields = {"from": typed["from"], "to": recipients, "subject": typed["subject"], "text": typed["text"]}
    try:
        if not recipients:
            raise Refused(422, "give a recipient")
        done = await served.sending.test(caller, typed["bridge"], fields)
    except Exception as error:
        refused = refusal_of(error)
        if refused is None:
            raise
        bridges = [each.name for each in served.context.current.config.bridges]
        return page(request, "send.html", bridges=bridges, typed=typed, refused=refused)
    return go(f"/message/{done['id']}", f"Taken as {done['id']}.")
