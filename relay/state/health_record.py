"""Health of a node as a store keeps it: JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any, Final

import orjson

from relay.pools.health import NodeHealth

_FIELDS: Final[dict[str, Callable[[Any], Any]]] = {f.name: type(f.default) for f in fields(NodeHealth)}


def dump_health(health: NodeHealth) -> bytes:
    return orjson.dumps(asdict(health))


def load_health(record: str | bytes) -> NodeHealth:
    """A stored health. What cannot be read is left at its default: a healthy node, which a fault takes out again."""
    try:
        stored = orjson.loads(record)
        known = {name: kind(stored[name]) for name, kind in _FIELDS.items() if name in stored}
        return NodeHealth(**known)
    except (ValueError, TypeError, AttributeError):
        return NodeHealth()
