"""One pool of an SMTP server and ten vendors, which refuse, throttle, break, hang and contradict themselves under load:
nothing is lost, copies stay within what was uncertain, caps are exact, and every node is in the state it deserves."""

from __future__ import annotations

import re
import time
from collections import Counter

import pytest

from tests.fakes.vendor_server import Do, Reply
from tests.scenario.audit import audit
from tests.scenario.clients import Ledger, send_all
from tests.scenario.conftest import Scene
from tests.scenario.harness import wait_for
from tests.scenario.test_refusals import reports
from tests.scenario.vendor import Misdeed, Vendor

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(110)]

MESSAGES, AFTER = 400, 60
SES_HOURLY, SENDGRID_HOURLY = 15, 11
NOT_A_KEY = {"ErrorCode": 10, "Message": "No Account or Server API tokens were supplied in the HTTP headers."}


def _revoked(_number: int, _probe: bool) -> Misdeed:
    return Misdeed(Reply(401, NOT_A_KEY))


def _throttled(number: int, probe: bool) -> Misdeed | None:
    slow = Reply(429, {"message": "Too many requests"}, {"Retry-After": "3"})
    return Misdeed(slow) if not probe and number <= 2 else None


def _breaks_after_taking(number: int, probe: bool) -> Misdeed | None:
    """500 for the first eight: half of them were taken."""
    return Misdeed(Reply(500, b"<h1>oops</h1>"), takes=number % 2 == 0) if not probe and number <= 8 else None


def _refuses_inside_200(number: int, probe: bool) -> Misdeed | None:
    inside = [{"email": "someone@example.net", "status": "rejected", "reject_reason": "hard-bounce", "_id": "x"}]
    return Misdeed(Reply(200, inside)) if not probe and number % 5 == 0 else None


def _hangs(number: int, probe: bool) -> Misdeed | None:
    return Misdeed(Do.HANG, takes=number == 2) if not probe and number in (2, 4) else None


def _resets(number: int, probe: bool) -> Misdeed | None:
    return Misdeed(Do.RESET, takes=number % 2 == 0) if not probe and number in (1, 2, 5) else None


def _uses_up(_number: int, probe: bool) -> Misdeed | None:
    """Every answer says that nothing is left for a second."""
    if probe:
        return None
    headers = {"X-Message-Id": "ms-1", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "1"}
    return Misdeed(Reply(202, b"", headers), takes=True)


def test_ten_vendors_and_a_server_in_one_rotation(scene: Scene) -> None:
    upstream = scene.upstream("smtp")
    brief = {"timeouts": {"answer": "1s"}}
    vendors = [
        Vendor("ses"),
        Vendor("sendgrid"),
        Vendor("postmark", _revoked),
        Vendor("mailgun", _throttled),
        Vendor("sparkpost", _breaks_after_taking),
        Vendor("mandrill", _refuses_inside_200),
        Vendor("resend", _hangs, **brief),
        Vendor("brevo", _resets),
        Vendor("mailersend", _uses_up),
        Vendor("relay"),
    ]
    by_name = {vendor.name: vendor for vendor in vendors}
    scene._open += vendors
    caps = {"ses": {"hour": SES_HOURLY}, "sendgrid": {"hour": SENDGRID_HOURLY}}
    nodes = [v.node(caps=caps[v.name]) if v.name in caps else v.node() for v in vendors]
    relay = scene.relay([upstream.node(), *nodes], workers=2)
    ledger = Ledger()
    send_all(relay.port, [f"m{n}" for n in range(MESSAGES)], ledger=ledger, sessions=8)
    relay.wait_empty(60)

    for vendor in vendors:
        vendor.check()
    (revoked,) = [e for e in relay.events("node.deactivated") if e["node"] == "postmark"]
    assert revoked["test_status"] == f"http: 401 10: {NOT_A_KEY['Message']}"
    assert relay.node("postmark")["status"] == "inactive"
    assert by_name["postmark"].taken == []
    cooled = Counter(event["node"] for event in relay.events("node.cooled"))
    assert cooled["mailgun"] >= 1
    assert {e["reason"] for e in relay.events("node.cooled") if e["node"] == "mailgun"} == {
        "http: 429 Too many requests"
    }
    uncertain = Counter(event["node"] for event in relay.events("attempt.uncertain"))
    assert uncertain["sparkpost"] >= 5, "five lost answers in a row take a node out"
    assert uncertain["resend"] >= 1
    assert uncertain["brevo"] >= 1

    def well() -> bool:
        states = {row["name"]: (row["status"], row["unavailable"]) for row in relay.ask("nodes")[0]}
        return all(state == ("active", None) for name, state in states.items() if name != "postmark")

    wait_for(well, seconds=30, what="every node but the revoked one to be well again")

    # Afterwards all that may send do, and the capped ones have had their share.
    before = {vendor.name: len(vendor.taken) for vendor in vendors}
    send_all(relay.port, [f"a{n}" for n in range(AFTER)], ledger=ledger, sessions=4)
    relay.wait_empty(60)
    after = {vendor.name: len(vendor.taken) for vendor in vendors}
    for name in ("mailgun", "sparkpost", "resend", "brevo", "relay", "mandrill"):
        assert after[name] > before[name], f"{name} came back and is not used"
    assert after["ses"] == SES_HOURLY
    assert after["sendgrid"] == SENDGRID_HOURLY
    sent = {row["name"]: row for row in relay.ask("nodes")[0]}
    hour = next(cap for cap in sent["ses"]["caps"] if cap["window_s"] == 3600.0)
    assert (hour["used"], hour["limit"]) == (SES_HOURLY, SES_HOURLY)
    limits = [(cap["window_s"], cap["limit"], cap["source"]) for cap in sent["ses"]["caps"]]
    assert limits == [(1.0, 14, "SES account"), (3600.0, 15, "configuration"), (86400.0, 50000, "SES account")]
    assert re.search(r"/14/s\s+\(SES", relay.cli("node", "list")), "who set the cap is not shown"
    assert sent["postmark"]["status"] == "inactive"

    # Only these two say the null reverse-path, so reports go through them alone.
    told = reports(upstream) + reports(by_name["relay"])
    assert told, "nobody was told of what Mandrill refused"
    result = audit(ledger, relay, [upstream, *vendors], final=told)
    scene.result(result, taken=after, uncertain=dict(uncertain), reported=len(told), at=round(time.time()))
    result.check()
    copies = Counter(name for (name, _), _ in result.copies.items())
    for vendor in ("resend", "brevo", "relay"):
        keys = [understood.key for _, understood, _ in by_name[vendor].taken]
        assert len(keys) == len(set(keys)), "an idempotency key did not hold"
    assert sum(copies.values()) <= 4, "only what SparkPost took and did not confirm may arrive twice"
