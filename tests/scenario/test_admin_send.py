"""The send API of a bridge, end to end: HTTP in, SMTP out."""

from __future__ import annotations

import asyncio
import base64
import email
import hashlib
import threading
from collections.abc import Iterator
from email.policy import default
from typing import Any

import httpx
import pytest

from relay.outcome import Status
from relay.upstreams import make, options_model
from relay.upstreams.base import Setting
from tests.fakes.upstream import outbound
from tests.scenario.admin_rig import AdminRig
from tests.scenario.clients import Client
from tests.scenario.conftest import Scene
from tests.scenario.harness import wait_for
from tests.scenario.sink import Sink

pytestmark = pytest.mark.scenario

TOKEN = "brg_token-of-the-second-bridge"
PEER_TOKEN = "brg_token-of-another-relay"
RAW = b"From: app@acme.example\r\nTo: to@example.net\r\nSubject: raw\r\n\r\n.one\r\n..two\r\nthree\r\n"


class Sending:
    def __init__(self, rig: AdminRig, sink: Sink) -> None:
        self.rig = rig
        self.sink = sink
        self.app = rig.sender()
        self.seen = 0

    def taken(self, messages: int = 1) -> list[dict[str, Any]]:
        """What the upstream has taken since the last call, once it is so many."""
        wait_for(lambda: len(self.sink.transactions()) >= self.seen + messages, what=f"{messages} messages")
        found = self.sink.transactions()[self.seen :]
        self.seen += len(found)
        return found


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sending]:
    directory = tmp_path_factory.mktemp("send")
    sink = Sink(directory, "a").start()
    strict = {
        "name": "strict",
        "pool": "main",
        "credentials": [
            {"username": "strict", "password": f"sha256:{hashlib.sha256(TOKEN.encode()).hexdigest()}"},
        ],
        "senders": ["@acme.example"],
        "limits": {"day": 5, "recipients": 3, "size": "300kB"},
    }
    app = {"name": "app", "pool": "main", "credentials": [{"username": "app", "password": "app-password"}]}
    digest = hashlib.sha256(PEER_TOKEN.encode()).hexdigest()
    peer = {"name": "peer", "pool": "main", "credentials": [{"username": "peer", "password": f"sha256:{digest}"}]}
    rig = AdminRig(directory, [sink.node()], workers=2, bridges=[app, strict, peer])
    try:
        yield Sending(rig.start(), sink)
    finally:
        rig.close()
        sink.close()


def parsed(transaction: dict[str, Any]) -> email.message.EmailMessage:
    raw = transaction["content"].encode("utf-8", "surrogateescape")
    message = email.message_from_bytes(raw, policy=default)
    assert isinstance(message, email.message.EmailMessage)
    return message


def test_json_becomes_the_message_it_describes(api: Sending) -> None:
    answer = api.app.post(
        "/api/v1/messages",
        json={
            "from": {"name": "Grüße, von uns", "email": "app@acme.example"},
            "to": ["One <one@example.net>", {"email": "two@example.net"}],
            "cc": "cc@example.net",
            "bcc": "hidden@example.net",
            "reply_to": "help@acme.example",
            "subject": "Grüße aus Zürich",
            "text": "Hallo\n.\nWelt",
            "html": "<p>Hallo</p>",
            "headers": {"X-Order": "42", "In-Reply-To": "<x@y.example>"},
            "attachments": [
                {
                    "filename": "../../etc/pass\u202ewd.txt",
                    "type": "text/plain",
                    "content": base64.b64encode(b"a").decode(),
                }
            ],
            "campaign": "spring",
        },
    )
    assert answer.status_code == 202, answer.text
    (sent,) = api.taken()
    assert sent["from"] == "app@acme.example"
    assert sorted(sent["to"]) == ["cc@example.net", "hidden@example.net", "one@example.net", "two@example.net"]
    message = parsed(sent)
    assert message["from"].addresses[0].display_name == "Grüße, von uns"
    assert message["subject"] == "Grüße aus Zürich"
    assert message["x-order"] == "42"
    assert answer.json()["id"] in str(message["received"])
    assert "with HTTP" in str(message["received"])
    assert message["x-relay-campaign"] is None
    assert "hidden@" not in sent["content"]
    body = message.get_body(("plain",))
    assert body is not None
    assert body.get_content().splitlines() == ["Hallo", ".", "Welt"]
    (attachment,) = message.iter_attachments()
    assert attachment.get_filename() == "_.._etc_pass_wd.txt"
    story = api.rig.client("viewer").get(f"/api/v1/messages/{answer.json()['id']}").json()["story"]
    assert story[0]["bridge"] == "app"


