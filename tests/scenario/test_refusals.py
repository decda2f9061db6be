"""Refused recipients and messages: exact for each recipient, reported once, and never held against the node."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.fakes.smtp_server import reply
from tests.scenario.audit import audit
from tests.scenario.clients import Client, Ledger, message_bytes, send_all
from tests.scenario.conftest import Scene
from tests.scenario.harness import wait_for
from tests.scenario.upstream import Upstream
from tests.scenario.vendor import Vendor

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(60)]


def reports(upstream: Upstream | Vendor) -> list[tuple[str, str]]:
    """(name of the message, recipient) for every recipient that a report at this server says has failed."""
    found = []
    for transaction in upstream.transactions():
        if transaction["from"] == "" and "Final-Recipient" in transaction["content"]:
            assert transaction["to"][0].endswith("@acme.example")
            assert "X-Virtual-MTA: acme-42-mta4-pool-7" in transaction["head"], "not through the pool"
            names = set(re.findall(r"(?mi)^x-test-name: (\S+)\r$", transaction["content"]))
            assert len(names) == 1, names
            failed = re.findall(r"(?mi)^final-recipient: *rfc822; *(\S+)\r$", transaction["content"])
            found += [(names.copy().pop(), address) for address in failed]
    return found


def test_refusals_at_a_high_rate_never_take_a_node_out(scene: Scene) -> None:
    """Of 300 messages 200 are refused, at RCPT and at the final dot; every sender is told, and both nodes stay in."""
    nodes = [scene.upstream(name) for name in ("one", "two")]
    for upstream in nodes:
        upstream.at("rcpt", reply("550 5.1.1 no such user"), when="nobody@")
        upstream.at("dot", reply("550 5.7.1 content refused"), when="spam@")
    relay = scene.relay([upstream.node() for upstream in nodes], workers=2)
    good, gone, spam, silent = Ledger(), Ledger(), Ledger(), Ledger()
    send_all(relay.port, [f"g{n}" for n in range(100)], ledger=good, sessions=4)
    send_all(relay.port, [f"n{n}" for n in range(100)], ledger=gone, sessions=4, recipients=["nobody@example.net"])
    # The fake knows a message by its MAIL command.
    send_all(relay.port, [f"s{n}" for n in range(80)], ledger=spam, sessions=4, sender="spam@acme.example")
    with Client(relay.port) as client:
        for n in range(20):
            content = message_bytes(f"q{n}", to="nobody@example.net")
            silent.sends(f"q{n}", content, ["nobody@example.net"])
            answer = client.send(content, sender="", recipients=["nobody@example.net"])
            silent.answered(f"q{n}", *answer)
    relay.wait_empty()
    told = [pair for upstream in nodes for pair in reports(upstream)]
    result = audit(good, relay, nodes)
    scene.result(result, refused=len(gone.promised) + len(spam.promised), reports=len(told))
    assert not relay.events("node.deactivated")
    assert not relay.events("node.cooled")
    assert [row["status"] for row in relay.json("node", "list")] == ["active", "active"]
    expected = [(name, "nobody@example.net") for name in gone.promised]
    expected += [(name, "someone@example.net") for name in spam.promised]
    assert Counter(told) == Counter(expected)
    assert {event["why"] for event in relay.events("dsn.suppressed")}, "nothing says why null senders were not told"
    assert len(relay.events("dsn.suppressed")) == len(silent.promised) == 20
    result.check(bound=0)


def test_each_recipient_has_its_own_fate_over_retries(scene: Scene) -> None:
    """30 messages to five recipients: two are taken at once, one after a 450, one after two, one never."""
    upstream = scene.upstream("one")
    messages = 30
    for name, refusals in (("slow", 1), ("slower", 2)):
        for n in range(messages):
            upstream.at("rcpt", reply("450 4.2.0 greylisted"), when=f"<{name}{n}@", times=refusals)
    upstream.at("rcpt", reply("550 5.1.1 no such user"), when="<never")
    relay = scene.relay([upstream.node()])
    ledger = Ledger()
    for n in range(messages):
        addresses = [f"{kind}{n}@example.net" for kind in ("fast", "never", "slow", "quick", "slower")]
        send_all(relay.port, [f"p{n}"], ledger=ledger, recipients=addresses)
    wait_for(lambda: len(upstream.server.messages) >= messages, what="the first round")
    for row in relay.entries():
        fates = {re.split(r"\d", r["address"])[0]: r for r in row["recipients"]}
        if "fast" not in fates:
            continue  # a report
        for kind in ("fast", "quick"):
            assert fates[kind]["status"] in ("delivered", "pending")
        if fates["fast"]["status"] == "delivered" and not row["leased"]:
            assert fates["never"]["status"] == "failed"
            assert fates["never"]["text"] == "no such user"
    relay.wait_empty(40)
    told = reports(upstream)
    result = audit(ledger, relay, [upstream], final=told)
    scene.result(result, reports=len(told), recipients=5 * messages)
    result.check(bound=0)
    assert Counter(told) == Counter((f"p{n}", f"never{n}@example.net") for n in range(messages))
    delivered = Counter(r for t in upstream.transactions() for r in t["to"] if t["from"])
    assert not [address for address in delivered if address.startswith("never")]
    tried = Counter(line for line in upstream.server.said("RCPT") if "slower" in line)
    assert set(tried.values()) == {3}, "an address was tried more or less often than its refusals ask for"
    assert set(Counter(line for line in upstream.server.said("RCPT") if "<fast" in line).values()) == {1}
