"""A message taken apart for vendors that build it anew from JSON: texts, pictures, attachments, headers, addresses.

What has to arrive octet for octet or in its own structure (signed and encrypted MIME, reports, partial and external
bodies) is refused with `CannotCarry`; so is what readers could understand in different ways (two authors, two subjects,
a multipart without its boundary). Everything else finds its place:

- the first text/plain and the first text/html are the body; further texts become attachments, so that nothing is lost;
- parts with a Content-ID in multipart/related are inline, other parts are attachments, messages inside as `.eml`;
- text of any character set is decoded once; a declared set that does not fit is replaced by one that does, so that no
  octet is lost;
- header fields go along as they stand, but for those that the vendor writes itself and those about the transport.

Pure. Takes time and memory with the message: call it in a thread when it is large.

Source: RFC 2045, 2046, 2047, 2183, 2387, 2392.
"""

from __future__ import annotations

import binascii
import email.parser
import email.policy
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from email.message import Message
from urllib.parse import unquote

from relay.envelope import Content
from relay.headers.addresses import Token, parse_mailboxes, tokens_of
from relay.headers.fields import Field, walk
from relay.headers.words import decoded
from relay.upstreams.api import CannotCarry
from relay.upstreams.parts import Attachment, Mailbox, Parts

MAX_PARTS = 1000
MAX_DEPTH = 50

_SEALED = {
    "multipart/signed": "signed MIME (multipart/signed)",
    "multipart/encrypted": "encrypted MIME (multipart/encrypted)",
    "application/pkcs7-mime": "S/MIME",
    "application/x-pkcs7-mime": "S/MIME",
    "application/pgp-encrypted": "PGP/MIME",
    "multipart/report": "a report (multipart/report)",
    "message/partial": "a piece of a message (message/partial)",
    "message/external-body": "a body kept elsewhere (message/external-body)",
    "message/delivery-status": "a report (message/delivery-status)",
    "message/disposition-notification": "a report (message/disposition-notification)",
}
"""What would be nothing any more once it is rebuilt."""

_LESSER = frozenset({"text/x-amp-html", "text/watch-html", "text/enriched", "text/richtext", "text/rtf"})
"""Alternatives that only some readers show, and never without text or HTML beside them."""

TRANSPORT = frozenset(
    {b"", b"received", b"return-path", b"delivered-to", b"x-original-to", b"dkim-signature", b"domainkey-signature"}
    | {b"authentication-results", b"received-spf", b"arc-seal", b"arc-message-signature", b"mime-version", b"bcc"}
    | {b"arc-authentication-results", b"resent-bcc", b"x-ms-exchange-organization-scl"}
)
"""Fields about the way, or about octets that do not survive."""

OWN = frozenset({b"from", b"to", b"cc", b"subject", b"reply-to"})
"""Fields with a place of their own in every vendor's request."""

_CHARSETS = {"us-ascii": "utf-8", "ascii": "utf-8", "iso-8859-1": "cp1252", "latin1": "cp1252", "latin-1": "cp1252"}
_CHARSETS |= {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "ks_c_5601-1987": "cp949", "euc-kr": "cp949"}
"""Read as browsers and mail programs do (WHATWG Encoding §4.2): the wider set of the same family."""

_SAFE_CHARSET = re.compile(
    r"utf-?(7|8|16|16le|16be|32)|us-ascii|ascii|iso-?8859-\d{1,2}(-[ie])?|latin-?1|windows-\d{3,4}|cp\d{3,4}|"
    r"koi8-[rut]|tis-620|gb2312|gbk|gb18030|hz-gb-2312|big5(-?hkscs)?|euc-(jp|kr)|ks_c_5601-1987|shift[_-]jis|"
    r"iso-2022-(jp(-\d)?|kr)|mac(roman|intosh)?",
    re.IGNORECASE,
)


