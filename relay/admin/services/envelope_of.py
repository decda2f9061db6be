"""Reverse-path and recipients that the header section of a message names. Pure."""

from __future__ import annotations

from relay.headers.addresses import parse_mailboxes
from relay.headers.fields import walk

_SENDERS = (b"sender", b"from")
_RECIPIENTS = (b"to", b"cc", b"bcc")


def envelope_of(raw: bytes) -> tuple[str, tuple[str, ...]]:
    """The address of Sender or else From, and all of To, Cc and Bcc; empty where there is none beyond doubt."""
    head = raw.replace(b"\r\n", b"\n").partition(b"\n\n")[0].replace(b"\n", b"\r\n") + b"\r\n"
    fields = walk(head)
    found: dict[bytes, list[str]] = {}
    for field in fields:
        if field.name in (*_SENDERS, *_RECIPIENTS):
            mailboxes = parse_mailboxes(field.value)
            if mailboxes is not None:
                found.setdefault(field.name, []).extend(mailboxes.addresses)
    sender = next((found[name][0] for name in _SENDERS if found.get(name)), "")
    recipients = tuple(dict.fromkeys(address for name in _RECIPIENTS for address in found.get(name, ())))
    return sender, recipients