def test_a_message_as_it_is(api: Sending) -> None:
    headers = {"Content-Type": "message/rfc822"}
    assert api.app.post("/api/v1/messages", content=RAW, headers=headers).status_code == 202
    (sent,) = api.taken()
    assert (sent["from"], sent["to"]) == ("app@acme.example", ["to@example.net"])
    assert sent["content"].endswith("\r\n\r\n.one\r\n..two\r\nthree\r\n")
    own = {**headers, "X-Relay-Sender": "bounces@acme.example", "X-Relay-Recipients": "x@example.net, y@example.net"}
    unix = RAW.replace(b"\r\n", b"\n")
    assert api.app.post("/api/v1/messages", content=unix, headers=own).status_code == 202
    (sent,) = api.taken()
    assert (sent["from"], sorted(sent["to"])) == ("bounces@acme.example", ["x@example.net", "y@example.net"])
    assert sent["content"].endswith("\r\n\r\n.one\r\n..two\r\nthree\r\n")


def test_a_large_message(api: Sending) -> None:
    content = b"0123456789abcdef\r\n" * 60_000
    raw = RAW.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" + content
    answer = api.app.post("/api/v1/messages", content=raw, headers={"Content-Type": "message/rfc822"})
    assert answer.status_code == 202
    (sent,) = api.taken()
    assert sent["body"] == hashlib.sha256(content).hexdigest()
    assert not list((api.rig.relay.directory / "var" / "incoming").iterdir())


def test_a_key_counts_once_whichever_way_it_comes(api: Sending) -> None:
    body = {"from": "app@acme.example", "to": "key@example.net", "text": "once"}
    key = {"Idempotency-Key": "order-1"}
    answers = [api.app.post("/api/v1/messages", json=body, headers=key) for _ in range(6)]
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    other = api.app.post("/api/v1/messages", json={**body, "text": "other"}, headers=key)
    assert other.status_code == 409
    assert len(api.taken()) == 1
    content = b"X-Relay-Idempotency-Key: order-2\r\nSubject: smtp\r\n\r\nonce\r\n"
    replies = []
    for _ in range(3):
        with Client(api.rig.relay.port) as client:
            replies.append(client.send(content))
    assert {code for code, _ in replies} == {250}
    assert len({said.rpartition(" ")[2] for _, said in replies}) == 1
    with Client(api.rig.relay.port) as client:
        assert client.send(content + b"more\r\n")[0] == 554
    (sent,) = api.taken()
    assert "idempotency" not in sent["content"].lower()


def test_the_same_key_many_times_at_once(api: Sending) -> None:
    body = {"from": "app@acme.example", "to": "race@example.net", "text": "once"}
    answers: list[httpx.Response] = []

    def send() -> None:
        answers.append(httpx.post(f"{api.rig.url}/api/v1/messages", json=body, auth=("app", "app-password"),
                                  headers={"Idempotency-Key": "race"}, timeout=30))  # fmt: skip

    threads = [threading.Thread(target=send) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 202}) == 1
    api.taken()
    api.rig.relay.wait_empty()
    assert [t["to"] for t in api.sink.transactions()].count(["race@example.net"]) == 1
    api.seen = len(api.sink.transactions())


