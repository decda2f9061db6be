"""Mailchimp Transactional (Mandrill), `messages/send-raw`. Recipients are the envelope's; each has its own answer.

The message is passed as text inside JSON: ASCII (8-bit content is converted before) or UTF-8. Mandrill reads `X-MC-`
fields as settings of the account, so they are removed from what clients send. With more than ten recipients Mandrill
works in the background and answers `queued`.

Source: Mailchimp Transactional API 1.4 "Messages", "Users", error codes.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from relay.envelope import Content
from relay.fields import Domain, Secret, Text
from relay.headers.fields import walk
from relay.outcome import Outcome, RecipientOutcome
from relay.upstreams.api import (
    Answer,
    Api,
    Call,
    Letter,
    Means,
    Raw,
    Rule,
    as_json,
    for_all,
    judged,
    outcome,
    well,
)
from relay.upstreams.api_options import ApiOptions
from relay.upstreams.carries import Carries

MAX_CONTENT = 25_000_000
"""25 MB: what the vendor's own samples say; its reference names no number."""


class Options(ApiOptions):
    """A Mailchimp Transactional (Mandrill) account, over its API."""

    api_key: Secret
    """API key."""
    ip_pool: Text | None = None
    """Dedicated IP pool."""
    return_path_domain: Domain | None = None
    """Domain of the return path, as it is set up in the account."""

    def _vendor_url(self) -> str:
        return "https://mandrillapp.com/api/1.4"

    @property
    def carries(self) -> Carries:
        return Carries(null_sender=self.null_sender, smtputf8=False, max_size=MAX_CONTENT, max_recipients=100)


RULES = (
    Rule("key", Means.ACCOUNT, code="Invalid_Key|Invalid_Reject|Unknown_Subaccount|PaymentRequired"),
    Rule("too fast", Means.QUOTA, code="RequestLimitExceeded|TooManyRequests"),
    Rule("the message", Means.MESSAGE, code="ValidationError|Invalid_.*"),
    Rule("no service", Means.NODE, code="ServiceUnavailable"),
    Rule("an error of theirs: whether it was taken is not known", Means.UNCERTAIN, code="GeneralError"),
)

_REJECTED = {
    "invalid-sender": Means.SENDER,
    "unsigned": Means.SENDER,
    "test-mode-limit": Means.QUOTA,
    "spam": Means.MESSAGE,
    "rule": Means.MESSAGE,
}
"""`reject_reason` that is not about the recipient."""

_PAUSED = re.compile(r"sending-(paused|suspended)|account-suspended")


def build(options: Options, letter: Letter) -> Call:
    """The call for a letter."""
    fields: dict[str, Any] = {
        "key": options.api_key.get_secret_value(),
        "to": list(letter.recipients),
        "async": False,
    }
    if options.ip_pool:
        fields["ip_pool"] = options.ip_pool
    if options.return_path_domain:
        fields["return_path_domain"] = options.return_path_domain
    head = orjson.dumps(fields)[:-1]
    return Call(
        path="/messages/send-raw",
        headers=(("Content-Type", "application/json"), ("Accept", "application/json")),
        body=(head + b',"raw_message":"', Raw(_fitted(letter.content), "json"), b'"}'),
    )


def _fitted(content: Content) -> Content:
    if not re.search(rb"(?i)(?:^|\r\n)x-mc-", content.head):
        return content
    kept = [item.raw for item in walk(content.head) if not item.name.startswith(b"x-mc-")]
    return Content(b"".join(kept), content.body)


def parse(answer: Answer, letter: Letter) -> list[RecipientOutcome]:
    """What the answer means for each recipient."""
    if answer.status != 200 or not isinstance(answer.json, list):
        return for_all(letter, _trouble(answer))
    by_address = {str(item.get("email", "")).lower(): item for item in answer.json if isinstance(item, dict)}
    silent = outcome(Means.UNCERTAIN, answer, "the answer does not name this recipient")
    return [
        RecipientOutcome(
            address, _of_one(answer, by_address[address.lower()]) if address.lower() in by_address else silent
        )
        for address in letter.recipients
    ]


def _of_one(answer: Answer, item: dict[str, Any]) -> Outcome:
    status, found = str(item.get("status", "")), str(item.get("_id", ""))
    if status in ("sent", "queued", "scheduled"):
        held = str(item.get("queued_reason") or "")
        text = f"{status}: {held}" if held else status
        if _PAUSED.search(held):
            text += " (held by the vendor until an operator acts)"
        return outcome(Means.SENT, answer, text, vendor_id=found)
    reason = str(item.get("reject_reason") or status)
    if status in ("rejected", "invalid"):
        return outcome(_REJECTED.get(reason, Means.RECIPIENT), answer, f"{status}: {reason}", vendor_id=found)
    return outcome(Means.UNCERTAIN, answer, f"unknown status {status}")


def _trouble(answer: Answer) -> Outcome:
    name, text = str(answer.fields.get("name", "")), str(answer.fields.get("message") or answer.words)
    return judged(RULES, answer, name, text)


def probe(options: Options) -> Call:
    """`users/ping2`."""
    return as_json({"key": options.api_key.get_secret_value()}, path="/users/ping2")


def parse_probe(answer: Answer) -> Outcome:
    if answer.status == 200 and (answer.fields.get("PING") == "PONG!" or answer.json == "PONG!"):
        return well(answer, "key is good")
    return _trouble(answer)


API = Api[Options](build=build, parse=parse, probe=probe, parse_probe=parse_probe, seven_bit=True)
