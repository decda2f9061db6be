"""kill -9 under load (R01, R08), of the whole relay and of single workers."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from tests.scenario.audit import audit
from tests.scenario.clients import Ledger, Load
from tests.scenario.conftest import Scene

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
    relay.wait_empty(60)
    result = audit(ledger, relay, sinks)
    in_flight = kills * 2 * CONNECTIONS * len(sinks)
    recovered = len(relay.events("message.recovered"))
    scene.result(
        result, promised=len(ledger.promised), unclear=len(ledger.unclear), kills=kills, in_flight_at_most=in_flight
    )
    assert len(ledger.promised) >= MESSAGES
    assert kills == CYCLES
    assert recovered, "no attempt was open at any of the kills: this run showed nothing"
    result.check(bound=in_flight)


def _until(condition: object, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "the load came to a stop"
        time.sleep(0.01)
