"""Rows of the shared spool, as the scripts give them, to entries; every row read back is input.

The message is kept as the SQLite spool keeps it: JSON with a checksum, the columns beside it win over it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from relay.envelope import Facts, Lane, Message, Recipient, RecipientStatus
from relay.ids import is_id, time_of
from relay.spool import Entry, QueueKey, Standing
from relay.spool.sqlite_bodies import Damaged
from relay.spool.sqlite_rows import CODES, STANDINGS, encode, row_sum

__all__ = ["CODES", "Damaged", "Row", "encode", "queue_name", "queue_of", "row_sum"]

_LANES = {lane.value: lane for lane in Lane}
_STATUSES = {status.value: status for status in RecipientStatus}


def queue_name(key: QueueKey) -> str:
    """The name of a queue in keys. JSON, so that no name of a pool or bridge can be taken for another's."""
    return orjson.dumps((key.pool, key.lane.value, key.bridge)).decode()


def queue_of(name: bytes) -> QueueKey:
    """Raises Damaged."""
    try:
        pool, lane, bridge = orjson.loads(name)
        return QueueKey(pool, _LANES[lane], bridge)
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"the queue has no name: {error}") from error


@dataclass(frozen=True, slots=True)
class Row:
    """One message as it lies there. All values as octets; `id` is the one it was asked for by."""

    id: str
    queue: bytes
    due: bytes
    standing: bytes
    begun: bytes
    attempts: bytes
    crashes: bytes
    size: bytes
    received: bytes
    reason: bytes
    token: bytes
    sum: bytes
    data: bytes

    @classmethod
    def of(cls, values: Sequence[bytes | None]) -> Row:
        columns = [value or b"" for value in values]
        return cls(columns[-1].decode(), *columns[:-1])

    def message(self) -> Message:
        """Raises Damaged: it is not as it was written."""
        try:
            attempts, crashes = int(self.attempts), int(self.crashes)
            if not is_id(self.id) or row_sum(self.id, self.data) != int(self.sum):
                raise Damaged("the row was changed where it is kept")
            if not 0 <= attempts < 10**6 or crashes < 0:
                raise Damaged(f"{attempts} attempts and {crashes} crashes cannot be")
            try:
                fields = orjson.loads(self.data)
            except orjson.JSONDecodeError:
                fields = json.loads(self.data)
            fields["recipients"] = tuple(
                Recipient(**{**each, "status": _STATUSES[each["status"]]}) for each in fields["recipients"]
            )
            fields |= {
                "facts": Facts(**fields["facts"]),
                "lane": _LANES[fields["lane"]],
                "attempts": attempts,
                "crashes": crashes,
            }
            message = Message(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(f"the row does not hold a message: {error}") from error
        if message.id != self.id:
            raise Damaged("the row holds another message")
        return message

    def entry(self) -> Entry:
        """What an operator sees; of a damaged one what can be told."""
        try:
            message = self.message()
        except Damaged:
            message = self._placeholder()
        return Entry(
            message=message,
            standing=STANDINGS[_number(self.standing, 2) if _number(self.standing, 2) in (0, 1, 2) else 2],
            due=_float(self.due),
            reason=self.reason.decode("utf-8", "replace"),
            leased=bool(self.token),
        )

    def _placeholder(self) -> Message:
        try:
            queue = queue_of(self.queue)
        except Damaged:
            queue = QueueKey("", Lane.BULK, "")
        return Message(
            id=self.id,
            bridge=queue.bridge,
            pool=queue.pool,
            lane=queue.lane,
            sender="",
            recipients=(),
            received_at=_float(self.received) or (time_of(self.id) if is_id(self.id) else 0.0),
            size=_number(self.size, 0),
            attempts=_number(self.attempts, 0),
            crashes=_number(self.crashes, 0),
        )


def standing_code(standing: Standing) -> int:
    return CODES[standing]


def _number(text: bytes, other: int) -> int:
    return int(text) if text.isdigit() else other


def _float(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
