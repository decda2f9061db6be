"""An operator at work: every command against running relays, their starts, their stops and their ends."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.scenario.clients import Client, Ledger, Load, Refused, message_bytes, submit
from tests.scenario.conftest import Scene
from tests.scenario.harness import ROOT, Relay, free_port, wait_for

pytestmark = pytest.mark.scenario

SLOW_CHECKS = {"recheck_every": "10m", "recheck_for": "1h"}


def names(count: int, prefix: str = "m") -> list[str]:
    return [f"{prefix}{n}" for n in range(count)]


def waits(relay: Relay, count: int) -> list[dict[str, Any]]:
    """The queue, once it holds so many and none of them is with a node or undecided."""

    def settled() -> list[dict[str, Any]] | None:
        rows = relay.json("queue", "list", "--limit", "1000")
        return rows if len(rows) == count and {row["state"] for row in rows} <= {"waiting", "held"} else None

    return list(wait_for(settled, what=f"{count} waiting messages"))


@pytest.mark.parametrize("workers", [1, 2])
def test_mail_behind_a_full_cap_is_told_of_held_dropped_and_sent(scene: Scene, workers: int) -> None:
    sink = scene.sink("a")
    relay = scene.relay([sink.node(caps={"day": 3})], workers=workers)
    ledger = Ledger()
    for prefix in ("m", "n"):  # several sessions, so that several workers get some
        submit(relay.port, names(6, prefix), ledger=ledger)
    rows = waits(relay, 9)
    assert all("3 of 3 recipients in 1d used" in row["reason"] for row in rows)
    assert all(23 * 3600 < row["due"] - time.time() < 25 * 3600 for row in rows)

    status = relay.cli("status")
    assert f"is running: {workers} worker" in status
    assert "Mail of pool main waits until" in status
    assert "3/3/day" in status
    told = relay.cli("explain", rows[-1]["id"])
    assert "now: waits until" in told
    assert "a capped: 3 of 3 recipients in 1d used" in told
    delivered = next(
        ledger.id_of(name) for name in ledger.promised if ledger.id_of(name) not in {r["id"] for r in rows}
    )
    told = relay.cli("explain", delivered)
    assert "→ a chosen" in told
    assert "250 2.0.0" in told
    assert told.endswith("now: done (delivered)\n")

    held, dropped, stays = rows[0]["id"], rows[1]["id"], rows[2]["id"]
    assert relay.cli("queue", "hold", held, "--reason", "ask the sender") == "1 message held.\n"
    assert relay.cli("queue", "drop", "--yes", dropped) == "1 message dropped.\n"
    assert relay.cli("queue", "retry", stays) == "1 message will be tried now.\n"
    assert "ask the sender" in relay.cli("explain", held)
    assert "removed by" in relay.cli("explain", dropped)
    relay.cli("queue", "drop", dropped, "--yes", code=os.EX_DATAERR)
    waits(relay, 8)
    assert relay.cli("queue", "drop", "--yes", "--pool", "main") == "8 messages dropped.\n"
    assert relay.cli("queue", "list") == "The queue is empty.\n"
    assert relay.stop() == 0
    assert len(sink.names()) == 3


def test_a_stopped_relay_tells_of_the_same_mail_the_same_things(scene: Scene) -> None:
    sink = scene.sink("a")
    relay = scene.relay([sink.node(caps={"day": 1})], workers=2)
    for prefix in ("m", "n"):
        submit(relay.port, names(4, prefix), ledger=Ledger())
    running = waits(relay, 7)
    assert relay.stop() == 0
    stopped = waits(relay, 7)
    differs = {"due", "reason", "leased", "attempts"}  # an attempt that waits for a permit is not begun after all
    for before, after in zip(running, stopped, strict=True):
        assert {key: after[key] for key in after.keys() - differs} == {
            key: before[key] for key in before.keys() - differs
        }
        assert after["due"] == pytest.approx(before["due"], abs=2)
        assert "1 of 1 recipients in 1d used" in after["reason"]
    assert "The relay is stopped" in relay.cli("status")
    assert "a capped" in relay.cli("explain", stopped[0]["id"])


def test_a_paused_node_takes_nothing_from_the_moment_the_command_ends(scene: Scene) -> None:
    first, second = scene.sink("a"), scene.sink("b")
    relay = scene.relay([first.node(), second.node()], workers=2)
    assert "paused until 20" in relay.cli("node", "pause", "a", "--reason", "new password", "--for", "2h")
    with Load(relay.port, names(40), ledger=Ledger(), sessions=4) as load:
        load.wait()
    relay.wait_empty()
    assert (len(first.names()), len(second.names())) == (0, 40)
    assert "new password" in relay.cli("status")
    assert relay.cli("node", "resume", "a") == "a is active.\n"
    submit(relay.port, names(10, "after"), ledger=Ledger())
    relay.wait_empty()
    assert len(first.names()) == 5


def test_testing_a_node_brings_it_back_when_it_is_well(scene: Scene) -> None:
    sink = scene.sink("a")
    relay = scene.relay([sink.node()], health=SLOW_CHECKS)
    sink.close()
    submit(relay.port, ["m"], ledger=Ledger())
    (row,) = waits(relay, 1)
    assert "Connection refused" in row["reason"]
    assert "FAIL a: connect:" in relay.cli("node", "test", "--all", code=os.EX_UNAVAILABLE)
    sink.start()
    assert "ok   a:" in relay.cli("node", "test", "a")
    relay.wait_empty()
    assert sink.names() == ["m"]


def test_a_revoked_login_ends_at_its_next_mail_and_a_new_one_works_at_once(scene: Scene) -> None:
    sink = scene.sink("a")
    relay = scene.relay([sink.node()], workers=2)
    comment = "# who may log in\n"
    relay.config_path.write_text(comment + relay.config_path.read_text())
    added = relay.json("bridge", "add", "shop", "--pool", "main")
    assert added["running"] == 2
    assert relay.config_path.read_text().startswith(comment)
    clients = [Client(relay.port, user="shop", password=added["password"]) for _ in range(4)]
    for client in clients:
        client.send(b"From: shop@acme.example\r\n\r\nhello\r\n", sender="shop@acme.example")
    assert "The running relay uses it from now on." in relay.cli("bridge", "revoke", "shop")
    for client in clients:
        code, _ = client.command("MAIL FROM:<shop@acme.example>")
        assert code in (421, 530, 535)
        client.drop()
    with pytest.raises(Refused):
        Client(relay.port, user="shop", password=added["password"])
    Client(relay.port).close()
    relay.wait_empty()
    assert len(sink.transactions()) == 4  # what was accepted is delivered


def test_a_change_that_needs_more_than_the_bridges_says_so(scene: Scene) -> None:
    relay = scene.relay([scene.sink("a").node()])
    relay.write({**relay.config, "drain": "6s"})
    assert "only taken over by a restart: drain" in relay.cli("bridge", "add", "shop", "--pool", "main")


def test_commands_reach_a_running_relay_whose_files_are_broken_since(scene: Scene) -> None:
    relay = scene.relay([scene.sink("a").node()])
    text = relay.config_path.read_text()
    relay.config_path.write_text(text.replace('"version": 1', '"version": 1, "nonsense": true'))
    assert "is running" in relay.cli("status")
    assert relay.cli("healthcheck") == ""
    assert relay.cli("node", "list").startswith("NODE")
    relay.cli("check", code=os.EX_CONFIG)
    relay.cli("bridge", "add", "shop", code=os.EX_CONFIG)
    assert relay.stop() == 0
    relay.cli("status", code=os.EX_CONFIG)


def test_mail_of_fewer_workers_is_taken_over_and_delivered(scene: Scene) -> None:
    sink = scene.sink("a")
    relay = scene.relay([sink.node()], workers=3)
    wait_for(lambda: len(relay.workers()) == 3, what="three workers")
    relay.cli("node", "pause", "a", "--reason", "until there are fewer")
    with Load(relay.port, names(60), ledger=Ledger(), sessions=12) as load:
        load.wait()
    shards = [worker["shard"] for worker in relay.json("status")["workers"] if worker["queues"]]
    assert len(shards) > 1, "the kernel gave one worker everything"
    relay.kill()
    relay.write({**relay.config, "workers": 1})
    assert len(relay.json("queue", "list", "--limit", "100")) == 60
    relay.start()
    assert relay.queued() == 60
    assert sorted(event["shard"] for event in relay.events("relay.adopted")) == ["1", "2"]
    assert not list((scene.directory / "var").glob("spool-[12]*"))
    relay.cli("node", "resume", "a")
    relay.wait_empty()
    assert sorted(sink.names()) == sorted(names(60))


def test_a_second_relay_on_the_same_folder_is_refused_and_disturbs_nothing(scene: Scene) -> None:
    sink = scene.sink("a")
    relay = scene.relay([sink.node()])
    done = command(relay, "run")
    assert done.returncode == os.EX_UNAVAILABLE
    assert f"as process {relay.process.pid}" in done.stderr  # type: ignore[union-attr]
    ledger = Ledger()
    submit(relay.port, names(5), ledger=ledger)
    assert len(ledger.promised) == 5
    relay.wait_empty()


def test_a_worker_that_is_stuck_is_reported_and_the_others_are_shown(scene: Scene) -> None:
    relay = scene.relay([scene.sink("a").node()], workers=2)
    stuck = wait_for(lambda: len(found := relay.workers()) == 2 and found, what="both workers")[1]
    os.kill(stuck, signal.SIGSTOP)
    try:
        told = relay.cli("status", code=os.EX_TEMPFAIL)
        relay.cli("healthcheck", code=os.EX_UNAVAILABLE)
    finally:
        os.kill(stuck, signal.SIGCONT)
    assert "worker 1 did not answer within 10 s" in told
    assert "is running: 1 worker" in told
    wait_for(lambda: command(relay, "healthcheck").returncode == 0, what="health")


def test_commands_during_starts_and_stops_give_an_answer_or_ask_to_be_tried_again(scene: Scene) -> None:
    relay = scene.relay([scene.sink("a").node(caps={"day": 1})], workers=2)
    scene.excuse("in use by process")  # a command may have a stopped shard open for a moment
    submit(relay.port, names(5), ledger=Ledger())
    waits(relay, 4)
    seen: list[subprocess.CompletedProcess[str]] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.append(command(relay, "queue", "list", "--json"))

    watchers = [threading.Thread(target=look) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(3):
            assert relay.stop() == 0
            relay.start()
    finally:
        over.set()
        for watcher in watchers:
            watcher.join(60)
    assert seen
    for done in seen:
        assert done.returncode in (0, os.EX_TEMPFAIL), done.stderr
        assert "Traceback" not in done.stderr
    waits(relay, 4)


def test_after_kill_9_commands_read_the_files(scene: Scene) -> None:
    relay = scene.relay([scene.sink("a").node(caps={"day": 1})])
    submit(relay.port, names(3), ledger=Ledger())
    waits(relay, 2)
    relay.kill()
    assert (scene.directory / "var" / "control-0.sock").exists()
    assert "The relay is stopped" in relay.cli("status")
    assert len(relay.json("queue", "list")) == 2
    relay.cli("healthcheck", code=os.EX_UNAVAILABLE)


def test_twenty_thousand_messages_are_listed_and_changed_in_seconds(scene: Scene) -> None:
    relay = scene.relay([scene.sink("a").node(caps={"day": 1})], workers=2)
    count = 20_000 if os.environ.get("RELAY_LONG_TESTS") else 4_000
    with Load(relay.port, names(count), ledger=Ledger(), sessions=8) as load:
        load.wait(110)
    began = time.monotonic()
    rows = relay.json("queue", "list", "--limit", str(count))
    took = {"list": time.monotonic() - began}
    assert len(rows) in (count - 1, count)
    began = time.monotonic()
    assert relay.cli("queue", "hold", "--text", "message m1", "--reason", "x").endswith(" messages held.\n")
    took["hold"] = time.monotonic() - began
    began = time.monotonic()
    relay.cli("status")
    took["status"] = time.monotonic() - began
    began = time.monotonic()
    relay.cli("queue", "drop", "--yes", "--pool", "main")
    took["drop"] = time.monotonic() - began
    assert relay.queued() == 0
    assert max(took.values()) < 20, took
    scene.result(messages=count, **{f"{name}_s": round(value, 1) for name, value in took.items()})


def test_root_leaves_no_file_behind_that_the_relays_user_could_not_open(scene: Scene) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    scene.directory = Path(tempfile.mkdtemp(prefix="relay-"))  # nobody can go into pytest's own folders
    scene.directory.chmod(0o755)
    relay = scene.relay([scene.sink("a").node(caps={"day": 1})])
    submit(relay.port, names(2), ledger=Ledger())
    waits(relay, 1)
    assert relay.stop() == 0
    nobody = 65534
    for path in [scene.directory / "var", *(scene.directory / "var").rglob("*")]:
        os.chown(path, nobody, nobody)
    assert len(relay.json("queue", "list")) == 1
    relay.cli("node", "pause", "a", "--reason", "x")
    relay.cli("queue", "drop", "--yes", "--pool", "main")
    foreign = [path.name for path in (scene.directory / "var").rglob("*") if path.stat().st_uid != nobody]
    assert not foreign
    shutil.rmtree(scene.directory)


def test_what_init_prints_works_when_it_is_pasted(tmp_path: Path) -> None:
    """From an empty folder to a delivered message with nothing but the printed lines."""
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    init = subprocess.run(
        [sys.executable, "-m", "relay", "init", "--type", "sandbox", "--bind", f"127.0.0.1:{port}"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    run, send, status = (shlex.split(line) for line in init.stdout.splitlines() if " -c " in line)
    process = subprocess.Popen(run, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:

        def paste(words: list[str]) -> subprocess.CompletedProcess[str]:
            return subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)

        sent = wait_for(lambda: (done := paste(send)).returncode == 0 and done, what="the printed message to go")
        assert "queued as" in sent.stdout
        wait_for(lambda: list((tmp_path / "var" / "sandbox").rglob("*.eml")), what="the message in the sandbox")
        assert "is running" in paste(status).stdout
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def command(relay: Relay, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "relay", "-c", str(relay.config_path), *args],
        cwd=relay.directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_each_campaign_has_its_own_count_per_node(scene: Scene) -> None:
    sinks = [scene.sink(name) for name in ("a", "b")]
    relay = scene.relay([sink.node() for sink in sinks])
    with Client(relay.port) as client:
        for number, campaign in enumerate(["spring"] * 4 + ["summer"] * 2 + [""]):
            tag = f"X-Relay-Campaign: {campaign}\r\n".encode() if campaign else b""
            assert client.send(tag + message_bytes(f"m{number}"))[0] == 250
    relay.wait_empty()

    def told() -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for row in relay.json("pool", "campaigns"):
            found.setdefault(row["campaign"], {})[row["node"]] = row["counts"]["delivered"]
        return found

    wait_for(lambda: told() == {"spring": {"a": 2, "b": 2}, "summer": {"a": 1, "b": 1}}, what="counts of two campaigns")
    assert not any("X-Relay-Campaign" in t["head"] for sink in sinks for t in sink.transactions())
    assert relay.stop() == 0
    assert "summer" in relay.cli("pool", "campaigns", "main")
    relay.cli("pool", "campaigns", "nosuch", code=os.EX_DATAERR)
