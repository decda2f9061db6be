"""The control process beside the workers: it may come and go, mail does not notice."""

from __future__ import annotations

import os
import re
import signal
import time

import httpx
import pytest

from tests.fakes.smtp_server import reply
from tests.scenario.admin_rig import AdminRig
from tests.scenario.clients import Ledger, Load, submit
from tests.scenario.conftest import Scene
from tests.scenario.harness import wait_for

pytestmark = pytest.mark.scenario


RECIPIENTS = ("x@example.net", "y@example.net")


def names(count: int, prefix: str = "m") -> list[str]:
    return [f"{prefix}{n}" for n in range(count)]


def totals(text: str) -> dict[str, float]:
    """Sum of each family over all shards; `finished` by result."""
    found: dict[str, float] = {}
    for name, labels, value in re.findall(r"^(relay_recipients_\w+)\{([^}]*)\} (\S+)$", text, re.MULTILINE):
        result = re.search(r'result="(\w+)"', labels)
        key = result[1] if result else name.removeprefix("relay_recipients_").removesuffix("_total")
        found[key] = found.get(key, 0.0) + float(value)
    return found


def imbalance(books: dict[str, float]) -> float:
    done = sum(books[key] for key in ("delivered", "failed", "expired", "dropped", "withdrawn"))
    return books["found"] + books["accepted"] - done - books["pending"]


def test_every_scrape_under_load_balances(scene: Scene) -> None:
    """Deliveries, refusals with their reports, several recipients, held and dropped mail, and two crashes."""
    sink, refusing = scene.sink("a"), scene.upstream("b")
    refusing.at("rcpt", reply("550 5.1.1 no such user"))
    rig = AdminRig(scene.directory, [sink.node(), refusing.node()], workers=2)
    count = 2000 if os.environ.get("RELAY_LONG_TESTS") else 500
    scrapes = []
    try:
        rig.start()
        admin = rig.client("admin")
        with Load(rig.relay.port, names(count), ledger=Ledger(), sessions=4, recipients=RECIPIENTS) as load:
            for turn in range(20):
                scrapes.append(totals(admin.get("/metrics").text))
                if turn == 5:
                    admin.post("/api/v1/nodes/a/pause", json={"reason": "so that something waits"})
                if turn == 9:
                    admin.post("/api/v1/queue/drop", json={"text": "message m1"})
                    admin.post("/api/v1/queue/hold", json={"text": "message m2"})
                if turn == 12:
                    admin.post("/api/v1/nodes/a/resume")
                time.sleep(0.05)
            load.wait()
        for _ in range(5):
            scrapes.append(totals(admin.get("/metrics").text))
        assert [imbalance(books) for books in scrapes] == [0.0] * len(scrapes)
        assert max(books["pending"] for books in scrapes) > 0
        # What the queue itself holds, counted one by one, is what the books say.
        for name in ("a", "b"):
            admin.post(f"/api/v1/nodes/{name}/pause", json={"reason": "so that the rest stays"})
        submit(rig.relay.port, names(30, "late"), ledger=Ledger(), recipients=RECIPIENTS)
        admin.post("/api/v1/queue/hold", json={"text": "message late2"})
        wait_for(lambda: not any(row["state"] == "delivering" for row in rig.relay.entries()), what="attempts to end")
        waiting = sum(r["status"] == "pending" for row in rig.relay.entries() for r in row["recipients"])
        assert waiting >= 60
        books = totals(admin.get("/metrics").text)
        assert books["pending"] == waiting
        rig.relay.kill()
        rig.start()
        books = totals(admin.get("/metrics").text)
        assert (books["found"], imbalance(books)) == (waiting, 0)
        for name in ("a", "b"):
            admin.post(f"/api/v1/nodes/{name}/resume")
        admin.post("/api/v1/queue/retry", json={"standing": "held"})
        rig.relay.wait_empty()
        books = totals(admin.get("/metrics").text)
        assert (books["pending"], imbalance(books)) == (0, 0)
        assert books["failed"] > 0
        scene.result(scrapes=len(scrapes), waiting=waiting)
    finally:
        rig.close()


