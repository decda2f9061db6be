"""Bring the header section to the envelope, for vendors that take a raw message and read its recipients there.

Bcc is added for those that the message hides (such vendors remove it); those in To and Cc that this hand-over is not
for are taken out, because the vendor would deliver to them again. A message whose header says what the envelope says
is not touched. Where To or Cc changed, signatures of ours and of the client are removed: they would be broken, and a
broken one is worse than none; these vendors sign themselves. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relay.envelope import Content
from relay.headers.fields import Field, walk
from relay.headers.words import encode_mailbox
from relay.upstreams.api import CannotCarry
from relay.upstreams.mime_parts import addresses, mailboxes
from relay.upstreams.parts import Mailbox


@dataclass(frozen=True, slots=True)
class Readdressed:
    content: Content
    notes: tuple[str, ...] = ()


_SHOWN = (b"to", b"cc")
_SIGNED = frozenset({b"dkim-signature", b"domainkey-signature", b"arc-seal", b"arc-message-signature"})


def readdress(content: Content, recipients: Sequence[str], *, drop: bool) -> Readdressed:
    """The content with recipients in its header section that are those of the envelope.

    Raises:
        CannotCarry: others are named and may not be dropped, or the header names recipients we cannot touch.
    """
    fields = walk(content.head)
    if any(not item.name for item in fields):
        raise CannotCarry("a line in the header section that is no field: the vendor could find other recipients there")
    if any(item.name.startswith(b"resent-") for item in fields):
        raise CannotCarry("a resent message (Resent- fields) would go to its first recipients again")
    wanted = {recipient.lower(): recipient for recipient in recipients}
    shown = {box.address.lower() for name in _SHOWN for box in mailboxes(fields, name)}
    others = shown - wanted.keys()
    hidden = [recipient for lower, recipient in wanted.items() if lower not in shown]
    if others and not drop:
        raise CannotCarry("To and Cc name others than the envelope, and `other_recipients` is `refuse`")
    out: list[Field] = []
    for item in fields:
        if item.name == b"bcc" or (others and item.name in _SIGNED):
            continue
        if others and item.name in _SHOWN:
            kept = [box for box in mailboxes([item], item.name) if box.address.lower() in wanted]
            if not kept:
                continue
            item = Field(item.name, item.raw.partition(b":")[0] + b": " + _listed(kept) + b"\r\n")
        out.append(item)
    if hidden:
        out.insert(0, Field(b"bcc", b"Bcc: " + _listed([Mailbox("", recipient) for recipient in hidden]) + b"\r\n"))
    if not others and not hidden and len(out) == len(fields):
        return Readdressed(content)
    if out and not out[-1].raw.endswith(b"\r\n"):
        raise CannotCarry("the header section has no end")
    notes = (f"{len(others)} other recipients are not shown",) if others else ()
    return Readdressed(Content(b"".join(item.raw for item in out), content.body), notes)


def says_envelope(content: Content, recipients: Sequence[str]) -> bool:
    """The header section names exactly the recipients of the envelope, openly and once."""
    named = [box.address.lower() for item in walk(content.head) if item.name in _SHOWN for box in addresses(item.text)]
    if len(named) != len(set(named)):
        return False
    try:
        return readdress(content, recipients, drop=False).content is content
    except CannotCarry:
        return False


def _listed(boxes: Sequence[Mailbox]) -> bytes:
    return b",\r\n ".join(encode_mailbox(box.name, box.address) for box in boxes)
