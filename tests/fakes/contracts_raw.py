"""Contracts of vendors that take the raw message."""

# ruff: noqa: PT018 - a check reads better whole
from __future__ import annotations

import base64
import binascii
import re

from tests.fakes.vendor_contract import (
    Contract,
    Understood,
    address,
    bearer,
    filled,
    header_recipients,
    is_json,
    listed,
    octets,
    only,
)
from tests.fakes.vendor_server import Reply, Request

MAILBOX = {"mailbox": "news@acme.example", "oauth": {"client_id": "app-1"}}


def ses() -> Contract:
    def read(request: Request) -> Understood:
        assert (request.method, request.target) == ("POST", "/v2/email/outbound-emails")
        is_json(request)
        _check_sigv4(request, "AKIAEXAMPLE", "secret/of/iam", "eu-west-1")
        body = only(
            request.json,
            {
                "Destination": lambda d: only(d, {"ToAddresses": listed(address, 50)}),
                "Content": lambda c: only(c, {"Raw": lambda r: only(r, {"Data": filled})}),
            },
            {"EmailTags": listed(lambda t: only(t, {"Name": str, "Value": filled})), "ConfigurationSetName": "tx"},
        )
        raw = octets(body["Content"]["Raw"]["Data"])
        head = raw.partition(b"\r\n\r\n")[0]
        assert not re.search(rb"(?im)^x-ses-", head), "the client chose settings of the account"
        assert len(re.findall(rb"(?im)^dkim-signature:", head)) <= 1
        return Understood(envelope=body["Destination"]["ToAddresses"], raw=raw)

    def probe(request: Request) -> Reply | None:
        if request.method != "GET":
            return None
        assert request.target == "/v2/email/account"
        _check_sigv4(request, "AKIAEXAMPLE", "secret/of/iam", "eu-west-1")
        quota = {"Max24HourSend": 50000.0, "MaxSendRate": 14.0, "SentLast24Hours": 120.0}
        return Reply(200, {"SendQuota": quota, "SendingEnabled": True, "ProductionAccessEnabled": True})

    options = {"region": "eu-west-1", "access_key_id": "AKIAEXAMPLE", "secret_access_key": "secret/of/iam"}
    return Contract(
        "ses", options, read, lambda _: Reply(200, {"MessageId": "0102-ses"}), probe, raw=True, recipients=50
    )


