"""Contracts of vendors that take JSON, first half."""

# ruff: noqa: PT018 - a check reads better whole
from __future__ import annotations

import base64
import re
from typing import Any
from urllib.parse import unquote

from tests.fakes.vendor_contract import (
    Box,
    Contract,
    File,
    Understood,
    address,
    bearer,
    filled,
    header_recipients,
    is_json,
    listed,
    octets,
    only,
    split_box,
    split_boxes,
    strings,
)
from tests.fakes.vendor_server import Reply, Request


def sendgrid() -> Contract:
    def box(value: Any) -> None:
        only(value, {"email": address}, {"name": filled})
        assert not re.search("[,;]", value.get("name", ""))

    def part(value: Any) -> None:
        only(value, {"type": filled, "value": filled})

    def attached(value: Any) -> None:
        only(
            value,
            {"content": filled, "type": filled, "filename": filled, "disposition": str},
            {"content_id": filled},
        )
        assert value["disposition"] in ("inline", "attachment")
        assert not re.search("[<>]", value.get("content_id", ""))

    forbidden = ["x-sg-id", "x-sg-eid", "received", "dkim-signature", "content-type", "content-transfer-encoding"]
    forbidden += ["to", "from", "subject", "reply-to", "cc", "bcc", "x-smtpapi"]
    off = {"enable": False}

    def read(request: Request) -> Understood:
        assert (request.method, request.target) == ("POST", "/v3/mail/send")
        is_json(request)
        bearer(request, "SG.key")
        assert request.headers["accept"] == "application/json"
        assert len(request.body) < 30_000_000
        body = only(
            request.json,
            {
                "personalizations": listed(
                    lambda p: only(p, {"to": listed(box, 1000)}, {"cc": listed(box), "bcc": listed(box)}), 1
                ),
                "from": box,
                "subject": filled,
                "content": listed(part),
            },
            {
                "reply_to": box,
                "reply_to_list": listed(box, 1000, 2),
                "attachments": listed(attached),
                "headers": lambda h: strings(h, forbidden),
                "custom_args": lambda a: only(a, {"relay_id": filled}),
                "tracking_settings": lambda t: only(
                    t,
                    {
                        "click_tracking": lambda c: only(c, {"enable": False, "enable_text": False}),
                        "open_tracking": off,
                        "subscription_tracking": off,
                    },
                ),
            },
        )
        person = body["personalizations"][0]
        everybody = [b["email"].lower() for key in ("to", "cc", "bcc") for b in person.get(key, ())]
        assert len(set(everybody)) == len(everybody), "an address may stand only once"
        order = [p["type"].partition(";")[0] for p in body["content"]]
        assert order == sorted(order, key=["text/plain", "text/html", "text/calendar"].index)
        content = {p["type"].partition(";")[0]: p["value"] for p in body["content"]}

        def boxes(value: Any) -> list[Box]:
            return [(b.get("name", ""), b["email"]) for b in value]

        return Understood(
            sender=boxes([body["from"]])[0],
            to=boxes(person["to"]),
            cc=boxes(person.get("cc", ())),
            bcc=boxes(person.get("bcc", ())),
            reply_to=boxes([body["reply_to"]] if "reply_to" in body else body.get("reply_to_list", ())),
            subject=body["subject"],
            text=content.get("text/plain"),
            html=content.get("text/html"),
            calendar=content.get("text/calendar"),
            files=[
                File(
                    a["filename"],
                    a["type"],
                    octets(a["content"]),
                    a["content_id"] if a["disposition"] == "inline" else "",
                )
                for a in body.get("attachments", ())
            ],
            headers=list(body.get("headers", {}).items()),
        )

    def probe(request: Request) -> Reply | None:
        if request.target != "/v3/scopes":
            return None
        assert request.method == "GET"
        bearer(request, "SG.key")
        return Reply(200, {"scopes": ["mail.send", "alerts.read"]})

    return Contract(
        "sendgrid",
        {"api_key": "SG.key"},
        read,
        lambda _: Reply(202, b"", {"X-Message-Id": "sg-1"}),
        probe,
        recipients=1000,
    )


