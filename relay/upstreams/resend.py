"""Resend, `POST /emails`. JSON only: the message is taken apart.

A call with the same idempotency key is taken once within 24 hours, so that a lost answer makes no second copy. Lost:
Message-ID, Date, Sender, repeated header fields.

Source: Resend API "Send email", "Errors", "Idempotency keys", "Rate limit".
"""

from __future__ import annotations

from typing import Any

from relay.fields import Secret
from relay.outcome import Outcome, RecipientOutcome
from relay.upstreams.api import (
    Answer,
    Api,
    Call,
    Gauge,
    Letter,
    Means,
    Rule,
    as_json,
    encoded,
    for_all,
    judged,
    outcome,
    well,
)
from relay.upstreams.api_options import ShownOptions
from relay.upstreams.carries import Carries
from relay.upstreams.parts import Attachment

MAX_REQUEST = 40_000_000
"""40 MB after base64."""


class Options(ShownOptions):
    """A Resend account, over its API."""

    api_key: Secret
    """API key (`re_…`)."""

    def _vendor_url(self) -> str:
        return "https://api.resend.com"

    @property
    def carries(self) -> Carries:
        return Carries(null_sender=self.null_sender, smtputf8=False, max_size=MAX_REQUEST, max_recipients=50)


FORBIDDEN = frozenset({"message-id", "date", "sender", "return-path", "resend-idempotency-key"})

RULES = (
    Rule(
        "a mail with this key was sent, from octets a little different: the key is of one message and its recipients",
        Means.SENT,
        code="invalid_idempotent_request",
    ),
    Rule("the same call is being worked on", Means.UNCERTAIN, code="concurrent_idempotent_requests"),
    Rule("key", Means.ACCOUNT, code="missing_api_key|restricted_api_key|invalid_api_key|invalid_access|security_error"),
    Rule("domain not verified, or test mode", Means.SENDER, status="403", code="validation_error"),
    Rule("sender", Means.SENDER, code="invalid_from_address", words="not verified|domain"),
    Rule("plan", Means.QUOTA, code="(daily|monthly)_quota_exceeded|rate_limit_exceeded"),
    Rule("base URL", Means.ACCOUNT, code="not_found|method_not_allowed"),
    Rule("the message", Means.MESSAGE, status="400|409|422"),
)


def build(options: Options, letter: Letter) -> Call:
    """The call for a letter. Raises CannotCarry."""
    parts = letter.rebuilt
    body: dict[str, Any] = {
        "from": str(parts.sender),
        "to": [str(box) for box in parts.to],
        "subject": parts.subject,
        # Left out, Resend would make a text of the HTML; the message has none, and shall have none.
        "text": parts.text or ("" if parts.html else " "),
        "tags": [{"name": "relay-id", "value": letter.id}],
    }
    if parts.html:
        body["html"] = parts.html
    if parts.cc:
        body["cc"] = [str(box) for box in parts.cc]
    if parts.bcc:
        body["bcc"] = [str(box) for box in parts.bcc]
    if parts.reply_to:
        body["reply_to"] = [str(box) for box in parts.reply_to]
    if headers := dict(parts.fields(FORBIDDEN)):
        body["headers"] = headers
    if parts.attachments:
        body["attachments"] = [_file(part) for part in parts.attachments]
    return as_json(body, _key(options), ("Idempotency-Key", letter.key), path="/emails")


def _key(options: Options) -> tuple[str, str]:
    return ("Authorization", f"Bearer {options.api_key.get_secret_value()}")


def _file(part: Attachment) -> dict[str, str]:
    out = {"filename": part.filename, "content": encoded(part.content), "content_type": part.media}
    if part.inline:
        out["content_id"] = part.cid
    return out


def parse(answer: Answer, letter: Letter) -> list[RecipientOutcome]:
    """What the answer means for each recipient."""
    if answer.status == 200 and (found := answer.fields.get("id")):
        return for_all(letter, outcome(Means.SENT, answer, vendor_id=str(found)))
    return for_all(letter, _trouble(answer))


def _trouble(answer: Answer) -> Outcome:
    name, text = str(answer.fields.get("name", "")), str(answer.fields.get("message") or answer.words)
    return judged(RULES, answer, name, text)


def probe(options: Options) -> Call:
    """The domains of the account; a key that may only send is told so, which proves it."""
    return Call(method="GET", path="/domains", headers=(("Accept", "application/json"), _key(options)))


def parse_probe(answer: Answer) -> Outcome:
    if answer.status == 200 and "data" in answer.fields:
        return well(answer, "key is good")
    if answer.fields.get("name") == "restricted_api_key":
        return well(answer, "key may send (and nothing else)")
    return _trouble(answer)


API = Api[Options](
    build=build,
    parse=parse,
    probe=probe,
    parse_probe=parse_probe,
    takes_apart=True,
    gauges=(Gauge(remaining="ratelimit-remaining", reset="ratelimit-reset"),),
)
