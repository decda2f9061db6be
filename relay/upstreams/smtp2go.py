"""SMTP2GO, API v3. A message that shows all its recipients goes raw (`email/mime`), others are taken apart
(`email/send`): the raw call has no envelope, and whether it removes Bcc is not documented.

A picture's Content-ID is its file name there, so inline pictures are named by their Content-ID. Lost when taken apart:
Message-ID, Date, Sender, the layout of the MIME tree.

Source: SMTP2GO API v3 "Send email", "Send MIME email", error codes, API key permissions.
"""

from __future__ import annotations

from typing import Any, Literal

from relay.fields import Secret
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
    encoded,
    for_all,
    items,
    judged,
    outcome,
    well,
)
from relay.upstreams.api_options import ShownOptions
from relay.upstreams.carries import Carries

MAX_CONTENT = 50_000_000 * 3 // 4


class Options(ShownOptions):
    """An SMTP2GO account, over its API (v3)."""

    api_key: Secret
    """API key (`api-…`) that may call `/email/mime` and `/email/send`."""
    region: Literal["global", "us", "eu", "au"] = "global"
    """Where calls are answered; `global` is the nearest."""

    def _vendor_url(self) -> str:
        return f"https://{'' if self.region == 'global' else f'{self.region}-'}api.smtp2go.com/v3"

    @property
    def carries(self) -> Carries:
        return Carries(null_sender=self.null_sender, smtputf8=False, max_size=MAX_CONTENT, max_recipients=100)


FORBIDDEN = frozenset({"content-type", "content-transfer-encoding", "mime-version", "message-id", "date", "sender"})

RULES = (
    Rule("key may not call this", Means.ACCOUNT, code=".*ENDPOINT_PERMISSION_DENIED"),
    Rule("key", Means.ACCOUNT, status="400", words=r"api[ _]?key.{0,60}(invalid|unknown|not|inactive|missing|format)"),
    Rule("sender not verified", Means.SENDER, words="(sender|from).{0,60}(verif|not allowed)|unverified"),
    Rule("limits", Means.QUOTA, code=".*(REQ_LIMIT_EXCEEDED|RATE_LIMIT.*|QUOTA.*)"),
    Rule(
        "an exception of theirs: not known whether it was taken", Means.UNCERTAIN, status="5..", code=".*API_EXCEPTION"
    ),
    Rule("the message", Means.MESSAGE, code=".*NON_VALIDATING_IN_PAYLOAD|.*API_EXCEPTION"),
)
_RATE_WAIT_S = 60.0
"""The source address is blocked for at least a minute, says the vendor, and sends no header."""


def build(options: Options, letter: Letter) -> Call:
    """The call for a letter. Raises CannotCarry."""
    if letter.parts is None:
        kind = (("Content-Type", "application/json"), ("Accept", "application/json"))
        body = (b'{"fastaccept":false,"mime_email":"', Raw(letter.content, "base64"), b'"}')
        return Call(path="/email/mime", headers=(*kind, _key(options)), body=body)
    parts = letter.parts
    fields: dict[str, Any] = {
        "sender": str(parts.sender),
        "to": [str(box) for box in parts.to],
        "subject": parts.subject,
        "fastaccept": False,
    }
    if parts.cc:
        fields["cc"] = [str(box) for box in parts.cc]
    if parts.bcc:
        fields["bcc"] = [str(box) for box in parts.bcc]
    if parts.html:
        fields["html_body"] = parts.html
    if parts.text or not parts.html:
        fields["text_body"] = parts.text or " "
    headers = [{"header": name, "value": value} for name, value in parts.fields(FORBIDDEN, once=False)]
    if parts.reply_to:
        headers.append({"header": "Reply-To", "value": ", ".join(map(str, parts.reply_to))})
    if headers:
        fields["custom_headers"] = headers
    if parts.files:
        fields["attachments"] = [
            {"filename": p.filename, "mimetype": p.kind, "fileblob": encoded(p.content)} for p in parts.files
        ]
    if parts.pictures:
        fields["inlines"] = [
            {"filename": p.cid, "mimetype": p.kind, "fileblob": encoded(p.content)} for p in parts.pictures
        ]
    return as_json(fields, _key(options), path="/email/send")


def _key(options: Options) -> tuple[str, str]:
    return ("X-Smtp2go-Api-Key", options.api_key.get_secret_value())


def parse(answer: Answer, letter: Letter) -> list[RecipientOutcome]:
    """What the answer means for each recipient. Failures are named by address inside their text."""
    data = answer.fields.get("data")
    if answer.status != 200 or not isinstance(data, dict) or "succeeded" not in data:
        return for_all(letter, _trouble(answer))
    found = str(data.get("email_id", ""))
    sent = outcome(Means.SENT, answer, vendor_id=found)
    failures = [str(item) for item in items(data.get("failures"))]
    if not data.get("failed") and not failures:
        silent = outcome(Means.UNCERTAIN, answer, "neither taken nor refused, says the answer")
        return for_all(letter, sent if data.get("succeeded") else silent)
    text = "; ".join(failures)[:400] or "refused"
    refused = outcome(Means.RECIPIENT, answer, text)
    if not data.get("succeeded"):
        return for_all(letter, refused)
    named = {address for address in letter.recipients if any(address.lower() in item.lower() for item in failures)}
    rest = sent if named else outcome(Means.UNCERTAIN, answer, f"some recipients were refused, not said which: {text}")
    return [RecipientOutcome(address, refused if address in named else rest) for address in letter.recipients]


def _trouble(answer: Answer) -> Outcome:
    data = answer.fields.get("data")
    where = data if isinstance(data, dict) and ("error" in data or "error_code" in data) else answer.fields
    code, text = str(where.get("error_code", "")), str(where.get("error") or answer.words)
    details = where.get("field_validation_errors")
    if details:
        text = f"{text} ({details})"
    return judged(RULES, answer, code, text, wait_s=_RATE_WAIT_S if answer.status == 429 else None)


def probe(options: Options) -> Call:
    """What the key may call."""
    return as_json({}, _key(options), path="/api_keys/permissions")


def parse_probe(answer: Answer) -> Outcome:
    if answer.status == 200:
        if "/email/send" in (said := answer.body.decode("utf-8", "replace")) or "/email/mime" in said:
            return well(answer, "key may send")
        return outcome(Means.ACCOUNT, answer, "the key may call neither /email/mime nor /email/send")
    return _trouble(answer)


API = Api[Options](build=build, parse=parse, probe=probe, parse_probe=parse_probe, takes_apart=True, raw_as_shown=True)
