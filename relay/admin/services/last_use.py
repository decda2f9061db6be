"""When each bridge was last used, and by whom, as far as the newest events tell."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from relay.admin.context import Context
from relay.history.sqlite import open_readable

LOOKED_AT = 20_000
"""Newest events of a shard that are looked through."""


@dataclass(frozen=True, slots=True)
class Use:
    at: float
    peer: str
    message: str


class LastUse:
    def __init__(self, context: Context) -> None:
        self._context = context

    async def of_bridges(self) -> Mapping[str, Use]:
        """The newest message taken from each bridge; a bridge that is missing took none lately."""
        return await asyncio.to_thread(last_uses, self._context.site.directory)


def last_uses(directory: Path) -> dict[str, Use]:
    """Blocking, some 20 ms a shard at most."""
    query = """SELECT json_extract(told, '$.data.bridge'), max(at), json_extract(told, '$.data.peer'),
        json_extract(told, '$.message_id') FROM
        (SELECT at, CAST(data AS TEXT) AS told FROM event ORDER BY number DESC LIMIT ?)
        WHERE told LIKE '%"message.accepted"%' AND json_valid(told) GROUP BY 1"""
    found: dict[str, Use] = {}
    for path in sorted(directory.glob("history-*.db")):
        with contextlib.suppress(sqlite3.Error), contextlib.closing(open_readable(path)) as connection:
            for bridge, at, peer, message in connection.execute(query, (LOOKED_AT,)):
                if bridge and at > (found[bridge].at if bridge in found else 0.0):
                    found[str(bridge)] = Use(at, str(peer or ""), str(message or ""))
    return found
