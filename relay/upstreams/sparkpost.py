"""SparkPost, `POST /transmissions` with the whole message as text (`email_rfc822`). Recipients are the envelope's.

The message is passed octet for octet as far as JSON can: it must be ASCII (8-bit content is converted before) or
UTF-8. SparkPost runs header fields through its template engine even when substitution is off, so a message with `{{` or
`}}` in its header section is left to other nodes. `X-MSYS-API` would choose the account's options and is removed.

SparkPost counts the recipients it refuses and does not name them. With `batch: 1`, the default, every recipient has an
answer of its own.

Source: SparkPost API "Transmissions", "Account", extended error codes.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import orjson

from relay.envelope import Content
from relay.fields import Count, Secret, Text
from relay.headers.fields import walk
from relay.outcome import Outcome, RecipientOutcome
from relay.upstreams.api import (
    Answer,
    Api,
    Call,
    CannotCarry,
    Letter,
    Means,
    Raw,
    Rule,
    for_all,
    judged,
    outcome,
    well,
)
from relay.upstreams.api_options import ApiOptions
from relay.upstreams.carries import Carries

MAX_CONTENT = 20_000_000


class Options(ApiOptions):
    """A SparkPost account, over its API."""

    api_key: Secret
    """API key with the right "Transmissions: Read/Write"."""
    region: Literal["us", "eu"] = "us"
    """Where the account lives."""
    subaccount: Text | None = None
    """Subaccount to send for (its number)."""
    ip_pool: Text | None = None
    """IP pool of the account."""
    return_path: Text | None = None
    """Bounce domain of the account, as `bounces@domain`."""
    tracking: Literal["off", "account"] = "off"
    """Clicks and opens: `off`, or what the account says."""
    batch: Count = 1
    """Recipients in one call; above 1, of several only their number is told when some are refused."""

    def _vendor_url(self) -> str:
        return f"https://api.{'eu.' if self.region == 'eu' else ''}sparkpost.com/api/v1"

    @property
    def carries(self) -> Carries:
        return Carries(
            null_sender=self.null_sender, smtputf8=False, max_size=MAX_CONTENT, max_recipients=min(self.batch, 1000)
        )


RULES = (
    Rule("sending domain not verified, or blocked", Means.SENDER, code="700[01]"),
    Rule("resources unavailable", Means.NODE, code="1502|1900"),
    Rule("key or rights", Means.ACCOUNT, code="1303|1304|1100|1601"),
    Rule("limits of the plan", Means.QUOTA, status="420"),
    Rule("limits of the plan, by code", Means.QUOTA, code="210[1-5]"),
    Rule("suppressed or invalid recipients", Means.RECIPIENT, code="5001|5002|1902", words="recipient"),
    Rule("account suspended", Means.ACCOUNT, words="account.{0,40}(suspended|terminated|disabled)"),
)


def build(options: Options, letter: Letter) -> Call:
    """The call for a letter. Raises CannotCarry."""
    content = _fitted(letter.content)
    settings: dict[str, Any] = {"transactional": True, "perform_substitutions": False}
    if options.tracking == "off":
        settings |= {"open_tracking": False, "click_tracking": False, "initial_open": False}
    if options.ip_pool:
        settings["ip_pool"] = options.ip_pool
    fields: dict[str, Any] = {
        "recipients": [{"address": {"email": address}} for address in letter.recipients],
        "options": settings,
        "metadata": {"relay_id": letter.id},
    }
    if options.return_path:
        fields["return_path"] = options.return_path
    head = orjson.dumps(fields)[:-1]
    return Call(
        path="/transmissions",
        headers=(("Content-Type", "application/json"), *_keys(options)),
        body=(head + b',"content":{"email_rfc822":"', Raw(content, "json"), b'"}}'),
    )


def _keys(options: Options) -> list[tuple[str, str]]:
    sub = [("X-MSYS-SUBACCOUNT", options.subaccount)] if options.subaccount else []
    return [("Authorization", options.api_key.get_secret_value()), ("Accept", "application/json"), *sub]


def _fitted(content: Content) -> Content:
    if b"{{" in content.head or b"}}" in content.head:
        raise CannotCarry("a header has {{ or }}, which SparkPost takes for a template")
    if not re.search(rb"(?i)(?:^|\r\n)x-msys-api", content.head):
        return content
    kept = [item.raw for item in walk(content.head) if item.name != b"x-msys-api"]
    return Content(b"".join(kept), content.body)


def parse(answer: Answer, letter: Letter) -> list[RecipientOutcome]:
    """What the answer means for each recipient."""
    results = answer.fields.get("results")
    if answer.status == 200 and isinstance(results, dict) and "total_accepted_recipients" in results:
        taken, refused = results.get("total_accepted_recipients"), results.get("total_rejected_recipients")
        found = str(results.get("id", ""))
        if not refused:
            return for_all(letter, outcome(Means.SENT, answer, vendor_id=found))
        text = _first(results.get("rcpt_to_errors") or answer.fields.get("errors"))[1] or "recipient refused"
        if not taken:
            return for_all(letter, outcome(Means.RECIPIENT, answer, text))
        named = {address for address in letter.recipients if address.lower() in answer.words.lower()}
        sent = outcome(Means.SENT, answer, f"{refused} of {len(letter.recipients)} refused: {text}", vendor_id=found)
        lost = outcome(Means.RECIPIENT, answer, text)
        return [RecipientOutcome(address, lost if address in named else sent) for address in letter.recipients]
    return for_all(letter, _trouble(answer))


def _trouble(answer: Answer) -> Outcome:
    code, text = _first(answer.fields.get("errors"))
    return judged(RULES, answer, code, text or answer.words)


def _first(errors: Any) -> tuple[str, str]:
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
    text = ": ".join(str(first[key]) for key in ("message", "description") if first.get(key))
    return str(first.get("code", "")), text


def probe(options: Options) -> Call:
    """The send endpoint without a message: works with keys that may only send."""
    kind = ("Content-Type", "application/json")
    return Call(path="/transmissions", headers=(kind, *_keys(options)), body=(b"{}",))


def parse_probe(answer: Answer) -> Outcome:
    """A complaint about missing fields comes from behind the check of the key."""
    code, text = _first(answer.fields.get("errors"))
    if answer.status in (400, 422) and code and not re.fullmatch("1303|1304|1100|1601|700[01]", code):
        return well(answer, f"key may send (an empty message was refused, as it should be: {text})")
    return _trouble(answer)


API = Api[Options](build=build, parse=parse, probe=probe, parse_probe=parse_probe, seven_bit=True)
