"""Postmark, `POST /email`. JSON only: the message is taken apart.

Message-ID stays (`X-PM-KeepID`). Opens and links are not tracked unless the node says `tracking: account`. Lost: Date,
Sender, the layout of the MIME tree. Postmark refuses the whole call when one address is on its list of inactive ones
only if all are; those it skipped come back by webhook.

Source: Postmark "Email API", "API error codes", server API.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import StringConstraints

from relay.fields import Secret
from relay.outcome import Outcome, RecipientOutcome
from relay.upstreams.api import Answer, Api, Call, Letter, Means, Rule, as_json, encoded, for_all, judged, outcome, well
from relay.upstreams.api_options import ShownOptions
from relay.upstreams.carries import Carries
from relay.upstreams.parts import Attachment

MAX_REQUEST = 10 * 2**20


class Options(ShownOptions):
    """One Postmark server, over its API."""

    server_token: Secret
    """Token of the server (not of the account)."""
    message_stream: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{1,30}$")] = "outbound"
    """Message stream."""
    tracking: Literal["off", "account"] = "off"
    """Opens and links: `off`, or what the server's settings say."""

    def _vendor_url(self) -> str:
        return "https://api.postmarkapp.com"

    @property
    def carries(self) -> Carries:
        return Carries(null_sender=self.null_sender, smtputf8=False, max_size=MAX_REQUEST, max_recipients=50)


FORBIDDEN = frozenset({"date", "sender", "return-path", "x-pm-keepid", "x-pm-message-stream", "x-pm-tag"})

RULES = (
    Rule("token", Means.ACCOUNT, code="10"),
    Rule("maintenance", Means.NODE, code="100"),
    Rule("sender signature", Means.SENDER, code="40[0-2]"),
    Rule("out of credits", Means.QUOTA, code="405"),
    Rule("all recipients are inactive", Means.RECIPIENT, code="406"),
    Rule("account not approved, or may not send", Means.ACCOUNT, code="41[23]"),
    Rule("stream is not there", Means.ACCOUNT, code="123[45]|12[0-9]{2}"),
    Rule("rate of the API", Means.QUOTA, status="429", code="429"),
    Rule("the message", Means.MESSAGE, code="300|409|41[01]"),
)


def build(options: Options, letter: Letter) -> Call:
    """The call for a letter. Raises CannotCarry."""
    parts = letter.rebuilt
    body: dict[str, Any] = {
        "From": str(parts.sender),
        "To": ",".join(map(str, parts.to)),
        "Subject": parts.subject,
        "MessageStream": options.message_stream,
        "Metadata": {"relay-id": letter.id},
    }
    if parts.cc:
        body["Cc"] = ",".join(map(str, parts.cc))
    if parts.bcc:
        body["Bcc"] = ",".join(map(str, parts.bcc))
    if parts.reply_to:
        body["ReplyTo"] = ",".join(map(str, parts.reply_to))
    if parts.html:
        body["HtmlBody"] = parts.html
    if parts.text or not parts.html:
        body["TextBody"] = parts.text or " "
    headers = [{"Name": name, "Value": value} for name, value in parts.fields(FORBIDDEN, once=False)]
    if any(item["Name"].lower() == "message-id" for item in headers):
        headers.append({"Name": "X-PM-KeepID", "Value": "true"})
    if headers:
        body["Headers"] = headers
    if parts.attachments:
        body["Attachments"] = [_file(part) for part in parts.attachments]
    if options.tracking == "off":
        body["TrackOpens"] = False
        body["TrackLinks"] = "None"
    return as_json(body, _key(options), path="/email")


def _key(options: Options) -> tuple[str, str]:
    return ("X-Postmark-Server-Token", options.server_token.get_secret_value())


def _file(part: Attachment) -> dict[str, str]:
    out = {
        "Name": part.filename,
        "Content": encoded(part.content),
        "ContentType": part.media,
    }
    if part.inline:
        out["ContentID"] = f"cid:{part.cid}"
    return out


def parse(answer: Answer, letter: Letter) -> list[RecipientOutcome]:
    """What the answer means for each recipient."""
    if answer.status == 200 and answer.fields.get("ErrorCode") == 0:
        found = str(answer.fields.get("MessageID", ""))
        return for_all(letter, outcome(Means.SENT, answer, str(answer.fields.get("Message", "")), vendor_id=found))
    return for_all(letter, _trouble(answer))


def _trouble(answer: Answer) -> Outcome:
    code, text = str(answer.fields.get("ErrorCode", "")), str(answer.fields.get("Message") or answer.words)
    return judged(RULES, answer, code, text)


def probe(options: Options) -> Call:
    """The settings of the server."""
    return Call(method="GET", path="/server", headers=(("Accept", "application/json"), _key(options)))


def parse_probe(answer: Answer) -> Outcome:
    if answer.status == 200 and "ID" in answer.fields:
        kind = re.sub(r"[^A-Za-z]", "", str(answer.fields.get("DeliveryType", "")))
        return well(
            answer, "token is good" + (", of a sandbox server: nothing is delivered" if kind == "Sandbox" else "")
        )
    return _trouble(answer)


API = Api[Options](build=build, parse=parse, probe=probe, parse_probe=parse_probe, takes_apart=True)
