"""A whole relay as a process, the way an operator runs it, and clients that keep a ledger of what was promised."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import smtplib
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
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
        "account": {"tag": "acme", "id": 42},
        "mtas": [{"id": "mta4", "zone": "us-1"}],
        "listeners": [{"bind": f"127.0.0.1:{port}", "tls": "none", "auth_without_tls": True}],
        "retry": {"schedule": ["1s", "2s", "5s"], "max_age": "1h"},
        "health": {"recheck_every": "1s", "recheck_for": "1h"},
        "uncertain": {"wait": "2s"},
        "drain": "5s",
        "bridges": [{"name": "app", "pool": "main", "credentials": [{"username": "app", "password": "app-password"}]}],
        "pools": [{"name": "main", "id": 7, "mta": "mta4", "feedtype": "transactional", "nodes": nodes}],
    }
    config.update(more)
    return config


class Relay:
    """One relay in `directory`; start, stop, kill and start again as often as needed."""

    def __init__(self, directory: Path, config: dict[str, Any], port: int) -> None:
        self.directory = directory
        self.port = port
        self.config_path = directory / "relay.yaml"
        self.write(config)
        self.process: subprocess.Popen[bytes] | None = None
        self.log_path = directory / "relay.log"

    def write(self, config: dict[str, Any]) -> None:
        self.config_path.write_text(json.dumps(config))  # JSON is YAML

    def start(self) -> Relay:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "relay", "-c", str(self.config_path), "run"],
                cwd=self.directory,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(self._greets, what=f"the relay's greeting\n{self.log()[-3000:]}")
        return self

    def _greets(self) -> bool:
        assert self.process is not None
        if (code := self.process.poll()) is not None:
            raise AssertionError(f"the relay ended with {code}:\n{self.log()[-3000:]}")
        try:
            with smtplib.SMTP("127.0.0.1", self.port, timeout=5) as client:
                return client.noop()[0] == 250
        except (OSError, smtplib.SMTPException):
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
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """Events from the log, all or those of one name."""
        found = []
        for line in self.log().splitlines():
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

    def queued(self) -> int:
        """Messages that are not done."""
        return sum(
            row["queued"] + row["held"] + row["quarantined"]
            for worker in self.json("status")["workers"]
            for row in worker["queues"]
        )

    def wait_empty(self, seconds: float = 30.0) -> None:
        wait_for(lambda: self.queued() == 0, seconds=seconds, what=f"an empty queue\n{self.log()[-3000:]}")


@dataclass
class Ledger:
    """What was promised: message number -> the reply that promised it."""

    promised: dict[str, str] = field(default_factory=dict)
    unclear: set[str] = field(default_factory=set)  # the connection broke before an answer
    refused: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, kind: str, name: str, said: str = "") -> None:
        with self._lock:
            if kind == "unclear":
                self.unclear.add(name)
            else:
                getattr(self, kind)[name] = said


def message_bytes(name: str, *, size: int = 500, sender: str = "app@acme.example", to: str = "") -> bytes:
    body = "".join(f"line {n} of {name}\r\n" for n in range(max(1, size // 30)))
    return (
        f"From: {sender}\r\nTo: {to or 'someone@example.net'}\r\nSubject: message {name}\r\n"
        f"X-Test-Name: {name}\r\n\r\n{body}"
    ).encode()


def submit(
    port: int,
    names: Iterable[str],
    *,
    ledger: Ledger,
    user: str = "app",
    password: str = "app-password",
    sender: str = "app@acme.example",
    recipients: list[str] | None = None,
    size: int = 500,
    give_up_at: float = float("inf"),
) -> None:
    """Submit messages over one session, reconnecting when it breaks; every answer goes into the ledger."""
    client: smtplib.SMTP | None = None
    to = recipients or ["someone@example.net"]
    for name in names:
        while time.monotonic() < give_up_at:
            try:
                if client is None:
                    client = smtplib.SMTP("127.0.0.1", port, timeout=30)
                    client.login(user, password)
                break
            except (OSError, smtplib.SMTPException):
                client = None
                time.sleep(0.1)
        if client is None:
            return
        try:
            client.mail(sender)
            for address in to:
                client.rcpt(address)
            code, said = client.data(message_bytes(name, size=size, sender=sender, to=to[0]))
            ledger.note("promised" if code == 250 else "refused", name, f"{code} {said.decode()}")
        except (OSError, smtplib.SMTPException):
            ledger.note("unclear", name)
            client = None
    if client is not None:
        with contextlib.suppress(OSError, smtplib.SMTPException):
            client.quit()


def copies(names: Iterable[str]) -> Counter[str]:
    return Counter(names)
