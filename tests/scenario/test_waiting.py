"""Mail that must wait: for the schedule, for nodes, for an operator, for its turn."""

from __future__ import annotations

import itertools
import time

import pytest

from tests.fakes.smtp_server import reply
from tests.scenario.audit import audit
from tests.scenario.clients import Ledger, send_all
from tests.scenario.conftest import Scene
from tests.scenario.harness import Relay, wait_for
from tests.scenario.sink import name_of

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(60)]

JITTER = 0.2
LOOK_S = 1.5
"""Due messages are looked for once a second; the rest is what a busy machine may add."""


def test_retries_follow_the_schedule_and_end_with_a_report(scene: Scene) -> None:
    """Waits of 1, 2 and 4 s; given up at 10 s, told to the sender, also for one of two recipients."""
    upstream = scene.upstream("one")
    upstream.at("rcpt", reply("450 4.2.0 greylisted"), when="<grey")
    relay = scene.relay([upstream.node()], retry={"schedule": ["1s", "2s", "4s"], "max_age": "10s"})
    ledger = Ledger()
    send_all(relay.port, ["both"], ledger=ledger, recipients=["fine@example.net", "grey@example.net"])
    send_all(relay.port, ["alone"], ledger=ledger, recipients=["grey2@example.net"])
    relay.wait_empty()
    expired = relay.events("message.expired")
    reports = [t for t in upstream.transactions() if t["from"] == ""]
    final = [("both", "grey@example.net"), ("alone", "grey2@example.net")]
    result = audit(ledger, relay, [upstream], final=final)
    gaps = {name: _gaps(relay, ledger.id_of(name)) for name in ("both", "alone")}
    scene.result(result, gaps_s=gaps, expired_at_s=[event["age_s"] for event in expired])
    result.check(bound=0)
    for name, measured in gaps.items():
        assert len(measured) >= 3, f"{name} was tried {len(measured) + 1} times"
        for wait_s, took_s in zip((1, 2, 4), measured, strict=False):
            assert wait_s * (1 - JITTER) - 0.1 <= took_s <= wait_s * (1 + JITTER) + LOOK_S, gaps
    assert {r for event in expired for r in event["recipients"]} == {"grey@example.net", "grey2@example.net"}
    assert all(10 <= event["age_s"] <= 13 for event in expired), expired
    assert len(reports) == 2
    for report in reports:
        assert report["to"] == ["app@acme.example"]
        assert "Action: failed" in report["content"]
        assert "greylisted" in report["content"], "does not say what the last answer was"
        assert "fine@example.net" not in report["content"].split("\r\n\r\n", 1)[1].split("message/", 2)[1]


def _gaps(relay: Relay, message_id: str) -> list[float]:
    """Seconds between the attempts of a message."""
    story = relay.ask("explain", message_id=message_id)[0]["story"]
    times = sorted(e["at"] for e in story if e["event"] == "attempt.deferred")
    return [round(b - a, 2) for a, b in itertools.pairwise(times)]


def test_a_paused_node_takes_nothing_and_all_paused_means_wait(scene: Scene) -> None:
    """pause and resume by hand; the reason is where an operator looks for it; also over a restart."""
    sinks = [scene.sink(name) for name in ("one", "two")]
    one, two = sinks
    relay = scene.relay([sink.node() for sink in sinks], workers=2)
    ledger = Ledger()
    relay.cli("node", "pause", "one", "--reason", "contract ends")
    _until_status(relay, "one", "paused")
    send_all(relay.port, [f"a{n}" for n in range(20)], ledger=ledger)
    relay.wait_empty()
    assert (len(one.names()), len(two.names())) == (0, 20)
    relay.cli("node", "pause", "two", "--reason", "moving house")
    _until_status(relay, "two", "paused")
    send_all(relay.port, [f"b{n}" for n in range(20)], ledger=ledger)
    wait_for(lambda: all(row["reason"] for row in relay.entries()), what="reasons")
    assert len(one.names()) + len(two.names()) == 20
    listed = relay.json("queue", "list")
    assert len(listed) == 20
    assert all("contract ends" in row["reason"] and "moving house" in row["reason"] for row in listed), listed[0]
    assert relay.stop() == 0
    relay.start()
    time.sleep(1.5)
    assert len(one.names()) + len(two.names()) == 20, "a restart forgot the pause"
    relay.cli("node", "resume", "one")
    began = time.monotonic()
    relay.wait_empty()
    took_s = time.monotonic() - began
    result = audit(ledger, relay, sinks)
    scene.result(result, resumed_s=round(took_s, 2))
    assert (len(one.names()), len(two.names())) == (20, 20)
    assert took_s < 5
    result.check(bound=0)


