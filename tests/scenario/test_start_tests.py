"""A relay whose nodes are tested at its start, as a process with two workers."""

from __future__ import annotations

import time

import pytest

from tests.fakes.smtp_server import HANG
from tests.scenario.audit import audit
from tests.scenario.clients import Ledger, send_all
from tests.scenario.conftest import Scene
from tests.scenario.harness import wait_for

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(110)]

HEALTH = {"recheck_every": "1h", "recheck_for": "24h", "test_at_start": True}


def test_a_node_that_fails_at_the_start_is_never_tried_and_delays_nobody(scene: Scene) -> None:
    wrong = scene.upstream("wrong", users={"relay": "right-password"})
    hanging, well = scene.upstream("hanging"), scene.upstream("well")
    hanging.at("connect", HANG)
    login = {"username": "relay", "password": "wrong-password"}
    nodes = [wrong.node(**login), hanging.node(timeouts={"greeting": "3s"}), well.node()]
    began = time.monotonic()
    relay = scene.relay(nodes, workers=2, health=HEALTH)
    listens_s = time.monotonic() - began

    ledger = Ledger()
    send_all(relay.port, [f"m{n}" for n in range(20)], ledger=ledger)
    relay.wait_empty()
    wait_for(lambda: len(relay.events("node.deactivated")) == 2, what="the results of both tests")
    rows = {row["name"]: row for row in relay.json("node", "list")}
    result = audit(ledger, relay, [well])
    scene.result(result, listens_s=round(listens_s, 2))
    result.check()
    assert len(well.server.messages) == 20
    assert not wrong.server.messages
    assert not hanging.server.messages
    assert len(wrong.server.logins) == 1, "one worker tests, once"
    assert rows["wrong"]["status"] == rows["hanging"]["status"] == "inactive"
    assert rows["wrong"]["test_status"] == "auth: 535 5.7.8 authentication failed"
    assert rows["well"]["test_status"] == "ok"
    assert [event["node"] for event in relay.events("node.ready")] == ["well"]
    assert not relay.events("attempt.deferred")
    assert not relay.events("attempt.refused")

    # An operator who mended the password and starts again does not wait for the next re-check, an hour away.
    relay.stop()
    nodes[0]["password"] = "right-password"
    relay.write({**relay.config, "pools": [{**relay.config["pools"][0], "nodes": nodes}]})
    relay.start()
    wait_for(lambda: relay.events("node.recovered"), seconds=10, what="recovery by the test of the start")


def test_mail_waits_for_the_first_test_of_the_only_node(scene: Scene) -> None:
    only = scene.upstream("only")
    only.at("connect", HANG, times=1)
    health = {"recheck_every": "2s", "recheck_for": "1h", "test_at_start": True}
    relay = scene.relay([only.node(timeouts={"greeting": "1s"})], workers=2, health=health)
    ledger = Ledger()
    send_all(relay.port, [f"m{n}" for n in range(10)], ledger=ledger)
    relay.wait_empty()
    result = audit(ledger, relay, [only])
    scene.result(result)
    result.check()
    assert not relay.events("attempt.deferred")
    assert len(only.server.messages) == 10


def test_a_node_that_a_reload_adds_takes_mail_only_when_its_test_passed(scene: Scene) -> None:
    well, wrong = scene.upstream("well"), scene.upstream("wrong", users={"relay": "right-password"})
    relay = scene.relay([well.node()], workers=2, health=HEALTH)
    wait_for(lambda: relay.events("node.ready"), what="the first test")
    nodes = [well.node(), wrong.node(username="relay", password="wrong-password")]
    relay.write({**relay.config, "pools": [{**relay.config["pools"][0], "nodes": nodes}]})
    relay.cli("reload")
    ledger = Ledger()
    send_all(relay.port, [f"m{n}" for n in range(20)], ledger=ledger)
    relay.wait_empty()
    wait_for(lambda: relay.events("node.deactivated"), what="the result of the test")
    result = audit(ledger, relay, [well])
    scene.result(result)
    result.check()
    assert len(well.server.messages) == 20
    assert not relay.events("attempt.refused")
    assert not relay.events("attempt.deferred")
    assert [login[2] for login in wrong.server.logins] == [False], "one worker tests, once"
