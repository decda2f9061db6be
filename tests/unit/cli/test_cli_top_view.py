"""What `relay top` makes of two looks."""

from __future__ import annotations

from typing import Any

import pytest

from relay.cli.top import bar
from relay.cli.top_view import Look, view


def worker(**more: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "shard": "0",
        "running": True,
        "unhealthy": "",
        "sessions": 2,
        "attempts": 1,
        "attempts_by_node": {"a": 1},
        "queues": [{"queued": 3, "held": 1, "quarantined": 0, "oldest": 940.0}],
        "waiting": [],
        "counters": {"message.accepted": 100, "attempt.delivered": 90},
        "configuration": {"failure": None, "returned": None},
    }
    return {**usual, **more}


def row(name: str = "a", **more: Any) -> dict[str, Any]:
    usual = {"name": name, "pool": "p", "status": "active", "unavailable": None, "caps": [], "counts": {}}
    return {**usual, **more}


def test_rates_are_those_between_two_looks_over_all_workers() -> None:
    before = Look(1000.0, [worker(), worker()], [row(counts={"delivered": 100})])
    more = {"message.accepted": 120, "attempt.delivered": 95}
    now = Look(1010.0, [worker(counters=more), worker(counters=more)], [row(counts={"delivered": 110})])
    found = view(now, before)
    assert (found.rates["accepted"], found.rates["delivered"], found.rates["refused"]) == (4.0, 1.0, 0.0)
    assert (found.sessions, found.attempts, found.queued, found.held, found.oldest_s) == (4, 2, 6, 2, 70.0)
    assert (found.nodes[0].rate, found.nodes[0].running) == (60.0, 2)


def test_a_first_look_and_a_worker_that_was_started_anew_have_no_rates() -> None:
    now = Look(1010.0, [worker(counters={"message.accepted": 3})], [row()])
    assert view(now, None).rates["accepted"] == 0.0
    assert view(now, Look(1000.0, [worker()], [row()])).rates["accepted"] == 0.0


def test_what_waits_is_added_up_by_reason() -> None:
    first = worker(waiting=[{"pool": "p", "until": 1100.0, "why": ["a: paused"], "messages": 5}])
    second = worker(
        waiting=[
            {"pool": "p", "until": 1050.0, "why": ["a: paused"], "messages": 7},
            {"pool": "q", "until": None, "why": [], "messages": 1},
        ]
    )
    found = view(Look(1000.0, [first, second], []), None)
    assert found.waits == [
        (12, "p", 1050.0, "a: paused"),
        (1, "q", None, "every node has all connections in use"),
    ]


def test_the_fullest_cap_and_what_is_amiss_are_shown() -> None:
    caps = [{"used": 1, "limit": 10, "window_s": 1.0}, {"used": 90, "limit": 100, "window_s": 3600.0}]
    cooling = row(caps=caps, unavailable="cooling down until …")
    sick = worker(unhealthy="the disk is full", configuration={"failure": {"error": "no\nmore"}, "returned": None})
    found = view(Look(1000.0, [sick], [cooling]), None)
    assert (found.nodes[0].cap, found.nodes[0].state, found.nodes[0].trouble) == (
        (90, 100, 3600.0),
        "cooling",
        "cooling down until …",
    )
    assert found.notes == ["worker 0 takes no mail: the disk is full", "the last reload failed: no"]


@pytest.mark.parametrize(
    ("cap", "shown"),
    [
        (None, "-"),
        ((0, 10, 1.0), "░░░░░░░░░░░░░░ 0/10/s"),
        ((9_999, 10_000, 3600.0), "█████████████░ 9999/10000/h"),
        ((10, 10, 86400.0), "██████████████ 10/10/day"),
        ((5, 0, 60.0), "██████████████ 5/0/min"),
    ],
)
def test_a_bar_is_full_only_when_the_cap_is(cap: tuple[int, int, float] | None, shown: str) -> None:
    assert bar(cap) == shown