def take_apart(content: Content, sender: str) -> Parts:
    """The message in pieces. Reads a body file: blocking.

    Args:
        sender: reverse-path, used as author where the message names none.

    Raises:
        CannotCarry: it would not be the same message any more.
        OSError: the body file.
    """
    fields = walk(content.head)
    octets = content.body if isinstance(content.body, bytes) else b"".join(content.body.chunks())
    walker = _Walker(octets)
    walker.part(_parsed(content.head), 0, len(octets))
    return Parts(
        subject=decoded(_one(fields, b"subject")),
        sender=_author(fields, sender),
        reply_to=tuple(mailboxes(fields, b"reply-to")),
        to=tuple(mailboxes(fields, b"to")),
        cc=tuple(mailboxes(fields, b"cc")),
        text=walker.text,
        html=walker.html,
        calendar=walker.calendar,
        method=walker.method,
        attachments=tuple(_shown(walker.attachments, walker.html or "")),
        headers=tuple(_others(fields)),
    )


def _shown(attachments: Sequence[Attachment], html: str) -> Iterator[Attachment]:
    """Whatever the HTML refers to is inline, wherever it stands and whatever its disposition says."""
    referred = {unquote(cid) for cid in re.findall(r"""cid:([^"'\s>)]+)""", html)}
    for part in attachments:
        yield replace(part, inline=True) if part.cid in referred else part


def _others(fields: Sequence[Field]) -> Iterator[tuple[str, str]]:
    """Fields that are neither the vendor's nor the transport's."""
    for item in fields:
        if item.name in TRANSPORT or item.name in OWN or item.name.startswith(b"content-"):
            continue
        name = item.raw.partition(b":")[0].strip().decode("ascii")
        value = item.text
        if value.isascii():
            yield name, re.sub(r"[\x00-\x1f\x7f]+", " ", value.decode("ascii")).strip()
        else:
            yield name, _words(decoded(value))


def _words(text: str) -> str:
    from relay.headers.words import encode_words

    return b" ".join(encode_words(text)).decode("ascii")


def _one(fields: Sequence[Field], name: bytes) -> bytes:
    found = {item.text for item in fields if item.name == name}
    if len(found) > 1:
        raise CannotCarry(f"{len(found)} different fields {name.decode('ascii')}: readers would pick different ones")
    return found.pop() if found else b""


def _author(fields: Sequence[Field], sender: str) -> Mailbox:
    value = _one(fields, b"from")
    if not value:
        if not sender:
            raise CannotCarry("the message has no From, and this vendor needs one")
        return Mailbox("", sender)
    strict = parse_mailboxes(value)
    if strict is None or len(strict.addresses) != 1:
        raise CannotCarry("the From field does not name exactly one author")
    return Mailbox(_name_of(value, strict.addresses[0]), strict.addresses[0])


def _name_of(value: bytes, address: str) -> str:
    found = next(iter(addresses(value)), None)
    if found is None or found.name.lower() == address.lower():
        return ""
    return found.name


def mailboxes(fields: Sequence[Field], name: bytes) -> Iterator[Mailbox]:
    """Mailboxes of all fields of a name, each address once. What is no address is no mailbox: only addresses of the
    envelope are ever used."""
    seen: set[str] = set()
    for item in fields:
        if item.name == name:
            for mailbox in addresses(item.text):
                if mailbox.address.lower() not in seen:
                    seen.add(mailbox.address.lower())
                    yield mailbox


_ADDRESS = re.compile(r"[^\s<>()\[\],;:@\"\\\x00-\x1f\x7f]{1,64}@[^\s<>()\[\],;:@\"\\\x00-\x1f\x7f]{1,255}")


def addresses(value: bytes) -> Iterator[Mailbox]:
    """The mailboxes of a field as far as they can be told apart; of a field that cannot be read, what looks like an
    address."""
    tokens = tokens_of(value.replace(b"\r\n", b""))
    if tokens is None:
        for found in _ADDRESS.findall(value.decode("utf-8", "replace")):
            yield Mailbox("", found)
        return
    item: list[Token] = []
    for token in [*tokens, Token(",", b"")]:
        if token.kind in (",", ";"):
            mailbox = _mailbox(item)
            if mailbox is not None:
                yield mailbox
            item = []
        elif token.kind == ":":
            item = []  # the name of a group
        else:
            item.append(token)


