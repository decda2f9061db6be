"""Header work of one attempt: what pool and node add. Never written back to the spool.

Added on top of the stored head, once: X-Virtual-MTA, X-Feedtype, X-Zone, X-ServerID (acceptance removed what the
client sent under these names), then custom fields, then From and Reply-To where the message lacks them.

Rules for custom fields: global, pool's and node's are merged by name in any case; node wins over pool, pool over
global. A field the message already has is left alone and none is added: original fields stay byte for byte, and a
client that sets `X-Mailer-Variant` itself means it. Nothing is added that a client's DKIM signature guards against.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from relay.envelope import Content
from relay.errors import ConfigError
from relay.headers.fields import presence, walk
from relay.headers.prepare import STAMPED
from relay.headers.signatures import covered_names
from relay.headers.words import encode_mailbox, encode_words
from relay.pools.pool import Node, Pool

Headers = Sequence[tuple[str, str]]

_NAME = re.compile(r"[!-9;-~]{1,76}")  # with colon and blank the first fold still fits in 78
_RESERVED = frozenset(
    {*(name.decode() for name in STAMPED), "received", "return-path", "bcc", "resent-bcc", "dkim-signature", "from"}
    | {"date", "message-id", "to", "cc", "subject", "mime-version", "content-type", "content-transfer-encoding"}
)
"""Custom fields of these names would damage messages or claim to be something else."""


def check_custom(headers: Headers) -> None:
    """Raise ConfigError when a custom field cannot be sent; the text names the field and the fault."""
    for name, value in headers:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"header {name!r}: a name is 1 to 76 printable ASCII characters without colon or blank")
        if name.lower() in _RESERVED:
            raise ConfigError(f"header {name}: reserved, it cannot be a custom header")
        _field(name, value)


def merge(*layers: Headers) -> tuple[tuple[str, str], ...]:
    """Fields of all layers, the last layer winning by name in any case; order of first appearance."""
    merged: dict[str, tuple[str, str]] = {}
    for layer in layers:
        for name, value in layer:
            merged[name.lower()] = (name, value)
    return tuple(merged.values())


def stamp(content: Content, *, pool: Pool, node: Node, global_headers: Headers = (), feedtype: str = "") -> Content:
    """The content as this node is to get it, before signing. The body is not touched; no I/O, hot path.

    Args:
        feedtype: of the message; empty means the pool's.

    Raises:
        ConfigError: a header value holds CR, LF or NUL, or a name is not one (checked when a block is first made).
    """
    block = _block(
        (pool.internal_name, feedtype or pool.feedtype, pool.zone, pool.mta),
        (tuple(global_headers), pool.headers, node.headers),
        (node.from_name, node.from_email, node.reply_to),
    )
    return Content(block.render(content.head), content.body)


@dataclass(frozen=True, slots=True)
class Block:
    """Precomputed fields of one (pool, node, feed type).

    Attributes:
        always: the four fields of the relay.
        extra: lower-case name → field, added where the message has none.
        full: always + extra, for the common case.
        present: finds which of `extra` a head has; None when there is no extra.
    """

    always: bytes
    extra: dict[bytes, bytes]
    full: bytes
    present: re.Pattern[bytes] | None

    def render(self, head: bytes) -> bytes:
        """The head with this block on top."""
        if self.present is None:
            return self.always + head
        have = {name.lower() for name in self.present.findall(b"\r\n" + head)}
        if b"dkim-signature" in have:
            have |= covered_names(walk(head))
        if not have:
            return self.full + head
        return b"".join((self.always, *(field for name, field in self.extra.items() if name not in have), head))


@lru_cache(maxsize=4096)
def _block(
    stamped: tuple[str, str, str, str],
    layers: tuple[tuple[tuple[str, str], ...], ...],
    defaults: tuple[str, str, str],
) -> Block:
    """The block for these values, made once.

    The key is what the block is made of: hashing a whole pool would walk all its nodes for each message.
    """
    custom = merge(*layers)
    check_custom(custom)
    extra = {name.lower().encode("ascii"): _field(name, value) for name, value in custom}
    from_name, from_email, reply_to = defaults
    refuse_breaks("from", from_name + from_email)
    refuse_breaks("reply_to", reply_to)
    if from_email:
        extra[b"from"] = b"From: " + encode_mailbox(from_name, from_email) + b"\r\n"
    if reply_to:
        extra.setdefault(b"reply-to", b"Reply-To: " + reply_to.encode("utf-8") + b"\r\n")
    names = ("X-Virtual-MTA", "X-Feedtype", "X-Zone", "X-ServerID")
    always = b"".join(_field(name, value) for name, value in zip(names, stamped, strict=True))
    present = presence([*extra, b"dkim-signature"]) if extra else None
    return Block(always, extra, always + b"".join(extra.values()), present)


def refuse_breaks(name: str, value: str) -> None:
    """Raise ConfigError when a value could end its line or is cut by C strings on the way."""
    if any(character in value for character in "\r\n\x00"):
        raise ConfigError(f"header {name}: the value holds CR, LF or NUL")


def _field(name: str, value: str) -> bytes:
    refuse_breaks(name, value)
    value = value.strip()
    plain = value.isascii() and value.isprintable()
    field = _folded(name.encode("ascii") + b":", value.encode("ascii") if plain else b" ".join(encode_words(value)))
    if max(map(len, field.split(b"\r\n"))) > 998:
        raise ConfigError(f"header {name}: a piece of the value without blanks is longer than 998 octets")
    return field + b"\r\n"


def _folded(line: bytes, value: bytes) -> bytes:
    """The field in lines of at most 78 octets where blanks allow it; no line of blanks only."""
    lines: list[bytes] = []
    first = True
    for word in value.split(b" "):
        if word and not first and len(line) + 1 + len(word) > 78:
            lines.append(line)
            line = b""
        line += b" " + word
        first = False
    return b"\r\n".join([*lines, line])
