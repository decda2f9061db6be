"""The octets of a call's body, made while they are sent: no large message is held whole, in any form. Pure but for
reading body files: blocking, call it in a thread when a body file is among the pieces."""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Iterator

import orjson

from relay.envelope import BodyFile
from relay.upstreams.api import CannotCarry, Piece, Raw

BLOCK_BYTES = 64 * 1024
"""Largest block handed to the connection at once, so that what was sent can be told from what was not."""


def length(body: Iterable[Piece]) -> int:
    """Octets of the body, for Content-Length."""
    total = 0
    for piece in body:
        if isinstance(piece, bytes):
            total += len(piece)
        elif piece.form == "octets":
            total += piece.content.size
        elif piece.form == "json":
            total += sum(map(len, _raw(piece)))
        else:
            total += 4 * ((piece.content.size + 2) // 3)
    return total


def on_disk(body: Iterable[Piece]) -> bool:
    """Does the body have to be read from a file?"""
    return any(isinstance(piece, Raw) and isinstance(piece.content.body, BodyFile) for piece in body)


def pieces(body: Iterable[Piece]) -> Iterator[bytes]:
    """The body in blocks."""
    for piece in body:
        for block in (piece,) if isinstance(piece, bytes) else _raw(piece):
            if len(block) <= BLOCK_BYTES:
                if block:
                    yield block
            else:
                for at in range(0, len(block), BLOCK_BYTES):
                    yield block[at : at + BLOCK_BYTES]


def _raw(raw: Raw) -> Iterator[bytes]:
    match raw.form:
        case "octets":
            yield from raw.content.chunks()
        case "json":
            yield from _json_text(raw.content.chunks())
        case _:
            yield from _base64(raw.content.chunks(), url_safe=raw.form == "base64url")


def _base64(chunks: Iterable[bytes], *, url_safe: bool) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        octets = rest + chunk
        whole = len(octets) - len(octets) % 3
        rest = octets[whole:]
        yield _encoded(octets[:whole], url_safe)
    yield _encoded(rest, url_safe)


def _encoded(octets: bytes, url_safe: bool) -> bytes:
    text = binascii.b2a_base64(octets, newline=False)
    return text.translate(_URL_SAFE) if url_safe else text


_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def _json_text(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The inside of a JSON string. Raises CannotCarry for what is no UTF-8."""
    rest = b""
    try:
        for chunk in chunks:
            octets = rest + chunk
            # A character may be cut in two at the end of a chunk: at most three octets of it wait.
            cut = len(octets)
            for back in range(1, min(4, cut) + 1):
                if octets[cut - back] & 0xC0 == 0xC0:
                    cut -= back
                    break
                if octets[cut - back] < 0x80:
                    break
            rest = octets[cut:]
            yield orjson.dumps(octets[:cut].decode("utf-8"))[1:-1]
        yield orjson.dumps(rest.decode("utf-8"))[1:-1]
    except UnicodeDecodeError:
        raise CannotCarry("the message is neither ASCII nor UTF-8, and this vendor takes it as text") from None
