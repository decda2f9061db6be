"""Death at named points of a message's way (R13), and messages that bring it (R32)."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from relay.delivery.dispatcher import SUSPECTS_S
from tests.fakes.smtp_server import HANG, reply
from tests.scenario.audit import audit
from tests.scenario.clients import Ledger, send_all
from tests.scenario.conftest import Scene
from tests.scenario.harness import Relay, wait_for
from tests.scenario.sabotaged import POINTS

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(90)]

EXPECTED = {
    # point: answers the client may have, copies that arrive, copies the log must have announced
    "before-store": ({"unclear"}, 0, 0),
    "after-store": ({"unclear"}, 1, 0),
    "before-deliver": ({"unclear", "promised"}, 1, 0),
    "after-deliver": ({"unclear", "promised"}, 2, 1),
    "after-settle": ({"unclear", "promised"}, 1, 0),
}


@pytest.fixture
def sabotage(tmp_path: Path) -> Path:
    folder = tmp_path / "sabotage"
    folder.mkdir()
    return folder


def test_death_at_each_point_costs_what_the_table_says(scene: Scene, sabotage: Path) -> None:
    """For each point: the client knows what it may know, and the copies that arrive are exactly these."""
    upstream = scene.upstream("one")
    upstream.at("rcpt", reply("550 5.1.1 no such user"), when="nobody@")
    relay = scene.relay([upstream.node()], module="tests.scenario.sabotaged", environment={"SABOTAGE": str(sabotage)})
    ledger = Ledger()
    for point in EXPECTED:
        (sabotage / point).touch()
        send_all(relay.port, [point], ledger=ledger)
        _dies(relay)
        if point == "before-deliver":  # die once more in the middle of recovery
            (sabotage / "after-recover").touch()
            relay.launch()
            _dies(relay)
        relay.start()
        relay.wait_empty()
    (sabotage / "after-report").touch()
    send_all(relay.port, ["refused"], ledger=ledger, recipients=["nobody@example.net"])
    _dies(relay)
    relay.start()
    relay.wait_empty()
    reports = [t for t in upstream.transactions() if t["from"] == ""]
    result = audit(ledger, relay, [upstream], final=[("refused", "nobody@example.net")])
    copies = Counter(upstream_names(upstream))
    scene.result(result, points=len(POINTS), copies={point: copies[point] for point in EXPECTED}, reports=len(reports))
    result.check()
    for point, (answers, arrive, announced) in EXPECTED.items():
        known = {"unclear"} if point in ledger.unclear else {"promised"} if point in ledger.promised else set()
        assert known <= answers, (point, known)
        assert known, point
        assert (point, copies[point]) == (point, arrive)
        assert (point, result.copies[point, "someone@example.net"]) == (point, announced)
    assert 1 <= len(reports) <= 2
    assert not list(sabotage.iterdir()), "a point was never reached"


def upstream_names(upstream: object) -> list[str]:
    from tests.scenario.sink import name_of

    return [name_of(t["head"]) for t in upstream.transactions() if t["from"]]  # type: ignore[attr-defined]


def _dies(relay: Relay) -> None:
    assert relay.process is not None
    assert relay.process.wait(15) < 0
    relay.close()


def test_a_message_that_kills_the_process_is_set_aside_and_the_rest_goes_on(scene: Scene, sabotage: Path) -> None:
    """Two poisonous messages among 60: each is quarantined after three deaths, visible, and comes back on request."""
    sink = scene.sink("one")
    (sabotage / "poison").touch()
    relay = scene.relay(
        [sink.node(connections=4)],
        module="tests.scenario.sabotaged",
        environment={"SABOTAGE": str(sabotage)},
    )
    ledger = Ledger()
    send_all(relay.port, [f"a{n}" for n in range(20)], ledger=ledger)
    poisonous = [["poison@example.net"], ["fine@example.net", "poison@example.net"]]
    began = time.monotonic()
    for number, recipients in enumerate(poisonous):
        send_all(relay.port, [f"poison{number}"], ledger=ledger, recipients=recipients)
        send_all(relay.port, [f"b{number}-{n}" for n in range(20)], ledger=ledger, sessions=2)
    wait_for(
        lambda: len(relay.events("message.quarantined")) == 2, seconds=60, what="quarantine of both poisonous messages"
    )
    wait_for(lambda: relay.workers() and relay.queued() == 2, what="delivery of all others")
    took_s = time.monotonic() - began
    # A poisonous message whose client never heard 250 counts as well: it was stored.
    rows = relay.json("queue", "list", "--standing", "quarantined")
    crashes = len(relay.events("supervisor.worker_crashed"))
    aside = audit(ledger, relay, [sink], waiting=rows)
    assert len(rows) == 2
    assert all("the process died 3 times" in row["reason"] for row in rows), rows
    assert not [name for name in sink.names() if name.startswith("poison")]
    aside.check()

    (sabotage / "poison").unlink()
    relay.cli("queue", "retry", *(row["id"] for row in rows))
    relay.wait_empty()
    result = audit(ledger, relay, [sink])
    scene.result(result, crashes=crashes, took_s=round(took_s, 1), unclear=len(ledger.unclear))
    result.check()
    assert {name for name in sink.names() if name.startswith("poison")} == {"poison0", "poison1"}
    assert crashes <= 3 * len(poisonous)


def test_what_was_open_at_two_kills_does_not_hold_up_the_next_start(scene: Scene) -> None:
    """A node that hangs, and 20 attempts open at two kills: the third start takes mail at once all the same (R19), and
    delivers it as soon as the suspects had their time alone."""
    hanging, other = scene.upstream("hanging"), scene.upstream("other")
    hanging.at("mail", HANG)
    relay = scene.relay(
        [hanging.node(connections=20)],
        bridges=[
            {"name": "app", "pool": "main", "credentials": [{"username": "app", "password": "app-password"}]},
            {"name": "web", "pool": "second", "credentials": [{"username": "web", "password": "secret"}]},
        ],
        pools=[
            {"name": "main", "id": 7, "mta": "mta4", "nodes": [hanging.node(connections=20)]},
            {"name": "second", "id": 8, "mta": "mta4", "nodes": [other.node()]},
        ],
    )
    ledger, quick = Ledger(), Ledger()
    send_all(relay.port, [f"h{n}" for n in range(20)], ledger=ledger, sessions=4)
    for _ in range(2):
        wait_for(lambda: hanging.server.open >= 20, what="20 open attempts")
        relay.kill()
        wait_for(lambda: not hanging.server.open, what="the end of their connections")
        relay.launch()
        wait_for(lambda: hanging.server.open, what="attempts after the start")
    began = time.monotonic()
    send_all(relay.port, ["quick"], ledger=quick, user="web", password="secret")
    accepts_s = time.monotonic() - began
    other.wait(1)
    delivers_s = time.monotonic() - began
    relay.kill()
    hanging.forget()
    relay.start()
    relay.wait_empty(60)
    result = audit(ledger, relay, [hanging])
    scene.result(result, accepts_s=round(accepts_s, 2), delivers_s=round(delivers_s, 2))
    assert accepts_s < 5
    assert delivers_s < SUSPECTS_S + 5
    result.check()
