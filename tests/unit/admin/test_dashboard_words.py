"""What pages say: stories, node states, ceilings, waits, rates, mail. Pure."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from relay.admin.services.ceiling import ceiling, hourly
from relay.admin.services.last_use import last_uses
from relay.admin.services.mail_view import look_at
from relay.admin.services.rates import EVERY_S, KEEP_S, Rates, grown, seeded
from relay.admin.services.waits import standing
from relay.admin.web import words
from relay.admin.web.node_view import node_view
from relay.admin.web.story import ended, steps
from relay.events import Event
from relay.history import encode
from relay.history.sqlite import SqliteHistory
from relay.ids import IdSource


def _cap(window: float, limit: int, used: int = 0, free_at: float | None = None) -> dict[str, Any]:
    return {"window_s": window, "limit": limit, "used": used, "free_at": free_at, "source": "configuration"}


def _node(name: str = "n", status: str = "active", caps: Any = (), **more: Any) -> dict[str, Any]:
    return {
        "name": name, "pool": "p", "type": "smtp", "status": status, "unavailable": None, "test_status": "ok",
        "since": None, "next_check": None, "cool_until": None, "cool_reason": "", "paused_until": None,
        "paused_by": "", "pause_reason": "", "caps": list(caps), "counts": {}, "attempts": 0, **more,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("caps", "most"),
    [
        ([], None),
        ([_cap(3600, 500)], 500),
        ([_cap(1, 2)], 7200),
        ([_cap(60, 10), _cap(3600, 500), _cap(86400, 10_000)], 500),
        ([_cap(60, 10), _cap(86400, 100)], 100),
    ],
    ids=["none", "hour", "second", "the least of all", "a day's in one hour"],
)
def test_the_ceiling_of_a_node(caps: list[dict[str, Any]], most: int | None) -> None:
    assert hourly(caps) == most


def test_the_ceiling_counts_what_may_be_used() -> None:
    rows = [
        _node("a", caps=[_cap(3600, 100, 40)]),
        _node("b", caps=[_cap(3600, 50)], status="inactive", unavailable="inactive"),
        _node("c"),
    ]
    found = ceiling(rows)
    assert (found.now, found.all, found.used, found.boundless, found.available, found.nodes) == (100, 150, 40, 1, 2, 3)


@pytest.mark.parametrize(
    ("row", "state", "tone", "why"),
    [
        (_node(), "active", "ok", ""),
        (_node(status="inactive", unavailable="x", test_status="535 no", next_check=9.0), "inactive", "bad", "535 no"),
        (_node(status="paused", unavailable="x", pause_reason="why", paused_by="me"), "paused", "idle", "why (by me)"),
        (_node(unavailable="x", cool_until=9.0, cool_reason="421 slow"), "cooling", "warn", "421 slow"),
        (_node(caps=[_cap(60, 1, 1, 9.0)]), "at its cap", "warn", ""),
        ({"name": "n", "pool": "p", "type": "smtp", "state": None}, "not running", "idle", None),
    ],
    ids=["active", "inactive", "paused", "cooling", "full", "not running"],
)
def test_the_state_of_a_node(row: dict[str, Any], state: str, tone: str, why: str | None) -> None:
    found = node_view(row)
    assert (found.state, found.tone) == (state, tone)
    assert why is None or found.why == why
    assert found.is_watched == (state == "inactive")


def test_waits_of_all_workers_come_together() -> None:
    workers = [
        {
            "queues": [{"queued": 5, "held": 1, "quarantined": 0, "size": 10, "oldest": at}],
            "waiting": [{"pool": "p", "why": ["a is full"], "until": at + 60, "messages": 2}],
        }
        for at in (100.0, 200.0)
    ]
    found = standing(workers)
    assert (found.queued, found.held, found.oldest, found.other) == (10, 2, 100.0, 6)
    assert [(wait.messages, wait.until, wait.why) for wait in found.waits] == [(4, 160.0, ("a is full",))]


def test_counts_that_begin_anew_do_not_go_back() -> None:
    before = {"0": Counter({"message.accepted": 50}), "1": Counter({"message.accepted": 5})}
    now = {"0": Counter({"message.accepted": 3}), "1": Counter({"message.accepted": 9, "attempt.delivered": 2})}
    assert grown(before, now) == {"in": 7, "delivered": 2, "deferred": 0, "refused": 0}


def test_the_chart_has_no_gaps_and_begins_where_anything_is_known() -> None:
    rates = Rates(None)  # type: ignore[arg-type] # it is not asked for anything here
    begin = 10_000.0
    for step in range(61):
        if step != 30:  # one look was missed
            rates.note(begin + step * EVERY_S, {"0": Counter({"message.accepted": step * 2})})
    now = begin + 60 * EVERY_S
    chart = rates.chart(now + 1)
    assert chart["at"] == [begin + step * EVERY_S for step in range(60)]
    assert chart["in"][0] == 12.0
    assert chart["in"][29] == 0.0
    assert chart["in"][30] == 24.0
    assert rates.lately(now + 1)["in"] == 12.0
    assert len(rates.chart(now + 3 * KEEP_S)["at"]) == KEEP_S / EVERY_S


async def test_rates_and_last_use_are_read_from_the_histories(tmp_path: Path) -> None:
    history = SqliteHistory(tmp_path, shard="0")
    await history.start()
    ids = IdSource(time.time, "0")
    now = time.time()
    for name, data in (
        ("message.accepted", {"bridge": "app", "peer": "192.0.2.1", "recipients": ["a@b.example"]}),
        ("attempt.delivered", {"node": "n"}),
        ("message.accepted", {"bridge": "other", "peer": '"<b>', "recipients": []}),
    ):
        message = ids.next()
        history.record(message, encode(Event(name, now, "info", message, data)))
    await history.close()
    total: Counter[str] = Counter()
    for bucket in seeded(tmp_path, now + 30):
        total.update(bucket.counts)
    assert total == {"in": 2, "delivered": 1}
    uses = last_uses(tmp_path)
    assert {name: use.peer for name, use in uses.items()} == {"app": "192.0.2.1", "other": '"<b>'}


STORY = [
    {"event": "message.accepted", "at": 1.0, "level": "info", "sender": "a@b", "size": 10, "recipients": ["x@y"]},
    {"event": "route.held", "at": 2.0, "level": "info", "until": 60.0, "why": ["n: paused"], "route": []},
    {"event": "route.held", "at": 3.0, "level": "info", "until": 61.0, "why": ["n: paused"], "route": []},
    {
        "event": "attempt.delivered", "at": 4.0, "level": "info", "node": "n", "answer": "250 <b>Ok", "took_ms": 7,
        "recipients": ["x@y"], "route": [["m", "paused", "by me"], ["n", "chosen", "turn 0"]],
    },
]  # fmt: skip


def test_a_story_in_steps() -> None:
    taken, held, delivered = steps(STORY)
    assert taken.title == "Taken from a@b, 10 B"
    assert (held.times, held.at, held.last_at, held.detail) == (2, 2.0, 3.0, "n: paused")
    assert (delivered.answer, delivered.took_ms, delivered.tone) == ("250 <b>Ok", 7, "ok")
    assert [(each.node, each.verdict, each.reason) for each in delivered.candidates] == [
        ("m", "paused", "by me"),
        ("n", "chosen", "turn 0"),
    ]
    assert ended(STORY) == "delivered for 1 recipient"
    assert steps([{"event": "something.new", "at": 1.0, "level": "error", "x": 1}])[0].title == "something.new"


@pytest.mark.parametrize(
    "content",
    [b"", b"\r\n", b"no colon\r\n\r\nbody", b"Content-Type: multipart/mixed\r\n\r\n--x", b"\xff\xfe: \x00\r\n\r\n\xff",
     b"Content-Type: text/plain; charset=no-such\r\n\r\nabc", b"Subject: =?utf-8?b?////?=\r\n\r\n",
     b"Content-Type: text/html; charset=\"\x00\"\r\nContent-Transfer-Encoding: base64\r\n\r\n*"],
    ids=["nothing", "blank", "no field", "no boundary", "octets", "charset", "word", "base64"],
)  # fmt: skip
def test_any_octets_can_be_looked_at(content: bytes) -> None:
    assert isinstance(look_at(content).source, str)


def test_a_mail_in_its_parts() -> None:
    mail = (Path(__file__).parents[2] / "data" / "mail" / "attachments.eml").read_bytes()
    found = look_at(b"X-Zone: us-1\r\nx-virtual-mta: p\r\n" + mail)
    assert found.stamps == (("X-Zone", "us-1"), ("x-virtual-mta", "p"))
    assert found.attachments
    assert found.text or found.html


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3725, "1 h 2 min"), (90061, "1 d 1 h")]
)
def test_spans(seconds: float, said: str) -> None:
    assert words.span(seconds) == said


def test_figures() -> None:
    assert [words.octets(n) for n in (0, 999, 1500, 25_000_000)] == ["0 B", "999 B", "1.5 kB", "25.0 MB"]
    assert (words.away(100.0, 40.0), words.away(40.0, 100.0), words.away(None, 1.0)) == ("in 1 min", "1 min ago", "")
    assert words.window(3600.0) == "hour"
