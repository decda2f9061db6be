"""Contracts of vendors that take JSON, second half."""

# ruff: noqa: PT018 - a check reads better whole
from __future__ import annotations

import re
from typing import Any

from tests.fakes.vendor_contract import (
    Box,
    Contract,
    File,
    Understood,
    address,
    bearer,
    filled,
    is_json,
    listed,
    octets,
    only,
    split_box,
    split_boxes,
    strings,
)
from tests.fakes.vendor_server import Reply, Request


def brevo() -> Contract:
    def box(value: Any) -> None:
        only(value, {"email": address}, {"name": filled})
        assert len(value.get("name", "")) <= 70

    def attached(value: Any) -> None:
        only(value, {"name": filled, "content": filled})
        assert len(value["content"]) <= 4_000_000

    def read(request: Request) -> Understood:
        assert (request.method, request.target) == ("POST", "/smtp/email")
        is_json(request)
        assert request.headers["api-key"] == "xkeysib-1"
        body = only(
            request.json,
            {"sender": box, "to": listed(box, 99), "subject": filled, "htmlContent": filled},
            {
                "cc": listed(box, 99),
                "bcc": listed(box, 99),
                "replyTo": box,
                "textContent": filled,
                "attachment": listed(attached),
                "headers": strings,
            },
        )

        def boxes(value: Any) -> list[Box]:
            return [(b.get("name", ""), b["email"]) for b in value]

        headers = dict(body["headers"])
        key = headers.pop("idempotencyKey")
        assert headers.pop("X-Mailin-custom").startswith("relay-id:")
        html: str | None = body["htmlContent"]
        if 'style="white-space:pre-wrap' in body["htmlContent"]:
            html = None  # made of the text, because HTML is required
        return Understood(
            sender=boxes([body["sender"]])[0],
            to=boxes(body["to"]),
            cc=boxes(body.get("cc", ())),
            bcc=boxes(body.get("bcc", ())),
            reply_to=boxes([body["replyTo"]]) if "replyTo" in body else [],
            subject=body["subject"],
            text=body.get("textContent"),
            html=html,
            files=[File(a["name"], "", octets(a["content"])) for a in body.get("attachment", ())],
            headers=list(headers.items()),
            key=key,
        )

    def probe(request: Request) -> Reply | None:
        if request.target != "/account":
            return None
        assert request.method == "GET" and request.headers["api-key"] == "xkeysib-1"
        return Reply(200, {"email": "owner@acme.example", "plan": [], "relay": {"enabled": True}})

    return Contract(
        "brevo",
        {"api_key": "xkeysib-1"},
        read,
        lambda _: Reply(201, {"messageId": "<b-1@smtp-relay>"}),
        probe,
        recipients=99,
    )


