"""Upstreams that fail in every way they can, each beside a healthy one: nothing is lost, copies stay within their
bound, the healthy node is not disturbed, and the sick one comes back by itself."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest

from tests.fakes.smtp_server import HANG, Do, reply
from tests.scenario.audit import audit
from tests.scenario.clients import Ledger, Load, send_all
from tests.scenario.conftest import Scene
from tests.scenario.harness import Relay, wait_for
from tests.scenario.upstream import Upstream

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(110)]

TIMEOUTS = dict.fromkeys(("connect", "greeting", "ehlo", "mail", "rcpt", "data", "block", "dot"), "1s")
BEYOND_TESTS = ("rcpt", "data", "dot")
"""Tests of a node send no mail; what only fails here passes them, and the node is taken out by the next attempt."""

STEPS = ("connect", "ehlo", "mail", "rcpt", "data", "dot")
BUSY = "421 4.3.2 closing for maintenance"


@dataclass(frozen=True)
class Sickness:
    """`error`: part of the test status while it lasts; empty when the node is not to be taken out, because the answer
    to a whole message was lost and says nothing certain about the node."""

    name: str
    step: str
    do: Do | None
    error: str


SICKNESSES = [
    Sickness("refuses", "", None, "connect: Connection refused"),
    *(Sickness(f"busy-{step}", step, reply(BUSY), "421 4.3.2 closing for maintenance") for step in STEPS),
    *(
        Sickness(f"half-{step}", step, Do(say=b"25", then="close"), f"{_}: ")
        for step, _ in zip(STEPS[:-1], ("greeting", "ehlo", "mail", "rcpt", "data"), strict=True)
    ),
    Sickness("half-dot", "dot", Do(say=b"25", then="close", store=True), ""),
    Sickness("drops", "dot", Do(say=b"", then="close", store=True), ""),
    *(
        Sickness(f"hangs-{step}", step, HANG, f"{_}: ")
        for step, _ in zip(STEPS[:-1], ("greeting", "ehlo", "mail", "rcpt", "data"), strict=True)
    ),
    Sickness("hangs-dot", "dot", Do(say=b"", then="hang", store=True), ""),
    Sickness("login", "auth", reply("535 5.7.8 wrong password"), "auth: 535 5.7.8 wrong password"),
]
BEFORE, AFTER = 12, 8


def test_every_way_to_fail_beside_a_healthy_node(scene: Scene) -> None:
    """One pool for each way; all at the same time, over one relay with two workers."""
    sick: dict[str, Upstream] = {}
    healthy: dict[str, Upstream] = {}
    for way in SICKNESSES:
        sick[way.name] = scene.upstream(f"sick-{way.name}", users={"u": "p"} if way.name == "login" else None)
        healthy[way.name] = scene.upstream(f"well-{way.name}")
        if way.do is None:
            sick[way.name].down()
        else:
            sick[way.name].at(way.step, way.do)
    relay = scene.relay([], workers=2, **_pools(sick, healthy), uncertain={"wait": "2s"})
    ledgers = {way.name: Ledger() for way in SICKNESSES}

    _send(relay.port, ledgers, "b", BEFORE)
    listed = {row["name"]: row for row in relay.json("node", "list")}
    for way in SICKNESSES:
        found = listed[f"sick-{way.name}"]
        told = [e["test_status"] for e in relay.events("node.deactivated") if e["node"] == f"sick-{way.name}"]
        if way.error:
            assert told, f"{way.name} was not taken out"
            assert all(way.error in error for error in told), (way.name, told)
        if way.error and way.step not in BEYOND_TESTS:
            assert (way.name, found["status"]) == (way.name, "inactive")
            assert way.error in found["test_status"], (way.name, found["test_status"])
        assert (listed[f"well-{way.name}"]["status"], way.name) == ("active", way.name)
    relay.wait_empty(30)

    for way in SICKNESSES:
        sick[way.name].forget()
        if way.do is None:
            sick[way.name].up()
    taken = {name: len(upstream.server.messages) for name, upstream in sick.items()}
    for way in SICKNESSES:
        wait_for(lambda way=way: relay.node(f"sick-{way.name}")["status"] == "active", what=f"recovery: {way.name}")
    _send(relay.port, ledgers, "a", AFTER)
    relay.wait_empty(30)

    assert not _early_failovers(relay, wait_s=2.0), "given to another node while the lost answer may have been a yes"
    lost = duplicates = named = 0
    for way in SICKNESSES:
        ledger = ledgers[way.name]
        result = audit(ledger, relay, [sick[way.name], healthy[way.name]])
        copies = result.duplicates
        uncertain = sum(e["node"] == f"sick-{way.name}" for e in relay.events("attempt.uncertain"))
        assert len(ledger.promised) == BEFORE + AFTER, (way.name, ledger.refused, ledger.unclear)
        result.check(bound=uncertain)
        assert bool(uncertain) == (not way.error), f"{way.name}: {uncertain} uncertain ends"
        assert len(sick[way.name].server.messages) > taken[way.name], f"{way.name}: not used again"
        lost, duplicates, named = lost + len(result.lost), duplicates + copies, named + uncertain
    scene.result(lost=lost, duplicates=duplicates, bound=named, ways=len(SICKNESSES))


def _early_failovers(relay: Relay, *, wait_s: float) -> list[tuple[str, str, float]]:
    """Attempts with another node sooner than `wait_s` after an answer was lost (R09): message, node, seconds."""
    lost: dict[str, tuple[float, str]] = {}
    found = []
    for event in sorted(relay.events(), key=lambda event: event["ts"]):
        if not event["event"].startswith("attempt."):
            continue
        ended = datetime.fromisoformat(event["ts"]).timestamp()
        if event["id"] in lost:
            at, node = lost[event["id"]]
            after_s = ended - event["took_ms"] / 1000 - at
            if event["node"] != node and after_s < wait_s - 0.1:
                found.append((event["id"], event["node"], after_s))
        if event["event"] == "attempt.uncertain":
            lost.setdefault(event["id"], (ended, event["node"]))
    return found


def _pools(sick: dict[str, Upstream], healthy: dict[str, Upstream]) -> dict[str, Any]:
    def nodes(name: str) -> list[dict[str, Any]]:
        login = {"username": "u", "password": "p"} if name == "login" else {}
        return [sick[name].node(timeouts=TIMEOUTS, connections=4, **login), healthy[name].node(timeouts=TIMEOUTS)]

    return {
        "bridges": [
            {"name": name, "pool": name, "credentials": [{"username": name, "password": "secret"}]} for name in sick
        ],
        "pools": [
            {"name": name, "id": number, "mta": "mta4", "nodes": nodes(name)} for number, name in enumerate(sick, 1)
        ],
    }


def _send(port: int, ledgers: dict[str, Ledger], prefix: str, count: int) -> None:
    def one(name: str) -> None:
        names = [f"{prefix}{n}-{name}" for n in range(count)]
        send_all(port, names, ledger=ledgers[name], user=name, password="secret", pause_s=0.1)

    threads = [threading.Thread(target=one, args=[name]) for name in ledgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


def test_a_node_that_stops_for_twenty_seconds_disturbs_nobody(scene: Scene) -> None:
    """SIGSTOP: connections stay open and nothing answers. Afterwards what it had read may be delivered twice."""
    # A late answer keeps attempts open after their final dot, where the freeze leaves them uncertain.
    frozen, steady = scene.sink("frozen", delay_s=0.1), scene.sink("steady")
    relay = scene.relay([sink.node(timeouts=TIMEOUTS, connections=10) for sink in (frozen, steady)], workers=2)
    ledger = Ledger()

    relay.cli("node", "pause", "frozen", "--reason", "to measure without it")
    wait_for(lambda: relay.node("frozen")["status"] == "paused", what="the pause")
    time.sleep(0.5)
    alone_s = _burst(relay.port, ledger, "alone", steady)
    relay.cli("node", "resume", "frozen")

    with Load(relay.port, (f"f{n}" for n in range(100_000)), ledger=ledger, sessions=2, pause_s=0.05) as load:
        wait_for(lambda: len(frozen.names()) > 10, what="mail over both nodes")
        frozen.freeze()
        stopped = time.monotonic()
        wait_for(lambda: relay.node("frozen")["status"] == "inactive", what="the node to be taken out")
        error = relay.node("frozen")["test_status"]
        time.sleep(2.0)
        beside_s = _burst(relay.port, ledger, "beside", steady)
        time.sleep(max(0.0, 20 - (time.monotonic() - stopped)))
        frozen.thaw()
        wait_for(lambda: relay.node("frozen")["status"] == "active", seconds=15, what="recovery")
        again = len(frozen.names())
        wait_for(lambda: len(frozen.names()) > again + 5, what="mail over the recovered node")
        load.stop()
    relay.wait_empty()
    result = audit(ledger, relay, [frozen, steady])
    scene.result(
        result, promised=len(ledger.promised), error=error, alone_s=round(alone_s, 2), beside_s=round(beside_s, 2)
    )
    result.check(bound=len(relay.events("attempt.uncertain")))
    assert not ledger.unclear
    assert not ledger.refused
    assert "no answer" in error or "timeout" in error.lower() or "within" in error, error
    assert beside_s < 3 * alone_s + 1.0


def _burst(port: int, ledger: Ledger, prefix: str, sink: Any) -> float:
    """Seconds from the first of 300 messages to its arrival at `sink` with all others."""
    began = time.monotonic()
    send_all(port, [f"{prefix}{n}" for n in range(300)], ledger=ledger, sessions=4)
    wait_for(lambda: sum(name.startswith(prefix) for name in sink.names()) >= 300, what=f"the burst {prefix}")
    return time.monotonic() - began