def _until_status(relay: Relay, node: str, status: str) -> None:
    wait_for(lambda: relay.node(node)["status"] == status, what=f"{node} to be {status}")
    time.sleep(0.6)  # the other worker looks for changes four times a second


def test_with_all_nodes_out_mail_waits_and_leaves_when_one_is_well(scene: Scene) -> None:
    upstreams = [scene.upstream(name) for name in ("one", "two")]
    for upstream in upstreams:
        upstream.down()
    relay = scene.relay([upstream.node() for upstream in upstreams], workers=2)
    ledger = Ledger()
    send_all(relay.port, [f"w{n}" for n in range(100)], ledger=ledger, sessions=4)
    assert len(ledger.promised) == 100
    wait_for(lambda: all(row["status"] == "inactive" for row in relay.ask("nodes")[0]), what="both nodes out")
    relay.stop()
    relay.start()
    time.sleep(1)
    assert {row["status"] for row in relay.json("node", "list")} == {"inactive"}, "a restart forgot their health"
    attempts = len(relay.events("attempt.deferred"))
    upstreams[1].up()
    began = time.monotonic()
    relay.wait_empty()
    took_s = time.monotonic() - began
    result = audit(ledger, relay, upstreams)
    scene.result(result, leaves_after_s=round(took_s, 1), attempts_while_out=attempts)
    assert took_s < 15
    assert attempts <= 60, "mail was tried over and over with nodes that are out"
    result.check(bound=0)


def test_a_standby_takes_over_and_gives_back(scene: Scene) -> None:
    primary, standby = scene.upstream("primary"), scene.upstream("standby")
    nodes = [primary.node(priority=1), standby.node(priority=2)]
    relay = scene.relay(
        [],
        pools=[{"name": "main", "id": 7, "mta": "mta4", "rotation": "priority", "nodes": nodes}],
    )
    ledger = Ledger()
    send_all(relay.port, [f"a{n}" for n in range(60)], ledger=ledger, sessions=4)
    relay.wait_empty()
    assert (len(primary.server.messages), len(standby.server.messages)) == (60, 0)
    primary.down()
    send_all(relay.port, [f"b{n}" for n in range(30)], ledger=ledger)
    relay.wait_empty()
    assert (len(primary.server.messages), len(standby.server.messages)) == (60, 30)
    primary.up()
    _until_status(relay, "primary", "active")
    send_all(relay.port, [f"c{n}" for n in range(30)], ledger=ledger)
    relay.wait_empty()
    result = audit(ledger, relay, [primary, standby])
    scene.result(result)
    assert (len(primary.server.messages), len(standby.server.messages)) == (90, 30)
    result.check(bound=0)


def test_heaps_of_queued_messages_do_not_delay_another_bridge(scene: Scene) -> None:
    """A cap lets 25 a second through; 5,000 bulk messages wait, and 500 of a third bridge in the same lane as ours: a
    message of another bridge takes its turn before them, under 2 s."""
    sink = scene.sink("one")
    lanes = {"news": "bulk", "list": "transactional", "shop": "transactional"}
    relay = scene.relay(
        [sink.node(caps={"second": 25})],
        bridges=[
            {"name": name, "pool": "main", "lane": lane, "credentials": [{"username": name, "password": "secret"}]}
            for name, lane in lanes.items()
        ],
    )
    ledger = Ledger()
    for name, count in (("news", 5000), ("list", 500)):
        names = [f"{name}{n}" for n in range(count)]
        send_all(relay.port, names, ledger=ledger, sessions=8, size=300, user=name, password="secret")
    assert len(ledger.promised) == 5500
    delays = []
    for number in range(8):
        name = f"shop{number}"
        send_all(relay.port, [name], ledger=ledger, user="shop", password="secret")
        wait_for(lambda name=name: name in sink.names(), seconds=20, what=f"arrival of {name}")  # type: ignore[misc]
        arrived = next(t["at"] for t in sink.transactions() if name_of(t["head"]) == name)
        delays.append(round(arrived - ledger.answered_at[name], 2))
    waiting = relay.queued()
    assert relay.stop() == 0
    relay.start()
    result = audit(ledger, relay, [sink], waiting=relay.entries())
    scene.result(result, delays_s=delays, still_waiting=waiting)
    assert waiting > 3000, "there was no heap any more"
    assert max(delays) < 2, delays
    result.check(bound=0)
