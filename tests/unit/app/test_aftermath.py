"""When a reload is held to have broken delivery, and when it is not."""

from __future__ import annotations

from typing import Any

import pytest

from relay.app.aftermath import broken, watch
from relay.pools.health import HealthPolicy, NodeHealth, cool_down, fault, pause
from tests.unit.delivery.rig import node, pool

SWAP = 1_000_000.0
POLICY = HealthPolicy()
WELL = NodeHealth()


def out(at: float, error: str = "mail: 535 bad credentials") -> NodeHealth:
    return fault(WELL, at, error, POLICY)


TWO = pool(node("a"), node("b"))

CASES: dict[str, tuple[dict[str, Any], dict[str, NodeHealth], bool]] = {
    "the touched node failed after it, the other was out before": (
        {"touched": {"a"}, "health": {"b": out(SWAP - 50)}},
        {"a": out(SWAP + 5), "b": out(SWAP - 50)},
        True,
    ),
    "all were touched and failed": ({"touched": {"a", "b"}}, {"a": out(SWAP + 5), "b": out(SWAP + 6)}, True),
    "one is well": ({"touched": {"a"}}, {"a": out(SWAP + 5)}, False),
    "one that nobody touched failed too": ({"touched": {"a"}}, {"a": out(SWAP + 5), "b": out(SWAP + 6)}, False),
    "nothing failed after it": (
        {"touched": {"a"}, "health": {"a": out(SWAP - 60)}},
        {"a": out(SWAP - 60), "b": out(SWAP - 50)},
        False,
    ),
    "the pool was out before": (
        {"touched": {"a"}, "health": {"a": out(SWAP - 60), "b": out(SWAP - 60)}},
        {"a": out(SWAP + 5), "b": out(SWAP - 60)},
        False,
    ),
    "the pool never delivered": (
        {"touched": {"a"}, "delivered": set()},
        {"a": out(SWAP + 5), "b": out(SWAP - 9)},
        False,
    ),
    "the other is paused": (
        {"touched": {"a"}},
        {"a": out(SWAP + 5), "b": pause(WELL, SWAP - 9, by="me", reason="")},
        False,
    ),
    "the other only cools": (
        {"touched": {"a"}},
        {"a": out(SWAP + 5), "b": cool_down(WELL, SWAP + 99, "slower", now=SWAP)},
        False,
    ),
    "the other is drained": (
        {"touched": {"a"}, "after": pool(node("a"), node("b", weight=0))},
        {"a": out(SWAP + 1)},
        True,
    ),
    "all nodes are new": (
        {"touched": {"x", "y"}, "after": pool(node("x"), node("y"))},
        {"x": out(SWAP + 1), "y": out(SWAP + 1)},
        True,
    ),
    "the pool is new": ({"touched": {"a", "b"}, "before": {}}, {"a": out(SWAP + 1), "b": out(SWAP + 1)}, False),
}


@pytest.mark.parametrize(("given", "now", "expected"), CASES.values(), ids=CASES.keys())
def test_delivery_broke(given: dict[str, Any], now: dict[str, NodeHealth], expected: bool) -> None:
    aftermath = watch(
        given.get("before", {"p": TWO}),
        {"p": given.get("after", TWO)},
        touched=given["touched"],
        delivered=given.get("delivered", {"p"}),
        health=given.get("health", {}),
        since=SWAP,
        now=SWAP,
        for_s=120.0,
    )
    found = broken(aftermath, now, SWAP + 10) if aftermath else ()
    assert bool(found) == expected
    if expected:
        assert "535 bad credentials" in found[0]


def test_what_touches_nothing_or_is_not_to_be_watched_is_not() -> None:
    common: dict[str, Any] = {"delivered": {"p"}, "health": {}, "since": SWAP, "now": SWAP}
    assert watch({"p": TWO}, {"p": TWO}, touched=(), for_s=120.0, **common) is None
    assert watch({"p": TWO}, {"p": TWO}, touched={"a"}, for_s=0.0, **common) is None
