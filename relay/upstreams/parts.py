"""A message in pieces, and who is shown where. Values and pure functions; `mime_parts` makes them of a message."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from relay.upstreams.api import CannotCarry


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A display name, decoded, and an address as written."""

    name: str
    address: str

    def __str__(self) -> str:
        """`Name <address>` with the name quoted; for vendors that take one string."""
        if not self.name:
            return self.address
        escaped = re.sub(r'(["\\])', r"\\\1", self.name)
        return f'"{escaped}" <{self.address}>'


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """One part that is no body.

    Attributes:
        filename: never empty.
        kind: `type/subtype`, lower case.
        charset: of a text, as declared, or empty.
        cid: Content-ID without angle brackets, or empty.
        inline: shown inside the HTML by its `cid`.
    """

    filename: str
    kind: str
    content: bytes
    charset: str = ""
    cid: str = ""
    inline: bool = False

    @property
    def media(self) -> str:
        """The content type with its character set."""
        return f"{self.kind}; charset={self.charset}" if self.charset else self.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A message in pieces.

    Attributes:
        text, html, calendar: bodies with LF line ends; None when absent.
        headers: the other fields in order: name as written, value unfolded and ASCII (encoded words stay).
        bcc: of the envelope alone; a header never says it.
    """

    subject: str
    sender: Mailbox
    reply_to: tuple[Mailbox, ...] = ()
    to: tuple[Mailbox, ...] = ()
    cc: tuple[Mailbox, ...] = ()
    bcc: tuple[Mailbox, ...] = ()
    text: str | None = None
    html: str | None = None
    calendar: str | None = None
    method: str = ""
    attachments: tuple[Attachment, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()

    def fields(self, without: frozenset[str], *, once: bool = True) -> list[tuple[str, str]]:
        """Headers that a vendor lets pass.

        Args:
            without: names in lower case that the vendor forbids.
            once: the vendor takes one value for each name; raises CannotCarry when there are two that differ.
        """
        kept = [(name, value) for name, value in self.headers if name.lower() not in without]
        if once:
            seen: dict[str, str] = {}
            for name, value in kept:
                if seen.setdefault(name.lower(), value) != value:
                    raise CannotCarry(f"header {name} occurs twice, and this vendor takes one of a name")
            kept = [(name, value) for i, (name, value) in enumerate(kept) if not _before(kept, i)]
        return kept

    @property
    def files(self) -> tuple[Attachment, ...]:
        return tuple(part for part in self.attachments if not part.inline)

    @property
    def pictures(self) -> tuple[Attachment, ...]:
        return tuple(part for part in self.attachments if part.inline)


def _before(fields: list[tuple[str, str]], index: int) -> bool:
    return any(name.lower() == fields[index][0].lower() for name, _ in fields[:index])


@dataclass(frozen=True, slots=True)
class Addressed:
    """Who is shown where.

    Attributes:
        left: recipients that cannot be in the same call, because one would see another that the message hides.
        dropped: how many shown addresses were left out because this hand-over is not for them.
    """

    to: tuple[Mailbox, ...]
    cc: tuple[Mailbox, ...]
    bcc: tuple[Mailbox, ...]
    left: tuple[str, ...] = ()
    dropped: int = 0


def address(parts: Parts, recipients: Sequence[str]) -> Addressed:
    """Bring envelope and header together, for vendors that deliver to those they show.

    Shown are the recipients that the message shows; the others are blind. A vendor needs somebody in `to`: a message
    that shows no recipient of this hand-over goes to one recipient at a time, because the one in `to` would be seen by
    the others.
    """
    wanted = {recipient.lower(): recipient for recipient in recipients}
    shown: set[str] = set()

    def kept(mailboxes: Sequence[Mailbox]) -> list[Mailbox]:
        found = []
        for mailbox in mailboxes:
            lower = mailbox.address.lower()
            if lower in wanted and lower not in shown:
                shown.add(lower)
                found.append(replace(mailbox, address=wanted[lower]))
        return found

    to, cc = kept(parts.to), kept(parts.cc)
    everybody = {mailbox.address.lower() for mailbox in (*parts.to, *parts.cc)}
    dropped = len(everybody - wanted.keys())
    blind = [Mailbox("", recipient) for lower, recipient in wanted.items() if lower not in shown]
    if not to and cc:
        to, cc = cc[:1], cc[1:]
    if to:
        return Addressed(tuple(to), tuple(cc), tuple(blind), dropped=dropped)
    return Addressed(tuple(blind[:1]), (), (), left=tuple(box.address for box in blind[1:]), dropped=dropped)
