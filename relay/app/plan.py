"""What a new configuration would change: items, routes, a day's mail and ceilings. Pure; the result is JSON-ready."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

from relay.app.changes import changes
from relay.app.restart import needs_restart
from relay.app.settings import Settings
from relay.foresight.forecast import HOUR_S, ceiling, pool_ceiling, spread
from relay.pools.pool import Pool


def plan(
    before: Settings,
    after: Settings,
    *,
    by_bridge: Mapping[str, int],
    by_node: Mapping[str, int],
    waiting: Mapping[str, int],
) -> dict[str, Any]:
    """
    Args:
        by_bridge: recipients accepted in the last 24 hours.
        by_node: recipients delivered in the last 24 hours.
        waiting: messages in the queue by pool.
    """
    found = changes(before.config, after.config)
    return {
        "changed": bool(found),
        "changes": [
            {
                "what": change.what,
                "kind": change.kind,
                "name": change.name,
                "differences": [{"key": d.key, "before": d.before, "after": d.after} for d in change.differences],
            }
            for change in found
        ],
        "needs_restart": needs_restart(before, after),
        "routes": _routes(before, after, by_bridge),
        "pools": _pools(before, after, by_bridge, by_node),
        "unrouted": {name: count for name, count in waiting.items() if count and name not in _names(after)},
    }


def _routes(before: Settings, after: Settings, by_bridge: Mapping[str, int]) -> list[dict[str, Any]]:
    """Bridges that lead elsewhere, with what came through them in a day."""
    old = {bridge.name: bridge.pool for bridge in before.bridges}
    new = {bridge.name: bridge.pool for bridge in after.bridges}
    return [
        {"bridge": name, "before": old.get(name), "after": new.get(name), "day": by_bridge.get(name, 0)}
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]


def _pools(
    before: Settings, after: Settings, by_bridge: Mapping[str, int], by_node: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Each pool with its nodes: what a day brought, what it would bring, and the ceilings of an hour."""
    old = {pool.name: pool for pool in before.pools}
    new = {pool.name: pool for pool in after.pools}
    arrived, arriving = _arrivals(before, by_bridge), _arrivals(after, by_bridge)
    rows = []
    for name in dict.fromkeys([*new, *old]):
        was, will = old.get(name), new.get(name)
        shares = spread(will, arriving.get(name, 0)) if will else None
        nodes = dict.fromkeys(node.name for pool in (will, was) if pool for node in pool.nodes)
        rows.append(
            {
                "pool": name,
                "affected": was != will or arrived.get(name) != arriving.get(name),
                "day_before": arrived.get(name, 0),
                "day_after": arriving.get(name, 0),
                "over_ceiling": round(shares.left) if shares else 0,
                "hour_before": _finite(pool_ceiling(was, HOUR_S)) if was else 0,
                "hour_after": _finite(pool_ceiling(will, HOUR_S)) if will else 0,
                "nodes": [
                    {
                        "node": node,
                        "day_before": by_node.get(node, 0) if _has(was, node) else 0,
                        "day_after": round(shares.by_node.get(node, 0.0)) if shares else 0,
                        "hour_before": _hour(was, node),
                        "hour_after": _hour(will, node),
                    }
                    for node in nodes
                ],
            }
        )
    return rows


def _arrivals(settings: Settings, by_bridge: Mapping[str, int]) -> dict[str, int]:
    """A day's recipients by pool, if they came in as they did."""
    found: dict[str, int] = {}
    for bridge in settings.bridges:
        found[bridge.pool] = found.get(bridge.pool, 0) + by_bridge.get(bridge.name, 0)
    return found


def _names(settings: Settings) -> set[str]:
    return {pool.name for pool in settings.pools}


def _has(pool: Pool | None, node: str) -> bool:
    return pool is not None and any(one.name == node for one in pool.nodes)


def _hour(pool: Pool | None, name: str) -> int | None:
    """A node's ceiling of an hour; 0 where it is not, None without one."""
    nodes: Iterable[Any] = pool.nodes if pool else ()
    node = next((one for one in nodes if one.name == name), None)
    return _finite(ceiling(node, HOUR_S)) if node else 0


def _finite(value: float) -> int | None:
    return int(value) if isfinite(value) else None