def zeptomail() -> Contract:
    def box(value: Any) -> None:
        only(value, {"address": address}, {"name": filled})
        assert len(value.get("name", "")) <= 250

    def recipient(value: Any) -> None:
        only(value, {"email_address": box})

    def attached(value: Any) -> None:
        only(value, {"content": str, "mime_type": filled, "name": filled})
        assert len(value["name"]) <= 150

    def inlined(value: Any) -> None:
        only(value, {"cid": filled, "content": str, "mime_type": filled})

    def boxes(value: Any) -> list[Box]:
        found = [b.get("email_address", b) for b in value]
        return [(b.get("name", ""), b["address"]) for b in found]

    def read(request: Request) -> Understood:
        assert (request.method, request.target) == ("POST", "/v1.1/email")
        is_json(request)
        assert request.headers["authorization"] == "Zoho-enczapikey zepto-token"
        assert len(request.body) <= 15_000_000
        body = only(
            request.json,
            {"from": box, "to": listed(recipient, 340), "subject": filled},
            {
                "cc": listed(recipient, 100),
                "bcc": listed(recipient, 100),
                "reply_to": listed(box, 40),
                "htmlbody": filled,
                "textbody": filled,
                "attachments": listed(attached, 60),
                "inline_images": listed(inlined),
                "mime_headers": strings,
                "client_reference": filled,
                "track_clicks": False,
                "track_opens": False,
            },
        )
        files = [File(a["name"], a["mime_type"], octets(a["content"])) for a in body.get("attachments", ())]
        files += [File("", a["mime_type"], octets(a["content"]), a["cid"]) for a in body.get("inline_images", ())]
        return Understood(
            sender=boxes([body["from"]])[0],
            to=boxes(body["to"]),
            cc=boxes(body.get("cc", ())),
            bcc=boxes(body.get("bcc", ())),
            reply_to=boxes(body.get("reply_to", ())),
            subject=body["subject"],
            text=body.get("textbody"),
            html=body.get("htmlbody"),
            files=files,
            headers=list(body.get("mime_headers", {}).items()),
        )

    def probe(request: Request) -> Reply | None:
        if request.body != b"{}":
            return None
        assert request.headers["authorization"] == "Zoho-enczapikey zepto-token"
        detail = {"code": "GE_102", "message": 'Mandatory Field "from" is missing.', "target": "from"}
        return Reply(400, {"error": {"code": "TM_3201", "message": "Mandatory field missing", "details": [detail]}})

    answer = {
        "data": [{"code": "EM_104", "additional_info": [], "message": "Email request received"}],
        "message": "OK",
        "request_id": "zm-1",
        "object": "email",
    }
    # Pasted as people paste it.
    return Contract(
        "zeptomail",
        {"token": ' "Zoho-enczapikey zepto-token" '},
        read,
        lambda _: Reply(201, answer),
        probe,
        recipients=340,
    )


def resend() -> Contract:
    def attached(value: Any) -> None:
        only(value, {"filename": filled, "content": str, "content_type": filled}, {"content_id": filled})
        assert len(value.get("content_id", "")) < 128

    def tag(value: Any) -> None:
        only(value, {"name": filled, "value": filled})
        assert re.fullmatch("[A-Za-z0-9_-]{1,256}", value["name"] + value["value"])

    def read(request: Request) -> Understood:
        assert (request.method, request.target) == ("POST", "/emails")
        is_json(request)
        bearer(request, "re_key")
        key = request.headers["idempotency-key"]
        assert 1 <= len(key) <= 256
        body = only(
            request.json,
            {"from": filled, "to": listed(filled, 50), "subject": str},
            {
                "cc": listed(filled, 50),
                "bcc": listed(filled, 50),
                "reply_to": listed(filled),
                "html": filled,
                "text": str,
                "headers": strings,
                "attachments": listed(attached),
                "tags": listed(tag),
            },
        )
        return Understood(
            sender=split_box(body["from"]),
            to=[split_box(b) for b in body["to"]],
            cc=[split_box(b) for b in body.get("cc", ())],
            bcc=[split_box(b) for b in body.get("bcc", ())],
            reply_to=[split_box(b) for b in body.get("reply_to", ())],
            subject=body["subject"],
            text=body.get("text") or None,
            html=body.get("html"),
            files=[
                File(a["filename"], a["content_type"], octets(a["content"]), a.get("content_id", ""))
                for a in body.get("attachments", ())
            ],
            headers=list(body.get("headers", {}).items()),
            key=key,
        )

    def probe(request: Request) -> Reply | None:
        if request.target != "/domains":
            return None
        bearer(request, "re_key")
        error = {"statusCode": 401, "name": "restricted_api_key", "message": "This API key is restricted to only send"}
        return Reply(401, error)

    return Contract("resend", {"api_key": "re_key"}, read, lambda _: Reply(200, {"id": "re-1"}), probe, recipients=50)


