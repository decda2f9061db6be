"""Caps hold to the recipient: over restarts, over workers, in every window."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.scenario.audit import audit
from tests.scenario.clients import Ledger, send_all
from tests.scenario.conftest import Scene
from tests.scenario.harness import Relay, wait_for
from tests.scenario.upstream import Upstream

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(60)]

HOURLY = 100
RECIPIENTS = 250
SHAPES = {"single": 1, "batch": 25, "whole": 250}
"""Recipients of each message, by pool."""


@pytest.mark.parametrize("workers", [1, 2])
def test_exactly_the_caps_leave_and_the_rest_waits_with_a_time(scene: Scene, workers: int) -> None:
    """Pools of two nodes with 100 an hour each; 250 recipients as 250 messages, as 10, and as one: 200 leave, 50 wait
    and say until when, also after a restart and with one more message."""
    nodes = {pool: [scene.upstream(f"{pool}-{n}") for n in (1, 2)] for pool in SHAPES}
    relay = scene.relay(
        [],
        workers=workers,
        bridges=[
            {"name": pool, "pool": pool, "credentials": [{"username": pool, "password": "secret"}]} for pool in SHAPES
        ],
        pools=[
            {"name": pool, "id": n, "mta": "mta4", "nodes": [u.node(caps={"hour": HOURLY}) for u in nodes[pool]]}
            for n, pool in enumerate(SHAPES, 1)
        ],
    )
    upstreams = [upstream for of_pool in nodes.values() for upstream in of_pool]
    ledger = Ledger()
    began = time.time()
    for pool, each in SHAPES.items():
        names = [f"{pool}{number}" for number in range(RECIPIENTS // each)]
        addresses = [f"r{n}@example.net" for n in range(each)]
        send_all(relay.port, names, ledger=ledger, recipients=addresses, user=pool, password="secret")
    wait_for(lambda: sum(map(_left, upstreams)) >= len(SHAPES) * 2 * HOURLY, what="600 deliveries")
    _check_waiting(relay, nodes, began)
    assert relay.stop() == 0
    relay.start()
    for pool in SHAPES:
        send_all(relay.port, [f"late-{pool}"], ledger=ledger, user=pool, password="secret")
    time.sleep(1.5)  # it had every chance to send too much
    waiting = _check_waiting(relay, nodes, began, more=1)
    result = audit(ledger, relay, upstreams, waiting=waiting)
    scene.result(result, left={upstream.name: _left(upstream) for upstream in upstreams}, waiting=len(waiting))
    result.check(bound=0)


def _left(upstream: Upstream) -> int:
    return sum(len(message.rcpts) for message in list(upstream.server.messages))


def _check_waiting(relay: Relay, nodes: dict[str, list[Upstream]], began: float, more: int = 0) -> list[dict[str, Any]]:
    """Each node took what it may; the rest waits, and both commands say until when. Returns the queue."""
    opens = began + 3600

    def settled() -> bool:
        return all(row["due"] > opens - 30 for row in relay.entries())

    wait_for(settled, what="the rest to wait with a time")
    listed: list[dict[str, Any]] = relay.json("queue", "list", "--limit", "1000")
    status = relay.json("status")
    for pool, of_pool in nodes.items():
        assert [_left(upstream) for upstream in of_pool] == [HOURLY, HOURLY]
        waiting = [r for row in listed if row["pool"] == pool for r in row["recipients"] if r["status"] == "pending"]
        assert len(waiting) == RECIPIENTS - 2 * HOURLY + more, pool
    for row in listed:
        assert row["standing"] == "queued"
        assert opens - 30 < row["due"] < opens + 60, "the time shown is not when the cap has room again"
        assert "100 of 100 recipients in" in row["reason"], row["reason"]
    for node in status["nodes"]:
        (cap,) = node["caps"]
        assert (cap["limit"], cap["used"]) == (HOURLY, HOURLY)
        assert opens - 30 < cap["free_at"] < opens + 60
    assert sum(row["queued"] for worker in status["workers"] for row in worker["queues"]) == len(listed)
    return listed


@pytest.mark.parametrize("workers", [1, 2])
def test_no_window_of_a_second_ever_holds_more_than_the_cap(scene: Scene, workers: int) -> None:
    """Brute force over every second at the sink; mixed message sizes, with a restart in the middle."""
    limit = 15
    sinks = [scene.sink(name) for name in ("one", "two")]
    relay = scene.relay([sink.node(caps={"second": limit}) for sink in sinks], workers=workers)
    ledger = Ledger()
    send_all(relay.port, [f"s{n}" for n in range(60)], ledger=ledger, sessions=4)
    addresses = [f"r{n}@example.net" for n in range(6)]
    send_all(relay.port, [f"m{n}" for n in range(10)], ledger=ledger, recipients=addresses)
    relay.stop()
    relay.start()
    send_all(relay.port, [f"t{n}" for n in range(60)], ledger=ledger, sessions=4)
    relay.wait_empty()
    # From the permit to the sink an attempt takes at most its whole time; only so much may windows seem narrower.
    transit = max(event["took_ms"] for event in relay.events("attempt.delivered")) / 1000 + 0.05
    fullest = 0
    for sink in sinks:
        times = sorted(t["at"] for t in sink.transactions() for _ in t["to"])
        for first, at in enumerate(times):
            in_window = sum(other < at + 1.0 - transit for other in times[first:])
            fullest = max(fullest, in_window)
    result = audit(ledger, relay, sinks)
    scene.result(result, fullest_second=fullest, cap=limit, slack_s=round(transit, 3))
    result.check(bound=0)
    assert transit < 0.7, "attempts took so long that this shows nothing"
    assert fullest <= limit
    assert fullest > limit // 2, "the caps were never put to the test"
