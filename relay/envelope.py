"""Values a message is made of: reply, recipient, message facts, content.

Content is CRLF bytes from door to door. `Content.head` is the header section without the blank line that ends it;
`Content.body` is everything after that blank line: bytes for small bodies, a `BodyFile` for large ones, so that no
25 MB message is ever held whole in memory.

Source: RFC 5321 (envelope), RFC 5322 (content), RFC 3461 (DSN parameters), RFC 3463 (enhanced codes).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from relay.values import thawed

CHUNK_BYTES = 256 * 1024
"""Piece in which body files are read: large enough that syscalls vanish, small enough that 50 at once are 12 MB."""


@thawed
@dataclass(frozen=True, slots=True)
class Reply:
    """One SMTP reply. `text`: printable ASCII, may hold several lines separated by LF.

    `enhanced` is an RFC 3463 code such as `5.7.1`, or empty where the protocol has none (greeting, EHLO, 354, 334).
    """

    code: int
    enhanced: str
    text: str

    def __str__(self) -> str:
        return f"{self.code} {self.enhanced} {self.text}" if self.enhanced else f"{self.code} {self.text}"


class Lane(StrEnum):
    """Urgency class of a message; `transactional` goes before `bulk` by weight, starving neither."""

    TRANSACTIONAL = "transactional"
    BULK = "bulk"


class RecipientStatus(StrEnum):
    """Where one recipient stands. All but PENDING are final."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    EXPIRED = "expired"
    DROPPED = "dropped"  # by an operator


@thawed
@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """One forward-path of a message and what became of it.

    Attributes:
        address: as the client wrote it between the angle brackets, validated, never re-parsed.
        notify: RFC 3461 NOTIFY, upper case, comma separated; empty when the client gave none.
        orcpt: RFC 3461 ORCPT, decoded `type;address`; empty when none.
        code, enhanced, text: the last upstream answer for this recipient (0 and empty before one); text is cleaned
            of control characters and cut.
        node: name of the node that answered.
    """

    address: str
    status: RecipientStatus = RecipientStatus.PENDING
    notify: str = ""
    orcpt: str = ""
    code: int = 0
    enhanced: str = ""
    text: str = ""
    node: str = ""


@thawed
@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What acceptance learnt about the content once, so that no attempt parses it again.

    Attributes:
        eight_bit: the body or head has octets above 0x7f.
        long_lines: a line is longer than 998 octets (RFC 5321 §4.5.3.1.6).
        signed: the client's own DKIM-Signature is present; the content must leave byte for byte.
        smtputf8: the client asked for SMTPUTF8 on MAIL, and an address or the header section needs it (RFC 6531).
        from_domain: domain of the single From mailbox, lower case; empty when absent or ambiguous.
        message_id: with angle brackets, as present or as added by acceptance.
        subject: decoded for display, control characters removed, at most 200 characters.
    """

    eight_bit: bool = False
    long_lines: bool = False
    signed: bool = False
    smtputf8: bool = False
    from_domain: str = ""
    message_id: str = ""
    subject: str = ""


@thawed
@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """An accepted message without its content: envelope, route class and facts.

    Attributes:
        id: ULID, 26 characters of Crockford base32; sorts by acceptance.
        bridge, pool: names from the configuration at acceptance.
        sender: reverse-path without brackets; `""` is the null reverse-path.
        received_at: epoch seconds of acceptance.
        size: octets of content including what acceptance added.
        feedtype: value of the X-Feedtype header.
        campaign: the client's campaign tag, or empty.
        rotation: rotation mode asked for by the message where its bridge allows it, or empty for the pool's own.
        ret, envid: RFC 3461 RET and ENVID (decoded), or empty.
        attempts: attempts that were begun; a hold is not an attempt.
        crashes: how often the process died while an attempt of this message was open.
        bound_node, bound_until: after an uncertain outcome only this node may be tried before that time (epoch
            seconds), because another node would make a second copy certain; empty and 0 otherwise.
    """

    id: str
    bridge: str
    pool: str
    lane: Lane
    sender: str
    recipients: tuple[Recipient, ...]
    received_at: float
    size: int
    feedtype: str = ""
    campaign: str = ""
    rotation: str = ""
    ret: str = ""
    envid: str = ""
    facts: Facts = field(default_factory=Facts)
    attempts: int = 0
    crashes: int = 0
    bound_node: str = ""
    bound_until: float = 0.0

    @property
    def pending(self) -> tuple[Recipient, ...]:
        """The recipients that still need an attempt."""
        return tuple([r for r in self.recipients if r.status is RecipientStatus.PENDING])

    @property
    def sender_domain(self) -> str:
        """Domain of the reverse-path in lower case; empty for the null reverse-path."""
        return self.sender.rpartition("@")[2].lower()


@dataclass(frozen=True, slots=True)
class BodyFile:
    """A body kept as a file. The file belongs to whoever made it; the spool adopts it by renaming."""

    path: Path
    size: int

    def chunks(self) -> Iterator[bytes]:
        """The body in pieces of at most `CHUNK_BYTES`. Blocking reads: call it off the loop."""
        with self.path.open("rb") as file:
            while piece := file.read(CHUNK_BYTES):
                yield piece


@thawed
@dataclass(frozen=True, slots=True)
class Content:
    """Header section and body.

    Attributes:
        head: header fields, each ended by CRLF, without the blank line. May be empty.
        body: what follows the blank line, CRLF lines, no dot-stuffing.
    """

    head: bytes
    body: bytes | BodyFile

    @property
    def size(self) -> int:
        """Octets on the wire before dot-stuffing: head, blank line, body."""
        body = self.body
        return len(self.head) + 2 + (len(body) if isinstance(body, bytes) else body.size)

    def chunks(self) -> Iterator[bytes]:
        """The whole message in pieces; the first holds the head and the blank line. Blocking for a `BodyFile`."""
        if isinstance(self.body, bytes):
            yield self.head + b"\r\n" + self.body
        else:
            yield self.head + b"\r\n"
            yield from self.body.chunks()
