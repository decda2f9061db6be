"""The header section as a list of fields, found in one pass over the bytes.

Everything that looks at a header section goes through `walk`, so that no two parts of the relay disagree about where
a field begins. Bytes are never changed here: the `raw` parts joined give the section back, whatever was in it.

Lines that are no header fields (no colon, blanks or 8-bit in the name, a first line that begins with a blank) are
kept as fields with an empty name: they pass raw, they are never repaired (RFC 5322 §2.2, §4.5).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

_END = re.compile(rb"\r\n(?![ \t])")  # a line end that is no fold
_FTEXT = bytes(octet for octet in range(33, 127) if octet != ord(":"))
_NAME = re.compile(rb"([!-9;-~]++)(?:[ \t]|\r\n[ \t])*+:")  # blanks before the colon: obsolete syntax, but seen


class Field(NamedTuple):
    """One field. `name`: lower case, empty for a malformed line. `raw`: every octet, with the CRLF that ends it."""

    name: bytes
    raw: bytes

    @property
    def value(self) -> bytes:
        """What follows the colon, folding and blanks as they are, without the last CRLF."""
        return self.raw.partition(b":")[2].removesuffix(b"\r\n")

    @property
    def text(self) -> bytes:
        """The value unfolded (RFC 5322 §2.2.3) and without blanks around it."""
        return self.raw.partition(b":")[2].replace(b"\r\n", b"").strip(b" \t")


def walk(head: bytes) -> list[Field]:
    """The fields of a header section, top to bottom. Linear time, never fails; no I/O, hot path."""
    pieces = _END.split(head)
    last = pieces.pop()  # empty but when the last CRLF is missing
    fields = []
    for piece in pieces:
        name, colon, _ = piece.partition(b":")
        if not colon or name.translate(None, _FTEXT):
            match = _NAME.match(piece)
            name = match[1] if match else b""
        fields.append(Field(name.lower(), piece + b"\r\n"))
    if last:
        match = _NAME.match(last)
        fields.append(Field(match[1].lower() if match else b"", last))
    return fields


def presence(names: Iterable[bytes]) -> re.Pattern[bytes]:
    """A pattern whose matches in CRLF + head name (group 1) those of `names` that the head has, in any case.

    A line that begins with anything but a blank begins a field, so searching for lines needs no walk.
    """
    return re.compile(rb"\r\n(" + b"|".join(map(re.escape, names)) + rb")(?:[ \t]|\r\n[ \t])*+:", re.IGNORECASE)
