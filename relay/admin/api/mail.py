"""The queue, the stories of messages, and the send API."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal
from urllib.parse import unquote

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError

from relay.admin.api import shapes
from relay.admin.api.wiring import Operator, Served, StrictRoute, Viewer
from relay.admin.refusals import Refused, faults_of
from relay.admin.security.guard import peer_of
from relay.admin.services.queue import PAGE, Chosen
from relay.admin.services.sending import Login, Outgoing, check_key

router = APIRouter(prefix="/api/v1", route_class=StrictRoute)

Filter = Annotated[str, Query(max_length=500)]
Key = Annotated[str | None, Header(alias="Idempotency-Key", pattern=r"^[!-~]{1,120}$")]


def _chosen(body: shapes.SelectionBody) -> Chosen:
    ids = tuple(message_id.strip().upper() for message_id in body.ids)
    return Chosen(ids=ids, pool=body.pool, bridge=body.bridge, standing=body.standing, text=body.text)


def _one(message_id: str) -> Chosen:
    return Chosen(ids=(message_id.strip().upper(),))


@router.get("/queue", response_model=shapes.QueuePage, tags=["queue"])
async def page(
    served: Served,
    _: Viewer,
    pool: Filter = "",
    bridge: Filter = "",
    standing: Literal["", "queued", "held", "quarantined"] = "",
    text: Filter = "",
    limit: Annotated[int, Query(ge=1, le=PAGE)] = 50,
    after: Annotated[str, Query(max_length=40)] = "",
) -> Any:
    """Messages that are not done, oldest first, with why they wait. `text`: part of sender, recipient or subject."""
    chosen = Chosen(pool=pool, bridge=bridge, standing=standing, text=text)
    return await served.queue.page(chosen, limit=limit, after=after)


@router.get("/queue/{message_id}", response_model=shapes.QueueRow, tags=["queue"])
async def show(served: Served, _: Viewer, message_id: str) -> Any:
    """One message of the queue with its header section."""
    return await served.queue.show(message_id)


@router.post("/queue/retry", response_model=shapes.ChangedRow, tags=["queue"])
async def retry_many(served: Served, caller: Operator, body: shapes.SelectionBody) -> Any:
    """Try messages now; also releases held and quarantined ones."""
    return await served.queue.retry(caller, _chosen(body))


@router.post("/queue/hold", response_model=shapes.ChangedRow, tags=["queue"])
async def hold_many(served: Served, caller: Operator, body: shapes.HoldBody) -> Any:
    """Keep messages back until they are retried."""
    return await served.queue.hold(caller, _chosen(body), body.reason)


@router.post("/queue/drop", response_model=shapes.ChangedRow, tags=["queue"])
async def drop_many(served: Served, caller: Operator, body: shapes.SelectionBody) -> Any:
    """Remove messages for good, without telling their senders."""
    return await served.queue.drop(caller, _chosen(body))


@router.post("/queue/{message_id}/retry", response_model=shapes.ChangedRow, tags=["queue"])
async def retry(served: Served, caller: Operator, message_id: str) -> Any:
    """Try one message now."""
    return await served.queue.retry(caller, _one(message_id))


@router.post("/queue/{message_id}/hold", response_model=shapes.ChangedRow, tags=["queue"])
async def hold(served: Served, caller: Operator, message_id: str, body: shapes.ReasonBody) -> Any:
    """Keep one message back."""
    return await served.queue.hold(caller, _one(message_id), body.reason)


@router.post("/queue/{message_id}/drop", response_model=shapes.ChangedRow, tags=["queue"])
async def drop(served: Served, caller: Operator, message_id: str) -> Any:
    """Remove one message for good, without telling its sender."""
    return await served.queue.drop(caller, _one(message_id))


@router.get("/messages/{message_id}", response_model=shapes.StoryRow, tags=["queue"])
async def story(served: Served, _: Viewer, message_id: str) -> Any:
    """A message's whole story: each decision with why every node was taken or skipped, each answer, and where it
    stands now."""
    return await served.queue.story(message_id)


# Sending

_RAW = {"message/rfc822", "message/global"}
_BRIDGE_LOGIN: Any = [{"bridgeLogin": []}, {"bridgeToken": []}]
_MESSAGE_BODY: Any = {
    "security": _BRIDGE_LOGIN,
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/MessageBody"}},
            "message/rfc822": {"schema": {"type": "string", "format": "binary"}},
        },
    },
}


@router.post("/messages", status_code=202, response_model=shapes.Accepted, tags=["send"], openapi_extra=_MESSAGE_BODY)
async def send(
    served: Served,
    request: Request,
    idempotency_key: Key = None,
    x_relay_sender: Annotated[str | None, Header(max_length=320)] = None,
    x_relay_recipients: Annotated[str | None, Header(max_length=8000)] = None,
) -> Any:
    """Hand in a message with a bridge's login (Basic), or one of its generated tokens alone (Bearer).

    JSON, or a message as it is with `message/rfc822`; its envelope is in `X-Relay-Sender` and `X-Relay-Recipients`
    (separated by commas; `%`, `,`, blanks and what is not ASCII percent-encoded), or else taken from the header
    section. 202: it is stored, as after 250 in SMTP.
    """
    login = _login(request)
    key = check_key(idempotency_key or "")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in _RAW:
        recipients = [unquote(each) for part in (x_relay_recipients or "").split(",") if (each := part.strip())]
        sender = None if x_relay_sender is None else unquote(x_relay_sender.strip("<> "))
        outgoing = await served.sending.from_raw(await request.body(), sender, recipients, key)
    elif kind == "application/json":
        outgoing = await _outgoing(served, await request.json(), shapes.MessageBody, key)
    else:
        raise Refused(415, "send application/json or message/rfc822")
    return await served.sending.one(login, peer_of(request.scope), outgoing)


@router.post(
    "/messages/batch",
    response_model=shapes.BatchResult,
    tags=["send"],
    responses={202: {"model": shapes.BatchResult}, 207: {"model": shapes.BatchResult}},
    status_code=202,
    openapi_extra={"security": _BRIDGE_LOGIN},
)
async def send_batch(served: Served, request: Request, body: shapes.BatchBody, idempotency_key: Key = None) -> Response:
    """Hand in up to 100 messages, each taken or refused by itself: 202 when all were taken, else 207."""
    login = _login(request)
    key = check_key(idempotency_key or "")
    batch = []
    for number, item in enumerate(body.messages):
        own = item.idempotency_key or (f"{key[:110]}:{number}" if key else "")
        fields = item.model_dump(by_alias=True, exclude_unset=True, exclude={"idempotency_key"})
        batch.append(await served.sending.from_json(fields, own))
    results = [_batch_row(result) for result in await served.sending.many(login, peer_of(request.scope), batch)]
    accepted = sum(row["status"] == "accepted" for row in results)
    answer = {"accepted": accepted, "refused": len(results) - accepted, "results": results}
    return JSONResponse(answer, status_code=202 if accepted == len(results) else 207)


async def _outgoing(served: Served, raw: Any, model: type[shapes.MessageBody], key: str) -> Outgoing:
    try:
        fields = model.model_validate(raw).model_dump(by_alias=True, exclude_unset=True)
    except ValidationError as error:
        faults = faults_of(error.errors(include_url=False, include_input=False))
        return Outgoing(refusal=Refused(422, "the message is not as it must be", errors=faults))
    return await served.sending.from_json(fields, key)


def _batch_row(result: dict[str, Any] | Refused) -> dict[str, Any]:
    if isinstance(result, Refused):
        return {
            "status": "refused", "id": "", "code": result.status, "detail": result.detail,
            "errors": [dict(each) for each in result.errors],
        }  # fmt: skip
    return {"status": "accepted", "id": result["id"], "code": 202, "detail": "", "errors": []}


def _login(request: Request) -> Login:
    """The login of a bridge. Raises Refused 401."""
    kind, _, rest = request.headers.get("authorization", "").partition(" ")
    rest = rest.strip()
    if kind.lower() == "bearer" and 0 < len(rest) <= 1024:
        return Login(token=rest)
    if kind.lower() == "basic":
        try:
            username, colon, password = base64.b64decode(rest, validate=True).decode("utf-8").partition(":")
        except (binascii.Error, UnicodeDecodeError, ValueError):
            username, colon, password = "", "", ""
        if colon and username and len(username) <= 255 and len(password) <= 1024:
            return Login(username=username, password=password)
    raise Refused(
        401, "log in as a bridge: Basic with its username and password, or Bearer with a generated password",
        headers={"WWW-Authenticate": 'Basic realm="relay bridge"'},
    )  # fmt: skip
