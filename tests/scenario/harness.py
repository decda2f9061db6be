"""A whole relay as a process, the way an operator runs it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], Any], *, seconds: float = 30.0, what: str = "the condition") -> Any:
    """The first true value of `condition`; fails with `what` after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen within {seconds:.0f} s")


def base_config(port: int, nodes: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A configuration with one pool and one bridge `app` / `app-password`; `more` replaces top-level keys."""
    config: dict[str, Any] = {
        "version": 1,
        "hostname": "relay.example.com",
        "store": "sqlite:var",
        "workers": 1,
        "admin": "off",
        "account": {"tag": "acme", "id": 42},
        "mtas": [{"id": "mta4", "zone": "us-1"}],
        "listeners": [{"bind": f"127.0.0.1:{port}", "tls": "none", "auth_without_tls": True}],
        "retry": {"schedule": ["1s", "2s", "5s"], "max_age": "1h"},
        "health": {"recheck_every": "1s", "recheck_for": "1h", "test_at_start": False},
        "uncertain": {"wait": "2s"},
        "drain": "5s",
        "bridges": [{"name": "app", "pool": "main", "credentials": [{"username": "app", "password": "app-password"}]}],
        "pools": [{"name": "main", "id": 7, "mta": "mta4", "feedtype": "transactional", "nodes": nodes}],
    }
    config.update(more)
    return config


class Relay:
    """One relay in `directory`; start, stop, kill and start again as often as needed.

    Args:
        module: what runs instead of `relay`, for tests that damage it.
        environment: beside our own.
    """

    def __init__(
        self,
        directory: Path,
        config: dict[str, Any],
        port: int,
        *,
        module: str = "relay",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.port = port
        self.module = module
        self.environment = dict(environment or {})
        self.config_path = directory / "relay.yaml"
        self.write(config)
        self.process: subprocess.Popen[bytes] | None = None
        self.log_path = directory / "relay.log"

    def write(self, config: dict[str, Any]) -> None:
        self.config = config
        self.config_path.write_text(json.dumps(config))  # JSON is YAML

    def start(self, *, seconds: float = 30.0) -> Relay:
        self.launch()
        return self.start_waiting(seconds=seconds)

    def start_waiting(self, *, seconds: float = 30.0) -> Relay:
        """After `launch`: until it greets."""
        wait_for(self._greets, seconds=seconds, what="the relay's greeting")
        return self

    def launch(self) -> None:
        """Start without waiting for it."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module, "-c", str(self.config_path), "run"],
                cwd=self.directory,
                env={**os.environ, "PYTHONPATH": str(ROOT), **self.environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _greets(self) -> bool:
        assert self.process is not None
        if (code := self.process.poll()) is not None:
            raise AssertionError(f"the relay ended with {code}:\n{self.log()[-3000:]}")
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as client:
                return client.recv(3) == b"220"
        except OSError:
            return False

    def stop(self, *, seconds: float = 20.0) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def kill(self) -> None:
        """kill -9 of every process of the relay."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def close(self) -> None:
        """End it and whatever it may have left behind."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def _settled_log(self) -> str:
        """The log once nothing has come for a while, or as it is after two seconds.

        A thread of its own writes it: what a worker tells over its socket, or a message that has arrived, may be
        ahead of the line about it.
        """
        end = time.monotonic() + 2.0
        text = self.log()
        while self.process is not None and self.process.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
            before, text = text, self.log()
            if text == before:
                break
        return text

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """Events from the log, all or those of one name."""
        found = []
        for line in self._settled_log().splitlines():
            if line.startswith("{"):
                event = json.loads(line)
                if not name or event.get("event") == name:
                    found.append(event)
        return found

    def cli(self, *args: str, code: int | None = 0) -> str:
        """Run a `relay` command on this configuration; its standard output."""
        done = subprocess.run(
            [sys.executable, "-m", "relay", "-c", str(self.config_path), *args],
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert code is None or done.returncode == code, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *args: str) -> Any:
        return json.loads(self.cli(*args, "--json"))

    def ask(self, operation: str, **args: Any) -> list[Any]:
        """One operation of the control sockets of all running workers, without the cost of a command line."""
        request = json.dumps({"op": operation, "args": args}).encode() + b"\n"
        answers = []
        for path in sorted((self.directory / "var").glob("control-*.sock")):
            with contextlib.suppress(ConnectionError, FileNotFoundError):  # its worker is starting or ending
                answers.append(json.loads(_exchange(path, request)))
        if refused := [answer["error"] for answer in answers if "error" in answer]:
            raise ControlRefused(refused[0])
        return [answer["result"] for answer in answers]

    def workers(self) -> list[int]:
        """Process ids of the workers that answer."""
        return [worker["pid"] for worker in self.ask("status")]

    def queued(self) -> int:
        """Messages that are not done, in running workers."""
        return sum(
            row["queued"] + row["held"] + row["quarantined"]
            for worker in self.ask("status")
            for row in worker["queues"]
        )

    def entries(self, **selection: Any) -> list[dict[str, Any]]:
        """Messages that are not done, as `relay queue list --json` shows them."""
        return [row for rows in self.ask("entries", selection=selection, limit=100_000) for row in rows]

    def node(self, name: str) -> dict[str, Any]:
        """One node as `relay node list --json` shows it."""
        return next(row for row in self.ask("nodes")[0] if row["name"] == name)

    def wait_empty(self, seconds: float = 30.0) -> None:
        try:
            wait_for(lambda: self._holds(0), seconds=seconds, what="an empty queue")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.queued()} left\n{self.log()[-3000:]}") from None

    def _holds(self, left: int) -> bool:
        try:
            return len(self.workers()) == self.config["workers"] and self.queued() == left
        except ValueError:  # a worker ended in the middle of an answer
            return False


class ControlRefused(Exception):
    """A worker answered a request with an error."""


def _exchange(path: Path, request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(30)
        control.connect(str(path))
        control.sendall(request)
        with control.makefile("rb") as reader:
            return reader.readline()


def resident_peak(pid: int) -> int:
    """Highest resident memory of a process so far, in octets."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no peak for process {pid}")