def postmark() -> Contract:
    def attached(value: Any) -> None:
        only(value, {"Name": filled, "Content": str, "ContentType": filled}, {"ContentID": filled})
        assert re.match("cid:.", value.get("ContentID", "cid:x"))

    def read(request: Request) -> Understood:
        assert (request.method, request.target) == ("POST", "/email")
        is_json(request)
        assert request.headers["accept"] == "application/json"
        assert request.headers["x-postmark-server-token"] == "pm-token"
        assert len(request.body) <= 10 * 2**20
        body = only(
            request.json,
            {"From": filled, "To": filled, "Subject": str},
            {
                "Cc": filled,
                "Bcc": filled,
                "HtmlBody": filled,
                "TextBody": filled,
                "ReplyTo": filled,
                "Headers": listed(lambda h: only(h, {"Name": filled, "Value": str})),
                "Attachments": listed(attached),
                "Metadata": lambda m: only(m, {"relay-id": filled}),
                "MessageStream": "outbound",
                "TrackOpens": False,
                "TrackLinks": "None",
            },
        )
        assert "HtmlBody" in body or "TextBody" in body
        return Understood(
            sender=split_box(body["From"]),
            to=split_boxes(body["To"]),
            cc=split_boxes(body.get("Cc", "")),
            bcc=split_boxes(body.get("Bcc", "")),
            reply_to=split_boxes(body.get("ReplyTo", "")),
            subject=body["Subject"],
            text=body.get("TextBody"),
            html=body.get("HtmlBody"),
            files=[
                File(a["Name"], a["ContentType"], octets(a["Content"]), a.get("ContentID", "").removeprefix("cid:"))
                for a in body.get("Attachments", ())
            ],
            headers=[(h["Name"], h["Value"]) for h in body.get("Headers", ())],
        )

    def probe(request: Request) -> Reply | None:
        if request.target != "/server":
            return None
        assert request.method == "GET" and request.headers["x-postmark-server-token"] == "pm-token"
        return Reply(200, {"ID": 1, "Name": "Production", "DeliveryType": "Live"})

    answer = {"ErrorCode": 0, "Message": "OK", "MessageID": "pm-1", "SubmittedAt": "2026-01-01T00:00:00Z", "To": ""}
    return Contract("postmark", {"server_token": "pm-token"}, read, lambda _: Reply(200, answer), probe, recipients=50)


def elasticemail() -> Contract:
    def attached(value: Any) -> None:
        only(value, {"BinaryContent": str, "Name": filled}, {"ContentType": filled, "Size": int})
        assert len(octets(value["BinaryContent"])) == value["Size"]

    def part(value: Any) -> None:
        only(value, {"ContentType": str, "Content": filled, "Charset": "utf-8"})
        assert value["ContentType"] in ("HTML", "PlainText")

    forbidden = ["from", "to", "cc", "bcc", "subject", "reply-to", "content-type"]

    def read(request: Request) -> Understood:
        assert (request.method, request.target) == ("POST", "/emails/transactional")
        is_json(request)
        assert request.headers["x-elasticemail-apikey"] == "ee-key"
        body = only(
            request.json,
            {
                "Recipients": lambda r: only(
                    r, {"To": listed(address)}, {"CC": listed(address), "BCC": listed(address)}
                ),
                "Content": lambda c: only(
                    c,
                    {"From": filled, "Subject": str, "Body": listed(part)},
                    {
                        "ReplyTo": filled,
                        "Attachments": listed(attached),
                        "Headers": lambda h: strings(h, forbidden),
                        "Postback": filled,
                    },
                ),
            },
            {"Options": lambda o: only(o, {"TrackOpens": False, "TrackClicks": False})},
        )
        content, recipients = body["Content"], body["Recipients"]
        bodies = {p["ContentType"]: p["Content"] for p in content["Body"]}
        html = bodies.get("HTML", "")
        return Understood(
            sender=split_box(content["From"]),
            to=[("", a) for a in recipients["To"]],
            cc=[("", a) for a in recipients.get("CC", ())],
            bcc=[("", a) for a in recipients.get("BCC", ())],
            reply_to=split_boxes(content.get("ReplyTo", "")),
            subject=content["Subject"],
            text=bodies.get("PlainText"),
            html=html or None,
            files=[
                File(
                    a["Name"],
                    a["ContentType"],
                    octets(a["BinaryContent"]),
                    a["Name"] if f"cid:{a['Name']}" in unquote(html) else "",
                )
                for a in content.get("Attachments", ())
            ],
            headers=list(content.get("Headers", {}).items()),
        )

    def probe(request: Request) -> Reply | None:
        if request.target != "/domains":
            return None
        assert request.method == "GET" and request.headers["x-elasticemail-apikey"] == "ee-key"
        return Reply(400, {"Error": "Access Denied."})

    return Contract(
        "elasticemail",
        {"api_key": "ee-key"},
        read,
        lambda _: Reply(200, {"TransactionID": "t-1", "MessageID": "ee-1"}),
        probe,
        recipients=50,
    )