def test_a_batch_takes_what_is_sound(api: Sending) -> None:
    good = {"from": "app@acme.example", "to": "b@example.net", "text": "x"}
    messages = [good, {**good, "to": "not an address"}, {**good, "subject": "a\r\nBcc: x@x.example"}, good]
    answer = api.app.post("/api/v1/messages/batch", json={"messages": messages})
    assert answer.status_code == 207
    assert [row["code"] for row in answer.json()["results"]] == [202, 422, 422, 202]
    assert len(api.taken(2)) == 2
    answer = api.app.post(
        "/api/v1/messages/batch", json={"messages": [good, good]}, headers={"Idempotency-Key": "batch"}
    )
    again = api.app.post(
        "/api/v1/messages/batch", json={"messages": [good, good]}, headers={"Idempotency-Key": "batch"}
    )
    assert answer.status_code == 202
    assert answer.json() == again.json()
    assert len(api.taken(2)) == 2


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"from": "a\r\nBcc: x@x.example <app@acme.example>"}, "from"),
        ({"to": "x@example.net>\r\nRCPT TO:<y@example.net"}, "to"),
        ({"to": "x@example.net> NOTIFY=NEVER <y@example.net"}, "to"),
        ({"subject": "x\r\nX-Evil: 1"}, "subject"),
        ({"subject": "x\u2028X-Evil: 1"}, "subject"),
        ({"headers": {"X-A": "1\r\nX-Evil: 1"}}, "headers.X-A"),
        ({"headers": {"X-A\r\nX-Evil": "1"}}, "headers."),
        ({"headers": {"Received": "x"}}, "headers.Received"),
        ({"headers": {"DKIM-Signature": "x"}}, "headers.DKIM-Signature"),
        ({"headers": {"Content-Type": "text/html"}}, "headers.Content-Type"),
        ({"attachments": [{"content": "not base64!"}]}, "attachments.0.content"),
        ({"attachments": [{"content": "YQ==", "type": "text/plain\r\nX-Evil: 1"}]}, "attachments.0.type"),
        ({"attachments": [{"content": "YQ==", "filename": "a\r\nX-Evil: 1"}]}, "attachments.0.filename"),
        ({"text": "a\0b"}, "text"),
        ({"to": []}, "to"),
        ({"nonsense": 1}, "nonsense"),
        ({"campaign": "a b"}, "campaign"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_would_become_another_message_is_refused(api: Sending, body: dict[str, Any], where: str) -> None:
    whole = {"from": "app@acme.example", "to": "x@example.net", "text": "x", **body}
    answer = api.app.post("/api/v1/messages", json=whole)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["where"].startswith(where)
    assert len(api.sink.transactions()) == api.seen


@pytest.mark.parametrize(
    ("sender", "recipients"),
    [
        ("app@acme.example> SIZE=1 RET=FULL <", "x@example.net"),
        ("app@acme.example", "x@example.net> NOTIFY=NEVER ORCPT=rfc822;y@example.net"),
        ("@a.example:app@acme.example", "x@example.net"),
        ("app@acme.example", "x@"),
    ],
    ids=["sender parameter", "recipient parameter", "route", "half"],
)
def test_addresses_in_headers_are_only_addresses(api: Sending, sender: str, recipients: str) -> None:
    headers = {"Content-Type": "message/rfc822", "X-Relay-Sender": sender, "X-Relay-Recipients": recipients}
    assert api.app.post("/api/v1/messages", content=RAW, headers=headers).status_code == 422


def test_the_rules_of_the_bridge_hold(api: Sending) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    url = f"{api.rig.url}/api/v1/messages"
    body: dict[str, Any] = {"from": "app@acme.example", "to": "x@example.net", "text": "x"}
    assert httpx.post(url, json={**body, "from": "app@other.example"}, headers=headers).status_code == 403
    foreign = {**body, "from": "app@other.example", "sender": "app@acme.example"}
    assert httpx.post(url, json=foreign, headers=headers).status_code == 403  # the From header is looked at too
    many = {**body, "to": [f"x{n}@example.net" for n in range(4)]}
    assert httpx.post(url, json=many, headers=headers).status_code == 422
    assert httpx.post(url, json={**body, "text": "x\n" * 200_000}, headers=headers).status_code == 413
    answers = [httpx.post(url, json=body, headers=headers) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [202] * 5 + [429]
    assert int(answers[-1].headers["retry-after"]) > 3600
    api.taken(5)


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Basic ***"}, {"Authorization": "Bearer rly_x"}, {"Authorization": "Bearer app-password"}],
    ids=["none", "no base64", "admin's", "a plain password"],
)
def test_logins_that_are_none(api: Sending, headers: dict[str, str]) -> None:
    answer = httpx.post(
        f"{api.rig.url}/api/v1/messages",
        json={"from": "a@b.example", "to": "x@example.net"},
        headers=headers,
        timeout=30,
    )
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic")


def test_nothing_that_was_answered_202_is_lost_by_kill_9(scene: Scene) -> None:
    sink = scene.sink("a")
    rig = AdminRig(scene.directory, [sink.node()], workers=2)
    promised: dict[str, str] = {}
    over = threading.Event()

    def load(start: int) -> None:
        with httpx.Client(base_url=rig.url, auth=("app", "app-password"), timeout=10) as client:
            number = start
            while not over.is_set():
                name = f"m{number}"
                body = {"from": "app@acme.example", "to": f"{name}@example.net", "text": name}
                try:
                    answer = client.post("/api/v1/messages", json=body, headers={"Idempotency-Key": name})
                except httpx.TransportError:
                    continue  # the same once more, under the same key
                if answer.status_code == 202:
                    promised[name] = answer.json()["id"]
                    number += 4
                else:
                    assert answer.status_code in (401, 409, 503), answer.text  # 409: its claim is not decided yet

    threads = [threading.Thread(target=load, args=(n,)) for n in range(4)]
    try:
        rig.start()
        for thread in threads:
            thread.start()
        for _ in range(2):
            before = len(promised)
            wait_for(lambda before=before: len(promised) > before + 40, what="messages")
            rig.relay.kill()
            rig.start()
        before = len(promised)
        wait_for(lambda: len(promised) > before + 20, what="messages after the last start")
        over.set()
        for thread in threads:
            thread.join(30)
        rig.relay.wait_empty()
        arrived = [t["to"][0].partition("@")[0] for t in sink.transactions()]
        assert set(promised) - set(arrived) == set()
        recovered = len(rig.relay.events("message.recovered"))
        assert len(arrived) - len(set(arrived)) <= recovered
        scene.result(messages=len(promised), recovered=recovered)
    finally:
        over.set()
        rig.close()


def test_another_relay_hands_its_mail_in(api: Sending) -> None:
    """The node type `relay` against the real server of its contract: envelope apart from the header, octets whole,
    a second call with the same key makes no second message, and the test of the node sends nothing."""

    async def hand_over() -> None:
        options = options_model("relay").model_validate({"url": api.rig.url, "token": PEER_TOKEN})
        node = make("relay", "other", options, Setting(ehlo="relay.first.example"))
        head, _, body = RAW.partition(b"\r\n\r\n")
        message = outbound(
            "one%x@example.net",
            '"two, too"@example.net',
            sender="bounce+x=y@acme.example",
            head=head + b"\r\n",
            body=body,
        )
        try:
            probe = await node.probe()
            assert probe.outcome.status is Status.DELIVERED, probe
            for _ in range(2):
                deadline = asyncio.get_running_loop().time() + 30
                outcomes = await node.deliver(message, deadline=deadline)
                assert [entry.outcome.status for entry in outcomes] == [Status.DELIVERED] * 2, outcomes
        finally:
            await node.close()

    asyncio.run(hand_over())
    (taken,) = api.taken()
    assert taken["from"] == "bounce+x=y@acme.example"
    assert taken["to"] == ["one%x@example.net", '"two, too"@example.net']
    assert taken["content"].endswith("\r\n\r\n.one\r\n..two\r\nthree\r\n")
