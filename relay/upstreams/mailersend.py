"""MailerSend, `POST /v1/email`. JSON only: the message is taken apart.

Opens and clicks are not tracked unless the node says `tracking: account`. 202 comes with warnings when recipients are
on the account's suppression lists: those are refused, not sent. The content type of an attachment follows its name.
Custom headers need a paid plan there (`headers: false` on others). Lost: Message-ID, Date, Sender.

Source: MailerSend API "Email", "API quota", "Rate limits"; the vendor's SDKs.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from relay.fields import Flag, Secret
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
    items,
    judged,
    outcome,
    well,
)
from relay.upstreams.api_options import ShownOptions
from relay.upstreams.carries import Carries
from relay.upstreams.parts import Attachment, Mailbox

MAX_REQUEST = 34_000_000
"""25 MB of attachments and their growth by base64."""


class Options(ShownOptions):
    """A MailerSend account, over its API."""

    api_key: Secret
    """API token (`mlsn.…`) with the right to send."""
    custom_headers: Flag = True
    """Pass the message's other headers; `false` for plans that refuse them (they are lost then)."""
    tracking: Literal["off", "account"] = "off"
    """Clicks, opens and content: `off`, or what the domain's settings say."""

    def _vendor_url(self) -> str:
        return "https://api.mailersend.com/v1"

    @property
    def carries(self) -> Carries:
        return Carries(null_sender=self.null_sender, smtputf8=False, max_size=MAX_REQUEST, max_recipients=50)


MAX_COPIES = 10
"""Of Cc, and of Bcc."""

FORBIDDEN = frozenset({"message-id", "date", "sender", "return-path", "in-reply-to", "references", "precedence"})

RULES = (
    Rule("domain not verified", Means.SENDER, words="MS42207"),
    Rule("quota", Means.QUOTA, words="MS42204|MS42901"),
    Rule("rate", Means.QUOTA, words="MS42903"),
    Rule("rights, account or address of this machine", Means.ACCOUNT, words="MS403"),
    Rule("sending paused", Means.ACCOUNT, status="4..", words="account.{0,40}(suspended|paused|disabled)"),
    Rule("the message", Means.MESSAGE, status="422"),
)


def build(options: Options, letter: Letter) -> Call:
    """The call for a letter. Raises CannotCarry."""
    parts = letter.rebuilt
    if len(parts.cc) > MAX_COPIES or len(parts.bcc) > MAX_COPIES:
        raise CannotCarry(f"more than {MAX_COPIES} recipients in Cc, or in Bcc", enhanced="5.3.4")
    if len(parts.reply_to) > 1:
        raise CannotCarry("several Reply-To addresses, and MailerSend takes one")
    body: dict[str, Any] = {
        "from": _box(parts.sender),
        "to": [_box(box) for box in parts.to],
        "subject": parts.subject or " ",
    }
    if parts.cc:
        body["cc"] = [_box(box) for box in parts.cc]
    if parts.bcc:
        body["bcc"] = [_box(box) for box in parts.bcc]
    if parts.reply_to:
        body["reply_to"] = _box(parts.reply_to[0])
    if parts.html:
        body["html"] = parts.html
    if parts.text or not parts.html:
        body["text"] = parts.text or " "
    if parts.attachments:
        body["attachments"] = [_file(part) for part in parts.attachments]
    for name, value in parts.headers:
        match name.lower():
            case "in-reply-to":
                body["in_reply_to"] = value
            case "references":
                body["references"] = re.findall(r"<[^<>\s]+>", value)
            case "precedence" if value.lower() == "bulk":
                body["precedence_bulk"] = True
    if options.custom_headers and (headers := parts.fields(FORBIDDEN, once=False)):
        body["headers"] = [{"name": name, "value": value} for name, value in headers]
    if options.tracking == "off":
        body["settings"] = {"track_clicks": False, "track_opens": False, "track_content": False}
    return as_json(body, _key(options), path="/email")


def _key(options: Options) -> tuple[str, str]:
    return ("Authorization", f"Bearer {options.api_key.get_secret_value()}")


def _box(box: Mailbox) -> dict[str, str]:
    return {"email": box.address, "name": box.name} if box.name else {"email": box.address}


def _file(part: Attachment) -> dict[str, str]:
    out = {
        "content": encoded(part.content),
        "filename": part.filename,
        "disposition": "inline" if part.inline else "attachment",
    }
    return {**out, "id": part.cid} if part.cid else out


def parse(answer: Answer, letter: Letter) -> list[RecipientOutcome]:
    """What the answer means for each recipient."""
    if answer.status != 202:
        return for_all(letter, _trouble(answer))
    found = answer.headers.get("x-message-id", "")
    paused = answer.headers.get("x-send-paused", "").lower() == "true"
    text = "accepted, held: sending is paused in the account" if paused else ""
    sent = outcome(Means.SENT, answer, text, vendor_id=found)
    suppressed: dict[str, str] = {}
    everybody = False
    for warning in items(answer.fields.get("warnings")):
        if not isinstance(warning, dict):
            continue
        said = str(warning.get("warning") or warning.get("message") or warning.get("type") or "suppressed")
        everybody = everybody or str(warning.get("type")) == "ALL_SUPPRESSED"
        for item in items(warning.get("recipients")):
            if isinstance(item, dict):
                reasons = ", ".join(map(str, items(item.get("reasons"))))
                suppressed[str(item.get("email", "")).lower()] = f"{said} {reasons}".strip()
    return [
        RecipientOutcome(
            address,
            outcome(Means.RECIPIENT, answer, suppressed.get(address.lower(), "all recipients are suppressed"))
            if everybody or address.lower() in suppressed
            else sent,
        )
        for address in letter.recipients
    ]


def _trouble(answer: Answer) -> Outcome:
    text = str(answer.fields.get("message") or answer.words)
    errors = answer.fields.get("errors")
    if isinstance(errors, dict):
        details = [str(said) for sayings in errors.values() if isinstance(sayings, list) for said in sayings]
        text = " ".join([text, *(said for said in details if said not in text)])
    reset = answer.headers.get("x-apiquota-reset", "")
    wait_s = float(reset) if reset.isdecimal() and len(reset) < 7 and "MS42901" in text else None
    return judged(RULES, answer, "", text, wait_s=wait_s)


def probe(options: Options) -> Call:
    """The quota of the API; asking does not count."""
    return Call(method="GET", path="/api-quota", headers=(("Accept", "application/json"), _key(options)))


def parse_probe(answer: Answer) -> Outcome:
    if answer.status == 200 and "remaining" in answer.fields:
        return well(answer, f"token is good, {answer.fields['remaining']} calls left today")
    return _trouble(answer)


API = Api[Options](
    build=build,
    parse=parse,
    probe=probe,
    parse_probe=parse_probe,
    takes_apart=True,
    gauges=(Gauge(remaining="x-ratelimit-remaining", reset="x-ratelimit-reset"),),
)
