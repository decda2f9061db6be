"""Webhooks of a running relay: signed, kept over crashes, retried, replayed, and never sent where they must not go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from tests.fakes.http_receiver import Receiver
from tests.fakes.smtp_server import reply
from tests.scenario.admin_rig import AdminRig
from tests.scenario.clients import Ledger, submit
from tests.scenario.conftest import Scene
from tests.scenario.harness import wait_for

pytestmark = pytest.mark.scenario

SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def rig_of(scene: Scene, receiver: Receiver, **hook: object) -> AdminRig:
    hooks = [{"name": "crm", "url": receiver.url, "secret": SECRET, "allow_private": True, **hook}]
    upstream = scene.upstream("a")
    upstream.at("rcpt", reply("550 5.1.1 no such user"), times=1)
    return AdminRig(scene.directory, [upstream.node()], webhooks=hooks)


def told(receiver: Receiver) -> list[str]:
    return [json.loads(each.body)["type"] for each in receiver.posted]


def test_events_are_signed_and_survive_a_receiver_that_is_away(scene: Scene, receiver: Receiver) -> None:
    receiver.status = 500
    rig = rig_of(scene, receiver, events=["message", "attempt.delivered", "node"])
    try:
        rig.start()
        admin = rig.client("admin")
        submit(rig.relay.port, ["m0"], ledger=Ledger())
        wait_for(lambda: receiver.posted, what="a first try")
        hook = admin.get("/api/v1/webhooks").json()[0]
        assert hook["failures"] >= 1
        first = receiver.posted[0]
        rig.relay.kill()  # what waits is on disk
        receiver.posted.clear()
        receiver.status = 204
        rig.start()
        admin.post("/api/v1/nodes/a/pause", json={"reason": "look"})
        admin.post("/api/v1/webhooks/crm/replay", json={"state": "waiting"})
        wait_for(lambda: {"message.accepted", "message.failed", "node.paused"} <= set(told(receiver)), what="events")

        def taken() -> list[dict[str, Any]]:
            calls: list[dict[str, Any]] = admin.get("/api/v1/webhooks/crm/calls", params={"state": "taken"}).json()
            return calls

        def is_noted() -> bool:
            return {call["id"] for call in taken()} == {each.headers["webhook-id"] for each in receiver.posted}

        wait_for(is_noted, what="the notes of all calls")  # the receiver has a call before its answer is noted
        by_id = {}
        for each in receiver.posted:
            payload = Webhook(SECRET).verify(each.body, each.headers)
            assert payload == json.loads(each.body)
            by_id[each.headers["webhook-id"]] = each
        assert first.headers["webhook-id"] in by_id  # the same event under the same id
        failed = next(json.loads(e.body) for e in receiver.posted if json.loads(e.body)["type"] == "message.failed")
        assert failed["data"]["recipients"][0]["code"] == 550
        calls = taken()
        assert not rig.relay.events("relay.fault")
        count = len(receiver.posted)
        assert "1 call will be made again" in rig.relay.cli("webhook", "replay", "crm", calls[0]["id"])
        wait_for(lambda: len(receiver.posted) == count + 1, what="the replayed call")
        assert receiver.posted[-1].headers["webhook-id"] == calls[0]["id"]
        assert rig.relay.json("webhook", "list")[0]["taken"] == len(by_id)
        assert 'relay_webhook_calls_total{result="taken"}' in admin.get("/metrics").text
    finally:
        rig.close()


def test_calls_that_are_not_made_or_not_taken(scene: Scene, receiver: Receiver) -> None:
    receiver.status, receiver.headers = 302, {"Location": "http://127.0.0.1:1/elsewhere"}
    cases = {
        "loopback": ({"url": receiver.url, "allow_private": False}, "private network"),
        "by-name": ({"url": f"http://localhost:{receiver.port}/", "allow_private": False}, "private network"),
        "mapped": ({"url": f"http://[::ffff:127.0.0.1]:{receiver.port}/", "allow_private": False}, "private network"),
        "as-number": ({"url": f"http://2130706433:{receiver.port}/", "allow_private": False}, "private network"),
        "redirect": ({"url": receiver.url, "allow_private": True}, "302"),
        "nobody": ({"url": "http://127.0.0.1:1/", "allow_private": True}, "ConnectError"),
    }
    hooks = [
        {"name": name, "secret": SECRET, "events": ["message.accepted"], **hook} for name, (hook, _) in cases.items()
    ]
    rig = AdminRig(scene.directory, [scene.upstream("a").node()], webhooks=hooks)
    try:
        rig.start()
        admin = rig.client("admin")
        submit(rig.relay.port, ["m0"], ledger=Ledger())
        for name, (_, says) in cases.items():

            def answer(name: str = name) -> str:
                calls = admin.get(f"/api/v1/webhooks/{name}/calls").json()
                return str(calls[0]["answer"]) if calls and calls[0]["tries"] else ""

            assert says in wait_for(answer, what=f"a try of {name}"), name
        assert len(receiver.posted) == 1  # the one that was redirected, once
        rig.relay.wait_empty()
    finally:
        rig.close()


def test_a_receiver_that_says_it_is_gone_is_not_called_again(scene: Scene, receiver: Receiver) -> None:
    receiver.status = 410
    rig = rig_of(scene, receiver)
    try:
        rig.start()
        admin = rig.client("admin")
        submit(rig.relay.port, ["m0"], ledger=Ledger())
        wait_for(lambda: admin.get("/api/v1/webhooks").json()[0]["silenced"], what="the end of calls")
        count = len(receiver.posted)
        assert rig.relay.events("webhook.gone")
        receiver.status = 200
        submit(rig.relay.port, ["m1"], ledger=Ledger())
        rig.relay.wait_empty()
        assert len(receiver.posted) == count
        admin.post("/api/v1/webhooks/crm/replay", json={"state": "waiting"})
        wait_for(lambda: len(receiver.posted) > count, what="calls after a replay")
        assert not admin.get("/api/v1/webhooks").json()[0]["silenced"]
    finally:
        rig.close()
