"""Messages and spools for the tests of the spool."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from relay.envelope import Content, Facts, Lane, Message, Recipient, RecipientStatus
from relay.ids import IdSource
from relay.spool import QueueKey

NOW = 1_700_000_000.0

_ids = IdSource(lambda: NOW)

HEAD = b"From: a@acme.example\r\nSubject: order\r\n"
CONTENT = Content(HEAD, b"Hello,\r\nyour order is on its way.\r\n")
KEY = QueueKey("acme-pool", Lane.TRANSACTIONAL, "shop")


def message(*recipients: str, **changes: Any) -> Message:
    """A new message, by default of one recipient in the queue `KEY`."""
    made = Message(
        id=_ids.next(),
        bridge="shop",
        pool="acme-pool",
        lane=Lane.TRANSACTIONAL,
        sender="news@acme.example",
        recipients=tuple(Recipient(address=address) for address in recipients or ("ann@customer.example",)),
        received_at=NOW,
        size=CONTENT.size,
        feedtype="transactional",
        facts=Facts(subject="Your order", message_id="<1@acme.example>"),
    )
    return replace(made, **changes)


def delivered(message: Message, count: int | None = None) -> Message:
    """The message with its first `count` recipients delivered, by default all."""
    recipients = tuple(
        replace(recipient, status=RecipientStatus.DELIVERED, code=250)
        if count is None or position < count
        else recipient
        for position, recipient in enumerate(message.recipients)
    )
    return replace(message, recipients=recipients)


def sqlite_options(**options: Any) -> dict[str, Any]:
    """Small reserves: tests share a disk with everything else."""
    return {"min_free": 2**20, "ballast_bytes": 0, **options}


def folder_of(base: Path) -> Path:
    return base / "spool"
