"""What operators see of shared stores: one queue however many processes, and plain words while a store is away."""

from __future__ import annotations

import time

import pytest

from tests.fakes.redis_server import RedisServer, find_server
from tests.scenario.audit import audit
from tests.scenario.clients import Ledger, send_all
from tests.scenario.conftest import Scene
from tests.scenario.harness import wait_for
from tests.scenario.replicas import Fleet

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.timeout(90),
    pytest.mark.skipif(not find_server(), reason="no valkey-server or redis-server is installed"),
]


def test_a_shared_queue_is_seen_once_and_reached_from_every_replica(scene: Scene) -> None:
    """Two replicas of two workers and a node that is down: what waits in their memory is held, retried and dropped from
    either, and a stopped replica still sees it."""
    upstream = scene.upstream("one")
    server = scene.owns(RedisServer().start())
    store = {"spool": server.url, "state": server.url, "folder": "var"}
    upstream.down()
    fleet = scene.owns(
        Fleet(
            scene.directory,
            2,
            [upstream.node()],
            store=store,
            workers=2,
            health={"recheck_every": "1h", "recheck_for": "2h"},
        )
    ).start()
    scene.watches(*fleet.relays)
    scene.excuse("another owner took it over")
    ledger = Ledger()
    one, other = fleet.relays
    for relay in fleet.relays:
        send_all(relay.port, [f"{relay.port}-{n}" for n in range(10)], ledger=ledger, sessions=2)
    for relay in fleet.relays:
        wait_for(lambda relay=relay: len(relay.entries()) == 20, what="the whole queue, once")  # type: ignore[misc]
    some = [row["id"] for row in one.entries()]
    assert len(set(some)) == 20
    time.sleep(1.2)  # a survey: the queue is in the memory of all four workers now
    assert "20 messages held" in other.cli("queue", "hold", "--pool", "main")
    assert {row["state"] for row in one.entries()} == {"held"}
    assert "1 message dropped" in one.cli("queue", "drop", "--yes", some[0])
    assert one.stop() == 0
    assert len(one.json("queue", "list")) == 19
    upstream.up()
    other.ask("node_resume", name="one", by="test")
    assert "19 messages" in one.cli("queue", "retry", "--standing", "held")
    wait_for(lambda: not other.entries(), what="delivery")
    dropped = next(name for name in ledger.promised if ledger.id_of(name) == some[0])
    result = audit(ledger, fleet, [upstream], final=[(dropped, address) for address in ledger.recipients[dropped]])
    scene.result(result)
    result.check(bound=0)


def test_while_the_shared_state_is_away_mail_is_taken_and_only_what_has_caps_waits(scene: Scene) -> None:
    free, capped = scene.sink("free"), scene.sink("capped")
    server = scene.owns(RedisServer().start())
    relay = scene.relay(
        [],
        store={"spool": "sqlite:var", "state": server.url},
        bridges=[
            {"name": pool, "pool": pool, "credentials": [{"username": pool, "password": "secret"}]}
            for pool in ("free", "capped")
        ],
        pools=[
            {"name": "free", "id": 1, "mta": "mta4", "nodes": [free.node()]},
            {"name": "capped", "id": 2, "mta": "mta4", "nodes": [capped.node(caps={"hour": 100})]},
        ],
    )
    scene.excuse("^state: ")
    ledger = Ledger()
    server.kill()
    wait_for(lambda: relay.events("store.away"), what="the event")
    for pool in ("free", "capped"):
        send_all(relay.port, [f"{pool}{n}" for n in range(5)], ledger=ledger, user=pool, password="secret")
    assert len(ledger.promised) == 10
    wait_for(lambda: len(free.transactions()) == 5, what="delivery without caps")
    assert not capped.transactions()
    assert relay.ask("metrics")[0]["stores"] == {"state": 0}
    assert "shared state is away" in relay.ask("status")[0]["troubles"][0]
    server.start()
    wait_for(lambda: len(capped.transactions()) == 5, seconds=20, what="delivery within caps")
    assert relay.events("store.back")
    assert relay.ask("status")[0]["troubles"] == []
    assert relay.ask("metrics")[0]["stores"] == {"state": 1}
    result = audit(ledger, relay, [free, capped])
    scene.result(result)
    result.check(bound=0)


def test_a_relay_starts_while_its_shared_state_is_away(scene: Scene) -> None:
    sink = scene.sink("one")
    server = scene.owns(RedisServer())
    relay = scene.relay([sink.node()], store={"spool": "sqlite:var", "state": server.url})
    scene.excuse("^state: ")
    ledger = Ledger()
    send_all(relay.port, ["m0"], ledger=ledger)
    wait_for(lambda: len(sink.transactions()) == 1, what="delivery")
    audit(ledger, relay, [sink]).check(bound=0)
