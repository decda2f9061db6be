"""Delivery status notifications: whether one is due, and its content (RFC 3461, 3464, 6522, 6533, 3834).

Pure: the caller stores what is built here as a message with the null reverse-path, addressed to the original's sender,
and says so in events. Peer text is cleaned and cut before it gets anywhere near a header.

Rules, in order: the null reverse-path never gets one (RFC 5321 §6.1), nor does a report of ours, nor a sender we could
not address; then each recipient's NOTIFY decides for itself.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from relay.envelope import Message, Recipient
from relay.headers.fields import walk
from relay.headers.words import clean, encode_mailbox, encode_text, mail_date

RETURN_BYTES = 64 * 1024
"""How much of an original is returned in full; a larger one returns its headers only, as most servers do."""

_HEADERS_BYTES = 32 * 1024


class Action(StrEnum):
    """Action field of RFC 3464 §2.3.3, as far as this relay uses it. `EXPIRED` reports as `failed`.

    `RELAYED`: handed on to a server that will report nothing itself (RFC 3461 §5.2.2).
    """

    FAILED = "failed"
    EXPIRED = "expired"
    DELAYED = "delayed"
    RELAYED = "relayed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """`recipients` to report on; when empty, `why` tells for the log."""

    recipients: tuple[Recipient, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reporter:
    """Who reports.

    Attributes:
        hostname: Reporting-MTA.
        address: From of the report, for example `postmaster@relay.acme.example`.
        name: its display name.
    """

    hostname: str
    address: str
    name: str = "Mail Delivery System"


def due(message: Message, recipients: Sequence[Recipient], action: Action, *, reporter: Reporter) -> Due:
    """Which of `recipients` the sender is to be told about.

    Args:
        recipients: those that came to `action`.
    """
    if not message.sender:
        return Due(why="null reverse-path: reports are never answered with reports")
    if message.sender.lower() == reporter.address.lower():
        return Due(why="the sender is this relay's own reporting address: that would be a loop")
    if "@" not in message.sender and message.sender.lower() != "postmaster":
        return Due(why="the reverse-path has no domain to report to")
    wanted = {Action.DELAYED: "DELAY", Action.RELAYED: "SUCCESS"}.get(action, "FAILURE")
    told = tuple(recipient for recipient in recipients if _asks_for(recipient.notify, wanted))
    return Due(recipients=told, why="" if told else f"NOTIFY of no recipient asks for {wanted}")


def _asks_for(notify: str, wanted: str) -> bool:
    """RFC 3461 §4.1: without NOTIFY failures are told; delays are too, at the server's discretion (§5.2.5); success
    only when it was asked for."""
    values = {value.strip().upper() for value in notify.split(",")} - {""}
    return (not values and wanted != "SUCCESS") or (wanted in values and "NEVER" not in values)


def build_dsn(
    message: Message,
    recipients: Sequence[Recipient],
    action: Action,
    *,
    reporter: Reporter,
    head: bytes,
    body: bytes | None,
    now: float,
    message_id: str,
    boundary: str,
    expires_at: float = 0.0,
    smtputf8: bool = False,
    return_bytes: int = RETURN_BYTES,
) -> tuple[bytes, bytes]:
    """Head and body of the report.

    Args:
        recipients: as `due` gave them, with their last answer.
        head: stored header section of the original; body: its body, or None when it is too large to be returned.
        message_id: of the report, with brackets; boundary: unique, 1 to 60 letters, digits or `=_`.
        expires_at: epoch seconds until which a delayed message is tried.
        smtputf8: the report itself may be sent with SMTPUTF8. Without it UTF-8 addresses are written in the escaped
            form of RFC 6533 §3 and the returned part is encoded.

    Returns:
        CRLF octets. The head is ASCII unless the sender's address is not; the body may be 8-bit when it returns an
        8-bit original, and is UTF-8 with `smtputf8`.

    Raises:
        ValueError: no recipients, a null sender, or a boundary that is none.
    """
    if not recipients or not message.sender:
        raise ValueError("a report needs recipients and somebody to tell")
    if not re.fullmatch(r"[A-Za-z0-9=_]{1,60}", boundary):
        raise ValueError(f"not a boundary: {boundary!r}")
    utf8 = smtputf8 and not _all_ascii(message, recipients)
    parts = (
        _human_part(message, recipients, action, reporter, expires_at),
        _status_part(message, recipients, action, reporter, now, expires_at, utf8),
        _returned_part(message, head, body, return_bytes, utf8),
    )
    delimiter = b"--" + boundary.encode("ascii")
    while any(b"\r\n" + delimiter in b"\r\n" + part for part in parts):  # the original may quote an older report
        boundary += "="
        delimiter += b"="
    out = [b"This is a multi-part message in MIME format.\r\n"]
    for part in parts:
        out += [b"\r\n", delimiter, b"\r\n", part]
    out += [b"\r\n", delimiter, b"--\r\n"]
    body_out = b"".join(out)
    return _report_head(message, action, reporter, now, message_id, boundary, body_out.isascii()), body_out


def _all_ascii(message: Message, recipients: Sequence[Recipient]) -> bool:
    return message.sender.isascii() and all(r.address.isascii() and r.orcpt.isascii() for r in recipients)


def _report_head(
    message: Message, action: Action, reporter: Reporter, now: float, message_id: str, boundary: str, ascii_body: bool
) -> bytes:
    subject = {
        Action.FAILED: "Undelivered mail returned to sender",
        Action.EXPIRED: "Undelivered mail: gave up after repeated tries",
        Action.DELAYED: "Delayed mail (still being tried)",
        Action.RELAYED: "Mail passed on",
    }[action]
    references = f"References: {message.facts.message_id}\r\n" if _is_id(message.facts.message_id) else ""
    return (
        b"From: " + encode_mailbox(reporter.name, reporter.address) + b"\r\n"
        b"To: <" + message.sender.encode("utf-8") + b">\r\n"
        b"Subject: " + encode_text(subject) + b"\r\n"
        b"Date: " + mail_date(now) + b"\r\n"
        b"Message-ID: "
        + message_id.encode("ascii")
        + b"\r\n"
        + references.encode("ascii")
        + b"Auto-Submitted: auto-replied\r\n"
        b"MIME-Version: 1.0\r\n"
        b"Content-Type: multipart/report; report-type=delivery-status;\r\n"
        b'\tboundary="'
        + boundary.encode("ascii")
        + b'"\r\n'
        + (b"" if ascii_body else b"Content-Transfer-Encoding: 8bit\r\n")
    )


def _is_id(text: str) -> bool:
    """Short enough for one line and without anything that could leave it."""
    return re.fullmatch(r"<[!-;=?-~]{1,900}>", text) is not None


# Part 1: for people


def _human_part(
    message: Message, recipients: Sequence[Recipient], action: Action, reporter: Reporter, expires_at: float
) -> bytes:
    opening = {
        Action.FAILED: "Your message could not be delivered to the recipients below. It will not be tried again.",
        Action.EXPIRED: "Your message was tried for as long as allowed and could not be delivered to the recipients\n"
        "below. It will not be tried again.",
        Action.DELAYED: "Your message has not been delivered yet to the recipients below. You need not do anything:\n"
        "it is still being tried" + (f" until {mail_date(expires_at).decode('ascii')}." if expires_at else "."),
        Action.RELAYED: "Your message was passed on for the recipients below to a server that does not confirm\n"
        "deliveries. You will hear of it again only if that server reports a failure.",
    }[action]
    lines = [f"This is the mail system at {reporter.hostname}.", "", *opening.split("\n"), ""]
    lines += [
        f"    Subject:  {clean(message.facts.subject, 200) or '(none)'}",
        f"    Sent:     {mail_date(message.received_at).decode('ascii')}",
        f"    From:     {clean(message.sender)}",
        f"    Queue id: {message.id}",
        "",
    ]
    for recipient in recipients:
        lines.append(f"<{clean(recipient.address)}>")
        answer = _answer(recipient)
        lines.append(f"    The receiving side said: {answer}" if answer else "    The receiving side gave no answer.")
        lines.append("")
    text = "\n".join(lines)
    if text.isascii():
        return (
            b"Content-Type: text/plain; charset=us-ascii\r\nContent-Description: Notification\r\n\r\n"
            + b"\r\n".join(_wrapped(text))
        )
    # base64 rather than 8-bit: the way back may lack 8BITMIME, and nobody converts reports.
    return (
        b"Content-Type: text/plain; charset=utf-8\r\nContent-Description: Notification\r\n"
        b"Content-Transfer-Encoding: base64\r\n\r\n" + _base64("\r\n".join(text.split("\n")).encode("utf-8"))
    )


def _answer(recipient: Recipient) -> str:
    """The last answer for this recipient as one clean line; empty when there was none."""
    words = [str(recipient.code) if recipient.code else "", recipient.enhanced, clean(recipient.text)]
    return clean(" ".join(word for word in words if word))


def _wrapped(text: str) -> list[bytes]:
    """Lines of at most 998 octets (peer text is at most 500 characters, addresses 1000)."""
    return [line[i : i + 900].encode("ascii") for line in text.split("\n") for i in range(0, max(1, len(line)), 900)]


def _base64(octets: bytes) -> bytes:
    return b"".join(binascii.b2a_base64(octets[i : i + 57], newline=False) + b"\r\n" for i in range(0, len(octets), 57))


# Part 2: for programs


def _status_part(
    message: Message,
    recipients: Sequence[Recipient],
    action: Action,
    reporter: Reporter,
    now: float,
    expires_at: float,
    utf8: bool,
) -> bytes:
    kind = b"global-delivery-status" if utf8 else b"delivery-status"
    fields = [b"Reporting-MTA: dns; " + reporter.hostname.encode("ascii", "replace")]
    if message.envid:
        fields.append(b"Original-Envelope-Id: " + clean(message.envid, 200).encode("ascii", "replace"))
    fields.append(b"Arrival-Date: " + mail_date(message.received_at))
    blocks = [b"\r\n".join(fields)]
    for recipient in recipients:
        status = status_code(recipient, action)
        fields = []
        if ";" in recipient.orcpt:
            address_type, _, address = clean(recipient.orcpt, 1000).partition(";")
            fields.append(b"Original-Recipient: " + _typed(address_type, address, utf8))
        fields.append(b"Final-Recipient: " + _typed("rfc822", clean(recipient.address, 1000), utf8))
        fields.append(b"Action: " + _ACTION_FIELD.get(action, b"failed"))
        fields.append(b"Status: " + status.encode("ascii"))
        if recipient.code:
            fields.append(b"Diagnostic-Code: smtp; " + _folded_ascii(_answer(recipient)))
        fields.append(b"Last-Attempt-Date: " + mail_date(now))
        if action is Action.DELAYED and expires_at:
            fields.append(b"Will-Retry-Until: " + mail_date(expires_at))
        blocks.append(b"\r\n".join(fields))
    encoding = b"Content-Transfer-Encoding: 8bit\r\n" if utf8 else b""
    head = b"Content-Type: message/" + kind + b"\r\nContent-Description: Delivery report\r\n" + encoding
    return head + b"\r\n" + b"\r\n\r\n".join(blocks) + b"\r\n"


_ACTION_FIELD = {Action.DELAYED: b"delayed", Action.RELAYED: b"relayed"}


def status_code(recipient: Recipient, action: Action) -> str:
    """RFC 3463 status: the answer's own when its class fits the action, else the nearest that does."""
    klass = {Action.DELAYED: "4", Action.RELAYED: "2"}.get(action, "5")
    match = re.fullmatch(r"([245])\.(\d{1,3})\.(\d{1,3})", recipient.enhanced)
    if match and match[1] == klass:
        return recipient.enhanced
    if action is Action.EXPIRED:
        return "5.4.7"  # delivery time expired; the temporary answer stays in Diagnostic-Code
    if match and match[1] != "2" and klass != "2":
        return f"{klass}.{match[2]}.{match[3]}"
    return klass + (".0.0" if action is Action.RELAYED else _SUBJECT_OF_CODE.get(recipient.code, ".0.0"))


