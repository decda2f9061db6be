"""The commands around changing a running relay, the way an operator meets them."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from tests.scenario.clients import Client, message_bytes
from tests.scenario.conftest import Scene
from tests.scenario.harness import ROOT, wait_for

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(120)]


def test_plan_then_reload_then_what_status_says(scene: Scene) -> None:
    sink = scene.sink("sink")
    relay = scene.relay([sink.node()], workers=2)
    wait_for(lambda: len(relay.workers()) == 2, what="two workers")
    assert relay.cli("plan", code=0) == "No change.\n"
    with Client(relay.port) as client:
        for number in range(6):
            client.send(message_bytes(f"m{number}"))
    relay.wait_empty()
    time.sleep(0.5)  # the history writes five times a second
    config = json.loads(relay.config_path.read_text())
    (node,) = config["pools"][0]["nodes"]
    config["pools"][0]["nodes"].append({**node, "name": "second", "caps": {"hour": 100}})
    config["workers"] = 3
    new = relay.directory / "new.yaml"
    new.write_text(json.dumps(config))

    planned = json.loads(relay.cli("plan", "-c", str(new), "--json", code=1))
    assert planned["needs_restart"] == ["workers"]
    (pool,) = planned["pools"]
    assert (pool["day_before"], pool["hour_before"], pool["hour_after"]) == (6, None, None)
    assert {n["node"]: (n["day_before"], n["day_after"]) for n in pool["nodes"]} == {
        node["name"]: (6, 3),
        "second": (0, 3),
    }
    shown = relay.cli("plan", "-c", str(new), code=1)
    assert "+ node second" in shown
    assert "Only a restart takes over: workers." in shown
    assert relay.cli("plan", code=0) == "No change.\n"  # nothing was taken over by looking

    relay.config_path.write_text(new.read_text())
    said = relay.cli("reload")
    assert "Taken over by 2 workers" in said
    assert "Only a restart takes over: workers." in said
    assert "Delivery is watched until" in relay.cli("status")
    assert [row["name"] for row in relay.json("node", "list")] == [node["name"], "second"]

    relay.config_path.write_text(new.read_text().replace('"second"', '"second", "portt": 1'))
    relay.cli("plan", code=78)
    relay.cli("reload", code=78)
    told = relay.cli("status")
    assert "The last reload failed" in told
    assert 'unknown key; did you mean "port"?' in told
    relay.config_path.write_text(new.read_text())
    relay.cli("reload")
    assert "The last reload failed" not in relay.cli("status")
    relay.stop()
    relay.cli("reload", code=69)
    relay.cli("plan", code=64)
    assert relay.cli("plan", "--against", str(new), code=0) == "No change.\n"


def test_top_trace_and_drain(scene: Scene) -> None:
    sink = scene.sink("sink")
    slow = scene.sink("slow", delay_s=2.0)
    relay = scene.relay([{**sink.node(), "name": "quick"}, {**slow.node(), "name": "slow"}], workers=2)
    wait_for(lambda: len(relay.workers()) == 2, what="two workers")
    with subprocess.Popen(
        [sys.executable, "-m", "relay", "-c", str(relay.config_path), "trace", "--for", "6s", "--json"],
        cwd=relay.directory,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        text=True,
    ) as tracing:
        time.sleep(2)
        with Client(relay.port) as client:
            for number in range(4):
                client.send(message_bytes(f"m{number}"))
        assert "drained and paused" in relay.cli("node", "drain", "slow", "--reason", "moved")
        assert "slow" not in {name for w in relay.ask("status") for name in w["attempts_by_node"]}
        assert len(slow.transactions()) >= 1
        assert relay.node("slow")["pause_reason"] == "moved"
        shown = relay.json("top", "--every", "0.5")
        assert [line["name"] for line in shown["nodes"]] == ["quick", "slow"]
        assert "quick" in relay.cli("top", "--once", "--every", "0.5")
        assert tracing.stdout is not None
        heard = [json.loads(line) for line in tracing.stdout]
    assert tracing.returncode == 0
    assert {line["side"] for line in heard} == {"client", "node"}
    assert "app-password" not in str(heard)
    assert "quick brown fox" not in str(heard)
    assert any(line["text"].startswith("MAIL FROM:<app@acme.example>") for line in heard if line["side"] == "node")


def test_simulate_answers_from_the_files_alone(scene: Scene) -> None:
    nodes = [
        {"name": "a", "type": "sandbox", "caps": {"hour": 100}},
        {"name": "b", "type": "sandbox", "caps": {"hour": 300}},
    ]
    relay = scene.relay(nodes, start=False)
    found = relay.json("simulate", "--messages", "600", "--per-hour", "1200", "--fail", "a@0:02-0:40")
    assert (found["delivered"], found["expired"], found["left"]) == (600, 0, 0)
    a, b = found["nodes"]
    assert a["messages"] + b["messages"] == 600
    assert a["down_s"] >= 1500
    assert b["caps"][0]["window_s"] == 3600
    assert found["cleared_at_s"] > 3600
    shown = relay.cli("simulate", "--messages", "600", "--per-hour", "1200")
    assert "The backlog was cleared at 1:" in shown
    relay.cli("simulate", code=64)
    relay.cli("simulate", "--messages", "1", "--fail", "nobody@0:00-0:01", code=64)
    relay.cli("simulate", "--messages", "1", "--bridge", "nobody", code=65)
    assert not (relay.directory / "var").exists()
