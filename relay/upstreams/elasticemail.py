"""Elastic Email, API v4 `emails/transactional`. JSON only: the message is taken apart.

An attachment's Content-ID is its name, so pictures shown in the HTML are named by their Content-ID. Text in curly
braces is a merge field at this vendor; what happens to it in transactional mail is not documented. Lost: display names
of To and Cc, Message-ID, Date, Sender.

The vendor answers 400 to everything a client does wrong, keys among them; the words decide.

Source: Elastic Email API v4 specification, error guide and examples of the vendor.
"""

from __future__ import annotations

from typing import Any, Literal

from relay.fields import Secret, Text
from relay.outcome import Outcome, RecipientOutcome
from relay.upstreams.api import (
    Answer,
    Api,
    Call,
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
from relay.upstreams.parts import Attachment

MAX_REQUEST = 20_000_000


class Options(ShownOptions):
    """An Elastic Email account, over its API (v4)."""

    api_key: Secret
    """API key with the access level `SendHttp`."""
    ip_pool: Text | None = None
    """IP pool of the account (`PoolName`)."""
    channel: Text | None = None
    """Channel for the vendor's statistics (`ChannelName`)."""
    tracking: Literal["off", "account"] = "off"
    """Clicks and opens: `off`, or what the account says."""

    def _vendor_url(self) -> str:
        return "https://api.elasticemail.com/v4"

    @property
    def carries(self) -> Carries:
        return Carries(null_sender=self.null_sender, smtputf8=False, max_size=MAX_REQUEST, max_recipients=50)


FORBIDDEN = frozenset({"message-id", "date", "sender", "return-path"})

RULES = (
    Rule("key missing, wrong or deleted", Means.ACCOUNT, words=r"api ?key"),
    Rule(
        "access level, or account shut", Means.ACCOUNT, words="access denied|account.{0,40}(disabled|suspended|review)"
    ),
    Rule("limit of account or plan", Means.QUOTA, status="412"),
    Rule("credits", Means.QUOTA, words="not enough credit|(daily|monthly|hourly|sending) limit"),
    Rule("sender or its domain", Means.SENDER, words="(from|sender|domain).{0,60}(verif|valid|allowed)"),
    Rule("more than 50 recipients", Means.SIZE, status="413"),
    Rule("blocked or invalid recipient", Means.MESSAGE, status="400"),
)


def build(options: Options, letter: Letter) -> Call:
    """The call for a letter. Raises CannotCarry."""
    parts = letter.rebuilt
    recipients: dict[str, Any] = {"To": [box.address for box in parts.to]}
    if parts.cc:
        recipients["CC"] = [box.address for box in parts.cc]
    if parts.bcc:
        recipients["BCC"] = [box.address for box in parts.bcc]
    bodies = []
    if parts.html:
        bodies.append({"ContentType": "HTML", "Content": parts.html, "Charset": "utf-8"})
    if parts.text or not parts.html:
        bodies.append({"ContentType": "PlainText", "Content": parts.text or " ", "Charset": "utf-8"})
    content: dict[str, Any] = {
        "From": str(parts.sender),
        "Subject": parts.subject,
        "Body": bodies,
        "Postback": letter.id,
    }
    if parts.reply_to:
        content["ReplyTo"] = ",".join(map(str, parts.reply_to))
    if headers := dict(parts.fields(FORBIDDEN)):
        content["Headers"] = headers
    if parts.attachments:
        content["Attachments"] = [_file(part) for part in parts.attachments]
    settings: dict[str, Any] = {}
    if options.ip_pool:
        settings["PoolName"] = options.ip_pool
    if options.channel:
        settings["ChannelName"] = options.channel
    if options.tracking == "off":
        settings |= {"TrackOpens": False, "TrackClicks": False}
    body = {"Recipients": recipients, "Content": content, **({"Options": settings} if settings else {})}
    return as_json(body, _key(options), path="/emails/transactional")


def _key(options: Options) -> tuple[str, str]:
    return ("X-ElasticEmail-ApiKey", options.api_key.get_secret_value())


def _file(part: Attachment) -> dict[str, Any]:
    return {
        "BinaryContent": encoded(part.content),
        "Name": part.cid if part.inline else part.filename,
        "ContentType": part.media,
        "Size": len(part.content),
    }


def parse(answer: Answer, letter: Letter) -> list[RecipientOutcome]:
    """What the answer means for each recipient."""
    if answer.status == 200 and (found := answer.fields.get("MessageID") or answer.fields.get("TransactionID")):
        return for_all(letter, outcome(Means.SENT, answer, vendor_id=str(found)))
    return for_all(letter, _trouble(answer))


def _trouble(answer: Answer) -> Outcome:
    return judged(RULES, answer, "", str(answer.fields.get("Error") or answer.words))


def probe(options: Options) -> Call:
    """A list that needs another access level: a good key that may only send is told so."""
    return Call(method="GET", path="/domains", headers=(("Accept", "application/json"), _key(options)))


def parse_probe(answer: Answer) -> Outcome:
    if answer.status == 200 and isinstance(answer.json, (list, dict)):
        return well(answer, "key is good")
    if answer.status == 400 and "access denied" in str(answer.fields.get("Error", "")).lower():
        return well(answer, "key is known; it may not read settings, and whether it may send shows with the first mail")
    return _trouble(answer)


API = Api[Options](build=build, parse=parse, probe=probe, parse_probe=parse_probe, takes_apart=True)