_SUBJECT_OF_CODE = {
    421: ".3.2", 450: ".2.0", 451: ".3.0", 452: ".3.1", 454: ".7.0", 530: ".7.0", 535: ".7.8", 550: ".1.1",
    551: ".1.6", 552: ".2.2", 553: ".1.3", 554: ".0.0", 555: ".5.4",
}  # fmt: skip
"""RFC 3463 subject and detail nearest to a bare reply code (RFC 5321 §4.2.3)."""


def _typed(address_type: str, address: str, utf8: bool) -> bytes:
    """`type; address`. A UTF-8 address has type utf-8, as it is or escaped (RFC 6533 §3)."""
    if address.isascii():
        safe = re.sub(r"[^A-Za-z0-9-]", "", address_type) or "rfc822"
        return f"{safe}; {address.strip()}".encode("ascii")
    if utf8:
        return f"utf-8; {address.strip()}".encode()
    escaped = "".join(c if "!" <= c <= "~" and c not in "\\+=" else f"\\x{{{ord(c):X}}}" for c in address.strip())
    return b"utf-8; " + escaped.encode("ascii")


def _folded_ascii(text: str) -> bytes:
    """Text for a structured header: ASCII, folded at blanks."""
    lines: list[str] = [""]
    for word in text.encode("ascii", "replace").decode("ascii").split(" "):
        if lines[-1] and len(lines[-1]) + len(word) > 70:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + word
    return "\r\n ".join(lines).encode("ascii")


