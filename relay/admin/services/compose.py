"""From the send API's JSON to a message, and from any octets to canonical content. Pure.

Header fields are built by the standard library from checked values: nothing with a line end or another control
character gets as far as that. Lines are judged and repaired by the very scanner that reads DATA.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from typing import Any

from relay.config.models.shapes import RESERVED_HEADERS
from relay.envelope import Reply
from relay.listener.body import BodyLimits, BodyScanner

MAX_ATTACHMENTS = 100

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\u2028\u2029\ud800-\udfff]")
_HEADER_NAME = re.compile(r"[!-9;-~]{1,76}")
_MEDIA_TYPE = re.compile(r"([a-z0-9][a-z0-9!#$&^_.+-]{0,63})/([a-z0-9][a-z0-9!#$&^_.+-]{0,63})")
_DOT_AT_START = re.compile(rb"(?:^|(?<=[\r\n]))\.")
_NAMED = re.compile(r"([^<>]*)<([^<>]+)>")
_UNSAFE_IN_NAME = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|\u202a-\u202e\u2066-\u2069]')


class Unfit(ValueError):
    """A field of the JSON cannot become part of a message. `where`: its key."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(what)
        self.where = where
        self.what = what


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed:
    """`raw`: with CRLF; `sender`, `recipients`: of the envelope."""

    raw: bytes
    sender: str
    recipients: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Canonical:
    """Content as the listener would have made it."""

    head: bytes
    body: bytes
    eight_bit: bool
    long_lines: bool


def canonical(raw: bytes, limits: BodyLimits) -> Canonical | Reply:
    """What DATA with these octets comes to, or the reply that refuses it."""
    if not raw.endswith(b"\r\n"):
        raw = raw[:-1] if limits.normalize and raw.endswith((b"\n", b"\r")) else raw
        raw += b"\r\n"
    scanner = BodyScanner(limits)
    scanner.feed(_DOT_AT_START.sub(b"..", raw) + b".\r\n")
    if scanner.refusal is not None:
        return scanner.refusal
    body = b"".join(scanner.take_body())
    return Canonical(head=scanner.head, body=body, eight_bit=scanner.eight_bit, long_lines=scanner.long_lines)


def compose(fields: Mapping[str, Any]) -> Composed:
    """Build the message of a request.

    Args:
        fields: `from`, `to`, `cc`, `bcc`, `reply_to` (texts, or mappings with `email` and `name`; lists of them),
            `subject`, `text`, `html`, `headers`, `attachments` (`filename`, `content` in base64, `type`,
            `content_id`), `campaign`, `sender` (reverse-path).

    Raises:
        Unfit: names the field.
    """
    author = _address("from", fields.get("from"))
    groups = {key: _addresses(key, fields.get(key)) for key in ("to", "cc", "bcc", "reply_to")}
    named = [author, *groups["to"], *groups["cc"], *groups["reply_to"]]
    utf8 = not all(address.addr_spec.isascii() for address in named)
    message = EmailMessage(policy=SMTPUTF8 if utf8 else SMTP)
    message["From"] = author
    for key, name in (("to", "To"), ("cc", "Cc"), ("reply_to", "Reply-To")):
        if groups[key]:
            message[name] = groups[key]
    if subject := fields.get("subject"):
        message["Subject"] = _line("subject", subject)
    for name, value in (fields.get("headers") or {}).items():
        _add_header(message, str(name), value)
    if campaign := fields.get("campaign"):
        message["X-Relay-Campaign"] = _line("campaign", campaign)
    _add_bodies(message, fields)
    recipients = tuple(dict.fromkeys(a.addr_spec for key in ("to", "cc", "bcc") for a in groups[key]))
    if not recipients:
        raise Unfit("to", "no recipient")
    sender = fields.get("sender")
    return Composed(
        raw=_octets(message),
        sender=author.addr_spec if sender is None else _line("sender", sender),
        recipients=recipients,
    )


def _octets(message: EmailMessage) -> bytes:
    try:
        return message.as_bytes()
    except (UnicodeError, ValueError, LookupError) as error:
        raise Unfit("headers", f"cannot be written as a message: {error}") from error


def _add_bodies(message: EmailMessage, fields: Mapping[str, Any]) -> None:
    text, html = fields.get("text"), fields.get("html")
    for key, value in (("text", text), ("html", html)):
        if value is not None:
            _check_text(key, value)
    if text is not None or html is None:
        message.set_content(text or "", cte=_encoding(text or ""))
    if html is not None:
        if text is None:
            message.set_content(html, subtype="html", cte=_encoding(html))
        else:
            message.add_alternative(html, subtype="html", cte=_encoding(html))
    attachments = fields.get("attachments") or []
    if len(attachments) > MAX_ATTACHMENTS:
        raise Unfit("attachments", f"more than {MAX_ATTACHMENTS}")
    for number, attachment in enumerate(attachments):
        _attach(message, f"attachments.{number}", attachment)


