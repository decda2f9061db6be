"""Making content fit an upstream: 8-bit to 7-bit, long lines to legal ones (RFC 6152 §3, 2045 §6, 5321 §4.5.3.1.6).

Conversion is part by part. A part that fits stays octet for octet; of one that does not, only the body is encoded and
its Content-Transfer-Encoding replaced (text as quoted-printable, the rest as base64). Decoding the result gives what
the sender wrote. What cannot be converted without changing what it says, or what somebody signed, is refused with
`CannotTranscode`; the caller tries another node or reports 5.6.3.

A `BodyFile` is mapped, not read, and the result is written to a file of the caller's: memory stays flat. Blocking then;
call it in a thread.
"""

from __future__ import annotations

import binascii
import codecs
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from relay.envelope import BodyFile, Content
from relay.errors import RelayError
from relay.headers.fields import Field, walk
from relay.headers.legal import Unencodable, fold_long, seven_bit

MAX_LINE = 998
"""Octets of a line without its CRLF (RFC 5321 §4.5.3.1.6)."""
MAX_DEPTH = 50  # of nested multiparts and messages: B196
MAX_PARTS = 1000

_PIECE = 57 * 4096  # base64 lines of 76 are 57 octets; 233 kB at a time

_HIGH = re.compile(rb"[\x80-\xff]")
_LONG = re.compile(rb"[^\r\n]{999}")
_ENCODABLE = frozenset(
    {b"message/global-delivery-status", b"message/global-headers", b"message/global-disposition-notification"}
)
"""The message types that are header fields in UTF-8 and may be encoded (RFC 6533 §6)."""
_TYPE = re.compile(rb"([!#-'*+.0-9A-Z^-~-]+)/([!#-'*+.0-9A-Z^-~-]+)[ \t]*(?:;|\Z|\()")
_BOUNDARY = re.compile(rb';[ \t]*(boundary[^=;\s]*)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s";()]*))', re.IGNORECASE)


class CannotTranscode(RelayError):
    """The content cannot be made to fit without damage; the text says why, for logs and reports."""


Octets = bytes | mmap.mmap


@dataclass(frozen=True, slots=True)
class Need:
    """What has to be got rid of."""

    eight_bit: bool
    long_lines: bool

    def of(self, octets: Octets, start: int, end: int) -> bool:
        """True when `octets[start:end]` has what must go."""
        return (self.eight_bit and _HIGH.search(octets, start, end) is not None) or (
            self.long_lines and _LONG.search(octets, start, end) is not None
        )


def transcode(
    content: Content, *, eight_bit: bool, long_lines: bool, signed: bool, scratch: Path | None = None
) -> Content:
    """Content that an upstream with these limits can take; the same object when it fits already.

    Args:
        eight_bit: octets above 0x7f must go.
        long_lines: lines above 998 octets must go.
        signed: the client's own DKIM signature is present: nothing may be changed.
        scratch: where the new body of a `BodyFile` is written; the file is the caller's to delete.

    Raises:
        CannotTranscode: the need is there and cannot be met.
        OSError: scratch or body file.
    """
    need = Need(eight_bit, long_lines)
    if isinstance(content.body, bytes):
        done = _convert(content.head, content.body, need, signed)
        return content if done is None else Content(done[0], b"".join(done[1]))
    if content.body.size == 0:
        return transcode(Content(content.head, b""), eight_bit=eight_bit, long_lines=long_lines, signed=signed)
    with content.body.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as octets:
        done = _convert(content.head, octets, need, signed)
        if done is None:
            return content
        head, pieces = done
        if scratch is None:
            raise CannotTranscode("no room was given to convert a large body")
        size = 0
        with scratch.open("wb") as out:
            for piece in pieces:
                size += out.write(piece)
    return Content(head, BodyFile(scratch, size))


def _convert(head: bytes, body: Octets, need: Need, signed: bool) -> tuple[bytes, Iterator[bytes]] | None:
    if not need.of(head, 0, len(head)) and not need.of(body, 0, len(body)):
        return None
    if signed:
        raise CannotTranscode("the client's DKIM signature would not survive the conversion")
    return _Walk(body, need).entity(head, 0, len(body), depth=0, top=True)


