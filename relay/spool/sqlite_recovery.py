"""What is read and put right when a shard is opened, before any work."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, replace
from typing import Any

from relay.envelope import Lane, Message
from relay.spool import QueueKey, Standing
from relay.spool.sqlite_bodies import Damaged
from relay.spool.sqlite_core import number_of
from relay.spool.sqlite_rows import CODES, COLUMNS, STANDINGS, decode
from relay.spool.sqlite_tally import BUCKET_S, Tallies

DAY_S = 86400.0

UNKNOWN_QUEUE = QueueKey("", Lane.TRANSACTIONAL, "")
"""Where rows are shown whose queue was damaged."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """`open`: messages whose attempt was open, as they are now. `damaged`: id and reason of what was set aside."""

    open: list[Message]
    damaged: list[tuple[str, str]]
    tallies: Tallies


def recover(connection: sqlite3.Connection, now: float) -> Recovered:
    """Close attempts that a crash left open, clamp what no clock could have meant, set damage aside, and count."""
    damaged: list[tuple[str, str]] = []
    messages: list[Message] = []
    rows: list[tuple[Any, ...]] = connection.execute(
        f"SELECT {COLUMNS} FROM message WHERE begun != 0"  # noqa: S608 - our own column list
    ).fetchall()
    for row in rows:
        try:
            message = decode(row)
        except Damaged as error:
            damaged.append((str(row[9]), str(error)))
            _set_aside(connection, row[0], str(error))
        else:
            messages.append(replace(message, crashes=message.crashes + 1))
            connection.execute(
                "UPDATE message SET begun = 0, crashes = crashes + 1, due = ? WHERE key = ?", (now, row[0])
            )
    # NOT (…) rather than <: a text in the column compares greater than every number.
    connection.execute("UPDATE message SET due = ? WHERE NOT (due >= 0 AND due <= ?)", (now, now + DAY_S))
    strange = "SELECT key, id, 'unknown standing' FROM message WHERE standing NOT IN (0, 1, 2) UNION ALL "
    strange += "SELECT key, id, 'unknown queue' FROM message WHERE queue NOT IN (SELECT id FROM queue)"
    for key, message_id, why in connection.execute(strange).fetchall():
        damaged.append((str(message_id), why))
        _set_aside(connection, key, why)
    return Recovered(messages, damaged, load(connection))


def load(connection: sqlite3.Connection) -> Tallies:
    """Count everything once."""
    tallies = Tallies()
    for number, pool, lane, bridge in connection.execute("SELECT id, pool, lane, bridge FROM queue"):
        tallies.register(number, QueueKey(pool, Lane(lane), bridge))
        tallies.saved.add(number)
    counted = connection.execute(
        "SELECT queue, standing, max(CAST(received / ? AS INTEGER), 0), count(*), sum(size), min(received)"
        " FROM message GROUP BY 1, 2, 3",
        (BUCKET_S,),
    )
    for number, standing, _, count, size, received in counted:
        if number not in tallies.by_number:
            tallies.register(number, UNKNOWN_QUEUE)
        kind = STANDINGS[standing] if standing in (0, 1, 2) else Standing.QUARANTINED
        tallies.add(number, kind, int(number_of(size)), number_of(received), count)
        tallies.by_number[number].known = False
    return tallies


def _set_aside(connection: sqlite3.Connection, key: int, why: str) -> None:
    connection.execute(
        "UPDATE message SET standing = ?, begun = 0, reason = ? WHERE key = ?",
        (CODES[Standing.QUARANTINED], f"damaged: {why}", key),
    )