def mailersend() -> Contract:
    def box(value: Any) -> None:
        only(value, {"email": address}, {"name": filled})

    def attached(value: Any) -> None:
        only(value, {"content": str, "filename": filled, "disposition": str}, {"id": filled})
        assert value["disposition"] in ("inline", "attachment")

    def header(value: Any) -> None:
        only(value, {"name": filled, "value": str})

    def boxes(value: Any) -> list[Box]:
        return [(b.get("name", ""), b["email"]) for b in value]

    def read(request: Request) -> Understood:
        assert (request.method, request.target) == ("POST", "/email")
        is_json(request)
        bearer(request, "mlsn.key")
        body = only(
            request.json,
            {"from": box, "to": listed(box, 50), "subject": filled},
            {
                "cc": listed(box, 10),
                "bcc": listed(box, 10),
                "reply_to": box,
                "text": filled,
                "html": filled,
                "attachments": listed(attached),
                "headers": listed(header),
                "in_reply_to": filled,
                "references": listed(filled),
                "precedence_bulk": True,
                "settings": lambda s: only(s, {"track_clicks": False, "track_opens": False, "track_content": False}),
            },
        )
        headers = [(h["name"], h["value"]) for h in body.get("headers", ())]
        if "in_reply_to" in body:
            headers.append(("In-Reply-To", body["in_reply_to"]))
        if "references" in body:
            headers.append(("References", " ".join(body["references"])))
        if body.get("precedence_bulk"):
            headers.append(("Precedence", "bulk"))
        return Understood(
            sender=boxes([body["from"]])[0],
            to=boxes(body["to"]),
            cc=boxes(body.get("cc", ())),
            bcc=boxes(body.get("bcc", ())),
            reply_to=boxes([body["reply_to"]]) if "reply_to" in body else [],
            subject=body["subject"],
            text=body.get("text"),
            html=body.get("html"),
            files=[
                File(a["filename"], "", octets(a["content"]), a["id"] if a["disposition"] == "inline" else "")
                for a in body.get("attachments", ())
            ],
            headers=headers,
        )

    def probe(request: Request) -> Reply | None:
        if request.target != "/api-quota":
            return None
        bearer(request, "mlsn.key")
        return Reply(200, {"quota": 1000, "remaining": 998, "reset": "2026-01-02T00:00:00Z"})

    return Contract(
        "mailersend",
        {"api_key": "mlsn.key"},
        read,
        lambda _: Reply(202, b"", {"X-Message-Id": "ms-1"}),
        probe,
        recipients=50,
    )


def mumara() -> Contract:
    def attached(value: Any) -> None:
        only(
            value,
            {"filename": filled, "content": str, "content_type": filled},
            {"content_id": filled, "disposition": "inline"},
        )

    def read(request: Request) -> Understood:
        assert (request.method, request.target) == ("POST", "/bridge/7/send")
        is_json(request)
        bearer(request, "mumara-token")
        body = only(
            request.json,
            {"from": filled, "to": listed(filled), "subject": str},
            {
                "cc": listed(filled),
                "bcc": listed(filled),
                "reply_to": filled,
                "html": filled,
                "text": filled,
                "headers": strings,
                "attachments": listed(attached),
            },
        )
        return Understood(
            sender=split_box(body["from"]),
            to=[split_box(b) for b in body["to"]],
            cc=[split_box(b) for b in body.get("cc", ())],
            bcc=[split_box(b) for b in body.get("bcc", ())],
            reply_to=split_boxes(body.get("reply_to", "")),
            subject=body["subject"],
            text=body.get("text"),
            html=body.get("html"),
            files=[
                File(a["filename"], a["content_type"], octets(a["content"]), a.get("content_id", ""))
                for a in body.get("attachments", ())
            ],
            headers=list(body.get("headers", {}).items()),
            key=request.headers["idempotency-key"],
        )

    def probe(request: Request) -> Reply | None:
        if request.body != b"{}":
            return None
        bearer(request, "mumara-token")
        return Reply(422, {"error": "from is required"})

    return Contract(
        "mumara-one",
        {"token": "mumara-token"},
        read,
        lambda _: Reply(202, {"id": "msg_7a9f", "status": "queued"}),
        probe,
        recipients=50,
    )