@dataclass(frozen=True, slots=True)
class _Media:
    """`kind`: lower-case type/subtype. `boundary`: of a multipart, else empty."""

    kind: bytes
    boundary: bytes = b""


class _Walk:
    """One conversion: decisions are made while walking, octets are made when the iterator is drained."""

    def __init__(self, octets: Octets, need: Need) -> None:
        self._octets = octets
        self._need = need
        self._parts = 0

    def entity(
        self, head: bytes, start: int, end: int, *, depth: int, top: bool = False, signed: bool = False
    ) -> tuple[bytes, Iterator[bytes]]:
        """Header section and body pieces of the message or part with the body `octets[start:end]`."""
        self._parts += 1
        if depth > MAX_DEPTH or self._parts > MAX_PARTS:
            raise CannotTranscode(f"more than {MAX_PARTS} parts or {MAX_DEPTH} levels")
        touched = self._need.of(head, 0, len(head))
        needed = self._need.of(self._octets, start, end)
        if not touched and not needed:
            return head, self._copy(start, end)
        if signed:
            raise CannotTranscode("a signed part (multipart/signed) would have to be changed")
        fields = walk(head)
        if touched:
            fields = [_legal(field, self._need) for field in fields]
        if not needed:
            return _joined(fields), self._copy(start, end)
        media = _media_type(fields)
        kind, encoding = media.kind, _encoding(fields)
        if kind.startswith(b"multipart/"):
            if encoding not in (b"7bit", b"8bit", b"binary"):
                raise CannotTranscode("a multipart carries a transfer encoding")
            pieces = self._multipart(media, start, end, depth)
            return _joined(self._opened(fields)), pieces
        if kind in (b"message/rfc822", b"message/global") and encoding in (b"7bit", b"8bit", b"binary"):
            pieces = self._message(start, end, depth)
            return _joined(self._opened(fields)), pieces
        if kind.startswith(b"message/") and kind not in _ENCODABLE:
            raise CannotTranscode(f"{kind.decode('ascii')} may not be encoded")
        encoding, pieces = self._leaf(kind, encoding, start, end)
        fields = _with_encoding(fields, encoding)
        return _joined(_as_mime(fields, self._charset(start, end)) if top else fields), pieces

    def _opened(self, fields: list[Field]) -> list[Field]:
        """Fields of an entity whose parts were converted: 7-bit now if that was the aim, else as labelled."""
        return _with_encoding(fields, b"7bit", only_replace=True) if self._need.eight_bit else fields

    def _copy(self, start: int, end: int) -> Iterator[bytes]:
        for at in range(start, end, _PIECE):
            yield self._octets[at : min(at + _PIECE, end)]

    def _leaf(self, kind: bytes, encoding: bytes, start: int, end: int) -> tuple[bytes, Iterator[bytes]]:
        if encoding == b"quoted-printable":
            return encoding, self._mend_quoted(start, end)
        if encoding == b"base64":
            if _HIGH.search(self._octets, start, end):
                raise CannotTranscode("a base64 part holds 8-bit octets")
            return encoding, self._rewrap_base64(start, end)
        if encoding not in (b"7bit", b"8bit", b"binary"):
            raise CannotTranscode("a part has an unknown transfer encoding")
        if (kind.startswith(b"text/") or kind in _ENCODABLE) and encoding != b"binary":
            return b"quoted-printable", self._quoted(start, end)
        return b"base64", self._base64(start, end)

    def _base64(self, start: int, end: int) -> Iterator[bytes]:
        for piece in self._copy(start, end):  # _PIECE is a multiple of 57: lines join without a seam
            lines = (piece[i : i + 57] for i in range(0, len(piece), 57))
            yield b"".join([binascii.b2a_base64(line, newline=False) + b"\r\n" for line in lines])

    def _rewrap_base64(self, start: int, end: int) -> Iterator[bytes]:
        rest = b""
        for piece in self._copy(start, end):
            text = rest + b"".join(piece.split())
            whole = len(text) - len(text) % 76
            rest = text[whole:]
            yield b"".join([text[i : i + 76] + b"\r\n" for i in range(0, whole, 76)])
        if rest:
            yield rest + b"\r\n"

    def _quoted(self, start: int, end: int) -> Iterator[bytes]:
        at = start
        while at < end:
            stop = end
            if end - at > _PIECE:
                newline = self._octets.rfind(b"\r\n", at, at + _PIECE)
                stop = newline + 2 if newline >= 0 else at + _PIECE
                stop -= self._octets[stop - 1 : stop] == b"\r"
            piece = self._octets[at:stop]
            text = binascii.b2a_qp(piece, istext=True)
            if b"\n" not in piece:  # the encoder then breaks lines by a bare LF
                text = text.replace(b"\n", b"\r\n")
            if stop < end and not piece.endswith(b"\r\n"):
                text += b"=\r\n"  # the line goes on in the next piece
            yield text
            at = stop

    def _mend_quoted(self, start: int, end: int) -> Iterator[bytes]:
        """Quoted-printable that holds raw octets or endless lines: encode those, keep every escape that is there."""
        at = start
        while at < end:
            newline = self._octets.find(b"\r\n", at, end)
            stop = end if newline < 0 else newline
            line = _HIGH.sub(lambda match: b"=%02X" % match[0][0], self._octets[at:stop])
            begin = 0
            while len(line) - begin > MAX_LINE:
                cut = begin + 75
                if (escape := line.rfind(b"=", cut - 2, cut)) >= 0:
                    cut = escape
                yield line[begin:cut] + b"=\r\n"
                begin = cut
            yield line[begin:] + (b"" if newline < 0 else b"\r\n")
            at = stop + 2

    def _message(self, start: int, end: int, depth: int) -> Iterator[bytes]:
        inner_start, inner_end = _split(self._octets, start, end)
        head, pieces = self.entity(self._octets[start:inner_start], inner_end, end, depth=depth + 1, top=True)
        return _chained(head + self._octets[inner_start:inner_end], pieces)

    def _multipart(self, media: _Media, start: int, end: int, depth: int) -> Iterator[bytes]:
        marks = self._delimiters(media.boundary, start, end)
        if not marks:
            raise CannotTranscode("a multipart has no parts with its boundary")
        sealed = media.kind == b"multipart/signed"
        # Text before the first and after the last delimiter is nobody's part: it cannot be encoded.
        outside = [(start, marks[0].start())]
        if marks[-1][1] is not None:
            outside.append((marks[-1].end(), end))
        if any(self._need.of(self._octets, a, b) for a, b in outside):
            raise CannotTranscode("8-bit or endless text outside the parts of a multipart")
        out: list[Iterator[bytes]] = [self._copy(start, marks[0].end())]
        for index, mark in enumerate(marks):
            if mark[1] is not None:
                break
            after = marks[index + 1] if index + 1 < len(marks) else None
            part_end = after.start() if after else end
            part_start = min(mark.end(), part_end)
            head_end, body_start = _split(self._octets, part_start, part_end)
            head, pieces = self.entity(
                self._octets[part_start:head_end], body_start, part_end, depth=depth + 1, signed=sealed
            )
            out.append(_chained(head + self._octets[head_end:body_start], pieces))
            if after:
                out.append(self._copy(part_end, after.end()))
        if marks[-1][1] is not None:
            out.append(self._copy(marks[-1].end(), end))
        return _each(out)

    def _delimiters(self, boundary: bytes, start: int, end: int) -> list[re.Match[bytes]]:
        """Delimiter lines up to and with the closing one (group 1); the CRLF before a line belongs to it."""
        line = re.compile(rb"(?:\r\n|(?<![^\n]))--" + re.escape(boundary) + rb"(--)?[ \t]*(?:\r\n|\Z)")
        marks: list[re.Match[bytes]] = []
        at = start
        while match := line.search(self._octets, at, end):
            marks.append(match)
            if match[1] is not None or len(marks) > MAX_PARTS + 1:
                break
            at = match.end()
        return marks

    def _charset(self, start: int, end: int) -> bytes:
        """Label for a text that has none: utf-8 when it is, else the name RFC 1428 gives to the unknown."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            for piece in self._copy(start, end):
                decoder.decode(piece)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return b"unknown-8bit"
        return b"utf-8"


def _each(parts: list[Iterator[bytes]]) -> Iterator[bytes]:
    for part in parts:
        yield from part


def _chained(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _joined(fields: list[Field]) -> bytes:
    return b"".join(field.raw for field in fields)


def _legal(field: Field, need: Need) -> Field:
    raw = field.raw
    try:
        if need.eight_bit and not raw.isascii():
            raw = seven_bit(field)
        if need.long_lines:
            raw = fold_long(raw)
    except Unencodable as error:
        raise CannotTranscode(str(error)) from error
    return Field(field.name, raw)


def _split(octets: Octets, start: int, end: int) -> tuple[int, int]:
    """End of the header section (after its last CRLF) and begin of the body; a part may have no header at all."""
    if octets[start : min(start + 2, end)] == b"\r\n":
        return start, start + 2
    blank = octets.find(b"\r\n\r\n", start, end)
    if blank < 0:
        return end, end
    return blank + 2, blank + 4


def _one(fields: list[Field], name: bytes) -> bytes | None:
    """Unfolded value of a field that may occur once; None when absent."""
    found = [field for field in fields if field.name == name]
    if len(found) > 1:
        raise CannotTranscode(f"{len(found)} fields {name.decode('ascii')}: readers would pick different ones")
    return found[0].text if found else None


def _media_type(fields: list[Field]) -> _Media:
    value = _one(fields, b"content-type")
    if not value:
        return _Media(b"text/plain")
    match = _TYPE.match(value)
    if match is None:
        return _Media(b"application/octet-stream")  # RFC 2045 §5.2 says text/plain; base64 is right for either
    kind = match[0].partition(b";")[0].partition(b"(")[0].strip().lower()
    if not kind.startswith(b"multipart/"):
        return _Media(kind)
    found = _BOUNDARY.findall(value)
    if len(found) != 1 or found[0][0].lower() != b"boundary":
        raise CannotTranscode("a multipart without one plain boundary parameter")
    boundary = re.sub(rb"\\(.)", rb"\1", found[0][1]) or found[0][2]
    if not 1 <= len(boundary) <= 200 or boundary.endswith(b" "):
        raise CannotTranscode("a multipart with an impossible boundary")
    return _Media(kind, boundary)


def _encoding(fields: list[Field]) -> bytes:
    value = _one(fields, b"content-transfer-encoding")
    return re.sub(rb"\([^()]*\)", b"", value).strip().lower() if value else b"7bit"


def _with_encoding(fields: list[Field], encoding: bytes, *, only_replace: bool = False) -> list[Field]:
    """The fields with this Content-Transfer-Encoding in place of the old, else at the end (unless `only_replace`)."""
    out: list[Field] = []
    for field in fields:
        if field.name != b"content-transfer-encoding":
            out.append(field)
        elif field.text.lower() == encoding:
            return fields
        else:
            only_replace = True
            out.append(Field(field.name, field.raw.partition(b":")[0] + b": " + encoding + b"\r\n"))
    if not only_replace:
        out.append(Field(b"content-transfer-encoding", b"Content-Transfer-Encoding: " + encoding + b"\r\n"))
    return out


def _as_mime(fields: list[Field], charset: bytes) -> list[Field]:
    """A message made MIME where it was not: an encoding means nothing without MIME-Version (RFC 2045 §4)."""
    names = {field.name for field in fields}
    added = []
    if b"mime-version" not in names:
        added.append(Field(b"mime-version", b"MIME-Version: 1.0\r\n"))
    if b"content-type" not in names:
        added.append(Field(b"content-type", b"Content-Type: text/plain; charset=" + charset + b"\r\n"))
    return fields[:-1] + added + fields[-1:] if added else fields