def _mailbox(item: Sequence[Token]) -> Mailbox | None:
    kinds = [token.kind for token in item]
    opening = kinds.index("<") if "<" in kinds else -1
    spec = item[opening + 1 : kinds.index(">")] if opening >= 0 and ">" in kinds[opening:] else item
    address = b"".join(t.text for t in spec if t.kind != "blank").decode("utf-8", "replace")
    local, at, domain = address.rpartition("@")
    if not at or not local or not domain or any(t.kind in "<>" for t in spec):
        return None
    words = [_word(token) for token in item[: max(0, opening)]]
    name = decoded(b"".join(words).strip())
    return Mailbox("" if name.lower() == address.lower() else name, address)


def _word(token: Token) -> bytes:
    """A piece of a display name: quotes taken off, comments left out."""
    if token.kind == "quoted":
        return re.sub(rb"\\(.)", rb"\1", token.text[1:-1])
    return b" " if token.kind == "blank" else token.text


@dataclass
class _Walker:
    """One walk over the tree of parts. Offsets into the octets, so that what is inside arrives as it was."""

    octets: bytes
    text: str | None = None
    html: str | None = None
    calendar: str | None = None
    method: str = ""
    attachments: list[Attachment] = field(default_factory=list)
    parts: int = 0

    def part(self, head: Message, start: int, end: int, *, inside: str = "", depth: int = 0) -> None:
        """Find the place of the part with the body `octets[start:end]`. `inside`: the multipart it stands in."""
        self.parts += 1
        if self.parts > MAX_PARTS or depth > MAX_DEPTH:
            raise CannotCarry(f"more than {MAX_PARTS} parts or {MAX_DEPTH} levels")
        kind = head.get_content_type()
        if "content-type" not in head and inside == "multipart/digest":
            kind = "message/rfc822"
        if kind in _SEALED:
            raise CannotCarry(f"{_SEALED[kind]} must arrive octet for octet, and this vendor builds messages anew")
        if kind.startswith("multipart/"):
            self._multipart(head, kind, start, end, depth)
        else:
            self._leaf(head, kind, start, end, inside)

    def _multipart(self, head: Message, kind: str, start: int, end: int, depth: int) -> None:
        boundary = str(head.get_boundary("")).encode("utf-8", "replace")
        marks = list(_delimiters(self.octets, boundary, start, end)) if boundary else []
        if not marks:
            raise CannotCarry("a multipart without its boundary cannot be taken apart")
        for mark, after in zip(marks, [*marks[1:], None], strict=True):
            if mark[1] is not None:
                break
            part_end = after.start() if after else end
            head_end, body_start = _split(self.octets, min(mark.end(), part_end), part_end)
            inner = _parsed(self.octets[min(mark.end(), part_end) : head_end])
            self.part(inner, body_start, part_end, inside=kind, depth=depth + 1)

    def _leaf(self, head: Message, kind: str, start: int, end: int, inside: str) -> None:
        octets = _unencoded(head, self.octets[start:end])
        attached = head.get_content_disposition() == "attachment" or bool(_filename(head))
        if not attached and kind == "text/plain" and self.text is None:
            self.text = _text(octets, _charset(head))
        elif not attached and kind == "text/html" and self.html is None:
            self.html = _text(octets, _charset(head))
        elif not attached and kind == "text/calendar" and inside == "multipart/alternative":
            self.calendar = _text(octets, _charset(head))
            self.method = str(head.get_param("method", ""))
        elif inside == "multipart/alternative" and kind in _LESSER:
            pass
        elif inside == "multipart/alternative" and not attached and "content-id" not in head:
            raise CannotCarry(f"an alternative of type {kind} has no place in what this vendor builds")
        elif octets or attached or inside not in ("multipart/mixed", ""):
            self._add(head, kind, octets, inside)

    def _add(self, head: Message, kind: str, octets: bytes, inside: str) -> None:
        cid = re.sub(r"[\x00-\x20\x7f<>]", "", str(head.get("Content-ID", "")))
        inline = bool(cid) and head.get_content_disposition() != "attachment" and inside == "multipart/related"
        number = len(self.attachments) + 1
        self.attachments.append(
            Attachment(
                filename=_filename(head) or f"part-{number}{_ENDINGS.get(kind, '.bin')}",
                kind=kind,
                content=octets,
                charset=_charset(head) if kind.startswith("text/") else "",
                cid=cid,
                inline=inline,
            )
        )


