"""Mailgun, `messages.mime`: the raw message as a file, recipients of the envelope as fields.

The message is passed octet for octet, but for `X-Mailgun-` fields, which act like options of the call. Tracking is
switched off unless the node says `tracking: account`. Mailgun puts its own return path and signs itself.

Source: Mailgun API v3 "Messages", "Domains"; user manual "Sending a message", "Response codes".
"""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from relay.envelope import Content
from relay.fields import Domain, Secret
from relay.headers.fields import walk
from relay.outcome import Outcome, RecipientOutcome
from relay.upstreams.api import (
    Answer,
    Api,
    Call,
    Letter,
    Means,
    Piece,
    Raw,
    Rule,
    for_all,
    judged,
    outcome,
    well,
)
from relay.upstreams.api_options import ApiOptions
from relay.upstreams.carries import Carries

MAX_CONTENT = 25_000_000

Tag = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]([\x20-\x7e]{0,126}[\x21-\x7e])?$")]


class Options(ApiOptions):
    """One sending domain of a Mailgun account."""

    domain: Domain
    """Sending domain, as it is called at Mailgun."""
    api_key: Secret
    """API key of the account, or a sending key of the domain."""
    region: Literal["us", "eu"] = "us"
    """Where the domain lives."""
    tracking: Literal["off", "account"] = "off"
    """Clicks and opens: `off`, or what the domain's settings say."""
    tags: Annotated[tuple[Tag, ...], Field(max_length=10)] = ()
    """Tags on every message."""
    require_tls: Literal["account", "yes"] = "account"
    """`yes`: Mailgun delivers over TLS or not at all."""

    def _vendor_url(self) -> str:
        return "https://api.eu.mailgun.net" if self.region == "eu" else "https://api.mailgun.net"

    @property
    def carries(self) -> Carries:
        return Carries(null_sender=self.null_sender, smtputf8=False, max_size=MAX_CONTENT, max_recipients=1000)


RULES = (
    Rule("a free account sends to named recipients only", Means.ACCOUNT, words="authorized recipients|free accounts"),
    Rule(
        "the account is shut",
        Means.ACCOUNT,
        words="account.{0,40}(disabled|suspended|deactivated)|domain.{0,80}disabled",
    ),
    Rule("limit of the plan, under 400 or 402", Means.QUOTA, status="40[02]", words="limit|quota|exceed"),
    Rule("billing", Means.ACCOUNT, status="402"),
    Rule("domain is not there: region or name", Means.ACCOUNT, status="404"),
    Rule("recipient", Means.MESSAGE, status="400", words="'to' parameter"),
)


def build(options: Options, letter: Letter) -> Call:
    """The call for a letter."""
    boundary = f"relay-{letter.key}"
    fields = [("to", address) for address in letter.recipients]
    if options.tracking == "off":
        fields += [("o:tracking", "no"), ("o:tracking-clicks", "no"), ("o:tracking-opens", "no")]
    if options.require_tls == "yes":
        fields.append(("o:require-tls", "yes"))
    fields += [("o:tag", tag) for tag in options.tags]
    fields.append(("v:relay-id", letter.id))
    lines = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields
    )
    opening = (
        f'{lines}--{boundary}\r\nContent-Disposition: form-data; name="message"; filename="message.eml"\r\n'
        "Content-Type: message/rfc822\r\n\r\n"
    )
    body: tuple[Piece, ...] = (
        opening.encode("utf-8", "surrogateescape"),
        Raw(_fitted(letter.content)),
        f"\r\n--{boundary}--\r\n".encode(),
    )
    kind = ("Content-Type", f"multipart/form-data; boundary={boundary}")
    return Call(path=f"/v3/{options.domain}/messages.mime", headers=(kind, *_keys(options)), body=body)


def _keys(options: Options) -> list[tuple[str, str]]:
    login = b64encode(b"api:" + options.api_key.get_secret_value().encode()).decode("ascii")
    return [("Authorization", f"Basic {login}"), ("Accept", "application/json")]


def _fitted(content: Content) -> Content:
    if not re.search(rb"(?i)(?:^|\r\n)x-mailgun-", content.head):
        return content
    kept = [item.raw for item in walk(content.head) if not item.name.startswith(b"x-mailgun-")]
    return Content(b"".join(kept), content.body)


def parse(answer: Answer, letter: Letter) -> list[RecipientOutcome]:
    """What the answer means for each recipient."""
    if answer.status == 200:
        if found := answer.fields.get("id"):
            text = str(answer.fields.get("message", ""))
            return for_all(letter, outcome(Means.SENT, answer, text, vendor_id=str(found).strip("<>")))
        # A wrong path is answered by a banner in plain text, with 200: nothing was taken.
        means = Means.ACCOUNT if answer.json is None else Means.UNCERTAIN
        return for_all(letter, outcome(means, answer, f"not an answer of the API, base_url is wrong: {answer.words}"))
    return for_all(letter, _trouble(answer))


def _trouble(answer: Answer) -> Outcome:
    text = str(answer.fields.get("message") or answer.words)
    wait = re.search(r"after (\d{1,6}) seconds", text)
    return judged(RULES, answer, "", text, wait_s=float(wait[1]) if wait else None)


def probe(options: Options) -> Call:
    """The send endpoint without a message: who gets an answer about missing fields has a good key and domain. Works
    with sending keys too, which may read nothing."""
    boundary = "relay-probe"
    body = f'--{boundary}\r\nContent-Disposition: form-data; name="o:testmode"\r\n\r\nyes\r\n--{boundary}--\r\n'
    kind = ("Content-Type", f"multipart/form-data; boundary={boundary}")
    return Call(path=f"/v3/{options.domain}/messages.mime", headers=(kind, *_keys(options)), body=(body.encode(),))


def parse_probe(answer: Answer) -> Outcome:
    text = str(answer.fields.get("message") or "")
    if answer.status == 400 and re.search(r"parameter|missing|required", text):
        return well(answer, "key and domain are good (an empty message was refused, as it should be)")
    if answer.status == 200:
        return outcome(Means.ACCOUNT, answer, f"not an answer of the API, base_url is wrong: {answer.words}")
    return _trouble(answer)


API = Api[Options](build=build, parse=parse, probe=probe, parse_probe=parse_probe)
