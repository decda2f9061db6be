"""B468, R28, R31: signals of all kinds at a relay under load, and what a start with a broken configuration says."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.scenario.audit import audit
from tests.scenario.clients import Ledger, Load
from tests.scenario.conftest import Scene
from tests.scenario.harness import ROOT, Relay, base_config, free_port, wait_for

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(60)]

HARMLESS = (
    signal.SIGHUP,
    signal.SIGPIPE,
    signal.SIGCHLD,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGCONT,
    signal.SIGURG,
)


def test_signals_at_random_stop_nothing(scene: Scene) -> None:
    rng = random.Random(468)
    sink = scene.sink("sink")
    relay = scene.relay([sink.node()], workers=2)
    assert relay.process is not None
    wait_for(lambda: len(relay.workers()) == 2, what="two workers")
    ledger, pids = Ledger(), relay.workers()
    with Load(relay.port, (f"s{n}" for n in range(100_000)), ledger=ledger, sessions=2, pause_s=0.01) as load:
        for _ in range(300):
            os.kill(rng.choice([relay.process.pid, *pids]), rng.choice(HARMLESS))
            time.sleep(0.01)
        load.stop()
    relay.wait_empty()
    result = audit(ledger, relay, [sink])
    scene.result(result, promised=len(ledger.promised))
    result.check(bound=0)
    assert len(ledger.promised) > 20
    assert not ledger.unclear
    assert not ledger.refused
    assert relay.workers() == pids
    assert relay.events("relay.reloaded")
    assert not relay.events("relay.reload_failed")


BROKEN = {
    "syntax": ("version: 1\npools: [\n", "relay.yaml:3:1"),
    "unknown key": ("version: 1\nbridgs: []\n", 'relay.yaml:2:1: bridgs: unknown key; did you mean "bridges"?'),
    "missing pool": (
        "version: 1\nbridges: [{name: b, pool: gone, networks: [192.0.2.1/32]}]\n",
        'bridges[0].pool: there is no pool "gone"',
    ),
    "missing secret": (
        "version: 1\nbridges:\n  - {name: b, credentials: [{username: u, password: '${NO_SUCH_SECRET}'}]}\n",
        "relay.yaml:3:53",
    ),
    "python tag": ("version: 1\nhostname: !!python/object/apply:os.system [id]\n", "tags"),
}


def test_a_broken_configuration_starts_nothing_and_says_where(tmp_path: Path) -> None:
    """R28: at once, with file, line, key and reason, and no file of a store made. All of them side by side."""
    running: dict[str, subprocess.Popen[str]] = {}
    for name, (text, _) in BROKEN.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "relay.yaml").write_text(text)
        running[name] = subprocess.Popen(
            [sys.executable, "-m", "relay", "-c", "relay.yaml", "run"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
    for name, process in running.items():
        _, said = process.communicate(timeout=50)
        assert process.returncode == os.EX_CONFIG, name
        assert BROKEN[name][1] in said, (name, said)
        assert "Traceback" not in said
        assert [path.name for path in (tmp_path / name).iterdir()] == ["relay.yaml"]


def test_a_port_in_use_is_said_before_anything_starts(tmp_path: Path) -> None:
    """B230."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        relay = Relay(tmp_path, base_config(port, [{"name": "n", "type": "sandbox"}]), port)
        relay.launch()
        try:
            assert relay.process is not None
            assert relay.process.wait(20) == os.EX_CONFIG
            assert f"127.0.0.1:{port}" in relay.log()
            assert "Traceback" not in relay.log()
            assert not relay.events("relay.started")
        finally:
            relay.close()


def test_a_store_folder_that_cannot_be_made_is_named_with_what_to_do(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "file").touch()
    config = base_config(port, [{"name": "n", "type": "sandbox"}], store="sqlite:file/var")
    relay = Relay(tmp_path, config, port)
    relay.launch()
    try:
        assert relay.process is not None
        assert relay.process.wait(20) == os.EX_CANTCREAT
        assert "file/var" in relay.log()
        assert "Not a directory; give the user of the relay the right to write there" in relay.log()
    finally:
        relay.close()


def test_a_relay_of_root_says_so(scene: Scene) -> None:
    """B460."""
    relay = scene.relay([{"name": "n", "type": "sandbox"}])
    wait_for(lambda: relay.events("relay.started"), what="the start")
    told = [event for event in relay.events("config.warning") if "runs as root" in event["text"]]
    assert len(told) == (os.geteuid() == 0)
