"""Ceilings and shares by arithmetic."""

from __future__ import annotations

from math import inf

import pytest

from relay.foresight.forecast import DAY_S, HOUR_S, ceiling, pool_ceiling, spread
from relay.pools.pool import Cap, Node, Pool, Rotation
from tests.unit.delivery.rig import node, pool


def capped(name: str, *, day: int, **more: object) -> Node:
    return node(name, caps=(Cap(window_s=DAY_S, limit=day),), **more)


@pytest.mark.parametrize(
    ("caps", "hour", "day"),
    [
        ((), inf, inf),
        ((Cap(window_s=1.0, limit=2),), 7200, 172_800),
        ((Cap(window_s=3600.0, limit=100),), 100, 2400),
        ((Cap(window_s=1.0, limit=2), Cap(window_s=86400.0, limit=500)), 500, 500),
        ((Cap(window_s=3600.0, limit=100), Cap(window_s=86400.0, limit=500)), 100, 500),
        ((Cap(window_s=3600.0, limit=0),), 0, 0),
    ],
    ids=["none", "second", "hour", "day burnt in an hour", "hour and day", "zero"],
)
def test_ceiling(caps: tuple[Cap, ...], hour: float, day: float) -> None:
    one = node("n", caps=caps)
    assert (ceiling(one, HOUR_S), ceiling(one, DAY_S)) == (hour, day)
    assert ceiling(node("n", caps=caps, weight=0), HOUR_S) == 0


def test_a_pool_may_send_what_its_nodes_may() -> None:
    assert pool_ceiling(pool(capped("a", day=10), capped("b", day=5)), DAY_S) == 15
    assert pool_ceiling(pool(capped("a", day=10), node("b")), DAY_S) == inf
    assert pool_ceiling(pool(), DAY_S) == 0


SHARES: dict[str, tuple[Pool, float, dict[str, float], float]] = {
    "equal": (pool(node("a"), node("b")), 100, {"a": 50, "b": 50}, 0),
    "drained": (pool(node("a"), node("b", weight=0)), 100, {"a": 100, "b": 0}, 0),
    "round-robin knows no weights": (pool(node("a", weight=9), node("b")), 100, {"a": 50, "b": 50}, 0),
    "weighted": (
        pool(node("a", weight=5), node("b", weight=2), node("c", weight=3), rotation=Rotation.WEIGHTED),
        100,
        {"a": 50, "b": 20, "c": 30},
        0,
    ),
    "a full one gives way": (pool(capped("a", day=10), node("b"), node("c")), 100, {"a": 10, "b": 45, "c": 45}, 0),
    "too much": (pool(capped("a", day=10), capped("b", day=20)), 100, {"a": 10, "b": 20}, 70),
    "priority": (
        pool(capped("a", day=10), node("b", priority=2), node("c", priority=2), rotation=Rotation.PRIORITY),
        100,
        {"a": 10, "b": 45, "c": 45},
        0,
    ),
    "nobody": (pool(), 100, {}, 100),
    "nothing": (pool(node("a")), 0, {"a": 0}, 0),
}


@pytest.mark.parametrize(("one", "recipients", "expected", "left"), SHARES.values(), ids=SHARES.keys())
def test_spread(one: Pool, recipients: float, expected: dict[str, float], left: float) -> None:
    found = spread(one, recipients)
    assert found.by_node == pytest.approx(expected)
    assert found.left == pytest.approx(left)