# Part 3: the original


def _returned_part(message: Message, head: bytes, body: bytes | None, return_bytes: int, utf8: bool) -> bytes:
    """The full original where asked for (RET=FULL or nothing said) and small enough; its headers otherwise."""
    full = message.ret != "HDRS" and body is not None and len(head) + 2 + len(body) <= return_bytes
    if full:
        octets = head + b"\r\n" + (body or b"")
        plain, wide, label = b"message/rfc822", b"message/global", b"Undelivered message"
    else:
        octets = _first_fields(head)
        plain, wide, label = b"text/rfc822-headers", b"message/global-headers", b"Undelivered message headers"
    named = b"\r\nContent-Description: " + label + b"\r\n"
    if max(map(len, octets.split(b"\r\n"))) <= 998:
        if octets.isascii():
            return b"Content-Type: " + plain + named + b"\r\n" + octets
        if utf8 or (full and head.isascii()):
            kind = plain if head.isascii() else wide
            return b"Content-Type: " + kind + named + b"Content-Transfer-Encoding: 8bit\r\n\r\n" + octets
    # message/rfc822 may not be encoded (RFC 2046 §5.2.1); its successor may (RFC 6532 §3.7).
    kind = wide if full else plain
    return b"Content-Type: " + kind + named + b"Content-Transfer-Encoding: base64\r\n\r\n" + _base64(octets)


def _first_fields(head: bytes) -> bytes:
    """Whole fields up to a bound, so that a giant header section makes no giant report."""
    kept: list[bytes] = []
    room = _HEADERS_BYTES
    for field in walk(head):
        room -= len(field.raw)
        if room < 0:
            break
        kept.append(field.raw)
    return b"".join(kept)
