"""Short ways to the values that routing tests are about."""

from __future__ import annotations

from typing import Any

from relay.envelope import Facts, Lane, Message, Recipient
from relay.pools.pool import Cap, Node, Pool, Rotation

NOW = 1_800_000_000.0


def node(name: str, **changes: Any) -> Node:
    return Node(name=name, pool="p", type="sandbox", **changes)


def nodes(count: int, **changes: Any) -> tuple[Node, ...]:
    return tuple(node(f"n{position}", **changes) for position in range(count))


def pool(*members: Node, rotation: Rotation = Rotation.ROUND_ROBIN, name: str = "p", **changes: Any) -> Pool:
    return Pool(
        name=name,
        id=1,
        internal_name=f"acme-42-mta4-{name}-1",
        mta="mta4",
        zone="us-1",
        feedtype="transactional",
        rotation=rotation,
        nodes=members,
        **changes,
    )


def message(*addresses: str, facts: Facts | None = None, **changes: Any) -> Message:
    fields: dict[str, Any] = {
        "id": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "bridge": "b",
        "pool": "p",
        "lane": Lane.TRANSACTIONAL,
        "sender": "shop@acme.example",
        "recipients": tuple(Recipient(address=address) for address in addresses or ("a@dest.example",)),
        "received_at": NOW - 10,
        "size": 2000,
        "facts": facts or Facts(from_domain="acme.example"),
        "attempts": 1,
    }
    return Message(**{**fields, **changes})


def hourly(limit: int) -> tuple[Cap, ...]:
    return (Cap(window_s=3600.0, limit=limit),)
