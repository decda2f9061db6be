"""`relay drain`: a replica that goes leaves nothing behind."""

from __future__ import annotations

import socket
import time

import pytest

from tests.fakes.redis_server import RedisServer, find_server
from tests.scenario.audit import audit
from tests.scenario.clients import Ledger, send_all
from tests.scenario.conftest import Scene
from tests.scenario.harness import wait_for
from tests.scenario.replicas import Fleet

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(60)]


@pytest.mark.skipif(not find_server(), reason="no valkey-server or redis-server is installed")
def test_a_drained_replica_of_a_shared_spool_hands_over_what_it_holds(scene: Scene) -> None:
    """Its lease lasts a minute, and yet the other one has the mail at once."""
    upstream = scene.upstream("one")
    server = scene.owns(RedisServer().start())
    url = f"{server.url}?lease=60s"
    store = {"spool": url, "state": url, "folder": "var"}
    upstream.down()
    fleet = scene.owns(Fleet(scene.directory, 2, [upstream.node()], store=store)).start()
    scene.watches(*fleet.relays)
    ledger = Ledger()
    send_all(fleet.relays[0].port, [f"m{n}" for n in range(40)], ledger=ledger, sessions=4)
    assert len(ledger.promised) == 40
    said = fleet.relays[0].cli("drain")
    assert "other replicas" in said
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", fleet.relays[0].port), timeout=2)
    assert fleet.relays[0].cli("healthcheck", code=69) == ""
    upstream.up()
    fleet.relays[1].cli("node", "resume", "one")
    fleet.relays[1].ask("retry", selection={"standing": "queued"})
    wait_for(lambda: fleet.relays[1].queued() == 0, seconds=20, what="delivery by the other one")
    result = audit(ledger, fleet, [upstream])
    scene.result(result)
    result.check(bound=0)
    assert not fleet.relays[0].events("attempt.delivered")


def test_a_drained_replica_with_its_own_spool_delivers_first(scene: Scene) -> None:
    sink = scene.sink("one", delay_s=0.02)
    relay = scene.relay([sink.node(connections=1)], health={"recheck_every": "1s", "recheck_for": "1h"})
    ledger = Ledger()
    send_all(relay.port, [f"m{n}" for n in range(40)], ledger=ledger, sessions=4)
    assert "the queue is empty" in relay.cli("drain")
    assert relay.queued() == 0
    result = audit(ledger, relay, [sink])
    scene.result(result)
    result.check(bound=0)
    began = time.monotonic()
    assert relay.stop() == 0
    assert time.monotonic() - began < 5
