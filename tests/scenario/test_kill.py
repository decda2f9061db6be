"""kill -9 under load (R01, R08), of the whole relay and of single workers."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from tests.scenario.audit import audit
from tests.scenario.clients import Ledger, Load, send_all
from tests.scenario.conftest import Scene
from tests.scenario.harness import Relay, wait_for

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(100)]

CYCLES = 10
MESSAGES = 1000
CONNECTIONS = 5


def test_nothing_is_lost_when_the_relay_is_killed_ten_times_under_load(scene: Scene) -> None:
    """1,000 promised messages of 1 to 200 kB over 20 connections; every other time only one worker is killed."""
    rng = random.Random(8)
    # A sink that answers late keeps attempts open that it has already taken: the worst moment for a kill.
    sinks = [scene.sink(name, lean=True, delay_s=0.02) for name in ("one", "two")]
    relay = scene.relay([sink.node(connections=CONNECTIONS) for sink in sinks], workers=2)
    ledger = Ledger()
    sizes = {f"k{n}": int(1000 * 200 ** rng.random()) for n in range(3 * MESSAGES)}
    kills = 0
    with Load(relay.port, sizes, ledger=ledger, sessions=20, size=sizes.__getitem__):
        for cycle in range(CYCLES):
            share = MESSAGES * (cycle + 1) // (CYCLES + 1)
            _until(lambda share=share: len(ledger.promised) >= share)  # type: ignore[misc]
            time.sleep(rng.uniform(0.0, 0.2))
            if cycle % 2:
                os.kill(rng.choice(relay.workers()), signal.SIGKILL)
            else:
                relay.kill()
                relay.start()
            kills += 1
        _until(lambda: len(ledger.promised) >= MESSAGES)
    # A message that was alone in delivery at its third kill counts as poison; an operator brings it back.
    wait_for(lambda: len(relay.workers()) == 2 and _all_quarantined(relay), seconds=60, what="delivery of the rest")
    quarantined = len(relay.entries())
    relay.ask("retry", selection={"standing": "quarantined"})
    relay.wait_empty()
    result = audit(ledger, relay, sinks)
    in_flight = kills * 2 * CONNECTIONS * len(sinks)
    recovered = len(relay.events("message.recovered"))
    scene.result(
        result,
        promised=len(ledger.promised),
        unclear=len(ledger.unclear),
        kills=kills,
        in_flight_at_most=in_flight,
        quarantined=quarantined,
    )
    assert len(ledger.promised) >= MESSAGES
    assert kills == CYCLES
    assert quarantined <= kills
    assert recovered, "no attempt was open at any of the kills: this run showed nothing"
    result.check(bound=in_flight)


def _all_quarantined(relay: Relay) -> bool:
    return all(row["standing"] == "quarantined" for row in relay.entries())


def _until(condition: object, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "the load came to a stop"
        time.sleep(0.01)


def test_of_a_thousand_recipients_only_the_open_batch_gets_a_second_copy(scene: Scene) -> None:
    """R07: one message in batches of 50, killed after 500 and again after 800 recipients."""
    batch = 50
    sink = scene.sink("one", delay_s=0.15)
    relay = scene.relay([sink.node(max_recipients=batch)], limits={"recipients": 1000})
    ledger = Ledger()
    addresses = [f"r{n}@example.net" for n in range(1000)]
    send_all(relay.port, ["many"], ledger=ledger, recipients=addresses)
    for so_many in (500, 800):
        wait_for(lambda so_many=so_many: sum(len(t["to"]) for t in sink.transactions()) >= so_many, what="batches")  # type: ignore[misc]
        relay.kill()
        relay.start()
    relay.wait_empty()
    result = audit(ledger, relay, [sink])
    scene.result(result, bound=2 * batch, batches=len(sink.transactions()))
    assert not result.lost
    assert not result.damaged
    assert not result.unexplained
    assert result.duplicates <= 2 * batch
    assert result.duplicates, "the kills fell between batches: this run showed nothing"
