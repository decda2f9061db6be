"""A bridge of another relay. Over SMTP it is the SMTP driver; over HTTP this is the contract:

    POST {url}/api/v1/messages
    Authorization: Bearer <token of the bridge>
    Content-Type: message/rfc822
    X-Relay-Sender: <reverse-path without brackets; empty is the null reverse-path>
    X-Relay-Recipients: <forward-paths without brackets, comma separated>
    Idempotency-Key: <printable ASCII, at most 200 characters>

    <the message, octet for octet>

In both fields octets outside printable ASCII, and `%`, `,` and blanks, are percent-encoded (RFC 3986 §2.1, UTF-8).

    202 {"id": "<id of the message there>"}

says that the message is stored there for all recipients; the same key within a day gets the same answer and makes no
second message. Refusals are JSON with `error` or `detail`: 400 and 422 about the message, 401 about the token, 403
about what the bridge may do, 413 about the size, 429 and 503 with Retry-After.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from relay.outcome import Outcome, RecipientOutcome
from relay.upstreams.api import Answer, Api, Call, Letter, Means, Raw, Rule, for_all, judged, outcome, well
from relay.upstreams.base import Setting, Upstream
from relay.upstreams.relay_options import HttpOptions, Options

_PLAIN = "!#$&'*+-/=?^_`{|}~.@\"()<>[]:;\\"
"""Printable ASCII that stays as it is in an address."""

RULES = (
    Rule("the bridge may not send for this author", Means.SENDER, status="403", words="sender|from"),
    Rule("the same call is being worked on", Means.UNCERTAIN, status="409"),
    Rule("the message", Means.MESSAGE, status="400|422"),
)


def build(options: HttpOptions, letter: Letter) -> Call:
    """The call for a letter."""
    return Call(
        path="/api/v1/messages",
        headers=(
            ("Content-Type", "message/rfc822"),
            ("Accept", "application/json"),
            ("Authorization", f"Bearer {options.token.get_secret_value()}"),
            ("X-Relay-Sender", quote(letter.sender, safe=_PLAIN)),
            ("X-Relay-Recipients", ",".join(quote(address, safe=_PLAIN) for address in letter.recipients)),
            ("Idempotency-Key", letter.key),
        ),
        body=(Raw(letter.content),),
    )


def parse(answer: Answer, letter: Letter) -> list[RecipientOutcome]:
    """What the answer means for each recipient."""
    if answer.status == 202 and (found := answer.fields.get("id")):
        return for_all(letter, outcome(Means.SENT, answer, vendor_id=str(found)))
    return for_all(letter, _trouble(answer))


def _trouble(answer: Answer) -> Outcome:
    said: Any = answer.fields.get("error") or answer.fields.get("detail") or answer.words
    return judged(RULES, answer, "", str(said.get("message") or said) if isinstance(said, dict) else str(said))


def probe(options: HttpOptions) -> Call:
    """A message to nobody: refused before anything is stored, behind the check of the token."""
    return Call(
        path="/api/v1/messages",
        headers=(
            ("Content-Type", "message/rfc822"),
            ("Accept", "application/json"),
            ("Authorization", f"Bearer {options.token.get_secret_value()}"),
            ("X-Relay-Recipients", ""),
        ),
        body=(b"Subject: test\r\n\r\n",),
    )


def parse_probe(answer: Answer) -> Outcome:
    if answer.status in (400, 422):
        return well(answer, "token is good (a message to nobody was refused, as it should be)")
    return _trouble(answer)


API = Api[HttpOptions](build=build, parse=parse, probe=probe, parse_probe=parse_probe)


def make(name: str, options: Options, setting: Setting) -> Upstream:
    """The driver of the way that the options name."""
    if (http := options.http) is not None:
        from relay.upstreams.http_api import HttpUpstream

        return HttpUpstream(name, http, setting, API)
    from relay.upstreams.smtp import SmtpUpstream

    return SmtpUpstream(name, options, setting)
