"""The admin API of a running relay: who may what, what is shown, what changes in the files."""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterator

import httpx
import pytest

from relay.admin.security.guard import OPEN
from tests.scenario.admin_rig import CONFIG, AdminRig
from tests.scenario.clients import Client, Ledger, submit
from tests.scenario.harness import wait_for

pytestmark = pytest.mark.scenario


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminRig]:
    rig = AdminRig(tmp_path_factory.mktemp("admin"), [], text=CONFIG)
    try:
        yield rig.start()
    finally:
        rig.close()


@pytest.fixture
def admin(rig: AdminRig) -> Iterator[httpx.Client]:
    """An admin's client; the files are as they were afterwards."""
    before = rig.relay.config_path.read_bytes()
    client = rig.client("admin")
    yield client
    if rig.relay.config_path.read_bytes() != before:
        rig.relay.config_path.write_bytes(before)
        assert client.post("/api/v1/config/reload").status_code == 200


def changed_lines(before: str, after: str) -> list[str]:
    """Lines that differ, as `diff` marks them."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    return [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]


# Who may what


def test_every_path_asks_for_its_role(rig: AdminRig, admin: httpx.Client) -> None:
    """Anonymous callers get 401 everywhere but on the few open paths; viewers and operators are kept from more."""
    document = admin.get("/openapi.json").json()
    clients = {role: rig.client(role) for role in ("viewer", "operator")}
    refused: dict[str, set[str]] = {"viewer": set(), "operator": set()}
    for path, item in document["paths"].items():
        for method in item:
            if (method.upper(), path) in OPEN or path.startswith("/api/v1/messages") or path.endswith("/stream"):
                continue
            url = path.replace("{", "").replace("}", "")
            assert rig.client().request(method, url, json={}).status_code == 401, path
            for role, client in clients.items():
                answer = client.request(method, url, json={"reason": "x", "ids": ["x"], "pool": "p"})
                if answer.status_code == 403:
                    refused[role].add(f"{method} {path}")
                else:
                    assert method == "get" or role == "operator", f"{role} may {method} {path}: {answer.text}"
    assert "post /api/v1/queue/drop" in refused["viewer"] - refused["operator"]
    assert {"post /api/v1/nodes", "get /api/v1/audit", "delete /api/v1/tokens/{id}"} <= refused["operator"]
    assert "get /api/v1/config" not in refused["viewer"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example:8025"}, 421),
        ({"Host": ""}, 421),
        ({"Host": "relay.example.com"}, 401),
        ({"Host": "localhost:1"}, 401),
        ({"Authorization": "Bearer rly_" + "A" * 43}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": "Basic YTpi"}, 401),
        ({"Content-Encoding": "gzip"}, 415),
    ],
    ids=lambda value: str(value)[:40],
)
def test_the_door(rig: AdminRig, headers: dict[str, str], status: int) -> None:
    answer = rig.client().get("/api/v1/nodes", headers=headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.json()["status"] == status


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large(admin: httpx.Client, chunked: bool) -> None:
    body = b" " * (1024 * 1024 + 1)
    content = iter([body[:600_000], body[600_000:]]) if chunked else body
    answer = admin.post("/api/v1/nodes", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_browser_logs_in_changes_with_its_token_and_logs_out(rig: AdminRig) -> None:
    browser = httpx.Client(base_url=rig.url, follow_redirects=False)
    page = browser.get("/", headers={"Accept": "text/html"})
    assert (page.status_code, page.headers["location"]) == (303, "/login")
    assert browser.post("/login", data={"token": "wrong"}).status_code == 401
    foreign = {"Sec-Fetch-Site": "cross-site"}
    assert browser.post("/login", data={"token": rig.token("admin")}, headers=foreign).status_code == 403
    answer = browser.post("/login", data={"token": rig.token("admin")})
    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    csrf = browser.get("/api/v1/session").json()["csrf"]
    url, body = "/api/v1/nodes/a/drain", {"reason": "x"}
    assert browser.post(url, json=body).status_code == 403
    assert browser.post(url, json=body, headers={"X-CSRF-Token": "x" * 43}).status_code == 403
    assert browser.post(url, data={"csrf_token": csrf}).status_code == 403  # a form of another site could do that
    good = {"X-CSRF-Token": csrf}
    assert browser.post(url, json=body, headers={**good, "Origin": "http://evil.example"}).status_code == 403
    assert browser.post(url, json=body, headers={**good, **foreign}).status_code == 403
    assert browser.post(url, json=body, headers={**good, "Origin": rig.url}).status_code == 200
    assert browser.post("/api/v1/nodes/a/resume", headers=good).json()["status"] == "active"
    session = dict(browser.cookies)
    assert browser.post("/logout", data={"csrf_token": csrf}).status_code == 303
    assert httpx.get(f"{rig.url}/api/v1/session", cookies=session).status_code == 401
    browser.close()


def test_a_revoked_token_and_its_session_end_at_once(rig: AdminRig, admin: httpx.Client) -> None:
    made = admin.post("/api/v1/tokens", json={"name": "short", "role": "viewer", "days": 1}).json()
    client = httpx.Client(base_url=rig.url, headers={"Authorization": f"Bearer {made['secret']}"})
    assert client.get("/api/v1/status").status_code == 200
    assert client.post("/login", data={"token": made["secret"]}).status_code == 303
    session = dict(client.cookies)
    assert admin.delete(f"/api/v1/tokens/{made['token']['id']}").status_code == 200
    assert client.get("/api/v1/status").status_code == 401
    assert httpx.get(f"{rig.url}/api/v1/session", cookies=session).status_code == 401
    listed = rig.relay.json("token", "list")
    assert made["token"]["id"] not in {row["id"] for row in listed}
    stored = (rig.relay.directory / "var" / "admin.db").read_bytes()
    assert made["secret"].encode() not in stored
    client.close()


# What is shown


def test_health_and_status(rig: AdminRig, admin: httpx.Client) -> None:
    nobody = rig.client()
    assert nobody.get("/livez").text == "ok\n"
    assert nobody.get("/readyz").status_code == 200
    assert admin.get("/api/v1/health").json() == {"ready": True, "troubles": []}
    status = admin.get("/api/v1/status").json()
    assert [worker["phase"] for worker in status["workers"]] == ["running"]
    assert {node["name"] for node in status["nodes"]} >= {"a", "b"}
    assert rig.relay.cli("healthcheck") == ""
    assert not (rig.relay.directory / "var" / "webhooks.db").exists()  # nobody listens, so nothing is read


def test_metrics_are_for_this_machine_and_for_tokens(rig: AdminRig) -> None:
    nobody = rig.client()
    answer = nobody.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'relay_worker_up{shard="0"} 1.0' in answer.text
    forwarded = {"X-Forwarded-For": "192.0.2.9"}
    assert nobody.get("/metrics", headers=forwarded).status_code == 401
    assert rig.client("viewer").get("/metrics", headers=forwarded).status_code == 200


def test_secrets_are_never_shown(rig: AdminRig, admin: httpx.Client) -> None:
    node = {"name": "x", "type": "smtp", "host": "127.0.0.1", "port": 1, "username": "u", "password": "s3cret-word"}
    assert admin.post("/api/v1/nodes?force=true", json=node).status_code == 201
    seen = [
        admin.get(path).text
        for path in ("/api/v1/nodes", "/api/v1/config", "/api/v1/audit", "/api/v1/nodes/export?format=yaml", "/metrics")
    ]
    seen.append(admin.get("/api/v1/bridges").text)
    seen.append(rig.relay.log())
    for text in seen:
        assert "s3cret-word" not in text
        assert "app-password" not in text
    assert "***" in seen[0]
    # Sent back masked, it stays what it was.
    shown = admin.get("/api/v1/nodes/x").json()["options"]
    answer = admin.put("/api/v1/nodes/x?test=false", json={**shown, "weight": 5})
    assert answer.status_code == 200, answer.text
    assert "password: s3cret-word" in rig.relay.config_path.read_text()


def test_the_queue_is_listed_held_retried_dropped_and_told_of(rig: AdminRig, admin: httpx.Client) -> None:
    for name in ("a", "b"):
        assert admin.post(f"/api/v1/nodes/{name}/pause", json={"reason": "test"}).json()["status"] == "paused"
    try:
        submit(rig.relay.port, [f"m{n}" for n in range(5)], ledger=Ledger())
        wait_for(lambda: len(admin.get("/api/v1/queue").json()["items"]) == 5, what="five waiting messages")
        page = admin.get("/api/v1/queue", params={"limit": 2}).json()
        ids = [row["id"] for row in page["items"]]
        rest = admin.get("/api/v1/queue", params={"limit": 500, "after": page["next"]}).json()
        assert (len(ids), len(rest["items"]), rest["next"]) == (2, 3, "")
        assert "paused" in page["items"][0]["reason"]
        assert admin.get(f"/api/v1/queue/{ids[0].lower()}").json()["head"].startswith("Received:")
        assert admin.get("/api/v1/queue", params={"text": "nobody has this"}).json()["items"] == []
        assert admin.post(f"/api/v1/queue/{ids[0]}/hold", json={"reason": "ask"}).json()["changed"] == 1
        held = admin.get("/api/v1/queue", params={"standing": "held"}).json()["items"]
        assert [(row["id"], row["reason"]) for row in held] == [(ids[0], "held by admin-test: ask")]
        assert admin.post(f"/api/v1/queue/{ids[1]}/drop").json()["changed"] == 1
        assert admin.post(f"/api/v1/queue/{ids[1]}/drop").status_code == 404
        assert admin.post("/api/v1/queue/drop", json={}).status_code == 422
        story = admin.get(f"/api/v1/messages/{ids[1]}").json()["story"]
        assert [event["event"] for event in story][:: len(story) - 1] == ["message.accepted", "message.dropped"]
        assert admin.post("/api/v1/queue/retry", json={"pool": "main"}).json()["changed"] == 4
    finally:
        for name in ("a", "b"):
            admin.post(f"/api/v1/nodes/{name}/resume")
    rig.relay.wait_empty()
    story = admin.get(f"/api/v1/messages/{ids[0]}").json()
    assert story["now"] is None
    assert story["story"][-1]["event"] == "attempt.delivered"
    assert admin.get("/api/v1/messages/01ARZ3NDEKTSV4RRFFQ69G5FAV").status_code == 404
    assert admin.get("/api/v1/messages/%2e%2e%2fx").status_code == 404
    audit = admin.get("/api/v1/audit", params={"action": "queue"}).json()["items"]
    assert [row["action"] for row in audit[:3]] == ["queue.retry", "queue.drop", "queue.hold"]


def test_events_stream_and_go_on_where_a_client_was(rig: AdminRig, admin: httpx.Client) -> None:
    seen: list[str] = []
    with admin.stream("GET", "/api/v1/stream", params={"name": "node"}) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.iter_lines()
        assert next(lines) == ": welcome"
        admin.post("/api/v1/nodes/a/pause", json={"reason": "seen"})
        for line in lines:
            seen.append(line)
            if line.startswith("data: "):
                break
    assert any(line == "event: node.paused" for line in seen)
    last = next(line[4:] for line in seen if line.startswith("id: "))
    admin.post("/api/v1/nodes/a/resume")
    with admin.stream("GET", "/api/v1/stream", headers={"Last-Event-ID": last}) as stream:
        for line in stream.iter_lines():
            if line.startswith("event: "):
                assert line == "event: node.resumed"
                break


# What changes in the files


def test_a_node_is_tested_before_it_is_saved(rig: AdminRig, admin: httpx.Client) -> None:
    before = rig.relay.config_path.read_text()
    node = {"name": "new", "type": "smtp", "host": "127.0.0.1", "port": 1, "tls": "none"}
    answer = admin.post("/api/v1/nodes", json=node)
    assert answer.status_code == 409
    assert "connect" in answer.json()["test"]["answer"]
    assert rig.relay.config_path.read_text() == before
    tried = admin.post("/api/v1/nodes/test", json=node).json()
    assert not tried["ok"]
    assert tried["steps"][0] == "connect 127.0.0.1:1"
    assert admin.post("/api/v1/nodes", json={"name": "new", "type": "sandbox"}).json()["test"]["ok"]
    assert admin.post("/api/v1/nodes", json={"name": "new", "type": "sandbox"}).status_code == 409


def test_a_change_touches_only_its_own_lines(rig: AdminRig, admin: httpx.Client) -> None:
    before = rig.relay.config_path.read_text()
    answer = admin.patch("/api/v1/nodes/a", json={"weight": 4, "caps": {"day": 9}})
    assert answer.status_code == 200, answer.text
    assert set(answer.json()["reload"]) >= {"workers", "needs_restart", "problem"}
    assert answer.json()["reload"]["workers"] == 1
    after = rig.relay.config_path.read_text()
    assert changed_lines(before, after) == [
        "-        caps:",
        "-          day: 100000   # by contract",
        "+        caps: {day: 9}",
        "+        weight: 4",
    ]
    assert admin.patch("/api/v1/nodes/a", json={"weight": None}).status_code == 200
    assert "weight" not in rig.relay.config_path.read_text()
    # What is there already is not written again, however it is spelt.
    once = rig.relay.config_path.read_text()
    assert admin.patch("/api/v1/nodes/a", json={"caps": {"day": {"limit": 9, "spread": False}}}).status_code == 200
    assert rig.relay.config_path.read_text() == once


def test_references_to_the_environment_stay(rig: AdminRig, admin: httpx.Client) -> None:
    assert admin.patch("/api/v1/bridges/app", json={"senders": ["@acme.example"], "limits": {"hour": 5}}).is_success
    text = rig.relay.config_path.read_text()
    assert '{username: app, password: "${APP_PASSWORD:-app-password}"}  # from the environment' in text
    assert 'senders: ["@acme.example"]' in text
    client = Client(rig.relay.port)
    assert client.command("MAIL FROM:<x@other.example>")[0] == 550  # the running relay has taken it over
    client.close()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("POST", "nodes", {"name": "Bad Name", "type": "sandbox"}, 422, '"where":"name"'),
        ("POST", "nodes", {"name": "x", "type": "nonsense"}, 422, "type"),
        ("POST", "nodes", {"name": "x", "type": "sandbox", "nonsense": 1}, 422, "nonsense"),
        ("POST", "nodes", {"name": "x", "type": "sandbox", "pool": "none"}, 422, "there is no pool"),
        ("POST", "nodes", {"name": "x", "type": "smtp", "host": "h", "password": "***"}, 422, "there is none"),
        ("POST", "nodes", {"name": "x", "type": "sandbox", "headers": {"X-A": "a\r\nBcc: x@x"}}, 422, "one line"),
        ("PUT", "nodes/a", {"name": "other"}, 409, "keeps its name"),
        ("PUT", "nodes/none", {}, 404, "there is no node"),
        ("PATCH", "pools/main", {"id": 8}, 409, "never changes"),
        ("PATCH", "bridges/app", {"pool": "none"}, 422, "not be valid"),
        ("DELETE", "bridges/app/logins/app", None, 409, "the only way"),
        ("POST", "pools", {"name": "main"}, 409, "already"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_makes_no_sense_changes_nothing(
    rig: AdminRig, admin: httpx.Client, method: str, path: str, body: dict[str, object] | None, status: int, says: str
) -> None:
    before = rig.relay.config_path.read_bytes()
    answer = admin.request(method, f"/api/v1/{path}", json=body)
    assert (answer.status_code, says in answer.text) == (status, True), answer.text
    assert rig.relay.config_path.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [b"{" * 20_000, b'{"name": NaN}', b'{"name": "\\ud800"}', b"\xff\xfe{}", b'{"a":' + b"9" * 5000 + b"}", b"", b"[]"],
    ids=["deep", "nan", "surrogate", "utf-16", "long number", "empty", "list"],
)
@pytest.mark.parametrize("path", ["nodes", "queue/retry", "tokens"])
def test_bodies_that_are_no_json(admin: httpx.Client, content: bytes, path: str) -> None:
    answer = admin.post(f"/api/v1/{path}", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"


def test_two_who_change_at_once_do_not_overwrite_each_other(admin: httpx.Client) -> None:
    seen = admin.get("/api/v1/nodes/b")
    mine = {"If-Match": seen.headers["etag"]}
    assert admin.patch("/api/v1/nodes/b", json={"weight": 2}, headers=mine).status_code == 200
    answer = admin.patch("/api/v1/nodes/b", json={"weight": 3}, headers=mine)
    assert answer.status_code == 412
    assert admin.get("/api/v1/nodes/b").json()["options"]["weight"] == 2


def test_a_pool_goes_when_nothing_depends_on_it(rig: AdminRig, admin: httpx.Client) -> None:
    assert admin.post("/api/v1/pools", json={"name": "next"}).json()["pool"]["options"]["id"] == 10
    assert admin.patch("/api/v1/bridges/app", json={"pool": "spare"}).is_success
    answer = admin.delete("/api/v1/pools/spare")
    assert answer.status_code == 409
    assert answer.json()["move_first"] == {"nodes": ["s"], "bridges": ["app"]}
    assert admin.post("/api/v1/nodes/s/reassign", json={"pool": "main"}).status_code == 422  # a bridge leads there
    assert admin.patch("/api/v1/bridges/app", json={"pool": "main"}).is_success
    moved = admin.post("/api/v1/nodes/s/reassign", json={"pool": "main"}).json()
    assert (moved["node"]["pool"], moved["in_flight"]) == ("main", 0)
    moved = admin.post("/api/v1/nodes/a/reassign", json={"pool": "next"})
    assert moved.is_success, moved.text
    text = rig.relay.config_path.read_text()
    assert "      # the good one\n      - name: a   # keep\n        type: sandbox\n" in text
    assert text.index("name: next") < text.index("# the good one")
    assert admin.delete("/api/v1/pools/spare").json()["deleted"] == ["spare"]
    assert {pool["name"] for pool in admin.get("/api/v1/pools").json()} == {"main", "next"}


def test_a_pool_with_mail_stays(rig: AdminRig, admin: httpx.Client) -> None:
    for name in ("a", "b"):
        admin.post(f"/api/v1/nodes/{name}/pause", json={"reason": "test"})
    try:
        submit(rig.relay.port, ["w"], ledger=Ledger())
        wait_for(lambda: admin.get("/api/v1/pools/main").json()["messages"] == 1, what="a waiting message")
        first = admin.delete("/api/v1/pools/main").json()["move_first"]
        assert first == {"nodes": ["a", "b"], "bridges": ["app"], "messages": 1}
    finally:
        for name in ("a", "b"):
            admin.post(f"/api/v1/nodes/{name}/resume")
    rig.relay.wait_empty()


def test_a_bridge_is_made_rotated_and_revoked(rig: AdminRig, admin: httpx.Client) -> None:
    made = admin.post("/api/v1/bridges", json={"name": "shop", "pool": "main"}).json()
    Client(rig.relay.port, user="shop", password=made["password"]).close()
    rotated = admin.post("/api/v1/bridges/shop/rotate", json={"keep": True}).json()
    assert rotated["username"] == "shop-2"
    Client(rig.relay.port, user="shop", password=made["password"]).close()
    Client(rig.relay.port, user="shop-2", password=rotated["password"]).close()
    assert admin.delete("/api/v1/bridges/shop/logins/shop").json()["bridge"]["usernames"] == ["shop-2"]
    again = admin.post("/api/v1/bridges/shop/rotate", json={}).json()
    Client(rig.relay.port, user="shop-2", password=again["password"]).close()
    assert made["password"] not in admin.get("/api/v1/audit").text
    assert admin.delete("/api/v1/bridges/shop").json()["deleted"] == ["shop"]


def test_the_paths_that_scripts_know(rig: AdminRig, admin: httpx.Client) -> None:
    added = admin.post("/api/sending-node/add/sandbox", json={"name": "old-1"})
    assert added.status_code == 201, added.text
    assert admin.post("/api/sending-node/add/sandbox", json={"name": "old-2"}).status_code == 201
    assert admin.post("/api/sending-node/add/nonsense", json={"name": "old-3"}).status_code == 404
    assert {"a", "old-1", "old-2"} <= {row["name"] for row in admin.get("/api/sending-node/get-all").json()}
    assert admin.put("/api/sending-node/update/old-1", json={"weight": 7}).json()["node"]["options"]["weight"] == 7
    assert admin.get("/api/sending-node/old-1").json()["options"]["weight"] == 7
    assert admin.delete("/api/sending-node/delete/old-1,none").status_code == 404
    assert admin.delete("/api/sending-node/delete/old-1,old-2").json()["deleted"] == ["old-1", "old-2"]
    assert admin.get("/api/sending-node/old-1").status_code == 404


@pytest.mark.parametrize("form", ["json", "yaml", "csv"])
def test_nodes_go_out_and_come_in_again(admin: httpx.Client, form: str) -> None:
    node = {"name": "bulk", "type": "sandbox", "weight": 2, "caps": {"hour": 5}, "headers": {"X-A": "1"},
            "sender_domains": ["acme.example", "other.example"]}  # fmt: skip
    assert admin.post("/api/v1/nodes", json=node).status_code == 201
    shown = admin.get("/api/v1/nodes/bulk").json()
    exported = admin.get("/api/v1/nodes/export", params={"format": form}).content
    assert admin.delete("/api/v1/nodes/bulk").status_code == 200
    url = f"/api/v1/nodes/import?format={form}"
    trial = admin.post(f"{url}&dry_run=true", content=exported).json()
    assert (trial["added"], trial["failed"]) == (1, 3)
    result = admin.post(url, content=exported).json()
    assert (result["added"], result["failed"]) == (1, 3)  # those that are there already
    assert admin.get("/api/v1/nodes/bulk").json()["options"] == shown["options"]
    again = admin.post(f"{url}&update=true", content=exported).json()
    assert (again["added"], again["updated"], again["failed"]) == (0, 4, 0)


def test_files_that_a_person_broke_meanwhile(rig: AdminRig, admin: httpx.Client) -> None:
    path = rig.relay.config_path
    good = path.read_text()
    path.write_text(good.replace("workers: 1", "workers: many"))
    try:
        view = admin.get("/api/v1/config").json()
        assert not view["valid"]
        assert "relay.yaml:5:" in view["errors"][0]["where"]
        answer = admin.patch("/api/v1/nodes/a", json={"weight": 2})
        assert answer.status_code == 422
        assert "relay.yaml:5:" in answer.json()["errors"][0]["where"]
        assert admin.get("/api/v1/nodes").status_code == 200
    finally:
        path.write_text(good)
    assert admin.get("/api/v1/config").json()["valid"]


def test_a_paused_node_comes_back_by_itself(admin: httpx.Client) -> None:
    answer = admin.post("/api/v1/nodes/b/pause", json={"reason": "a moment", "for_seconds": 1}).json()
    assert answer["paused_until"] > time.time() - 5
    wait_for(lambda: admin.get("/api/v1/nodes/b").json()["state"]["status"] == "active", what="the end of the pause")


def test_options_that_a_driver_cannot_use_fail_the_test_and_nothing_else(rig: AdminRig, admin: httpx.Client) -> None:
    node = {"name": "x", "type": "elasticemail", "api_key": "schl\u00fcssel-\u2603"}
    answer = admin.post("/api/v1/nodes/test", json=node)
    assert answer.status_code in (200, 422), answer.text
    assert "\u2603" not in answer.text
    assert not rig.relay.events("relay.fault")
