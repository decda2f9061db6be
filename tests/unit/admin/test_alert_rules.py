"""What is a trouble, when it is over, when it is told, and by which bridge."""

from __future__ import annotations

from typing import Any

import pytest

from relay.admin.alerts import rules
from relay.admin.alerts.rules import Expiring, Notified, Oldest, Over, Rule, Thresholds, Trouble
from relay.events import Event
from relay.metrics import ISSUE_RULES

NOW = 1_000_000.0


def event(name: str, **data: Any) -> Event:
    return Event(name, NOW, "info", "", data)


def keys(found: list[Trouble | Over]) -> list[str]:
    return [("+" if isinstance(each, Trouble) else "-") + each.key for each in found]


def test_metrics_name_the_same_rules() -> None:
    assert tuple(Rule) == ISSUE_RULES


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (event("node.deactivated", node="a", pool="p", test_status="535 no", next_check=1), ["+node:a"]),
        (event("node.check_failed", node="a", pool="p", test_status="535 no", next_check=1), ["+node:a"]),
        (event("node.recovered", node="a", pool="p", down_s=3), ["-node:a"]),
        (event("node.ready", node="a", pool="p"), ["-node:a"]),
        (event("node.resumed", node="a", pool="p", by="jo"), ["-node:a"]),
        (event("node.paused", node="a", pool="p", by="jo"), []),
        (event("relay.reload_failed", error="x:1:2: y"), ["+reload:failed"]),
        (event("relay.reload_returned", why="no node left"), ["+reload:returned"]),
        (event("relay.reloaded"), ["-reload:failed", "-reload:returned"]),
        (event("relay.started"), ["-reload:failed", "-reload:returned"]),
        (event("attempt.deferred", node="a"), []),
    ],
    ids=lambda value: value.name if isinstance(value, Event) else "",
)
def test_events(told: Event, expected: list[str]) -> None:
    assert keys(rules.of_event(told, Thresholds())) == expected


def test_what_is_not_watched_does_not_begin_but_ends() -> None:
    off = Thresholds(nodes=False, reload=False)
    assert rules.of_event(event("node.deactivated", node="a", pool="p", test_status="x", next_check=1), off) == []
    assert rules.of_event(event("relay.reload_failed", error="x"), off) == []
    assert keys(rules.of_event(event("node.recovered", node="a", pool="p", down_s=1), off)) == ["-node:a"]


def node(name: str, status: str, test_status: str = "", caps: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {"name": name, "pool": "p", "status": status, "test_status": test_status, "since": 5.0, "caps": caps}


@pytest.mark.parametrize(
    ("rows", "open_keys", "expected"),
    [
        ([node("a", "inactive", "550 blocked")], [], ["+node:a"]),
        ([node("a", "inactive", "not tested yet")], [], []),
        ([node("a", "active")], [], []),
        ([node("a", "active")], ["node:a"], ["-node:a"]),
        ([node("a", "paused", "550 blocked")], ["node:a"], []),
        ([], ["node:a", "cap:a:3600"], ["-node:a"]),
    ],
    ids=["out", "untested", "well", "well-again", "paused-stays", "removed"],
)
def test_nodes(rows: list[dict[str, Any]], open_keys: list[str], expected: list[str]) -> None:
    assert keys(rules.of_nodes(rows, open_keys, NOW)) == expected


@pytest.mark.parametrize(
    ("window", "used", "open_keys", "expected"),
    [
        (3600.0, 79, [], []),
        (3600.0, 80, [], ["+cap:a:3600"]),
        (86400.0, 100, [], ["+cap:a:86400"]),
        (60.0, 100, [], []),
        (3600.0, 75, ["cap:a:3600"], ["+cap:a:3600"]),
        (3600.0, 71, ["cap:a:3600"], ["-cap:a:3600"]),
    ],
    ids=["below", "at", "day", "a-minute-is-pace", "stays", "over"],
)
def test_caps(window: float, used: int, open_keys: list[str], expected: list[str]) -> None:
    rows = [node("a", "active", caps=({"window_s": window, "limit": 100, "used": used},))]
    assert keys(rules.of_caps(rows, 80, open_keys, NOW)) == expected


def test_a_rule_that_is_off_closes_what_it_opened() -> None:
    rows = [node("a", "active", caps=({"window_s": 3600.0, "limit": 100, "used": 100},))]
    assert keys(rules.of_caps(rows, 0, ["cap:a:3600"], NOW)) == ["-cap:a:3600"]
    assert keys(rules.of_queues([Oldest("p", 0, "")], 0, ["queue:p"], NOW)) == ["-queue:p"]
    assert keys(rules.of_workers({"0": "disk full"}, False, ["spool:0"], NOW)) == ["-spool:0"]


def test_queues_say_how_long_and_why() -> None:
    (found,) = rules.of_queues([Oldest("p", NOW - 960, "cap of a: hour"), Oldest("q", NOW - 10, "")], 900, [], NOW)
    assert isinstance(found, Trouble)
    assert found.error == "the oldest message of pool p has waited for 16 min: cap of a: hour"


def test_a_silent_worker_changes_nothing() -> None:
    assert keys(rules.of_workers({"0": "disk full"}, True, ["spool:1"], NOW)) == ["+spool:0"]
    assert keys(rules.of_workers({"0": "", "1": ""}, True, ["spool:1"], NOW)) == ["-spool:1"]


@pytest.mark.parametrize(
    ("ends", "says"),
    [(NOW + 86400 * 3, "ends in 3 days"), (NOW - 7200, "ended 2 h ago"), (NOW + 86400 * 15, None)],
    ids=["soon", "past", "far"],
)
def test_expiries(ends: float, says: str | None) -> None:
    found = rules.of_expiries([Expiring(id="c", what="it", ends=ends, remedy="renew it")], 14 * 86400.0, [], NOW)
    assert [each.error for each in found if isinstance(each, Trouble)] == ([f"it {says}; renew it"] if says else [])


def test_the_quiet_time() -> None:
    assert rules.tell_at(None, NOW, 900) == NOW
    assert rules.tell_at(NOW - 100, NOW, 900) == NOW + 800
    assert rules.tell_at(NOW - 901, NOW, 900) == NOW


@pytest.mark.parametrize(
    ("opening", "wants", "told"),
    [(Notified.UNTRIED, True, False), (Notified.TRIED, True, True), (Notified.TRIED, False, False)],
)
def test_the_end_is_told_to_who_heard_of_the_beginning(opening: Notified, wants: bool, told: bool) -> None:
    assert rules.tells_end(opening, wants_recovery=wants) is told


BRIDGES = [("one", "p"), ("two", "q"), ("three", "r")]


@pytest.mark.parametrize(
    ("bridges", "pool", "in_trouble", "chosen"),
    [
        (BRIDGES, "p", {"p"}, "two"),
        (BRIDGES, "p", {"p", "q"}, "three"),
        (BRIDGES, "p", {"p", "q", "r"}, "two"),
        (BRIDGES[:1], "p", {"p"}, None),
        (BRIDGES, "", set(), "one"),
        ([], "", set(), None),
    ],
    ids=["another", "a-well-one", "all-in-trouble", "none", "no-pool", "no-bridge"],
)
def test_mail_goes_around_the_trouble(
    bridges: list[tuple[str, str]], pool: str, in_trouble: set[str], chosen: str | None
) -> None:
    assert rules.carrier(bridges, pool, in_trouble) == chosen
