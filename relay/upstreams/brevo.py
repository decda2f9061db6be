"""Brevo (formerly Sendinblue), `POST /v3/smtp/email`. JSON only: the message is taken apart.

A call with the same idempotency key is taken once, so that a lost answer makes no second copy. Brevo has no inline
pictures: a message that shows one is left to other nodes unless `inline_images: attach`, which makes them attachments.
HTML is required there; a text alone is sent as HTML too. Lost: Message-ID, Date, Sender, repeated header fields.

Source: Brevo API v3 "Send a transactional email", rate limits; help centre on attachments.
"""

from __future__ import annotations

from html import escape
from typing import Any, Literal

from relay.fields import Secret
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
from relay.upstreams.parts import Mailbox

MAX_REQUEST = 20_000_000
MAX_ATTACHMENT = 4_000_000


class Options(ShownOptions):
    """A Brevo (formerly Sendinblue) account, over its API."""

    api_key: Secret
    """API key (`xkeysib-…`; the SMTP key is another one)."""
    inline_images: Literal["refuse", "attach"] = "refuse"
    """Pictures inside the HTML, which Brevo cannot show: `refuse` leaves the message to other nodes, `attach` makes
    attachments of them."""

    def _vendor_url(self) -> str:
        return "https://api.brevo.com/v3"

    @property
    def carries(self) -> Carries:
        return Carries(null_sender=self.null_sender, smtputf8=False, max_size=MAX_REQUEST, max_recipients=99)


FORBIDDEN = frozenset(
    {"message-id", "date", "sender", "return-path", "sender.ip", "idempotencykey", "x-mailin-custom", "x-mailin-tag"}
)
"""The last four would act on the account, or are ours."""

RULES = (
    Rule("taken before under this idempotency key", Means.SENT, code="duplicate_request"),
    Rule("key, or address of this machine", Means.ACCOUNT, code="unauthorized"),
    Rule("account shut or being looked at", Means.ACCOUNT, code="permission_denied|account_under_validation"),
    Rule("credits", Means.QUOTA, code="not_enough_credits"),
    Rule("sender", Means.SENDER, status="400", words="sender.{0,60}(not valid|invalid|verif|authenticat|active)"),
    Rule("too large", Means.SIZE, words="(attachment|size).{0,40}(exceed|too (big|large)|limit)"),
    Rule("the message", Means.MESSAGE, status="400|406|422"),
)


def build(options: Options, letter: Letter) -> Call:
    """The call for a letter. Raises CannotCarry."""
    parts = letter.rebuilt
    if parts.pictures and options.inline_images == "refuse":
        raise CannotCarry("a picture inside the HTML, which Brevo cannot show, and `inline_images` is `refuse`")
    if len(parts.reply_to) > 1:
        raise CannotCarry("several Reply-To addresses, and Brevo takes one")
    if any(len(encoded(part.content)) > MAX_ATTACHMENT for part in parts.attachments):
        raise CannotCarry("an attachment above 4 MB, which Brevo refuses", enhanced="5.3.4")
    body: dict[str, Any] = {
        "sender": _box(parts.sender),
        "to": [_box(box) for box in parts.to],
        "subject": parts.subject or " ",
        "htmlContent": parts.html or _as_html(parts.text or " "),
    }
    if parts.text:
        body["textContent"] = parts.text
    if parts.cc:
        body["cc"] = [_box(box) for box in parts.cc]
    if parts.bcc:
        body["bcc"] = [_box(box) for box in parts.bcc]
    if parts.reply_to:
        body["replyTo"] = _box(parts.reply_to[0])
    if parts.attachments:
        body["attachment"] = [{"name": p.filename, "content": encoded(p.content)} for p in parts.attachments]
    body["headers"] = {
        **dict(parts.fields(FORBIDDEN)),
        "idempotencyKey": letter.key,
        "X-Mailin-custom": f"relay-id:{letter.id}",
    }
    return as_json(body, _key(options), path="/smtp/email")


def _key(options: Options) -> tuple[str, str]:
    return ("api-key", options.api_key.get_secret_value())


def _box(box: Mailbox) -> dict[str, str]:
    return {"email": box.address, "name": box.name[:70]} if box.name else {"email": box.address}


def _as_html(text: str) -> str:
    return f'<html><body><pre style="white-space:pre-wrap;font-family:inherit">{escape(text)}</pre></body></html>'


def parse(answer: Answer, letter: Letter) -> list[RecipientOutcome]:
    """What the answer means for each recipient."""
    if answer.status in (201, 202) and (found := answer.fields.get("messageId")):
        return for_all(letter, outcome(Means.SENT, answer, vendor_id=str(found).strip("<>")))
    return for_all(letter, _trouble(answer))


def _trouble(answer: Answer) -> Outcome:
    code, text = str(answer.fields.get("code", "")), str(answer.fields.get("message") or answer.words)
    wait = answer.headers.get("x-sib-ratelimit-reset", "")
    wait_s = float(wait) if answer.status == 429 and wait.isdecimal() and len(wait) < 7 else None
    return judged(RULES, answer, code, text, wait_s=wait_s)


def probe(options: Options) -> Call:
    """The account."""
    return Call(method="GET", path="/account", headers=(("Accept", "application/json"), _key(options)))


def parse_probe(answer: Answer) -> Outcome:
    if answer.status == 200 and "email" in answer.fields:
        relay = answer.fields.get("relay")
        off = isinstance(relay, dict) and relay.get("enabled") is False
        return well(answer, "key is good" + (", transactional mail is not switched on in this account" if off else ""))
    return _trouble(answer)


API = Api[Options](
    build=build,
    parse=parse,
    probe=probe,
    parse_probe=parse_probe,
    takes_apart=True,
    gauges=(Gauge(remaining="x-sib-ratelimit-remaining", reset="x-sib-ratelimit-reset"),),
)
