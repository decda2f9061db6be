"""The queue, and each message's story."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from relay.admin.api.wiring import Operator, Served, Viewer
from relay.admin.refusals import Refused
from relay.admin.services.queue import Chosen
from relay.admin.services.waits import standing
from relay.admin.web.forms import Form, PageRoute, text_of
from relay.admin.web.render import go, page
from relay.admin.web.story import ended, steps
from relay.admin.web.words import plural

router = APIRouter(route_class=PageRoute, include_in_schema=False)

LISTED = 50

Words = Annotated[str, Query(max_length=500)]
Standing = Literal["", "queued", "held", "quarantined"]

_DONE = {"retry": "tried now", "hold": "held", "drop": "dropped"}


@router.get("/queue")
async def queue(
    request: Request,
    served: Served,
    _: Viewer,
    pool: Words = "",
    bridge: Words = "",
    standing_: Annotated[Standing, Query(alias="standing")] = "",
    text: Words = "",
    after: Annotated[str, Query(max_length=40)] = "",
) -> Response:
    chosen = Chosen(pool=pool, bridge=bridge, standing=standing_, text=text)
    found = await served.queue.page(chosen, limit=LISTED, after=after)
    config = served.context.current.config
    filters = {"pool": pool, "bridge": bridge, "standing": standing_, "text": text}
    further = urlencode({key: value for key, value in {**filters, "after": found["next"]}.items() if value})
    return page(
        request, "queue.html", rows=found["items"], further=further if found["next"] else "", after=after,
        filters=filters, pools=[each.name for each in config.pools], bridges=[each.name for each in config.bridges],
        queue=standing((await served.overview.status())["workers"]),
    )  # fmt: skip


@router.post("/queue/{what}")
async def act(served: Served, caller: Operator, what: Literal["retry", "hold", "drop"], form: Form) -> Response:
    """On the messages that are ticked, or on all that fit the filter."""
    ids = tuple(str(each).strip().upper() for each in form.getlist("id") if isinstance(each, str))
    back = {key: text_of(form, key, 500) for key in ("pool", "bridge", "standing", "text")}
    if text_of(form, "scope") == "all":
        chosen = Chosen(pool=back["pool"], bridge=back["bridge"], standing=back["standing"], text=back["text"])
    elif ids:
        chosen = Chosen(ids=ids)
    else:
        raise Refused(422, "tick the messages that are meant")
    match what:
        case "retry":
            done = await served.queue.retry(caller, chosen)
        case "hold":
            done = await served.queue.hold(caller, chosen, text_of(form, "reason", 300) or "no reason given")
        case "drop":
            done = await served.queue.drop(caller, chosen)
    busy = f"; {plural(done['delivering'], 'message')} with a node now left alone" if done["delivering"] else ""
    said = f"{plural(done['changed'], 'message')} {_DONE[what]}{busy}."
    message = text_of(form, "message", 40)
    if message and what != "drop":
        return go(f"/message/{message}", said)
    return go("/queue?" + urlencode({key: value for key, value in back.items() if value}), said)


@router.get("/message/{message_id}")
async def story(request: Request, served: Served, _: Viewer, message_id: str) -> Response:
    told = await served.queue.story(message_id)
    head = ""
    if told["now"]:
        try:
            head = str((await served.queue.show(told["id"]))["head"])
        except Refused:  # it has just left
            head = ""
    first: dict[str, Any] = next((event for event in told["story"] if event["event"] == "message.accepted"), {})
    return page(
        request, "message.html", id=told["id"], entry=told["now"], steps=steps(told["story"]),
        ended=ended(told["story"]), first=first, head=head,
    )  # fmt: skip


@router.get("/find")
async def find(served: Served, _: Viewer, q: Annotated[str, Query(max_length=200)] = "") -> Response:
    """From the search field: a message by its id, else the queue by text."""
    del served
    words = q.strip()
    if len(words) == 26 and words.isascii() and words.isalnum():
        return go(f"/message/{words.upper()}")
    return go("/queue?" + urlencode({"text": words}))
