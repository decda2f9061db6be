"""ZeptoMail (Zoho), `POST /v1.1/email`. JSON only: the message is taken apart.

Codes, not statuses, say what is wrong: TM_4001 comes with 401 for a sender domain too. Opens and clicks are not tracked
unless the node says `tracking: account`. Lost: Message-ID, Date, Sender, repeated header fields.

Source: ZeptoMail API "Email sending", "Error codes". The data centre of an account fixes its host.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from relay.fields import Address, Secret
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
    judged,
    outcome,
    well,
)
from relay.upstreams.api_options import ShownOptions
from relay.upstreams.carries import Carries
from relay.upstreams.parts import Mailbox

MAX_REQUEST = 15_000_000
_HOSTS = {
    "com": "api.zeptomail.com",
    "eu": "api.zeptomail.eu",
    "in": "api.zeptomail.in",
    "com.cn": "zeptomail.zoho.com.cn",
    "com.au": "zeptomail.zoho.com.au",
    "jp": "zeptomail.zoho.jp",
    "sa": "zeptomail.zoho.sa",
    "ca": "zeptomail.zohocloud.ca",
}


class Options(ShownOptions):
    """One mail agent of a ZeptoMail account, over its API."""

    token: Secret
    """Send-mail token of the agent (not the SMTP password); with or without `Zoho-enczapikey`."""
    region: Literal["com", "eu", "in", "com.cn", "com.au", "jp", "sa", "ca"] = "com"
    """Data centre of the account."""
    bounce_address: Address | None = None
    """Bounce address, as it is set up in the agent."""
    tracking: Literal["off", "account"] = "off"
    """Clicks and opens: `off`, or what the agent says."""

    def _vendor_url(self) -> str:
        return f"https://{_HOSTS[self.region]}"

    @property
    def carries(self) -> Carries:
        return Carries(null_sender=self.null_sender, smtputf8=False, max_size=MAX_REQUEST, max_recipients=100)


FORBIDDEN = frozenset({"message-id", "date", "sender", "return-path"})

RULES = (
    Rule("token", Means.ACCOUNT, code="SERR_157"),
    Rule("sender domain not verified in this agent", Means.SENDER, code="SM_111"),
    Rule("bounce address", Means.ACCOUNT, code="SM_113", words="bounce_address"),
    Rule("an address or value", Means.MESSAGE, code="SM_113"),
    Rule("account not approved, or blocked", Means.ACCOUNT, code="SM_128|AE_101"),
    Rule("address of this machine", Means.ACCOUNT, code="SERR_156"),
    Rule("limits and credits", Means.QUOTA, code="SM_133|SMI_115|SM_151|LE_101|LE_102"),
    Rule("too large or too many", Means.SIZE, code="SM_127|SM_129"),
    Rule("the message", Means.MESSAGE, code="UE_106|MTR_101|GE_102|SM_101|SM_120"),
)


def build(options: Options, letter: Letter) -> Call:
    """The call for a letter. Raises CannotCarry."""
    parts = letter.rebuilt
    if len(parts.subject) > 500:
        raise CannotCarry("a subject above 500 characters")
    if len(parts.attachments) > 60:
        raise CannotCarry("more than 60 attachments", enhanced="5.3.4")
    body: dict[str, Any] = {
        "from": _box(parts.sender),
        "to": [{"email_address": _box(box)} for box in parts.to],
        "subject": parts.subject or " ",
        "client_reference": letter.id,
    }
    if parts.cc:
        body["cc"] = [{"email_address": _box(box)} for box in parts.cc]
    if parts.bcc:
        body["bcc"] = [{"email_address": _box(box)} for box in parts.bcc]
    if parts.reply_to:
        body["reply_to"] = [_box(box) for box in parts.reply_to]
    if parts.html:
        body["htmlbody"] = parts.html
    if parts.text or not parts.html:
        body["textbody"] = parts.text or " "
    if parts.files:
        body["attachments"] = [
            {"content": encoded(p.content), "mime_type": p.kind, "name": p.filename} for p in parts.files
        ]
    if parts.pictures:
        body["inline_images"] = [
            {"cid": p.cid, "content": encoded(p.content), "mime_type": p.kind} for p in parts.pictures
        ]
    if headers := dict(parts.fields(FORBIDDEN)):
        body["mime_headers"] = headers
    if options.bounce_address:
        body["bounce_address"] = options.bounce_address
    if options.tracking == "off":
        body |= {"track_clicks": False, "track_opens": False}
    return as_json(body, _key(options), path="/v1.1/email")


def _key(options: Options) -> tuple[str, str]:
    """People paste the token with its prefix, in quotes, or with blanks."""
    bare = options.token.get_secret_value().strip().strip("\"'").strip()
    bare = re.sub(r"(?i)^zoho-enczapikey\s+", "", bare)
    return ("Authorization", f"Zoho-enczapikey {bare}")


def _box(box: Mailbox) -> dict[str, str]:
    return {"address": box.address, "name": box.name[:250]} if box.name else {"address": box.address}


def parse(answer: Answer, letter: Letter) -> list[RecipientOutcome]:
    """What the answer means for each recipient."""
    taken = isinstance(answer.fields.get("data"), list) and "error" not in answer.fields
    if answer.status in (200, 201) and taken:
        found = str(answer.fields.get("request_id", ""))
        return for_all(letter, outcome(Means.SENT, answer, str(answer.fields.get("message", "")), vendor_id=found))
    return for_all(letter, _trouble(answer))


def _error(answer: Answer) -> tuple[str, str]:
    """The sub-code and all the words."""
    error = answer.fields.get("error")
    if not isinstance(error, dict):
        return "", answer.words
    details = error.get("details")
    first = details[0] if isinstance(details, list) and details and isinstance(details[0], dict) else {}
    words = [error.get("message"), first.get("message"), first.get("target"), first.get("target_value")]
    text = f"{error.get('code', '')} {': '.join(str(word) for word in words if word)}".strip()
    return str(first.get("code") or error.get("code") or ""), text


def _trouble(answer: Answer) -> Outcome:
    code, text = _error(answer)
    return judged(RULES, answer, code, text)


def probe(options: Options) -> Call:
    """The send endpoint without a message: a complaint about fields comes from behind the check of the token."""
    return as_json({}, _key(options), path="/v1.1/email")


def parse_probe(answer: Answer) -> Outcome:
    code, text = _error(answer)
    if code in ("GE_102", "SM_113", "SM_101") or (code.startswith("TM_3201") or "TM_3201" in text):
        return well(answer, "token is good (an empty message was refused, as it should be)")
    return _trouble(answer)


API = Api[Options](build=build, parse=parse, probe=probe, parse_probe=parse_probe, takes_apart=True)