def test_it_is_killed_again_and_again_while_mail_flows(scene: Scene) -> None:
    sink = scene.sink("a")
    rig = AdminRig(scene.directory, [sink.node()])
    ledger = Ledger()
    try:
        rig.start()
        with Load(rig.relay.port, names(150), ledger=ledger, sessions=3) as load:
            for _ in range(2):
                pid = rig.admin_pid()
                os.kill(pid, signal.SIGKILL)
                wait_for(lambda pid=pid: rig.admin_pid() != pid and rig.is_up(), what="the next control process")
            load.wait()
        rig.relay.wait_empty()
        assert not ledger.unclear
        assert len(ledger.promised) == 150
        assert sorted(sink.names()) == sorted(ledger.promised)
        assert not rig.relay.events("relay.fault")
        started = [e for e in rig.relay.events("supervisor.worker_started") if "worker" in e]
        assert len(started) == 1
        began = time.monotonic()
        with httpx.stream("GET", f"{rig.url}/api/v1/stream", headers=dict(rig.client("viewer").headers)) as stream:
            assert stream.status_code == 200
            assert rig.relay.stop() == 0  # an open stream does not hold it up
        assert time.monotonic() - began < 10
    finally:
        rig.close()


def test_a_port_that_is_taken_is_no_reason_not_to_take_mail(scene: Scene) -> None:
    sink = scene.sink("a")
    for name in ("1", "2"):
        (scene.directory / name).mkdir()
    first = AdminRig(scene.directory / "1", [sink.node()])
    second = AdminRig(scene.directory / "2", [sink.node()], admin={"bind": f"127.0.0.1:{first.port}"})
    try:
        first.start()
        second.relay.start()
        wait_for(lambda: second.relay.events("admin.unavailable"), what="word of the port")
        assert "another process listens there" in second.relay.events("admin.unavailable")[0]["error"]
        with Load(second.relay.port, names(3), ledger=Ledger(), sessions=1) as load:
            load.wait()
        second.relay.wait_empty()
        first.relay.stop()
        second.url = first.url
        wait_for(second.is_up, seconds=40, what="the second one's turn")
    finally:
        first.close()
        second.close()


def test_off_is_off(scene: Scene) -> None:
    relay = scene.relay([scene.sink("a").node()], admin="off")
    assert not [e for e in relay.events("supervisor.worker_started") if "companion" in e]


def test_the_first_token_is_kept_for_its_owner_alone(scene: Scene) -> None:
    rig = AdminRig(scene.directory, [scene.sink("a").node()])
    try:
        rig.start()
        path = scene.directory / "var" / "first-admin-token"
        wait_for(path.exists, what="the token")
        assert path.stat().st_mode & 0o777 == 0o600
        token = path.read_text().strip()
        assert token not in rig.relay.log()
        answer = httpx.get(f"{rig.url}/api/v1/session", headers={"Authorization": f"Bearer {token}"})
        assert answer.json()["role"] == "admin"
    finally:
        rig.close()


def test_readiness_follows_the_workers(scene: Scene) -> None:
    rig = AdminRig(scene.directory, [scene.sink("a").node()], workers=2)
    try:
        rig.start()
        wait_for(lambda: len(rig.relay.workers()) == 2, what="both workers")
        assert httpx.get(f"{rig.url}/readyz").status_code == 200
        stuck = rig.relay.workers()[0]
        os.kill(stuck, signal.SIGKILL)
        wait_for(lambda: httpx.get(f"{rig.url}/readyz", timeout=30).status_code == 503, what="trouble")
        wait_for(lambda: httpx.get(f"{rig.url}/readyz", timeout=30).status_code == 200, what="the successor")
        assert httpx.get(f"{rig.url}/livez").status_code == 200
    finally:
        rig.close()
