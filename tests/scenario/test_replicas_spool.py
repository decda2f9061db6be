"""Three replicas without a disk worth the name: one queue in a shared store, and replicas that take over from each
other."""

from __future__ import annotations

import os
import time

import pytest

from tests.fakes.redis_server import RedisServer, find_server
from tests.scenario.audit import audit
from tests.scenario.clients import Ledger, Load
from tests.scenario.conftest import Scene
from tests.scenario.harness import Relay, wait_for
from tests.scenario.replicas import Fleet, freeze, thaw

MESSAGES = int(os.environ.get("RELAY_REPLICA_MESSAGES", "2000"))
SESSIONS = 12
CONNECTIONS = 5
LEASE_S = 2

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.timeout(180 + MESSAGES / 20),
    pytest.mark.skipif(not find_server(), reason="no valkey-server or redis-server is installed"),
]


def shared(server: RedisServer) -> dict[str, str]:
    url = f"{server.url}?lease={LEASE_S}s"
    return {"spool": url, "state": url, "folder": "var"}


def queued(relay: Relay) -> int:
    """Of all replicas, as one of them sees it; -1 while it sees nothing."""
    (worker,) = relay.ask("status")
    if worker["troubles"]:
        return -1
    return sum(row["queued"] + row["held"] + row["quarantined"] for row in worker["queues"])


def test_a_replica_that_never_comes_back_leaves_nothing_behind(scene: Scene) -> None:
    """One replica is killed and stays dead, one is frozen for longer than its lease, the server restarts: the others
    deliver everything, and nobody exceeds a cap."""
    sinks = [scene.sink(name, lean=True, delay_s=0.02) for name in ("one", "two")]
    server = scene.owns(RedisServer().start())
    fleet = scene.owns(
        Fleet(
            scene.directory,
            3,
            [sink.node(caps={"hour": 10 * MESSAGES}, connections=CONNECTIONS) for sink in sinks],
            store=shared(server),
        )
    ).start()
    scene.watches(*fleet.relays)
    scene.excuse("^state: |^spool: .*(away|lease|silent|paus)|another owner took it over|health of node")
    ledger = Ledger()
    names = [f"m{number}" for number in range(MESSAGES)]
    pause_s = 11 * SESSIONS / MESSAGES  # the load goes on through all of it
    with Load(fleet.door.port, names, ledger=ledger, sessions=SESSIONS, pause_s=pause_s) as load:
        wait_for(lambda: len(ledger.promised) > MESSAGES // 6, seconds=60 + MESSAGES / 100, what="the first sixth")
        fleet.relays[0].kill()
        wait_for(lambda: len(ledger.promised) > MESSAGES // 4, seconds=60 + MESSAGES / 100, what="the first quarter")
        freeze(fleet.relays[1])
        time.sleep(2 * LEASE_S + 1)
        thaw(fleet.relays[1])
        time.sleep(1)  # what it had asked for when it was frozen is answered
        server.kill()
        time.sleep(1)
        assert load.running, "the load was over before the worst"
        server.start()
        load.wait(120 + MESSAGES / 40)
    survivor = fleet.relays[2]
    wait_for(lambda: queued(survivor) == 0, seconds=90 + MESSAGES / 100, what="an empty queue")
    result = audit(ledger, fleet, sinks)
    sent = {sink.name: sum(len(t["to"]) for t in sink.transactions()) for sink in sinks}
    used = {sink.name: survivor.node(sink.name)["caps"][0]["used"] for sink in sinks}
    scene.result(
        result,
        promised=len(ledger.promised),
        unclear=len(ledger.unclear),
        refused=len(ledger.refused),
        sent=sent,
        used=used,
        recovered=len(fleet.events("message.recovered")),
    )
    assert len(ledger.promised) > 0.9 * MESSAGES
    assert fleet.relays[2].events("message.recovered"), "nobody took over what the killed replica held"
    lost = [event["error"] for event in fleet.relays[1].events("relay.fault") if "silent" in event["error"]]
    assert lost, "the frozen replica does not know that it was taken for dead"
    # What was with a node when its replica was killed or frozen.
    result.check(bound=2 * 2 * CONNECTIONS * len(sinks))
    for name, count in sent.items():
        assert count <= used[name], f"{name} sent {count}, {used[name]} were counted"
