"""`delivery: direct`: the client hears the upstream's verdict, and nothing is stored."""

from __future__ import annotations

import time

import pytest

from tests.fakes.smtp_server import Do, reply
from tests.scenario.audit import audit
from tests.scenario.clients import Client, Ledger, message_bytes, send_all
from tests.scenario.conftest import Scene
from tests.scenario.harness import wait_for

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(60)]

DIRECT = [
    {
        "name": "app",
        "pool": "main",
        "delivery": "direct",
        "credentials": [{"username": "app", "password": "app-password"}],
    }
]


def test_the_clients_answer_is_the_upstreams_verdict(scene: Scene) -> None:
    """Taken, refused, deferred, lost: each with its class of reply; failover within the wait; nothing stays."""
    sick, well = scene.upstream("sick"), scene.upstream("well")
    relay = scene.relay(
        [node.node(timeouts={"mail": "1s", "dot": "1s", "greeting": "1s"}) for node in (sick, well)], bridges=DIRECT
    )
    ledger = Ledger()
    send_all(relay.port, [f"d{n}" for n in range(10)], ledger=ledger)
    assert len(sick.server.messages) + len(well.server.messages) == 10, "answered before the upstream had it"
    for server in (sick, well):
        server.at("dot", reply("554 5.7.1 content refused"), when="spam@")
        server.at("rcpt", reply("550 5.1.1 no such user"), when="nobody@")
        server.at("rcpt", reply("450 4.2.0 greylisted"), when="grey@")
    with Client(relay.port) as client:
        spam = client.send(message_bytes("spam"), sender="spam@acme.example")
        nobody = client.send(message_bytes("nobody"), recipients=["nobody@example.net"])
        grey = client.send(message_bytes("grey"), recipients=["grey@example.net"])
    sick.at("mail", reply("421 4.3.2 closing"))
    began = time.monotonic()
    send_all(relay.port, [f"e{n}" for n in range(10)], ledger=ledger)
    failover_s = time.monotonic() - began
    well.at("mail", reply("421 4.3.2 closing"))
    with Client(relay.port) as client:
        nowhere = client.send(message_bytes("nowhere"))
    stored = relay.queued()
    result = audit(ledger, relay, [sick, well])
    scene.result(result, spam=spam, nobody=nobody, grey=grey, nowhere=nowhere, failover_s=round(failover_s, 2))
    assert len(ledger.promised) == 20, ledger.refused
    assert (spam[0], nobody[0]) == (554, 550)
    assert grey[0] // 100 == nowhere[0] // 100 == 4
    for _, said in (spam, nobody, grey, nowhere):
        assert not any(word in said for word in ("sick", "well", "127.0.0.1")), "names our nodes to the client"
    assert stored == 0
    assert not relay.events("dsn.created"), "a report on top of the answer"
    result.check(bound=0)


def test_what_one_reply_cannot_say_goes_into_the_queue(scene: Scene) -> None:
    """Some taken, one deferred, one refused: 250, the deferred one by the queue, the refused one by a report."""
    upstream = scene.upstream("one")
    upstream.at("rcpt", reply("450 4.2.0 greylisted"), when="<later@", times=1)
    upstream.at("rcpt", reply("550 5.1.1 no such user"), when="<nobody@")
    relay = scene.relay([upstream.node()], bridges=DIRECT)
    ledger = Ledger()
    addresses = [f"{kind}@example.net" for kind in ("now", "later", "nobody")]
    send_all(relay.port, ["partial"], ledger=ledger, recipients=addresses)
    assert "partial" in ledger.promised, ledger.refused
    relay.wait_empty()
    reports = [t for t in upstream.transactions() if t["from"] == ""]
    result = audit(ledger, relay, [upstream], final=[("partial", "nobody@example.net")])
    scene.result(result, reports=len(reports))
    assert len(reports) == 1
    assert "nobody@example.net" in reports[0]["content"]
    result.check(bound=0)


def test_a_lost_answer_is_the_clients_to_repeat_and_a_kill_leaves_nothing_behind(scene: Scene) -> None:
    upstream = scene.upstream("one")
    upstream.at("dot", Do(say=b"", then="close", store=True), times=1)
    relay = scene.relay([upstream.node()], bridges=DIRECT)
    with Client(relay.port) as client:
        lost = client.send(message_bytes("lost"))
    upstream.at("dot", Do(delay=20.0), times=1)
    client = Client(relay.port)
    client.write(b"MAIL FROM:<app@acme.example>\r\nRCPT TO:<someone@example.net>\r\nDATA\r\n")
    for code in (250, 250, 354):
        client.expect(code)
    client.write(message_bytes("cut") + b".\r\n")
    wait_for(lambda: len(upstream.server.messages) == 2, what="the message at the upstream")
    relay.kill()
    client.drop()
    relay.start()
    time.sleep(2)
    scene.result(bound=1, lost_answer=lost)
    assert lost[0] // 100 == 4
    assert relay.queued() == 0
    assert len(upstream.server.messages) == 2, "sent again although nobody was promised anything"