def _check_sigv4(request: Request, key_id: str, secret: str, region: str) -> None:
    """The signature, recomputed from the request by the published algorithm."""
    import hashlib
    import hmac

    found = re.fullmatch(
        rf"AWS4-HMAC-SHA256 Credential={key_id}/(\d{{8}})/{region}/ses/aws4_request, "
        r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})",
        request.headers["authorization"],
    )
    assert found, request.headers["authorization"]
    day, signed, signature = found.groups()
    assert "host" in signed.split(";") and "x-amz-date" in signed.split(";")
    digest = hashlib.sha256(request.body).hexdigest()
    assert request.headers.get("x-amz-content-sha256", digest) == digest
    path, _, query = request.target.partition("?")
    canonical = "\n".join(
        [
            request.method,
            path,
            query,
            *(f"{name}:{' '.join(request.headers[name].split())}" for name in signed.split(";")),
            "",
            signed,
            digest,
        ]
    )
    scope = f"{day}/{region}/ses/aws4_request"
    text = "\n".join(
        ["AWS4-HMAC-SHA256", request.headers["x-amz-date"], scope, hashlib.sha256(canonical.encode()).hexdigest()]
    )
    key = f"AWS4{secret}".encode()
    for part in (day, region, "ses", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    assert hmac.new(key, text.encode(), hashlib.sha256).hexdigest() == signature, "the signature is wrong"


def mailgun() -> Contract:
    def read(request: Request) -> Understood:
        assert (request.method, request.target) == ("POST", "/v3/mg.acme.example/messages.mime")
        login = base64.b64decode(request.headers["authorization"].removeprefix("Basic "))
        assert login == b"api:key-mailgun"
        to, options, raw = [], {}, None
        for name, filename, kind, content in request.form:
            if name == "message":
                assert raw is None and filename and kind == "message/rfc822"
                raw = content
            elif name == "to":
                address(content.decode())
                to.append(content.decode())
            else:
                assert name in ("o:tracking", "o:tracking-clicks", "o:tracking-opens", "v:relay-id"), name
                options[name] = content.decode()
        assert raw is not None
        assert {options[n] for n in options if n.startswith("o:")} == {"no"}
        assert len(to) <= 1000
        assert not re.search(rb"(?im)^x-mailgun-", raw.partition(b"\r\n\r\n")[0])
        return Understood(envelope=to, raw=raw)

    def probe(request: Request) -> Reply | None:
        if any(name == "to" for name, *_ in request.form):
            return None
        return Reply(400, {"message": "to parameter is missing"})

    return Contract(
        "mailgun",
        {"domain": "mg.acme.example", "api_key": "key-mailgun"},
        read,
        lambda _: Reply(200, {"id": "<2026.1@mg.acme.example>", "message": "Queued. Thank you."}),
        probe,
        raw=True,
    )


def sparkpost() -> Contract:
    def read(request: Request) -> Understood:
        assert (request.method, request.target) == ("POST", "/transmissions")
        is_json(request)
        assert request.headers["authorization"] == "spark-key"
        body = only(
            request.json,
            {
                "recipients": listed(lambda r: only(r, {"address": lambda a: only(a, {"email": address})})),
                "content": lambda c: only(c, {"email_rfc822": filled}),
            },
            {
                "options": lambda o: only(
                    o,
                    {"perform_substitutions": False, "transactional": True},
                    {"open_tracking": False, "click_tracking": False, "initial_open": False},
                ),
                "metadata": lambda m: only(m, {"relay_id": filled}),
            },
        )
        raw = body["content"]["email_rfc822"].encode("utf-8")
        head = raw.partition(b"\r\n\r\n")[0]
        assert b"{{" not in head and b"}}" not in head, "the template engine would act on this"
        assert not re.search(rb"(?im)^x-msys-api", head)
        return Understood(envelope=[r["address"]["email"] for r in body["recipients"]], raw=raw)

    def success(understood: Understood) -> Reply:
        results = {"total_rejected_recipients": 0, "total_accepted_recipients": len(understood.envelope), "id": "117"}
        return Reply(200, {"results": results})

    def probe(request: Request) -> Reply | None:
        if request.body != b"{}":
            return None
        assert request.headers["authorization"] == "spark-key"
        error = {"message": "required field is missing", "description": "recipients", "code": "1400"}
        return Reply(422, {"errors": [error]})

    return Contract("sparkpost", {"api_key": "spark-key", "batch": 1000}, read, success, probe, raw=True)


def mandrill() -> Contract:
    def read(request: Request) -> Understood:
        assert (request.method, request.target) == ("POST", "/messages/send-raw")
        is_json(request)
        body = only(
            request.json,
            {"key": "md-key", "raw_message": filled, "to": listed(address), "async": bool},
            {"ip_pool": str},
        )
        raw = body["raw_message"].encode("utf-8")
        assert not re.search(rb"(?im)^x-mc-", raw.partition(b"\r\n\r\n")[0])
        return Understood(envelope=body["to"], raw=raw)

    def success(understood: Understood) -> Reply:
        return Reply(200, [{"email": a, "status": "sent", "_id": f"md-{i}"} for i, a in enumerate(understood.envelope)])

    def probe(request: Request) -> Reply | None:
        if request.target != "/users/ping2":
            return None
        only(request.json, {"key": "md-key"})
        return Reply(200, {"PING": "PONG!"})

    return Contract("mandrill", {"api_key": "md-key"}, read, success, probe, raw=True, recipients=100)


def relay() -> Contract:
    from urllib.parse import unquote

    def read(request: Request) -> Understood:
        assert (request.method, request.target) == ("POST", "/api/v1/messages")
        bearer(request, "bridge-token")
        assert request.headers["content-type"] == "message/rfc822"
        to = [unquote(item) for item in request.headers["x-relay-recipients"].split(",")]
        key = request.headers["idempotency-key"]
        assert 1 <= len(key) <= 200 and key.isascii() and key.isprintable()
        sender = unquote(request.headers["x-relay-sender"])
        return Understood(envelope=to, raw=request.body, key=key, reverse_path=sender)

    def probe(request: Request) -> Reply | None:
        if request.headers.get("x-relay-recipients"):
            return None
        bearer(request, "bridge-token")
        return Reply(422, {"error": "no recipients"})

    return Contract(
        "relay",
        {"token": "bridge-token"},
        read,
        lambda _: Reply(202, {"id": "01J0OTHER"}),
        probe,
        raw=True,
        recipients=100,
    )


def msgraph() -> Contract:
    def read(request: Request) -> Understood:
        assert (request.method, request.target) == ("POST", "/users/news@acme.example/sendMail")
        bearer(request, "token-1")
        assert request.headers["content-type"] == "text/plain"
        assert len(request.body) <= 4 * 2**20
        return header_recipients(octets(request.body))

    def probe(request: Request) -> Reply | None:
        try:
            octets(request.body)
        except binascii.Error:
            bearer(request, "token-1")
            return Reply(400, {"error": {"code": "ErrorMimeContentInvalidBase64String", "message": "Invalid base64"}})
        return None

    return Contract("msgraph", MAILBOX, read, lambda _: Reply(202), probe, recipients=500)


def gmail() -> Contract:
    def read(request: Request) -> Understood:
        assert request.method == "POST"
        assert request.target == "/upload/gmail/v1/users/me/messages/send?uploadType=media"
        bearer(request, "token-1")
        assert request.headers["content-type"] == "message/rfc822"
        assert len(request.body) <= 36_700_160
        return header_recipients(request.body)

    def probe(request: Request) -> Reply | None:
        if request.target != "/gmail/v1/users/me/messages/send":
            return None
        bearer(request, "token-1")
        error = {
            "code": 400,
            "message": "'raw' RFC822 payload message string is required",
            "status": "INVALID_ARGUMENT",
        }
        return Reply(400, {"error": error})

    return Contract(
        "gmail-api",
        MAILBOX,
        read,
        lambda _: Reply(200, {"id": "18c", "threadId": "18c", "labelIds": ["SENT"]}),
        probe,
        recipients=500,
    )
