"""The relay's values as plain JSON-ready rows for operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from relay.control.outlook import Outlook
from relay.envelope import Message
from relay.pools import health as machine
from relay.pools.health import NodeHealth
from relay.pools.pool import Node, Pool
from relay.spool import Depth, Selection, Standing
from relay.state import Usage


def selection(raw: Mapping[str, Any]) -> Selection:
    """What a command asked for. Raises ValueError for an unknown standing."""
    standing = raw.get("standing")
    return Selection(
        ids=tuple(raw.get("ids", ())),
        pool=raw.get("pool", ""),
        bridge=raw.get("bridge", ""),
        standing=Standing(standing) if standing else None,
        text=raw.get("text", ""),
    )


def meant_by(chosen: Selection) -> Callable[[Message], bool]:
    """Whether a message whose standing is QUEUED may be among the selected. The spool has the last word."""
    ids = frozenset(chosen.ids)
    text = chosen.text.lower()

    def is_meant(message: Message) -> bool:
        return (
            (not ids or message.id in ids)
            and chosen.pool in ("", message.pool)
            and chosen.bridge in ("", message.bridge)
            and chosen.standing in (None, Standing.QUEUED)
            and (
                not text
                or text in message.sender.lower()
                or text in message.facts.subject.lower()
                or any(text in recipient.address.lower() for recipient in message.recipients)
            )
        )

    return is_meant


def message_row(message: Message) -> dict[str, Any]:
    return {
        "id": message.id,
        "bridge": message.bridge,
        "pool": message.pool,
        "lane": message.lane,
        "sender": message.sender,
        "recipients": [
            {"address": r.address, "status": r.status, "code": r.code, "text": r.text, "node": r.node}
            for r in message.recipients
        ],
        "subject": message.facts.subject,
        "received_at": message.received_at,
        "size": message.size,
        "attempts": message.attempts,
        "crashes": message.crashes,
        "campaign": message.campaign,
    }


def depth_row(depth: Depth) -> dict[str, Any]:
    return {
        "pool": depth.key.pool,
        "lane": depth.key.lane,
        "bridge": depth.key.bridge,
        "queued": depth.queued,
        "held": depth.held,
        "quarantined": depth.quarantined,
        "size": depth.size,
        "next_due": depth.next_due,
        "oldest": depth.oldest,
    }


def health_row(health: NodeHealth, now: float) -> dict[str, Any]:
    health = machine.settled(health, now)
    return {
        "status": health.status,
        "unavailable": machine.is_available(health, now),
        "test_status": health.test_status,
        "since": health.since or None,
        "next_check": health.next_check or None,
        "cool_until": health.cool_until if health.cool_until > now else None,
        "cool_reason": health.cool_reason if health.cool_until > now else "",
        "paused_until": health.paused_until or None,
        "paused_by": health.paused_by,
        "pause_reason": health.pause_reason,
    }


def node_row(
    pool: Pool, node: Node, health: NodeHealth, usage: Sequence[Usage], counts: Mapping[str, int], now: float
) -> dict[str, Any]:
    return {
        "name": node.name,
        "pool": pool.name,
        "type": node.type,
        "weight": node.weight,
        "priority": node.priority,
        **health_row(health, now),
        "caps": [
            {
                "window_s": cap.window_s,
                "limit": cap.limit,
                "used": fill.used,
                "free_at": fill.free_at if fill.free_at > now else None,
                "source": cap.source or "configuration",
            }
            for cap, fill in zip(node.caps, usage, strict=False)
        ],
        "counts": dict(counts),
    }


def outlook_row(found: Outlook, at: float) -> dict[str, Any]:
    return {
        "chance": found.chance,
        "at": at,
        "until": found.until,
        "reason": found.reason,
        "nodes": [{"node": line.node, "verdict": line.verdict, "reason": line.reason} for line in found.trace],
    }
