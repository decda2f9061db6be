"""A bridge of Mumara ONE over its REST endpoint. (Over SMTP a bridge is a node of type `smtp`.)

The endpoint is configured by `url` as the bridge shows it, because the vendor's pages name different paths. The call
is JSON (from, to, cc, bcc, reply_to, subject, html, text, headers, attachments) with the bridge's key as bearer token
and an Idempotency-Key; 200, 201 and 202 with an id are a success. Open and click tracking belong to the bridge. Weak:
what is beyond from, to, subject and html was inferred, not read in a reference.

Source: Mumara ONE product pages "Bridges" and "REST API" (bearer token, JSON, `202 {"id", "status": "queued"}`).
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
from relay.upstreams.api_options import ShownOptions, Url
from relay.upstreams.carries import Carries
from relay.upstreams.parts import Attachment

MAX_REQUEST = 25_000_000


class Options(ShownOptions):
    """One bridge of Mumara ONE, over its REST endpoint."""

    url: Url
    """Address of the bridge's send endpoint, whole."""
    token: Secret
    """The bridge's API key."""

    def _vendor_url(self) -> str:
        return self.url

    @property
    def carries(self) -> Carries:
        return Carries(null_sender=self.null_sender, smtputf8=False, max_size=MAX_REQUEST, max_recipients=50)


FORBIDDEN = frozenset({"message-id", "date", "sender", "return-path"})

RULES = (
    Rule(
        "account or bridge shut",
        Means.ACCOUNT,
        words="(account|bridge|key|token).{0,60}(suspend|disabl|revok|inactive)",
    ),
    Rule("limits", Means.QUOTA, status="4..", words="quota|limit (reached|exceeded)|too many requests"),
    Rule(
        "sender", Means.SENDER, status="4..", words="(domain|sender|from).{0,60}(not verified|unverified|not allowed)"
    ),
    Rule("the message", Means.MESSAGE, status="400|422"),
)


def build(options: Options, letter: Letter) -> Call:
    """The call for a letter. Raises CannotCarry."""
    parts = letter.rebuilt
    body: dict[str, Any] = {
        "from": str(parts.sender),
        "to": [str(box) for box in parts.to],
        "subject": parts.subject,
    }
    if parts.cc:
        body["cc"] = [str(box) for box in parts.cc]
    if parts.bcc:
        body["bcc"] = [str(box) for box in parts.bcc]
    if parts.reply_to:
        body["reply_to"] = ", ".join(map(str, parts.reply_to))
    if parts.html:
        body["html"] = parts.html
    if parts.text or not parts.html:
        body["text"] = parts.text or " "
    if headers := dict(parts.fields(FORBIDDEN)):
        body["headers"] = headers
    if parts.attachments:
        body["attachments"] = [_file(part) for part in parts.attachments]
    return as_json(body, _key(options), ("Idempotency-Key", letter.key), path="")


def _key(options: Options) -> tuple[str, str]:
    return ("Authorization", f"Bearer {options.token.get_secret_value()}")


def _file(part: Attachment) -> dict[str, str]:
    out = {"filename": part.filename, "content": encoded(part.content), "content_type": part.kind}
    return {**out, "content_id": part.cid, "disposition": "inline"} if part.inline else out


def parse(answer: Answer, letter: Letter) -> list[RecipientOutcome]:
    """What the answer means for each recipient."""
    status = str(answer.fields.get("status", "")).lower()
    if answer.status in (200, 201, 202):
        found = answer.fields.get("id") or answer.fields.get("message_id")
        if found and status not in ("error", "failed", "rejected"):
            return for_all(letter, outcome(Means.SENT, answer, status, vendor_id=str(found)))
        if status in ("error", "failed", "rejected") or answer.fields.get("success") is False:
            return for_all(letter, outcome(_refusal(answer), answer, _words(answer)))
    return for_all(letter, _trouble(answer))


def _words(answer: Answer) -> str:
    error = answer.fields.get("error")
    said = error.get("message") if isinstance(error, dict) else error
    return str(answer.fields.get("message") or said or answer.words)


def _refusal(answer: Answer) -> Means:
    """Of a failure inside a success."""
    for rule in RULES:
        if rule.words and rule.fits(400, "", _words(answer)):
            return rule.means
    return Means.MESSAGE


def _trouble(answer: Answer) -> Outcome:
    return judged(RULES, answer, "", _words(answer))


def probe(options: Options) -> Call:
    """The send endpoint without a message: a complaint about fields comes from behind the check of the token."""
    return as_json({}, _key(options), path="")


def parse_probe(answer: Answer) -> Outcome:
    if answer.status in (400, 422):
        return well(answer, "token is good (an empty message was refused, as it should be)")
    if answer.status in (200, 201, 202):
        return outcome(Means.ACCOUNT, answer, "an empty message was accepted: url is not a bridge's send endpoint")
    return _trouble(answer)


API = Api[Options](
    build=build,
    parse=parse,
    probe=probe,
    parse_probe=parse_probe,
    takes_apart=True,
    gauges=(Gauge(remaining="x-ratelimit-remaining", reset="x-ratelimit-reset"),),
)
