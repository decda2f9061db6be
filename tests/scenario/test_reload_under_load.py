"""R28, B088, B242: a hundred reloads of every kind under load, and workers that die around one.

RELAY_RELOADS sets the number of edits; CI makes a quarter of them.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.scenario.audit import audit
from tests.scenario.clients import Client, Ledger, Load, message_bytes
from tests.scenario.conftest import Scene
from tests.scenario.harness import ControlRefused, Relay, _exchange, free_port, wait_for
from tests.scenario.sink import Sink

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(300)]

EDITS = int(os.environ.get("RELAY_RELOADS", "25"))
ROTATIONS = ("random", "round-robin", "weighted", "priority", "least-used", "interval")


def reload_by(relay: Relay, shard: int) -> dict[str, Any]:
    """Reload, led by one worker. Raises ControlRefused with its words."""
    path = relay.directory / "var" / f"control-{shard}.sock"
    answer = json.loads(_exchange(path, b'{"op": "reload", "args": {}}\n'))
    if "error" in answer:
        raise ControlRefused(answer["error"])
    result: dict[str, Any] = answer["result"]
    return result


def any_config(relay: Relay, sinks: list[Sink], keys: list[Path], rng: random.Random) -> dict[str, Any]:
    """A valid configuration: whatever may change on a running relay is drawn anew."""
    names = rng.sample([f"n{n}" for n in range(8)], rng.randint(1, 5))
    nodes = [
        rng.choice(sinks).node()
        | {
            "name": name,
            "weight": rng.randint(1, 5),
            "priority": rng.randint(1, 3),
            "connections": rng.randint(1, 10),
            "messages_per_connection": rng.choice([1, 10, 100]),
            "caps": rng.choice([{}, {"hour": 100_000}, {"second": 200, "day": 1_000_000}]),
            "headers": rng.choice([{}, {"X-Node": name}]),
            "max_recipients": rng.choice([1, 100]),
            "smtputf8": rng.random() < 0.7,
        }
        for name in names
    ]
    aside = [nodes.pop()] if len(nodes) > 1 and rng.random() < 0.5 else []
    pools = [{"name": "main", "id": 7, "mta": "mta4", "rotation": rng.choice(ROTATIONS), "nodes": nodes}]
    if aside:
        pools.append({"name": "side", "id": 8, "mta": "mta4", "rotation": rng.choice(ROTATIONS), "nodes": aside})
    app = {
        "name": "app",
        "pool": rng.choice(pools)["name"],
        "share": rng.randint(1, 5),
        "credentials": [{"username": "app", "password": "app-password"}],
        "limits": rng.choice([{}, {"size": "1MB", "connections": 100}, {"hour": 1_000_000}]),
    }
    other = {"name": "other", "pool": "main", "credentials": [{"username": "other", "password": f"p{rng.random()}"}]}
    return {
        **relay.config,
        "hostname": rng.choice(["relay.example.com", "mx.example.com"]),
        "headers": rng.choice([{}, {"X-Relayed-By": "acme"}]),
        "dkim": [{"domain": "acme.example", "selector": "s1", "key_file": str(k)} for k in keys[: rng.randint(0, 1)]],
        "retry": {"schedule": rng.choice([["1s", "2s"], ["1s", "1s", "3s"]]), "max_age": "1h"},
        "limits": {"per_address": rng.randint(100, 500), "size": rng.choice(["5MB", "25MB"])},
        "health": {"recheck_every": rng.choice(["1s", "2s"])},
        "bridges": [app, other][: rng.randint(1, 2)],
        "pools": pools,
    }


def any_damage(config: dict[str, Any], rng: random.Random) -> str:
    """The text of a configuration that is not to be taken over."""
    config = json.loads(json.dumps(config))
    node = config["pools"][0]["nodes"][0]
    match rng.randrange(8):
        case 0:
            return json.dumps(config, indent=1)[: rng.randint(100, 600)]
        case 1:
            config["bridgs"] = []
        case 2:
            config["bridges"][0]["pool"] = "gone"
        case 3:
            node["port"] = 70_000
        case 4:
            node["password"] = "${file:/nowhere/secret}"
        case 5:
            config["pools"].append({**config["pools"][0], "name": "twice", "id": 9})
        case 6:
            config["dkim"] = [{"domain": "acme.example", "selector": "s1", "key_file": "gone.pem"}]
        case 7:
            node["rotation"] = "round"
    return json.dumps(config, indent=1)


def replace_file(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


def test_edits_under_load_lose_nothing_and_drop_nobody(scene: Scene) -> None:
    rng = random.Random(28)
    sinks = [scene.sink("one"), scene.sink("two")]
    key = scene.directory / "dkim.pem"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "1024"], check=True, capture_output=True)
    key.chmod(0o600)
    relay = scene.relay([sinks[0].node()], workers=2)
    wait_for(lambda: len(relay.workers()) == 2, what="two workers")
    pids, ledger = relay.workers(), Ledger()
    taken = refused = 0
    with Load(relay.port, (f"m{n}" for n in range(1_000_000)), ledger=ledger, sessions=4, pause_s=0.005) as load:
        good = relay.config
        for _ in range(EDITS):
            if rng.random() < 0.3:
                replace_file(relay.config_path, any_damage(good, rng))
                with pytest.raises(ControlRefused, match=r"relay\.yaml:\d+:\d+: "):
                    reload_by(relay, rng.randrange(2))
                refused += 1
            else:
                good = any_config(relay, sinks, [key], rng)
                replace_file(relay.config_path, json.dumps(good, indent=1))
                if rng.random() < 0.3:
                    assert relay.process is not None
                    generation = relay.ask("status")[0]["configuration"]["generation"]
                    relay.process.send_signal(signal.SIGHUP)
                    wait_for(lambda: relay.ask("status")[1]["configuration"]["generation"] > generation, what="it")  # noqa: B023
                else:
                    assert reload_by(relay, rng.randrange(2))["workers"] == 2
                taken += 1
            time.sleep(rng.choice([0.0, 0.05, 0.2]))
        # What waits for a pool that is gone by now goes when the pool is back.
        replace_file(relay.config_path, json.dumps({**any_config(relay, sinks, [], rng), **both_pools(sinks)}))
        reload_by(relay, 0)
        load.stop()
    relay.wait_empty(60)
    result = audit(ledger, relay, sinks)
    scene.result(result, promised=len(ledger.promised), taken=taken, refused=refused)
    result.check(bound=0)
    assert not ledger.unclear, "a session was dropped"
    assert not ledger.refused, list(ledger.refused.items())[:5]
    assert len(ledger.promised) > 5 * EDITS
    assert taken > EDITS / 2
    assert refused > EDITS / 10
    assert relay.workers() == pids
    assert len(relay.events("relay.reload_failed")) == refused
    assert len(relay.events("relay.reloaded")) == 2 * (taken + 1)
    assert {state["configuration"]["generation"] for state in relay.ask("status")} == {taken + 1}


def both_pools(sinks: list[Sink]) -> dict[str, Any]:
    names = ("main", 7, "n0"), ("side", 8, "n1")
    return {
        "pools": [
            {"name": name, "id": number, "mta": "mta4", "nodes": [{**sinks[0].node(), "name": node}]}
            for name, number, node in names
        ],
        "bridges": [{"name": "app", "pool": "main", "credentials": [{"username": "app", "password": "app-password"}]}],
    }


def test_a_worker_that_dies_after_a_reload_comes_back_with_what_the_others_run(scene: Scene) -> None:
    """Not with the files, which somebody may be editing, and not with what the relay was started with."""
    sink = scene.sink("sink")
    relay = scene.relay([sink.node()], workers=2)
    wait_for(lambda: len(relay.workers()) == 2, what="two workers")
    replace_file(relay.config_path, json.dumps({**relay.config, **both_pools([sink])}))
    assert reload_by(relay, 1)["generation"] == 1
    replace_file(relay.config_path, "half an edit: [")
    pids = relay.workers()
    os.kill(pids[0], signal.SIGKILL)
    wait_for(lambda: len(set(relay.workers()) - set(pids)) == 1, what="another worker")
    for worker in relay.ask("status"):
        assert worker["configuration"]["generation"] == 1
    assert all([row["name"] for row in rows] == ["n0", "n1"] for rows in relay.ask("nodes"))


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            return client.recv(3) == b"220"
    except OSError:
        return False


def test_listeners_come_and_go_in_all_workers_and_after_a_crash(scene: Scene) -> None:
    sink = scene.sink("sink")
    relay = scene.relay([sink.node()], workers=2)
    wait_for(lambda: len(relay.workers()) == 2, what="two workers")
    (first,) = relay.config["listeners"]
    port, second = relay.port, free_port()
    with Client(port) as session:
        both = {**relay.config, "listeners": [first, {**first, "bind": f"127.0.0.1:{second}"}]}
        replace_file(relay.config_path, json.dumps(both))
        assert reload_by(relay, 1)["needs_restart"] == []
        # Connections are spread by the kernel: enough of them reach both workers.
        assert all(answers(second) for _ in range(20))
        assert all(answers(port) for _ in range(20))
        replace_file(relay.config_path, json.dumps({**both, "listeners": both["listeners"][1:]}))
        assert reload_by(relay, 0)["needs_restart"] == []
        assert not any(answers(port) for _ in range(5))
        assert session.send(message_bytes("m1"))[0] == 250  # who was connected stays
        old = relay.workers()
        for pid in old:
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: len(set(relay.workers()) - set(old)) == 2, what="two other workers")
    assert all(answers(second) for _ in range(20))
    assert not answers(port)
    replace_file(relay.config_path, json.dumps(both))
    assert reload_by(relay, 1)["needs_restart"] == []
    assert all(answers(port) and answers(second) for _ in range(20))
    relay.wait_empty()
    assert [m["from"] for m in sink.transactions()]


def test_an_address_that_somebody_has_is_refused_and_nothing_changes(scene: Scene) -> None:
    relay = scene.relay([{"name": "n", "type": "sandbox"}], workers=2)
    wait_for(lambda: len(relay.workers()) == 2, what="two workers")
    (first,) = relay.config["listeners"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        taken_port, other = taken.getsockname()[1], free_port()
        binds = [first, *({**first, "bind": f"127.0.0.1:{port}"} for port in (other, taken_port))]
        replace_file(relay.config_path, json.dumps({**relay.config, "listeners": binds}))
        with pytest.raises(ControlRefused, match=f"127.0.0.1:{taken_port}: another process listens there"):
            reload_by(relay, 0)
    assert not answers(other)
    assert reload_by(relay, 1)["generation"] == 1
    assert answers(other)
    assert answers(taken_port)
