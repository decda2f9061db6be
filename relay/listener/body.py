"""Finds the end of DATA in a stream of chunks and makes the content canonical on the way.

Only CRLF . CRLF ends a message; every other sequence of CR, LF, NUL and dots is text (RFC 5321 §4.1.1.4, and the
SMTP smuggling advisories of 2023). What comes out has CRLF line ends only, no NUL and no dot-stuffing, or is refused.

The scanner is pure: chunks in, pieces out. Small content stays here; once it is larger than `memory_limit`, finished
body pieces wait in `take_body()` for whoever writes them to a file. A faulty message is scanned to its end (the
client is not listening before that) but no longer kept, so memory stays flat.

Invariant: `_held` is the longest suffix of the input that could be the beginning of the end mark. It is at most four
octets, begins with CR, and is looked at again together with the next chunk. So no piece ends in CR, none begins with
the LF of a split CRLF, and each piece can be judged on its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from relay.envelope import Reply

END = b"\r\n.\r\n"

MAX_TEXT_LINE = 998
"""RFC 5321 §4.5.3.1.6: 1000 octets with CRLF."""

MAX_PIECES = 1000
"""A body may come in packets of one octet: each would cost forty octets until it is written."""

_FIELD_START = re.compile(rb"[!-9;-~]+[ \t]*:")
_MAILBOX_LINE = re.compile(rb">?From (?![ \t]*:)[^\r\n]*\r\n(?=[!-9;-~]+[ \t]*:)")
"""What separates messages in a mailbox file (RFC 4155); scripts that feed such files send it along."""
_SIGNATURE = re.compile(rb"^dkim-signature[ \t]*:", re.IGNORECASE | re.MULTILINE)
_STUFFED = re.compile(rb"\r\n\.")
_FOLDED = re.compile(rb"\r\n[ \t]")

TOO_BIG = Reply(552, "5.3.4", "Message too big")
HEADER_TOO_BIG = Reply(552, "5.3.4", "Header section too big")
HAS_NUL = Reply(554, "5.6.0", "Message contains NUL octets")
BARE_LINE_END = Reply(554, "5.6.0", "Message contains bare CR or LF; lines end in CRLF")
LOOP = Reply(554, "5.4.6", "Too many Received fields, this is a mail loop")


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyLimits:
    """Octets, except `max_fields` and `max_received` (counts).

    Attributes:
        normalize: a bare CR or LF becomes CRLF instead of being refused; never in a message with a client's
            DKIM-Signature, which the repair would break without anyone noticing.
        max_size: 0 = no limit.
        memory_limit: content up to this size never touches the disk.
    """

    max_size: int = 25 * 1024 * 1024
    max_header: int = 256 * 1024
    max_fields: int = 1000
    max_received: int = 50
    memory_limit: int = 128 * 1024
    normalize: bool = False


class BodyScanner:
    """State of one DATA phase.

    Attributes, final once `done`:
        head: header section, every line ended by CRLF, without the blank line.
        refusal: the reply that refuses the content, or None. Everything else is meaningless when it is set.
        eight_bit, long_lines: facts for `Submission`.
        taken: octets that came in, of whatever kind, for the give-up rule.
    """

    __slots__ = (
        "_after_lf",
        "_body",
        "_body_size",
        "_held",
        "_limits",
        "_open_line",
        "_pieces",
        "_repaired",
        "_size",
        "_split",
        "_started",
        "done",
        "eight_bit",
        "head",
        "long_lines",
        "refusal",
        "taken",
    )

    def __init__(self, limits: BodyLimits) -> None:
        self._limits = limits
        self._held = b"\r\n"  # DATA begins at the start of a line; never part of the content
        self._started = False
        self._pieces: list[bytes] = []  # content from its beginning, until the header section is split off
        self._body: list[bytes] = []
        self._size = 0
        self._body_size = 0
        self._open_line = 0  # octets of the line that the last piece left open
        self._split = False
        self._repaired = False
        self._after_lf = False  # the last piece ended in a bare LF: a dot that follows is stuffing
        self.head = b""
        self.refusal: Reply | None = None
        self.eight_bit = False
        self.long_lines = False
        self.taken = 0
        self.done = False

    @property
    def waiting(self) -> int:
        """Octets of body that `take_body` would return; 0 while the content is small enough to stay in memory."""
        return self._body_size if self._split else 0

    def feed(self, chunk: bytes) -> bytes:
        """Take the next octets of the connection.

        Returns:
            What follows the end mark, once `done`; empty before.
        """
        self.taken += len(chunk)
        chunk = self._held + chunk
        end = chunk.find(END)
        if end >= 0:
            rest = chunk[end + 5 :]
            self.taken -= len(rest)
            self._add(chunk[: end + 2])
            self._finish()
            return rest
        self._held = held = _held_back(chunk)
        if len(held) < len(chunk):
            self._add(chunk[: len(chunk) - len(held)])
            if self._size > self._limits.memory_limit and not self._split and self.refusal is None:
                self._split_off(at_end=False)
        return b""

    def take_body(self) -> list[bytes]:
        """The body pieces gathered since the last call."""
        pieces = self._body
        self._body = []
        self._body_size = 0
        return pieces

    def _add(self, piece: bytes) -> None:
        """Judge, unstuff and keep one raw piece (never ends in CR)."""
        if self.refusal is not None:
            return
        if b"\0" in piece:
            self.refuse(HAS_NUL)
            return
        line_ends = piece.count(b"\n")
        if not piece.count(b"\r") == line_ends == piece.count(b"\r\n"):
            if not self._limits.normalize:
                self.refuse(BARE_LINE_END)
                return
            piece = self._repair(piece)
        elif self._after_lf:
            piece = self._repair(piece)
        if _STUFFED.search(piece) is not None:  # quicker than `in` for a rare pattern, by a third
            piece = piece.replace(b"\r\n.", b"\r\n")
        if not self._started:
            self._started = True
            piece = piece[2:]
        self._size += len(piece)
        if self._size > self._limits.max_size > 0:
            self.refuse(TOO_BIG)
            return
        if not self.eight_bit and not piece.isascii():
            self.eight_bit = True
        if not self.long_lines:
            self._measure_lines(piece)
        kept = self._body if self._split else self._pieces
        kept.append(piece)
        if len(kept) > MAX_PIECES:
            kept[:] = [b"".join(kept)]
        if self._split:
            self._body_size += len(piece)

    def _repair(self, piece: bytes) -> bytes:
        """Take bare CR and LF for line ends, before unstuffing: who ends lines so, stuffs dots behind such ends too."""
        if self._after_lf and piece.startswith(b"."):
            piece = piece[1:]
        self._repaired = True
        self._after_lf = piece.endswith(b"\n")
        return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")

    def _measure_lines(self, piece: bytes) -> None:
        """Hop from line to line in steps of a thousand octets: a long line is a step without LF."""
        start = -self._open_line
        end = len(piece)
        while end - start > MAX_TEXT_LINE + 1:
            found = piece.rfind(b"\n", max(start, 0), max(start + MAX_TEXT_LINE + 2, 0))
            if found < 0:
                self.long_lines = True
                return
            start = found + 1
        last = piece.rfind(b"\n", max(start, 0))
        self._open_line = end - (last + 1 if last >= 0 else start)

    def _finish(self) -> None:
        self.done = True
        if self.refusal is None and not self._split:
            self._split_off(at_end=True)
        if self.refusal is None and self._repaired and _SIGNATURE.search(self.head) is not None:
            self.refuse(BARE_LINE_END)

    def _split_off(self, *, at_end: bool) -> None:
        """Divide what is gathered into header section and body.

        Content whose first line is no header field is all body: devices send such mail, and a first line of text
        taken for a header would be lost or worse. The separator line of a mailbox file before the first field is no
        part of the message and goes: it would make a body of the whole header section, here or at the next server.
        """
        limits = self._limits
        content = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        if (separator := _MAILBOX_LINE.match(content)) is not None:
            content = content[separator.end() :]
        if content.startswith(b"\r\n"):
            head, body = b"", content[2:]
        elif content and _FIELD_START.match(content) is None:
            head, body = b"", content
        else:
            blank = content.find(b"\r\n\r\n")
            if blank >= 0:
                head, body = content[: blank + 2], content[blank + 4 :]
            elif at_end:
                head, body = content, b""
            elif len(content) > limits.max_header:
                self.refuse(HEADER_TOO_BIG)
                return
            else:
                self._pieces = [content]
                return
        self._pieces = []
        self._split = True
        self.head = head
        self._body.append(body)
        self._body_size = len(body)
        fields = head.count(b"\r\n")
        if fields > limits.max_fields:
            fields -= len(_FOLDED.findall(head))
        if len(head) > limits.max_header or fields > limits.max_fields:
            self.refuse(HEADER_TOO_BIG)
        elif fields > limits.max_received and _count_received(head) > limits.max_received:
            self.refuse(LOOP)

    def refuse(self, reply: Reply) -> None:
        """Keep nothing of this message; its end is still looked for."""
        self.refusal = reply
        self._pieces = []
        self._body = []
        self._body_size = 0


def _held_back(chunk: bytes) -> bytes:
    """The longest end of `chunk` that begins `END` without being all of it."""
    if chunk.endswith(b"\r\n"):
        return b"\r\n"
    if chunk.endswith(b"\r\n."):
        return b"\r\n."
    if chunk.endswith(b"\r"):
        return b"\r\n.\r" if chunk.endswith(b"\r\n.\r") else b"\r"
    return b""


def _count_received(head: bytes) -> int:
    lower = head.lower()
    return lower.count(b"\r\nreceived:") + lower.startswith(b"received:")
