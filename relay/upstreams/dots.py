"""Dot-stuffing and the end of content. Pure.

A line that begins with a dot gets another one (RFC 5321 §4.5.2). A line begins at the start and after every LF: for
CRLF content that is the rule of the RFC, and should a bare LF ever get this far, a server that ends lines at it still
finds no end of content inside the content.
"""

from __future__ import annotations

END = b"\r\n.\r\n"


def stuffed(content: bytes) -> bytes:
    """Whole content, stuffed and with its end."""
    if b"\n." in content:
        content = content.replace(b"\n.", b"\n..")
    if content.startswith(b"."):
        content = b"." + content
    return content + END[2:] if not content or content.endswith(b"\r\n") else content + END


class Stuffer:
    """The same for content in pieces: `piece` for each, then `end`."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b"\r\n"  # the start of content is the start of a line

    def piece(self, data: bytes) -> bytes:
        if not data:
            return data
        begins_line = self._tail.endswith(b"\n") and data.startswith(b".")
        self._tail = (self._tail + data[-2:])[-2:]
        if b"\n." in data:
            data = data.replace(b"\n.", b"\n..")
        return b"." + data if begins_line else data

    def end(self) -> bytes:
        return END[2:] if self._tail == b"\r\n" else END