_MAILJET_FORBIDDEN = """
    From Sender Subject To Cc Bcc Return-Path Delivered-To DKIM-Signature DomainKey-Status Received-SPF
    Authentication-Results Received X-Mailjet-Prio X-Mailjet-Debug User-Agent X-Mailer X-MJ-CustomID
    X-MJ-EventPayload X-MJ-Vars X-MJ-TemplateErrorDeliver X-MJ-TemplateErrorReporting X-MJ-TemplateLanguage
    X-Mailjet-TrackOpen X-Mailjet-TrackClick X-MJ-TemplateID X-MJ-WorkflowID X-Feedback-Id
    X-Mailjet-Segmentation List-Id X-MJ-MID X-MJ-ErrorMessage Date X-CSA-Complaints Message-Id
    X-Mailjet-Campaign X-MJ-StatisticsContactsListID Reply-To
"""


def mailjet() -> Contract:
    def box(value: Any) -> None:
        only(value, {"Email": address}, {"Name": filled})

    def attached(value: Any) -> None:
        only(value, {"ContentType": filled, "Filename": filled, "Base64Content": str})

    def inlined(value: Any) -> None:
        only(value, {"ContentType": filled, "Filename": filled, "Base64Content": str, "ContentID": filled})

    def message(value: Any) -> None:
        only(
            value,
            {"From": box, "To": listed(box, 50), "Subject": str},
            {
                "Cc": listed(box, 50),
                "Bcc": listed(box, 50),
                "ReplyTo": box,
                "TextPart": filled,
                "HTMLPart": filled,
                "Attachments": listed(attached),
                "InlinedAttachments": listed(inlined),
                "Headers": lambda h: strings(h, _MAILJET_FORBIDDEN.split()),
                "CustomID": filled,
                "TrackOpens": "disabled",
                "TrackClicks": "disabled",
            },
        )
        assert len(value["Subject"]) <= 255

    def boxes(value: Any) -> list[Box]:
        return [(b.get("Name", ""), b["Email"]) for b in value]

    def read(request: Request) -> Understood:
        assert (request.method, request.target) == ("POST", "/v3.1/send")
        is_json(request)
        assert base64.b64decode(request.headers["authorization"].removeprefix("Basic ")) == b"mj-public:mj-secret"
        (found,) = only(request.json, {"Messages": listed(message, 1)})["Messages"]
        files = [
            File(a["Filename"], a["ContentType"], octets(a["Base64Content"])) for a in found.get("Attachments", ())
        ]
        for a in found.get("InlinedAttachments", ()):
            files.append(File(a["Filename"], a["ContentType"], octets(a["Base64Content"]), a["ContentID"]))
        return Understood(
            sender=boxes([found["From"]])[0],
            to=boxes(found["To"]),
            cc=boxes(found.get("Cc", ())),
            bcc=boxes(found.get("Bcc", ())),
            reply_to=boxes([found["ReplyTo"]]) if "ReplyTo" in found else [],
            subject=found["Subject"],
            text=found.get("TextPart"),
            html=found.get("HTMLPart"),
            files=files,
            headers=list(found.get("Headers", {}).items()),
        )

    def success(understood: Understood) -> Reply:
        def entries(found: list[Box]) -> list[dict[str, Any]]:
            return [{"Email": a, "MessageUUID": "u", "MessageID": 2**40 + i} for i, (_, a) in enumerate(found)]

        result = {"Status": "success", "CustomID": "x", "To": entries(understood.to), "Cc": entries(understood.cc)}
        return Reply(200, {"Messages": [{**result, "Bcc": entries(understood.bcc)}]})

    def probe(request: Request) -> Reply | None:
        if request.target != "/v3/REST/apikey?Limit=1":
            return None
        assert base64.b64decode(request.headers["authorization"].removeprefix("Basic ")) == b"mj-public:mj-secret"
        return Reply(200, {"Count": 1, "Data": [{}], "Total": 1})

    return Contract("mailjet", {"api_key": "mj-public", "secret_key": "mj-secret"}, read, success, probe, recipients=50)


