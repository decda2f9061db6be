"""The two ends of a measurement: sources that send, the probe that times, the sink that counts what arrives.

Each is a process of its own. Where Postfix's smtp-source and smtp-sink are at hand they are used, since they are far
quicker than what they measure; `programs()` says where they are.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from bench.client import HOST, RECIPIENT, SENDER
from bench.measure import last_count
from tests.scenario.harness import wait_for

ROOT = Path(__file__).resolve().parents[1]
UNPACKED = ROOT / "var" / "interop" / "debian"
"""Where `make interop` unpacks the packages that cannot be installed beside each other."""

UNPRIVILEGED = "daemon"
BACKLOG = 1024
MOST_SESSIONS = 10_000
"""At once in smtp-sink, which else keeps the 257th waiting: many pools have many connections."""

COUNT_EVERY_S = 0.005
STALLED_S = 30.0
"""A delivery that makes no progress for so long will make none."""


@dataclass(frozen=True, slots=True)
class Programs:
    """Where Postfix is; each None when absent."""

    source: Path | None
    sink: Path | None
    master: Path | None
    saslpasswd: Path | None
    environment: dict[str, str]


@cache
def programs() -> Programs:
    """Postfix as it is installed, else as it was unpacked from its package."""
    unpacked = not shutil.which("postconf", path="/usr/sbin:/usr/local/sbin")
    base = UNPACKED if unpacked else Path("/")
    libraries = {"LD_LIBRARY_PATH": str(UNPACKED / "usr/lib/postfix")} if unpacked else {}

    def at(path: str) -> Path | None:
        return base / path if (base / path).exists() else None

    sasl = [path for path in (Path("/usr/sbin/saslpasswd2"), UNPACKED / "usr/sbin/saslpasswd2") if path.exists()]
    return Programs(
        source=at("usr/sbin/smtp-source"),
        sink=at("usr/sbin/smtp-sink"),
        master=at("usr/lib/postfix/sbin/master") if os.geteuid() == 0 else None,
        saslpasswd=sasl[0] if sasl else None,
        environment=libraries,
    )


def end(process: subprocess.Popen[Any], *, gently_s: float = 5.0) -> None:
    """End a process that leads a group of its own, with all of that group."""
    for number, patience_s in ((signal.SIGTERM, gently_s), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)


def listens(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=5).close()
    except OSError:
        return False
    return True


class Sink:
    """Takes everything on `port` and counts messages; with `keep` the content of each is written to that folder."""

    def __init__(self, port: int, *, keep: Path | None = None) -> None:
        self.port = port
        self.count = 0
        self.changed_at = time.perf_counter()
        self.process = subprocess.Popen(
            self._command(keep),
            env={**os.environ, **programs().environment},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _command(self, keep: Path | None) -> list[str]:
        sink = programs().sink
        if sink is None:
            return [sys.executable, "-m", "bench.fallback_sink", str(self.port)]
        command = [str(sink), "-c", "-m", str(MOST_SESSIONS)]
        if os.geteuid() == 0:
            command += ["-u", UNPRIVILEGED]
        if keep is not None:
            if os.geteuid() == 0:
                os.chown(keep, pwd.getpwnam(UNPRIVILEGED).pw_uid, -1)
            command += ["-D", f"{keep}/%s."]
        return [*command, f"{HOST}:{self.port}", str(BACKLOG)]

    def _read(self) -> None:
        assert self.process.stdout is not None
        descriptor, rest = self.process.stdout.fileno(), b""
        while data := os.read(descriptor, 1 << 20):
            rest = (rest + data)[-256:]
            count = last_count(rest)
            if count is not None and count != self.count:
                self.changed_at, self.count = time.perf_counter(), count
            time.sleep(COUNT_EVERY_S)  # each message is a line: take many at once

    def wait_ready(self) -> None:
        """Until it listens."""
        wait_for(lambda: self.process.poll() is None and listens(self.port), what="the sink")

    def wait(self, count: int) -> bool:
        """Wait until `count` messages arrived; False when their flow stopped before."""
        waiting_since = time.perf_counter()
        while self.count < count:
            if time.perf_counter() - max(self.changed_at, waiting_since) > STALLED_S:
                return False
            time.sleep(COUNT_EVERY_S)
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        end(self.process)
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is sent.

    Attributes:
        login: `user:password`, of which there are `logins` (`client.numbered`).
        address: of this machine, where the source's connections come from; the probe's come from 127.0.0.1.
    """

    sessions: int
    size: int = 4096
    recipients: int = 1
    fresh: bool = False
    login: str = ""
    logins: int = 1
    tls: bool = False
    address: str = ""

    @property
    def needs_own_source(self) -> bool:
        return self.fresh or self.tls or bool(self.login or self.address)


class _Client:
    """A process that ends with the block it was made in."""

    process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            end(self.process)


class Source(_Client):
    """A load being sent to `port`; `finish()` gives the seconds it took, `started` is when it began."""

    def __init__(self, load: Load, port: int, messages: int, *, rate: float = 0.0, own: bool = False) -> None:
        self._own = bool(own or load.needs_own_source or rate or programs().source is None)
        command = _own_source(load, port, messages, rate) if self._own else _smtp_source(load, port, messages)
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **programs().environment},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def finish(self) -> float:
        said, _ = self.process.communicate()
        seconds = time.perf_counter() - self.started
        if self.process.returncode:
            raise RuntimeError(f"the source gave up: exit {self.process.returncode}")
        if self._own:  # without the time its interpreter took to start
            told = json.loads(said)
            self.started, seconds = told["started"], told["seconds"]
        return seconds


def _smtp_source(load: Load, port: int, messages: int) -> list[str]:
    return [
        *(str(programs().source), "-d", "-s", str(load.sessions), "-l", str(load.size), "-m", str(messages)),
        *("-r", str(load.recipients), "-f", SENDER, "-t", RECIPIENT.format(""), f"{HOST}:{port}"),
    ]


def _own_source(load: Load, port: int, messages: int, rate: float) -> list[str]:
    command = [sys.executable, "-m", "bench.client", "source", "--port", str(port), "--messages", str(messages)]
    command += ["--sessions", str(load.sessions), "--size", str(load.size), "--recipients", str(load.recipients)]
    command += ["--rate", str(rate), "--logins", str(load.logins), "--address", load.address, *_door(load)]
    return [*command, "--fresh"] if load.fresh else command


def _door(load: Load) -> list[str]:
    return [*(["--login", load.login] if load.login else []), *(["--tls"] if load.tls else [])]


class Probe(_Client):
    """A client that sends a small message every so often; `finish()` gives its reply times in milliseconds."""

    def __init__(self, load: Load, port: int, every_s: float) -> None:
        command = [sys.executable, "-m", "bench.client", "probe", "--port", str(port), "--every", str(every_s)]
        self.process = subprocess.Popen(
            [*command, *_door(load)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def finish(self) -> list[float]:
        said, _ = self.process.communicate()
        if self.process.returncode:
            raise RuntimeError(f"the probe gave up: exit {self.process.returncode}")
        return json.loads(said)["milliseconds"]
