"""The router's decision, told without taking a permit or a turn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from relay.control.outlook import Chance, outlook
from relay.envelope import Facts, Lane, Message, Recipient
from relay.pools.health import NodeHealth, NodeStatus
from relay.pools.pool import Cap, Node, Pool, Rotation
from relay.router.words import missing_pool
from relay.state import Usage

NOW = 1_800_000_000.0
MESSAGE = Message(
    id="01J00000000000000000000000",
    bridge="app",
    pool="main",
    lane=Lane.TRANSACTIONAL,
    sender="app@acme.example",
    recipients=(Recipient(address="a@dest.example"),),
    received_at=NOW - 10,
    size=1000,
    facts=Facts(from_domain="acme.example"),
)


def node(name: str, **changes: Any) -> Node:
    return Node(name=name, pool="main", type="smtp", **changes)


def pool(*nodes: Node) -> Pool:
    return Pool(
        name="main",
        id=1,
        internal_name="acme-42-mta4-pool-1",
        mta="mta4",
        zone="us-1",
        feedtype="transactional",
        rotation=Rotation.ROUND_ROBIN,
        nodes=nodes,
    )


def used(used: int, limit: int, free_in: float, window_s: float = 3600.0) -> Usage:
    return Usage(window_s=window_s, limit=limit, used=used, free_at=NOW + free_in)


CAPS = (Cap(window_s=3600.0, limit=10),)
DOWN = NodeHealth(status=NodeStatus.INACTIVE, since=NOW - 60, next_check=NOW + 300, give_up_at=NOW + 9999)


@pytest.mark.parametrize(
    ("nodes", "health", "usage", "chance", "until", "verdicts"),
    [
        pytest.param((node("a"), node("b")), {}, {}, "goes", None, ["eligible", "eligible"], id="all well"),
        pytest.param((node("a"), node("b")), {"a": DOWN}, {}, "goes", None, ["inactive", "eligible"], id="one is left"),
        pytest.param(
            (node("a", caps=CAPS), node("b")),
            {"b": DOWN},
            {"node:a": [used(10, 10, 60)]},
            "waits",
            60,
            ["capped", "inactive"],
            id="the cap opens before the next check",
        ),
        pytest.param(
            (node("a", caps=CAPS),), {}, {"node:a": [used(9, 10, -5)]}, "goes", None, ["eligible"], id="room for one"
        ),
        pytest.param(
            (node("a", caps=CAPS),),
            {},
            {"node:a": [used(2, 2, 1, 1.0), used(10, 10, 900)]},
            "waits",
            900,
            ["capped"],
            id="of two full caps the later one counts",
        ),
        pytest.param(
            (node("a", caps=CAPS), node("b", caps=CAPS)),
            {},
            {"node:a": [used(10, 10, 900)], "node:b": [used(10, 10, 30)]},
            "waits",
            30,
            ["capped", "capped"],
            id="of two full nodes the earlier one counts",
        ),
        pytest.param((node("a", max_size=10),), {}, {}, "never", None, ["size"], id="no node takes its size"),
        pytest.param((node("a", weight=0),), {}, {}, "never", None, ["drained"], id="drained"),
        pytest.param((), {}, {}, "never", None, [], id="a pool without nodes"),
    ],
)
def test_the_outlook_is_what_the_router_would_say(
    nodes: Any, health: Any, usage: Any, chance: str, until: float | None, verdicts: list[str]
) -> None:
    found = outlook(MESSAGE, pool(*nodes), health=health, usage=usage, at=NOW)
    assert found.chance == chance
    assert found.until == (None if until is None else NOW + until)
    assert [line.verdict for line in found.trace] == verdicts
    assert bool(found.reason) == (chance != "goes")


def test_a_bound_message_waits_for_its_node_alone() -> None:
    bound = replace(MESSAGE, bound_node="a", bound_until=NOW + 100)
    found = outlook(bound, pool(node("a"), node("b")), health={"a": DOWN}, usage={}, at=NOW)
    assert (found.chance, found.until) == (Chance.WAITS, NOW + 100)
    assert "second copy" in found.trace[1].reason


def test_at_a_later_time_pauses_that_end_before_it_are_over() -> None:
    paused = NodeHealth(status=NodeStatus.PAUSED, since=NOW, paused_until=NOW + 60, paused_by="ann")
    only = pool(node("a"))
    assert outlook(MESSAGE, only, health={"a": paused}, usage={}, at=NOW).chance is Chance.WAITS
    assert outlook(MESSAGE, only, health={"a": paused}, usage={}, at=NOW + 61).chance is Chance.GOES


def test_a_pool_that_is_not_configured() -> None:
    found = outlook(MESSAGE, None, health={}, usage={}, at=NOW)
    assert (found.chance, found.reason) == (Chance.NEVER, missing_pool("main"))


def test_a_message_whose_nodes_are_all_busy_waits_for_a_connection() -> None:
    found = outlook(MESSAGE, pool(node("a"), node("b")), health={"b": DOWN}, usage={}, busy={"a"}, at=NOW)
    assert (found.chance, found.until) == (Chance.WAITS, None)
    assert [line.verdict for line in found.trace] == ["busy", "inactive"]
    assert outlook(MESSAGE, pool(node("a"), node("b")), health={}, usage={}, busy={"a"}, at=NOW).chance is Chance.GOES