def smtp2go() -> Contract:
    def attached(value: Any) -> None:
        only(value, {"filename": filled, "mimetype": filled, "fileblob": str})

    def custom(value: Any) -> None:
        only(value, {"header": filled, "value": str})
        assert value["header"].lower() not in ("content-type", "content-transfer-encoding", "mime-version")

    def read(request: Request) -> Understood:
        assert request.method == "POST"
        is_json(request)
        assert request.headers["x-smtp2go-api-key"] == "api-0123456789"
        if request.target == "/email/mime":
            body = only(request.json, {"mime_email": filled, "fastaccept": False})
            understood = header_recipients(octets(body["mime_email"]))
            assert not understood.bcc, "whether Bcc is removed is not documented"
            return understood
        assert request.target == "/email/send"
        body = only(
            request.json,
            {"sender": filled, "to": listed(filled, 100), "subject": str, "fastaccept": False},
            {
                "cc": listed(filled, 100),
                "bcc": listed(filled, 100),
                "text_body": filled,
                "html_body": filled,
                "custom_headers": listed(custom),
                "attachments": listed(attached),
                "inlines": listed(attached),
            },
        )
        headers = [(h["header"], h["value"]) for h in body.get("custom_headers", ())]
        reply = [value for name, value in headers if name == "Reply-To"]
        files = [File(a["filename"], a["mimetype"], octets(a["fileblob"])) for a in body.get("attachments", ())]
        files += [
            File(a["filename"], a["mimetype"], octets(a["fileblob"]), a["filename"]) for a in body.get("inlines", ())
        ]
        return Understood(
            sender=split_box(body["sender"]),
            to=[split_box(b) for b in body["to"]],
            cc=[split_box(b) for b in body.get("cc", ())],
            bcc=[split_box(b) for b in body.get("bcc", ())],
            reply_to=split_boxes(reply[0]) if reply else [],
            subject=body["subject"],
            text=body.get("text_body"),
            html=body.get("html_body"),
            files=files,
            headers=[(name, value) for name, value in headers if name != "Reply-To"],
        )

    def probe(request: Request) -> Reply | None:
        if request.target != "/api_keys/permissions":
            return None
        assert request.headers["x-smtp2go-api-key"] == "api-0123456789" and request.json == {}
        return Reply(200, {"request_id": "r", "data": {"permissions": ["/email/mime", "/email/send"]}})

    return Contract(
        "smtp2go",
        {"api_key": "api-0123456789"},
        read,
        lambda u: Reply(
            200,
            {
                "request_id": "r",
                "data": {"succeeded": len(u.recipients), "failed": 0, "failures": [], "email_id": "2go-1"},
            },
        ),
        probe,
        recipients=100,
    )
