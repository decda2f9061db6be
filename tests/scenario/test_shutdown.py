"""SIGTERM (R29): under load, with work that does not end, during start-up, and twice."""

from __future__ import annotations

import random
import signal
import time

import pytest

from tests.fakes.smtp_server import HANG, Do
from tests.scenario.audit import audit
from tests.scenario.clients import RECIPIENT, SENDER, Client, Ledger, Load, dotted, envelope, message_bytes, send_all
from tests.scenario.conftest import Scene
from tests.scenario.harness import wait_for

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(90)]


def test_three_stops_under_load_lose_nothing_and_repeat_nothing(scene: Scene) -> None:
    """Each ends with code 0 in time; whoever is still connected hears 421; what was in DATA is taken."""
    drain_s = 5
    sink = scene.sink("one", delay_s=0.02)
    relay = scene.relay([sink.node(connections=4)], workers=2, drain=f"{drain_s}s")
    ledger = Ledger()
    stops = []
    with Load(relay.port, (f"s{n}" for n in range(100_000)), ledger=ledger, sessions=8):
        for cycle in range(3):
            _until_promised(ledger, len(ledger.promised) + 60)
            idle, busy = Client(relay.port), Client(relay.port)
            content = message_bytes(f"half{cycle}", size=40_000)
            ledger.sends(f"half{cycle}", content, [RECIPIENT])
            busy.write(envelope(SENDER, [RECIPIENT]) + content[:20_000])
            for code in (250, 250, 354):
                busy.expect(code)
            assert relay.process is not None
            began = time.monotonic()
            relay.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            assert idle.reply()[0] == 421
            busy.write(dotted(content[20_000:]))
            ledger.answered(f"half{cycle}", *busy.reply())
            assert relay.process.wait(drain_s + 5) == 0
            stops.append(round(time.monotonic() - began, 2))
            idle.drop()
            busy.drop()
            relay.start()
    relay.wait_empty()
    result = audit(ledger, relay, [sink])
    scene.result(result, promised=len(ledger.promised), stops_s=stops)
    assert all(f"half{cycle}" in ledger.promised for cycle in range(3))
    assert not relay.events("supervisor.killing")
    assert {event["attempts_cut"] for event in relay.events("relay.stopped")} == {0}
    assert all(answer.startswith("421") for answer in ledger.refused.values()), ledger.refused
    result.check(bound=0)


def _until_promised(ledger: Ledger, count: int) -> None:
    wait_for(lambda: len(ledger.promised) > count, what="load")


def test_attempts_that_do_not_end_are_cut_at_the_end_of_the_drain_and_named(scene: Scene) -> None:
    """A node that took messages and never answers: the stop is in time, the copies are named, nothing is lost."""
    drain_s = 2
    upstream = scene.upstream("one")
    upstream.at("dot", Do(say=b"", then="hang", store=True))
    relay = scene.relay([upstream.node(connections=5)], drain=f"{drain_s}s")
    ledger = Ledger()
    send_all(relay.port, [f"h{n}" for n in range(20)], ledger=ledger)
    upstream.wait(5)
    began = time.monotonic()
    assert relay.stop() == 0
    took_s = time.monotonic() - began
    (stopped,) = relay.events("relay.stopped")
    upstream.forget()
    relay.start()
    relay.wait_empty()
    result = audit(ledger, relay, [upstream])
    scene.result(result, took_s=round(took_s, 2), cut=stopped["attempts_cut"])
    assert drain_s - 0.5 < took_s < drain_s + 5
    assert stopped["attempts_cut"] >= 5
    result.check(bound=5)
    assert result.duplicates == 5


def test_a_second_signal_ends_it_at_once(scene: Scene) -> None:
    upstream = scene.upstream("one")
    upstream.at("dot", HANG)
    relay = scene.relay([upstream.node(connections=5)], drain="60s")
    ledger = Ledger()
    send_all(relay.port, [f"h{n}" for n in range(20)], ledger=ledger)
    assert relay.process is not None
    relay.process.send_signal(signal.SIGTERM)
    wait_for(lambda: relay.events("relay.stopping"), what="the stop to begin")
    began = time.monotonic()
    relay.process.send_signal(signal.SIGTERM)
    code = relay.process.wait(5)
    took_s = time.monotonic() - began
    upstream.forget()
    relay.start()
    relay.wait_empty()
    result = audit(ledger, relay, [upstream])
    scene.result(result, took_s=round(took_s, 2), code=code)
    assert took_s < 2
    assert code != 0, "it says that it ended well although attempts were torn"
    result.check(bound=5)


def test_signals_during_start_up(scene: Scene) -> None:
    """SIGTERM at eight moments from launch to readiness, over a spool with mail: it ends in time and loses nothing."""
    sink = scene.sink("one")
    began = time.monotonic()
    relay = scene.relay([sink.node(caps={"hour": 1})], workers=2)
    start_s = time.monotonic() - began
    ledger = Ledger()
    send_all(relay.port, [f"u{n}" for n in range(50)], ledger=ledger)
    assert relay.stop() == 0
    rng = random.Random(5)
    slowest = 0.0
    codes = []
    for moment in range(8):
        relay.launch()
        assert relay.process is not None
        time.sleep(start_s * (moment + rng.random()) / 7)
        began = time.monotonic()
        relay.process.send_signal(signal.SIGTERM)
        codes.append(relay.process.wait(10))
        slowest = max(slowest, time.monotonic() - began)
    relay.write({**relay.config, "pools": [{**relay.config["pools"][0], "nodes": [sink.node()]}]})
    relay.start()
    relay.wait_empty()
    result = audit(ledger, relay, [sink])
    scene.result(result, codes=codes, slowest_s=round(slowest, 2))
    # Before it has a handler the signal itself ends it; there is nothing yet that could be torn.
    assert set(codes) <= {0, -signal.SIGTERM}, codes
    assert slowest < 5
    result.check(bound=0)
