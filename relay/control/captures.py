"""Mail that sandbox nodes of this process keep in memory, as rows. Pure but for reading the drivers."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from relay.upstreams.base import Upstream

HEAD_OCTETS = 16 * 1024
"""Of each message of a list; enough for its header section."""


class _Captured(Protocol):
    id: str
    sender: str
    recipients: tuple[str, ...]
    content: bytes
    size: int
    taken_at: float
    uncertain: bool


@runtime_checkable
class _Keeps(Protocol):
    """The sandbox driver, without importing it: most relays have none."""

    def captured(self) -> tuple[_Captured, ...]: ...


def captured_rows(drivers: Mapping[str, Upstream], *, key: str, limit: int) -> list[dict[str, Any]]:
    """
    Args:
        key: of one message, which comes whole; empty: the newest `limit`, each with its beginning.
    """
    found = [
        (_key(message), node, message)
        for node, driver in drivers.items()
        if isinstance(driver, _Keeps)
        for message in driver.captured()
    ]
    if key:
        found = [each for each in found if each[0] == key]
    found.sort(key=lambda each: (each[2].taken_at, each[0]), reverse=True)
    return [
        {
            "key": name,
            "node": node,
            "id": message.id,
            "sender": message.sender,
            "recipients": list(message.recipients),
            "size": message.size,
            "taken_at": message.taken_at,
            "uncertain": message.uncertain,
            "content": base64.b64encode(message.content if key else message.content[:HEAD_OCTETS]).decode(),
        }
        for name, node, message in found[:limit]
    ]


def _key(message: _Captured) -> str:
    return f"{message.id}-{int(message.taken_at * 1e6)}"
