"""Rows of the SQLite spool: schema, and messages to and from them.

Two tables, so that an update of a message never rewrites its content. The row key is derived from the id; where two
shards made the same key for different ids, the next free one is taken, so a look-up scans a short range of keys and
compares the id.

Every row read back is input: `decode` raises `Damaged` for what was not written by `encode`.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from relay.envelope import Facts, Lane, Message, Recipient, RecipientStatus
from relay.errors import SpoolError
from relay.ids import is_id, key_of, time_of
from relay.spool import QueueKey, Standing
from relay.spool.sqlite_bodies import Damaged

VERSION = 1

KEY_RANGE = 4096
"""Keys a look-up scans: 1/8 of one millisecond's keys, and more clashes than shards could ever bring about."""

STANDINGS = (Standing.QUEUED, Standing.HELD, Standing.QUARANTINED)
CODES = {standing: code for code, standing in enumerate(STANDINGS)}

_SCHEMA = (
    """CREATE TABLE queue (id INTEGER PRIMARY KEY, pool TEXT NOT NULL, lane TEXT NOT NULL, bridge TEXT NOT NULL,
                    UNIQUE (pool, lane, bridge))""",
    """CREATE TABLE message (
    key INTEGER PRIMARY KEY,   -- milliseconds << 15 | counter, from the id
    queue INTEGER NOT NULL,
    due REAL NOT NULL,         -- epoch seconds
    standing INTEGER NOT NULL, -- 0 queued, 1 held, 2 quarantined
    begun INTEGER NOT NULL,    -- 1: an attempt is open
    attempts INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    size INTEGER NOT NULL,
    received REAL NOT NULL,
    id TEXT NOT NULL,
    reason TEXT NOT NULL,
    sum INTEGER NOT NULL,      -- CRC-32 of id and data
    data BLOB NOT NULL,        -- the message as JSON, the columns above win over it
    file INTEGER NOT NULL      -- 1: the body is a file
)""",
    """-- Only what waits for its turn: a message that is sent at once never enters the index.
CREATE INDEX waiting ON message (queue, due) WHERE standing = 0 AND begun = 0""",
    """CREATE TABLE content (
    key INTEGER PRIMARY KEY,
    sum INTEGER NOT NULL,      -- CRC-32 of id, head and body
    size INTEGER NOT NULL,     -- octets of the body
    head BLOB NOT NULL,
    body BLOB                  -- NULL: in a file
)""",
    """-- Messages of another shard whose move has begun: ours already, perhaps still there too.
CREATE TABLE moving (id TEXT PRIMARY KEY) WITHOUT ROWID""",
)

COLUMNS = "key, queue, due, standing, begun, attempts, crashes, size, received, id, reason, sum, data, file"

_NO_RANDOM = "0" * 13

_LANES = {lane.value: lane for lane in Lane}
_STATUSES = {status.value: status for status in RecipientStatus}


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema to `VERSION`. Runs inside a transaction."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version={VERSION:d}")


def refuse_newer(path: Path) -> None:
    """Look at the version in the file's header without opening it as a database: a refused file stays untouched.

    Raises:
        SpoolError: a newer release wrote it, or it is no database.
    """
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except FileNotFoundError:
        return
    if not header:
        return
    if not header.startswith(b"SQLite format 3\0"):
        raise SpoolError(f"{path} is not an SQLite database; move it away or restore it")
    version = int.from_bytes(header[60:64], "big")
    if version > VERSION:
        raise SpoolError(
            f"{path} was written by a newer release (format {version}, this one knows {VERSION}); nothing was changed"
        )


def encode(message: Message) -> bytes:
    """The message as JSON."""
    try:
        return orjson.dumps(message)
    except orjson.JSONEncodeError:  # a lone surrogate out of some peer's text: odd, but not worth a message
        return json.dumps(asdict(message)).encode()


def row_sum(message_id: str, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(message_id.encode()))


def decode(row: tuple[Any, ...]) -> Message:
    """The message of a row of `COLUMNS`.

    Raises:
        Damaged: the row is not as it was written.
    """
    key, _, due, standing, _, attempts, crashes, _, _, message_id, _, expected, data, _ = row
    if not isinstance(message_id, str) or not is_id(message_id) or not 0 <= key - key_of(message_id) < KEY_RANGE:
        raise Damaged("the id does not fit the row")
    if not isinstance(data, bytes) or row_sum(message_id, data) != expected:
        raise Damaged("the row was changed on disk")
    if standing not in (0, 1, 2) or not isinstance(due, float):
        raise Damaged(f"standing {standing!r} or due time {due!r} is none")
    if not isinstance(attempts, int) or not isinstance(crashes, int) or not 0 <= attempts < 10**6 or crashes < 0:
        raise Damaged(f"{attempts!r} attempts and {crashes!r} crashes cannot be")
    try:
        fields = orjson.loads(data)
    except orjson.JSONDecodeError:
        fields = json.loads(data)
    try:
        fields["recipients"] = tuple(
            Recipient(**{**each, "status": _STATUSES[each["status"]]}) for each in fields["recipients"]
        )
        fields["facts"] = Facts(**fields["facts"])
        fields["lane"] = _LANES[fields["lane"]]
        fields["attempts"] = attempts
        fields["crashes"] = crashes
        message = Message(**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"the row does not hold a message: {error}") from error
    if message.id != message_id:
        raise Damaged("the row holds another message")
    return message


def placeholder(row: tuple[Any, ...], queue: QueueKey) -> Message:
    """What can be shown of a damaged row."""
    key, _, _, _, _, attempts, crashes, size, received, message_id, *_ = row
    good_id = isinstance(message_id, str) and is_id(message_id) and 0 <= key - key_of(message_id) < KEY_RANGE
    return Message(
        id=message_id if good_id else id_of_key(key),
        bridge=queue.bridge,
        pool=queue.pool,
        lane=queue.lane,
        sender="",
        recipients=(),
        received_at=received if isinstance(received, float) else time_of(id_of_key(key)),
        size=size if isinstance(size, int) else 0,
        attempts=attempts if isinstance(attempts, int) else 0,
        crashes=crashes if isinstance(crashes, int) else 0,
    )


def id_of_key(key: int) -> str:
    """Smallest id with this row key."""
    digits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    return "".join(digits[key >> shift & 31] for shift in range(60, -1, -5)) + _NO_RANDOM


def read_row(connection: sqlite3.Connection, message_id: str) -> tuple[Any, ...] | None:
    """The row of a message, or None. Finds a row with a damaged id by the id that `placeholder` shows for it."""
    if not is_id(message_id):
        return None
    key = key_of(message_id)
    row: tuple[Any, ...] | None = connection.execute(
        f"SELECT {COLUMNS} FROM message WHERE key >= ? AND key < ? AND (id = ? OR key = ? AND ?)",  # noqa: S608
        (key, key + KEY_RANGE, message_id, key, message_id.endswith(_NO_RANDOM)),
    ).fetchone()
    return row


def find_key(connection: sqlite3.Connection, message_id: str) -> int | None:
    """Row key of a message, or None."""
    row = read_row(connection, message_id)
    return row[0] if row else None
