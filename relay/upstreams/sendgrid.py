"""Twilio SendGrid, Web API v3 `mail/send`. JSON only: the message is taken apart.

One personalization holds all recipients of the call, so that all see the same To and Cc. Click, open and subscription
tracking are switched off unless the node says `tracking: account`. An invitation goes along as content of type
text/calendar. Lost: Message-ID, Date, Sender, the layout of the MIME tree.

Source: SendGrid API v3 "Mail Send" with its limitations and errors, "Retrieve a list of scopes".
"""

from __future__ import annotations

import re
from typing import Any, Literal

from relay.fields import Secret, Text
from relay.outcome import Outcome, RecipientOutcome
from relay.upstreams.api import (
    Answer,
    Api,
    Call,
    CannotCarry,
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
from relay.upstreams.parts import Attachment, Mailbox

MAX_REQUEST = 30_000_000


class Options(ShownOptions):
    """Twilio SendGrid over its Web API."""

    api_key: Secret
    """API key (`SG.…`) with the right `mail.send`."""
    region: Literal["global", "eu"] = "global"
    """`eu` for subusers pinned to the EU."""
    on_behalf_of: Text | None = None
    """Subuser to send for."""
    ip_pool: Text | None = None
    """IP pool of the account."""
    tracking: Literal["off", "account"] = "off"
    """Clicks, opens and unsubscribe footers: `off`, or what the account says."""

    def _vendor_url(self) -> str:
        return "https://api.eu.sendgrid.com" if self.region == "eu" else "https://api.sendgrid.com"

    @property
    def carries(self) -> Carries:
        return Carries(null_sender=self.null_sender, smtputf8=False, max_size=MAX_REQUEST, max_recipients=1000)


FORBIDDEN = frozenset(
    {"x-sg-id", "x-sg-eid", "received", "dkim-signature", "from", "to", "cc", "bcc", "subject", "reply-to"}
    | {"content-type", "content-transfer-encoding", "message-id", "date", "sender", "x-smtpapi"}
)
"""Refused by SendGrid, or written by it in any case; `X-SMTPAPI` would choose the account's settings."""

RULES = (
    Rule("out of credits under a status of its own", Means.QUOTA, status="401|403", words="credits? exceeded"),
    Rule("sender identity", Means.SENDER, status="400|403", words="verified sender|from address does not match"),
    Rule("blocked for now", Means.QUOTA, status="403", words="temporar"),
    Rule("path or method: base URL", Means.ACCOUNT, status="40[45]|415"),
    Rule("nothing came through, says the vendor", Means.NODE, status="503"),
)


def build(options: Options, letter: Letter) -> Call:
    """The call for a letter. Raises CannotCarry."""
    parts = letter.rebuilt
    person: dict[str, Any] = {"to": [_box(box) for box in parts.to]}
    if parts.cc:
        person["cc"] = [_box(box) for box in parts.cc]
    if parts.bcc:
        person["bcc"] = [_box(box) for box in parts.bcc]
    content = []
    if parts.text or not (parts.html or parts.calendar):
        content.append({"type": "text/plain", "value": parts.text or " "})
    if parts.html:
        content.append({"type": "text/html", "value": parts.html})
    if parts.calendar:
        method = re.sub(r"[^A-Za-z]", "", parts.method)
        content.append(
            {"type": f"text/calendar; method={method}" if method else "text/calendar", "value": parts.calendar}
        )
    body: dict[str, Any] = {
        "personalizations": [person],
        "from": _box(parts.sender),
        "subject": parts.subject or " ",
        "content": content,
        "custom_args": {"relay_id": letter.id},
    }
    if len(parts.reply_to) == 1:
        body["reply_to"] = _box(parts.reply_to[0])
    elif parts.reply_to:
        body["reply_to_list"] = [_box(box) for box in parts.reply_to]
    if headers := dict(parts.fields(FORBIDDEN)):
        body["headers"] = headers
    if parts.attachments:
        body["attachments"] = [_file(part) for part in parts.attachments]
    if options.ip_pool:
        body["ip_pool_name"] = options.ip_pool
    if options.tracking == "off":
        off = {"enable": False}
        body["tracking_settings"] = {
            "click_tracking": {"enable": False, "enable_text": False},
            "open_tracking": off,
            "subscription_tracking": off,
        }
    return as_json(body, *_keys(options), path="/v3/mail/send")


def _keys(options: Options) -> list[tuple[str, str]]:
    behalf = [("On-Behalf-Of", options.on_behalf_of)] if options.on_behalf_of else []
    return [("Authorization", f"Bearer {options.api_key.get_secret_value()}"), *behalf]


def _box(box: Mailbox) -> dict[str, str]:
    """SendGrid refuses commas and semicolons in names."""
    name = re.sub(r"[,;]+", " ", box.name).strip()
    return {"email": box.address, "name": name} if name else {"email": box.address}


def _file(part: Attachment) -> dict[str, str]:
    out = {
        "content": encoded(part.content),
        "type": part.media,
        "filename": part.filename,
        "disposition": "inline" if part.inline else "attachment",
    }
    if part.cid:
        out["content_id"] = part.cid
    if not part.content:
        raise CannotCarry(f"attachment {part.filename} is empty, which SendGrid refuses")
    return out


def parse(answer: Answer, letter: Letter) -> list[RecipientOutcome]:
    """What the answer means for each recipient."""
    if answer.status == 202:
        found = answer.headers.get("x-message-id", "")
        return for_all(letter, outcome(Means.SENT, answer, "accepted", vendor_id=found))
    return for_all(letter, _trouble(answer))


def _trouble(answer: Answer) -> Outcome:
    errors = answer.fields.get("errors")
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
    text = " ".join(str(first[key]) for key in ("message", "field") if first.get(key)) or answer.words
    return judged(RULES, answer, "", text)


def probe(options: Options) -> Call:
    """The scopes of the key."""
    return Call(method="GET", path="/v3/scopes", headers=(("Accept", "application/json"), *_keys(options)))


def parse_probe(answer: Answer) -> Outcome:
    scopes = answer.fields.get("scopes")
    if answer.status == 200 and isinstance(scopes, list):
        if "mail.send" not in scopes:
            return outcome(Means.ACCOUNT, answer, "the key may not send: it lacks the scope mail.send")
        return well(answer, "key may send")
    return _trouble(answer)


API = Api[Options](
    build=build,
    parse=parse,
    probe=probe,
    parse_probe=parse_probe,
    takes_apart=True,
    calendar=True,
    gauges=(Gauge(remaining="x-ratelimit-remaining", reset="x-ratelimit-reset"),),
)
