"""A node fails in a running relay: an issue opens with the upstream's words, everybody is told, once; it recovers, and
the issue closes itself."""

from __future__ import annotations

import json
from collections.abc import Iterator

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
def receivers() -> Iterator[tuple[Receiver, Receiver]]:
    made = Receiver(), Receiver()
    yield made
    for each in made:
        each.close()


def test_from_deactivation_to_recovery(scene: Scene, receivers: tuple[Receiver, Receiver]) -> None:
    hook, chat = receivers
    a, b, c = scene.upstream("a"), scene.upstream("b"), scene.upstream("c")
    pools = [
        {"name": "main", "id": 7, "mta": "mta4", "default": True, "nodes": [a.node(), b.node()]},
        {"name": "ops", "id": 8, "mta": "mta4", "nodes": [c.node()]},
    ]
    bridges = [
        {"name": "app", "pool": "main", "credentials": [{"username": "app", "password": "app-password"}]},
        {"name": "alerts", "pool": "ops", "credentials": [{"username": "alerts", "password": "alerts-password"}]},
    ]
    alerts = {
        "quiet": "1h",
        "targets": [
            {"name": "mail", "email": ["ops@example.com"], "bridges": ["app", "alerts"]},
            {"name": "crm", "webhook": "crm"},
            {"name": "chat", "apprise": f"json://127.0.0.1:{chat.port}/s3cret", "allow_private": True},
            {"name": "guarded", "apprise": f"json://127.0.0.1:{chat.port}/s3cret"},
        ],
    }
    hooks = [{"name": "crm", "url": hook.url, "secret": SECRET, "allow_private": True, "events": ["dsn"]}]
    rig = AdminRig(scene.directory, [], pools=pools, bridges=bridges, webhooks=hooks, alerts=alerts)
    try:
        rig.start()
        admin = rig.client("admin")
        a.at("connect", reply("554 5.3.2 a is going down"))
        submit(rig.relay.port, ["m0", "m1", "m2", "m3"], ledger=Ledger())
        rig.relay.wait_empty()

        issue = wait_for(lambda: admin.get("/api/v1/issues").json()["items"], what="an issue")[0]
        assert (issue["state"], issue["node"], issue["pool"], issue["rule"]) == ("open", "a", "main", "node")
        assert "554 5.3.2 a is going down" in issue["error"]
        assert 'relay_issues_open{rule="node"} 1.0' in admin.get("/metrics").text

        # By mail through the other pool, whatever the order of the bridges.
        wait_for(lambda: c.server.messages, what="a mail through the other pool")
        mail = c.server.messages[0].content.decode()
        assert "a is going down" in mail
        assert "Auto-Submitted: auto-generated" in mail
        wait_for(lambda: hook.posted, what="a webhook call")
        payload = Webhook(SECRET).verify(hook.posted[0].body, hook.posted[0].headers)
        assert payload["type"] == "alert.opened"
        assert "a is going down" in payload["data"]["error"]
        wait_for(lambda: chat.posted, what="a call by Apprise")
        assert "a is going down" in json.loads(chat.posted[0].body)["message"]

        def guarded() -> str:
            notices = admin.get(f"/api/v1/issues/{issue['number']}").json()["notices"]
            return next(str(n["answer"]) for n in notices if n["target"] == "guarded")

        assert "private network" in wait_for(guarded, what="a try of the guarded target")

        a.forget()  # answers as it should again; the next check brings it back

        def closed() -> bool:
            return bool(admin.get("/api/v1/issues", params={"state": "closed"}).json()["items"])

        wait_for(closed, what="the end of the issue")
        story = admin.get(f"/api/v1/issues/{issue['number']}").json()
        assert story["how"].endswith("the node is in use again")  # by its event, or seen before that was read

        def told() -> set[tuple[str, str]]:
            notices = admin.get(f"/api/v1/issues/{issue['number']}").json()["notices"]
            return {(n["target"], n["what"]) for n in notices if n["state"] == "taken"}

        everybody = {(name, what) for name in ("mail", "crm", "chat") for what in ("opened", "closed")}
        wait_for(lambda: told() == everybody, what="everybody's being told of both")
        trail = admin.get("/api/v1/audit", params={"action": "issue"}).json()["items"]
        assert [(entry["action"], entry["target"], entry["who"]) for entry in trail] == [
            ("issue.closed", "a", "relay"),
            ("issue.opened", "a", "relay"),
        ]
        assert "s3cret" not in rig.relay.log()
        assert "s3cret" not in admin.get("/api/v1/config").text + admin.get("/api/v1/alerts/targets").text

        # Tests of targets, by the API and on the command line.
        assert rig.relay.json("alert", "test", "chat")["taken"]
        assert rig.relay.json("alert", "test", "crm")["answer"] == "webhook crm: 200 OK"
        assert admin.post("/api/v1/alerts/targets/mail/test").json()["taken"]
        assert not admin.post("/api/v1/alerts/targets/guarded/test").json()["taken"]
        assert admin.post("/api/v1/alerts/targets/nobody/test").status_code == 404
        assert "a is going down" in rig.relay.cli("alert", "list", "--state", "all")
        rig.relay.cli("alert", "test", "nobody", code=65)
    finally:
        rig.close()


def test_a_reload_that_fails_is_an_issue_until_one_succeeds(scene: Scene) -> None:
    rig = AdminRig(scene.directory, [scene.upstream("a").node()])
    try:
        rig.start()
        admin = rig.client("viewer")
        good = rig.relay.config_path.read_text()
        rig.relay.config_path.write_text(json.dumps({**json.loads(good), "nonsense": 1}))
        rig.relay.cli("reload", code=78)
        issue = wait_for(
            lambda: admin.get("/api/v1/issues", params={"rule": "reload"}).json()["items"], what="an issue"
        )
        assert "nonsense" in issue[0]["error"]
        rig.relay.config_path.write_text(good)
        rig.relay.cli("reload")
        wait_for(lambda: not admin.get("/api/v1/issues", params={"state": "open"}).json()["items"], what="its end")
    finally:
        rig.close()
