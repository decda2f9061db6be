"""A message as a person looks at it: header fields, text, HTML, attachments. Pure; any octets give something.

Nothing here makes it safe to show: pages escape, and HTML goes only into a frame that may do nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage, Message

from relay.headers.words import readable

STAMPS = ("X-Virtual-MTA", "X-Feedtype", "X-Zone", "X-ServerID")
"""The four that each message leaves with."""


@dataclass(frozen=True, slots=True)
class Attachment:
    name: str
    media_type: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MailView:
    """
    Attributes:
        fields: name and value of each header field as it stands, unfolded.
        stamps: those of `STAMPS` that are there.
        text, html: decoded; empty when there is none.
        source: the message as text, octets that are no UTF-8 replaced.
    """

    subject: str
    from_: str
    to: str
    date: str
    fields: tuple[tuple[str, str], ...]
    stamps: tuple[tuple[str, str], ...]
    text: str
    html: str
    attachments: tuple[Attachment, ...]
    source: str


def look_at(content: bytes) -> MailView:
    head, _, _ = content.partition(b"\r\n\r\n")
    fields = tuple(_fields(head))
    first = {name.lower(): value for name, value in reversed(fields)}
    text, html, attachments = "", "", []
    for part in _parts(content):
        media_type = part.get_content_type()
        payload = _payload(part)
        name = _name(part)
        if name or part.get_content_disposition() == "attachment" or media_type not in ("text/plain", "text/html"):
            attachments.append(Attachment(name or "(no name)", media_type, len(payload)))
        elif media_type == "text/html":
            html = html or _decoded(payload, part)
        else:
            text = text or _decoded(payload, part)
    wanted = {name.lower() for name in STAMPS}
    return MailView(
        subject=_read(first.get("subject", "")),
        from_=_read(first.get("from", "")),
        to=_read(first.get("to", "")),
        date=first.get("date", ""),
        fields=fields,
        stamps=tuple((name, value) for name, value in fields if name.lower() in wanted),
        text=text,
        html=html,
        attachments=tuple(attachments),
        source=content.decode("utf-8", "replace"),
    )


def _read(value: str) -> str:
    return readable(value.encode("utf-8", "replace"), 1000)


def _fields(head: bytes) -> Iterator[tuple[str, str]]:
    name, value = "", ""
    for line in head.decode("utf-8", "replace").split("\r\n"):
        if line[:1] in (" ", "\t") and name:
            value += " " + line.strip()
            continue
        if name:
            yield name, value
        name, colon, value = line.partition(":")
        name, value = (name.strip(), value.strip()) if colon else ("", "")
    if name:
        yield name, value


def _parts(content: bytes) -> list[Message]:
    try:
        message = message_from_bytes(content, policy=policy.compat32)
        return [part for part in message.walk() if not part.is_multipart()]
    except Exception:  # whatever the parser stumbles over: the source is shown all the same
        return [EmailMessage()]


def _payload(part: Message) -> bytes:
    with contextlib.suppress(Exception):
        found = part.get_payload(decode=True)
        if isinstance(found, bytes):
            return found
    return b""


def _name(part: Message) -> str:
    with contextlib.suppress(Exception):
        return _read(str(part.get_filename("") or ""))
    return ""


def _decoded(payload: bytes, part: Message) -> str:
    try:
        return payload.decode(part.get_content_charset("utf-8"), "replace")
    except (LookupError, UnicodeError, ValueError):
        return payload.decode("utf-8", "replace")
