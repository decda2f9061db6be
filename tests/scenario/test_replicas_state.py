"""Three replicas with a disk each and one shared state: caps are one truth, whatever dies."""

from __future__ import annotations

import os
import time

import pytest

from tests.fakes.redis_server import RedisServer, find_server
from tests.scenario.audit import audit
from tests.scenario.clients import Ledger, Load
from tests.scenario.conftest import Scene
from tests.scenario.harness import wait_for
from tests.scenario.replicas import Fleet, freeze, thaw

MESSAGES = int(os.environ.get("RELAY_REPLICA_MESSAGES", "2000"))

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.timeout(180 + MESSAGES / 20),
    pytest.mark.skipif(not find_server(), reason="no valkey-server or redis-server is installed"),
]


def test_caps_are_one_truth_over_replicas_that_die_freeze_and_lose_the_shared_state(scene: Scene) -> None:
    """One replica is killed and started again, one is frozen for 5 s, the shared server restarts; every node sends what
    its cap allows and no recipient more, and the rest waits."""
    cap = MESSAGES // 3
    sinks = [scene.sink(name, lean=True, delay_s=0.005) for name in ("one", "two")]
    server = scene.owns(RedisServer().start())
    fleet = scene.owns(
        Fleet(
            scene.directory,
            3,
            [sink.node(caps={"hour": cap}, connections=5) for sink in sinks],
            store={"spool": "sqlite:var", "state": server.url},
        )
    ).start()
    scene.watches(*fleet.relays)
    scene.excuse("^state: ")
    ledger = Ledger()
    names = [f"m{number}" for number in range(MESSAGES)]
    pause_s = 5 * 12 / MESSAGES  # the load goes on through all of it
    with Load(fleet.door.port, names, ledger=ledger, sessions=12, pause_s=pause_s) as load:
        wait_for(lambda: len(ledger.promised) > MESSAGES // 6, seconds=60 + MESSAGES / 100, what="the first sixth")
        fleet.relays[0].kill()
        wait_for(lambda: len(ledger.promised) > MESSAGES // 4, seconds=60 + MESSAGES / 100, what="the first quarter")
        freeze(fleet.relays[1])
        time.sleep(1)
        server.kill()
        time.sleep(1)
        assert load.running, "the load was over before the worst"
        server.start()
        fleet.relays[0].start()
        time.sleep(2)
        thaw(fleet.relays[1])
        load.wait(120 + MESSAGES / 40)
    # What was granted at the kill and not sent stays counted; it is known from the state, and no more than that.
    wait_for(
        lambda: all(_used(fleet, sink.name) == cap for sink in sinks), seconds=60 + MESSAGES / 100, what="full caps"
    )
    wait_for(lambda: not any(worker["attempts"] for r in fleet.relays for worker in r.ask("status")), what="quiet")
    time.sleep(1.5)
    waiting = [entry for relay in fleet.relays for entry in relay.entries()]
    result = audit(ledger, fleet, sinks, waiting=waiting)
    sent = {sink.name: sum(len(t["to"]) for t in sink.transactions()) for sink in sinks}
    counted = {sink.name: fleet.relays[2].node(sink.name)["counts"].get("sent", 0) for sink in sinks}
    scene.result(result, sent=sent, counted=counted, cap=cap, waiting=len(waiting), promised=len(ledger.promised))
    result.check()
    assert ledger.promised
    for name, count in sent.items():
        assert count <= cap, f"{name} sent {count} of {cap}"
        assert count >= cap - 20, f"{name} sent {count} of {cap}: more is missing than what was open at the kill"
        assert count - 100 <= counted[name] <= count  # a killed worker forgets its last second


def _used(fleet: Fleet, node: str) -> int:
    return int(fleet.relays[2].node(node)["caps"][0]["used"])