def _attach(message: EmailMessage, where: str, attachment: Mapping[str, Any]) -> None:
    try:
        content = base64.b64decode(attachment["content"], validate=True)
    except (binascii.Error, KeyError, TypeError, ValueError):
        raise Unfit(f"{where}.content", "not base64") from None
    kind = _MEDIA_TYPE.fullmatch(str(attachment.get("type") or "application/octet-stream").lower())
    if kind is None:
        raise Unfit(f"{where}.type", "not a media type such as application/pdf")
    main, sub = kind[1], kind[2]
    if main in ("multipart", "message"):
        main, sub = "application", "octet-stream"
    name = safe_name(_line(f"{where}.filename", attachment.get("filename") or "attachment"))
    content_id = attachment.get("content_id")
    more: dict[str, Any] = {"filename": name, "disposition": "inline" if content_id else "attachment"}
    if content_id:
        more["cid"] = f"<{_line(f'{where}.content_id', content_id).strip('<>')}>"
    try:
        message.add_attachment(content, maintype=main, subtype=sub, **more)
    except (UnicodeError, ValueError) as error:
        raise Unfit(where, f"cannot be attached: {error}") from error


def safe_name(name: str) -> str:
    """A file name that is only a name, wherever it is saved."""
    clean = _UNSAFE_IN_NAME.sub("_", name).strip(" .")[:150]
    return clean or "attachment"


def _add_header(message: EmailMessage, name: str, value: object) -> None:
    lower = name.lower()
    if not _HEADER_NAME.fullmatch(name):
        raise Unfit(f"headers.{name[:80]}", "not a header name")
    if (lower in RESERVED_HEADERS and lower not in ("in-reply-to", "references", "message-id", "date", "sender")) or (
        lower.startswith("content-") or lower == "mime-version"
    ):
        raise Unfit(f"headers.{name}", "belongs to the message itself or to the relay; it has a field of its own")
    text = _line(f"headers.{name}", value)
    try:
        message[name] = text
    except (UnicodeError, ValueError) as error:
        raise Unfit(f"headers.{name}", str(error)) from error


def _addresses(where: str, value: object) -> list[Address]:
    if value is None:
        return []
    listed: Sequence[object] = value if isinstance(value, (list, tuple)) else [value]
    return [_address(where if len(listed) == 1 else f"{where}.{number}", each) for number, each in enumerate(listed)]


def _address(where: str, value: object) -> Address:
    """`Name <user@domain>`, `user@domain`, or a mapping with `email` and `name`."""
    if isinstance(value, Mapping):
        name, given = str(value.get("name") or ""), str(value.get("email") or "")
    elif isinstance(value, str):
        text = _line(where, value).strip()
        named = _NAMED.fullmatch(text)
        name, given = (_unquoted(named[1]), named[2]) if named else ("", text)
    else:
        raise Unfit(where, "missing")
    name, given = _line(where, name), _line(where, given).strip()
    local, at, domain = given.rpartition("@")
    if not (at and local and domain) or any(char in given for char in "<>,;"):
        raise Unfit(where, "not an e-mail address")
    if " " in given and not (local.startswith('"') and " " not in domain):
        raise Unfit(where, "not an e-mail address")
    try:
        return Address(display_name=name, username=local, domain=domain)
    except Exception as error:  # the library's parser has many ways to say no
        raise Unfit(where, "not an e-mail address") from error


def _unquoted(name: str) -> str:
    """A display name as people read it."""
    name = name.strip()
    if len(name) >= 2 and name.startswith('"') and name.endswith('"'):
        name = re.sub(r"\\(.)", r"\1", name[1:-1])
    return name


def _line(where: str, value: object) -> str:
    if not isinstance(value, str):
        raise Unfit(where, "not text")
    if _CONTROL.search(value):
        raise Unfit(where, "line ends and control characters are not allowed here")
    if len(value) > 10_000:
        raise Unfit(where, "too long")
    return value


def _check_text(where: str, value: object) -> None:
    if not isinstance(value, str):
        raise Unfit(where, "not text")
    if re.search(r"[\x00\ud800-\udfff]", value):
        raise Unfit(where, "NUL and half characters are not allowed")


def _encoding(text: str) -> str:
    """Plain where every server can carry it as it is; else quoted-printable, which no hop needs to convert."""
    plain = text.isascii() and all(len(line) < 900 for line in text.splitlines())
    return "7bit" if plain else "quoted-printable"
