"""Sinks inside the process."""

from __future__ import annotations

import json
import os

from relay.events import Event, Events, Sink
from relay.logs.lines import Lines
from relay.logs.log import Log, LogSettings, make_log
from relay.logs.writers import StreamOutput
from relay.sinks import MAX_SERIES, OTHER, CountSink, LogSink

AT = 1_700_000_000.5


class Kept:
    dropped = 0

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def write(self, level: str, line: bytes) -> None:
        self.lines.append(line)

    def close(self, timeout_s: float = 2.0) -> None:
        pass


def tell_everything(events: Events, words: str = "words") -> int:
    """One of each event, with `words` wherever a peer could put some. Returns how many."""
    events.session_authenticated(session="s", bridge="shop", peer="192.0.2.1", mechanism="PLAIN")
    events.session_auth_failed(session="s", username=words, peer=words, mechanism=words, why=words)
    events.session_refused(session="s", peer=words, why=words)
    events.message_accepted("01J", bridge="shop", sender=words, recipients=[words])
    events.message_rejected(session="s", bridge="shop", peer=words, stage="rcpt", reply=words)
    events.message_held("01J", until=AT, why=[words])
    events.message_expired("01J", recipients=[words], age_s=1.0)
    events.message_quarantined("01J", why=words)
    events.message_dropped("01J", by=words)
    events.message_recovered("01J", crashes=1)
    events.dsn_created("01J", dsn_id="01K", to=words, action="failed", recipients=[words])
    events.dsn_suppressed("01J", why=words)
    events.attempt("01J", "delivered", pool="p", node="n", text=words)
    events.node_deactivated(node="n", pool="p", test_status=words, next_check=AT)
    events.node_recovered(node="n", pool="p", down_s=1.0)
    events.node_check_failed(node="n", pool="p", test_status=words, next_check=0)
    events.node_cooled(node="n", pool="p", until=AT, reason=words)
    events.node_paused(node="n", pool="p", by=words, reason=words, until=AT)
    events.node_resumed(node="n", pool="p", by=words)
    events.started(version="1")
    events.stopping()
    events.stopped()
    events.fault(where="x", error=words)
    return 23


def log_to(kept: Kept) -> Log:
    return Log(Lines(as_json=True), kept, level="debug", clock=lambda: 0.0)


def test_an_event_becomes_a_line_with_its_own_time_level_and_id():
    kept = Kept()
    sink: Sink = LogSink(log_to(kept))
    sink.emit(Event("attempt.deferred", AT, "warning", "01J", {"node": "primary", "code": 421}))
    assert json.loads(kept.lines[0]) == {
        "ts": "2023-11-14T22:13:20.500Z",
        "level": "warning",
        "event": "attempt.deferred",
        "id": "01J",
        "node": "primary",
        "code": 421,
    }


def test_an_event_about_no_message_has_no_id():
    kept = Kept()
    LogSink(log_to(kept)).emit(Event("relay.started", AT, "info", "", {}))
    assert "id" not in json.loads(kept.lines[0])


def test_each_event_with_hostile_words_is_exactly_one_line():
    kept = Kept()
    count = tell_everything(Events([LogSink(log_to(kept))], lambda: AT), "a\r\n\x1b[31m\u2028b\udcff")
    assert len(kept.lines) == count
    assert len(b"".join(kept.lines).decode().splitlines()) == count
    for line in kept.lines:
        json.loads(line)


def test_recipients_are_redacted_by_the_one_switch():
    read_fd, write_fd = os.pipe()
    log = make_log(LogSettings(redact_recipients=True, redact_key=b"k"), StreamOutput(write_fd))
    tell_everything(Events([LogSink(log)], lambda: AT), "told <bob.smith@example.com> no")
    log.close()
    os.close(write_fd)
    text = os.read(read_fd, 1 << 20).decode()
    os.close(read_fd)
    readable = [line for line in text.splitlines() if "bob.smith" in line]
    # The reverse-path, the log-in name: theirs are the fields that hold no recipient.
    assert [json.loads(line)["event"] for line in readable] == ["session.auth_failed", "message.accepted"]
    for line in readable:
        fields = json.loads(line)
        assert [k for k, v in fields.items() if "bob.smith" in str(v)] == [
            "username" if fields["event"] == "session.auth_failed" else "sender"
        ]


def test_events_are_counted_by_name_bridge_pool_node_and_status():
    sink = CountSink(lambda: AT)
    events = Events([sink], lambda: AT)
    for node, status, times in [("a", "delivered", 3), ("b", "delivered", 2), ("b", "deferred", 1)]:
        for _ in range(times):
            events.attempt("01J", status, bridge="shop", pool="p", node=node, text="whatever")
    assert sink.count("attempt.delivered") == 5
    assert sink.count("attempt.delivered", node="b") == 2
    assert sink.count("attempt.deferred", node="a") == 0
    snapshot = sink.snapshot()
    assert snapshot["since"] == AT
    assert snapshot["events"] == {"attempt.deferred": 1, "attempt.delivered": 5}
    assert {
        "event": "attempt.delivered",
        "bridge": "shop",
        "pool": "p",
        "node": "a",
        "status": "delivered",
        "count": 3,
    } in snapshot["series"]
    json.dumps(snapshot)


def test_every_event_is_counted_once():
    sink = CountSink(lambda: AT)
    count = tell_everything(Events([sink], lambda: AT))
    assert sum(sink.snapshot()["events"].values()) == count


def test_words_of_peers_make_no_series():
    sink = CountSink(lambda: AT)
    events = Events([sink], lambda: AT)
    for n in range(500):
        events.session_auth_failed(session=f"s{n}", username=f"u{n}", peer=f"192.0.2.{n}", mechanism="x", why="y")
    assert len(sink.snapshot()["series"]) == 1


def test_series_are_bounded_and_nothing_goes_uncounted():
    sink = CountSink(lambda: AT)
    for n in range(MAX_SERIES + 500):
        sink.emit(Event("e", AT, "info", "", {"node": f"n{n}"}))
    sink.emit(Event("e", AT, "info", "", {"node": ["not", "a", "name"]}))
    assert len(sink.snapshot()["series"]) == MAX_SERIES + 1
    assert sink.count("e") == MAX_SERIES + 501
    assert sink.count("e", node=OTHER) == 501
