"""The exposition: every metric declared once, in base units, with labels of closed sets."""

from __future__ import annotations

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from relay.metrics import DECLARED, exposition

WORKER = {
    "shard": "0",
    "phase": "running",
    "unhealthy": "",
    "started": 1.0,
    "sessions": 2,
    "attempts": 3,
    "history_dropped": 0,
    "stores": {"state": 0},
    "ledger": {
        "found": 1, "accepted": 9, "delivered": 4, "failed": 1, "expired": 0, "dropped": 1, "withdrawn": 0,
        "pending": 4,
    },
    "queues": [
        {"pool": "main", "lane": "bulk", "bridge": "app", "queued": 3, "held": 1, "quarantined": 0, "size": 10,
         "oldest": 5.0, "next_due": None},
    ],
    "series": [
        {"event": "attempt.delivered", "bridge": "app", "pool": "main", "node": 'a"\\b', "status": what, "count": n}
        for what, n in (("delivered", 4), ("other", 1))
    ],
}  # fmt: skip
NODE = {
    "name": "a", "pool": "main", "status": "active", "unavailable": None, "counts": {"sent": 5, "delivered": 4},
    "caps": [{"window_s": 3600.0, "limit": 100, "used": 5, "free_at": None}],
}  # fmt: skip


@pytest.fixture(scope="module")
def text() -> str:
    return exposition("1.2.3", [WORKER], [NODE], {"webhook_taken": 2}).decode()


def test_it_is_read_by_prometheus(text: str) -> None:
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert set(families) == {each.name for each in DECLARED}
    (events,) = families["relay_events"].samples
    assert events.labels["node"] == 'a"\\b'
    assert events.value == 5
    assert families["relay_queue_messages"].samples[1].labels["standing"] == "held"


@pytest.mark.parametrize("declared", DECLARED, ids=lambda each: each.name)
def test_names_follow_the_rules(declared: object) -> None:
    name, help_, kind = declared.name, declared.help, declared.kind  # type: ignore[attr-defined]
    assert re.fullmatch(r"relay_[a-z_]+", name)
    assert not name.endswith(("_total", "_ms", "_bytes"))
    assert help_.endswith(".")
    assert kind in ("counter", "gauge")


def test_a_relay_without_workers_still_answers() -> None:
    assert b"relay_build_info" in exposition("1", [], [], {"workers_silent": 2})
