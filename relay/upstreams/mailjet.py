"""Mailjet, Send API v3.1. JSON only: the message is taken apart; one message in a call.

Opens and clicks are not tracked unless the node says `tracking: account`. Mailjet refuses many header fields:
Message-ID, Date, Sender and List-Id are lost. A message with several Reply-To addresses is left to other nodes.

Source: Mailjet API documentation "Send API v3.1" with its error codes, "Event API".
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any, Literal

from relay.fields import Login, Secret
from relay.outcome import Outcome, RecipientOutcome
from relay.upstreams.api import (
    Answer,
    Api,
    Call,
    CannotCarry,
    Letter,
    Means,
    Rule,
    as_json,
    encoded,
    for_all,
    items,
    judged,
    outcome,
    well,
)
from relay.upstreams.api_options import ShownOptions
from relay.upstreams.carries import Carries
from relay.upstreams.parts import Attachment, Mailbox

MAX_REQUEST = 20_000_000
"""Attachments have 15 MB together, which is 20 MB of base64."""


class Options(ShownOptions):
    """A Mailjet account, over its API (v3.1)."""

    api_key: Login
    """Public API key."""
    secret_key: Secret
    """Secret API key."""
    region: Literal["default", "us"] = "default"
    """`us` for accounts that were moved to the US."""
    tracking: Literal["off", "account"] = "off"
    """Clicks and opens: `off`, or what the account says."""

    def _vendor_url(self) -> str:
        return "https://api.us.mailjet.com" if self.region == "us" else "https://api.mailjet.com"

    @property
    def carries(self) -> Carries:
        return Carries(null_sender=self.null_sender, smtputf8=False, max_size=MAX_REQUEST, max_recipients=50)


FORBIDDEN = frozenset(
    {"from", "sender", "subject", "to", "cc", "bcc", "return-path", "delivered-to", "dkim-signature", "reply-to"}
    | {"domainkey-status", "received-spf", "authentication-results", "received", "x-mailjet-prio", "x-mailjet-debug"}
    | {"user-agent", "x-mailer", "x-mj-customid", "x-mj-eventpayload", "x-mj-vars", "x-mj-templateerrordeliver"}
    | {"x-mj-templateerrorreporting", "x-mj-templatelanguage", "x-mailjet-trackopen", "x-mailjet-trackclick"}
    | {"x-mj-templateid", "x-mj-workflowid", "x-feedback-id", "x-mailjet-segmentation", "list-id", "x-mj-mid"}
    | {"x-mj-errormessage", "date", "x-csa-complaints", "message-id", "x-mailjet-campaign"}
    | {"x-mj-statisticscontactslistid"}
)
"""Refused by Mailjet (send-0011)."""

RULES = (
    Rule("credentials, or key suspended", Means.ACCOUNT, code="mj-0015|mj-0001"),
    Rule("sender not authorised", Means.SENDER, code="send-000[678]"),
    Rule("recipient address", Means.RECIPIENT, code="mj-0013", words=r"\b(To|Cc|Bcc)\b"),
    Rule("the message", Means.MESSAGE, code="mj-.*|send-.*"),
)


def build(options: Options, letter: Letter) -> Call:
    """The call for a letter. Raises CannotCarry."""
    parts = letter.rebuilt
    if len(parts.reply_to) > 1:
        raise CannotCarry("several Reply-To addresses, and Mailjet takes one")
    message: dict[str, Any] = {
        "From": _box(parts.sender),
        "To": [_box(box) for box in parts.to],
        "Subject": parts.subject,
        "CustomID": letter.id,
    }
    if len(parts.subject) > 255:
        raise CannotCarry("a subject above 255 characters")
    if parts.cc:
        message["Cc"] = [_box(box) for box in parts.cc]
    if parts.bcc:
        message["Bcc"] = [_box(box) for box in parts.bcc]
    if parts.reply_to:
        message["ReplyTo"] = _box(parts.reply_to[0])
    if parts.html:
        message["HTMLPart"] = parts.html
    if parts.text or not parts.html:
        message["TextPart"] = parts.text or " "
    if parts.files:
        message["Attachments"] = [_file(part) for part in parts.files]
    if parts.pictures:
        message["InlinedAttachments"] = [{**_file(part), "ContentID": part.cid} for part in parts.pictures]
    if headers := dict(parts.fields(FORBIDDEN)):
        message["Headers"] = headers
    if options.tracking == "off":
        message |= {"TrackOpens": "disabled", "TrackClicks": "disabled"}
    return as_json({"Messages": [message]}, _key(options), path="/v3.1/send")


def _key(options: Options) -> tuple[str, str]:
    pair = f"{options.api_key}:{options.secret_key.get_secret_value()}"
    return ("Authorization", f"Basic {b64encode(pair.encode()).decode('ascii')}")


def _box(box: Mailbox) -> dict[str, str]:
    return {"Email": box.address, "Name": box.name} if box.name else {"Email": box.address}


def _file(part: Attachment) -> dict[str, str]:
    return {"ContentType": part.kind, "Filename": part.filename, "Base64Content": encoded(part.content)}


def parse(answer: Answer, letter: Letter) -> list[RecipientOutcome]:
    """What the answer means for each recipient."""
    messages = answer.fields.get("Messages")
    first = messages[0] if isinstance(messages, list) and messages and isinstance(messages[0], dict) else {}
    if answer.status == 200 and first.get("Status") == "success":
        ids: dict[str, str] = {}
        for key in ("To", "Cc", "Bcc"):
            for item in items(first.get(key)):
                if isinstance(item, dict):
                    ids[str(item.get("Email", "")).lower()] = str(
                        item.get("MessageID") or item.get("MessageUUID") or ""
                    )
        fallback = next(iter(ids.values()), "")
        return [
            RecipientOutcome(address, outcome(Means.SENT, answer, vendor_id=ids.get(address.lower()) or fallback))
            for address in letter.recipients
        ]
    return for_all(letter, _trouble(answer, first))


def _trouble(answer: Answer, first: dict[str, Any]) -> Outcome:
    """Of one message, or of the whole call."""
    errors = first.get("Errors")
    error = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else answer.fields
    code, text = str(error.get("ErrorCode", "")), str(error.get("ErrorMessage") or answer.words)
    about = error.get("ErrorRelatedTo")
    if isinstance(about, list) and about:
        text = f"{text} ({', '.join(map(str, about[:3]))})"
    return judged(RULES, answer, code, text)


def probe(options: Options) -> Call:
    """The keys of the account."""
    return Call(method="GET", path="/v3/REST/apikey?Limit=1", headers=(("Accept", "application/json"), _key(options)))


def parse_probe(answer: Answer) -> Outcome:
    if answer.status == 200 and "Data" in answer.fields:
        return well(answer, "keys are good")
    return _trouble(answer, {})


API = Api[Options](build=build, parse=parse, probe=probe, parse_probe=parse_probe, takes_apart=True)