_ENDINGS = {
    "text/plain": ".txt",
    "text/html": ".html",
    "text/calendar": ".ics",
    "text/csv": ".csv",
    "message/rfc822": ".eml",
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/gif": ".gif",
    "image/svg+xml": ".svg",
    "application/pdf": ".pdf",
}


def _parsed(head: bytes) -> Message:
    """The fields of one part, for the standard library's reading of parameters (RFC 2231)."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError:
        text = head.decode("cp1252", "replace")
    return email.parser.Parser(policy=email.policy.compat32).parsestr(text + "\r\n", headersonly=True)


def _delimiters(octets: bytes, boundary: bytes, start: int, end: int) -> Iterator[re.Match[bytes]]:
    """Delimiter lines up to and with the closing one (group 1); the CRLF before a line belongs to it."""
    line = re.compile(rb"(?:\r\n|(?<![^\n]))--" + re.escape(boundary) + rb"(--)?[ \t]*(?:\r\n|\Z)")
    at = start
    while match := line.search(octets, at, end):
        yield match
        if match[1] is not None:
            return
        # The line end of a delimiter may be the one before the next: an empty part.
        at = max(match.end() - 2, match.start() + 2)


def _split(octets: bytes, start: int, end: int) -> tuple[int, int]:
    """End of the fields and begin of the body; a part may have no fields at all."""
    if octets[start : start + 2] == b"\r\n" or start >= end:
        return start, min(start + 2, end)
    blank = octets.find(b"\r\n\r\n", start, end)
    return (blank + 2, blank + 4) if blank >= 0 else (end, end)


def _unencoded(head: Message, octets: bytes) -> bytes:
    """The octets without their transfer encoding."""
    encoding = re.sub(r"\([^()]*\)", "", str(head.get("Content-Transfer-Encoding", ""))).strip().lower()
    if encoding in ("", "7bit", "8bit", "binary"):
        return octets
    if encoding == "quoted-printable":
        return binascii.a2b_qp(re.sub(rb"[ \t]+(?=\r\n|\Z)", b"", octets))
    if encoding == "base64":
        letters = re.sub(
            rb"[^A-Za-z0-9+/]", b"", octets.partition(b"=")[0] if octets.rstrip().endswith(b"=") else octets
        )
        if len(letters) % 4 != 1:
            return binascii.a2b_base64(letters + b"=" * (-len(letters) % 4))
        raise CannotCarry("a part in damaged base64 cannot be taken apart")
    raise CannotCarry("a part with an unknown transfer encoding cannot be taken apart")


def _charset(part: Message) -> str:
    try:
        name = str(part.get_content_charset("") or "")
    except (LookupError, ValueError):
        return ""
    return name if _SAFE_CHARSET.fullmatch(name) else ""


def _text(octets: bytes, charset: str) -> str:
    """Text in LF lines. The declared set, else UTF-8, else Windows-1252, of which every octet is some character."""
    for name in (_CHARSETS.get(charset.lower(), ""), charset, "utf-8"):
        if name:
            try:
                return _lines(octets.decode(name))
            except (UnicodeDecodeError, LookupError):
                continue
    return _lines(octets.decode("cp1252", "replace"))


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")


def _filename(part: Message) -> str:
    """The name of a file, decoded, without a path and without what makes one name look like another."""
    raw = part.get_filename("")
    text = decoded(str(raw).encode("utf-8", "replace")) if raw else ""
    return re.sub(r"[\\/:\u202a-\u202e\u2066-\u2069]+", "_", text).strip()[:150]
