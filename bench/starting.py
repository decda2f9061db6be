"""How long an operator waits: for the first accepted message after a start, and for the help text."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.client import DOT, HOST, RECIPIENT, SENDER, content
from bench.load import Sink
from bench.measure import cpu_seconds
from bench.peers import Door, Keys, Relay
from bench.study import Figures, Study
from bench.targets import Target
from tests.scenario.harness import ROOT, free_port

TIMES = 5
PATIENCE_S = 30.0
FIRST, HELP, BARE = "relay run, to the first 250", "relay --help", "python -c pass"
ELAPSED, PROCESSOR = "ms", "CPU ms"


def measure(folder: Path, keys: Keys, quick: bool) -> Iterator[tuple[str, Figures]]:
    del quick  # it is quick
    with Sink(free_port()) as sink:
        sink.wait_ready()
        for _ in range(TIMES):
            yield FIRST, _first_250(Path(tempfile.mkdtemp(dir=folder)), keys, sink.port)
            yield HELP, _command([str(Path(sys.executable).with_name("relay")), "--help"])
            yield BARE, _command([sys.executable, "-c", "pass"])


def _first_250(folder: Path, keys: Keys, sink_port: int) -> Figures:
    """From the start of `relay run` in an empty folder to the 250 that says a message is durable."""
    started = time.perf_counter()
    relay = Relay(folder, keys, sink_port, Door(), wait=False)
    try:
        _send_one(relay.port, started + PATIENCE_S)
        elapsed = time.perf_counter() - started
        return {ELAPSED: elapsed * 1000, PROCESSOR: cpu_seconds(relay.roots) * 1000}
    finally:
        relay.close()


def _send_one(port: int, deadline: float) -> None:
    while True:
        try:
            link = socket.create_connection((HOST, port), timeout=PATIENCE_S)
            break
        except ConnectionRefusedError:
            if time.perf_counter() > deadline:
                raise
            time.sleep(0.002)
    with link, link.makefile("rb") as replies:
        for line, want in (
            (b"", b"220"),
            (b"HELO client.acme.example\r\n", b"250"),
            (f"MAIL FROM:<{SENDER}>\r\n".encode(), b"250"),
            (f"RCPT TO:<{RECIPIENT.format('')}>\r\n".encode(), b"250"),
            (b"DATA\r\n", b"354"),
            (content(4096) + DOT, b"250"),
        ):
            link.sendall(line)
            if not (reply := replies.readline()).startswith(want):
                raise RuntimeError(f"the relay answered {reply!r} instead of {want!r}")


def _command(command: list[str]) -> Figures:
    before, started = _children(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, cwd=ROOT)
    return {ELAPSED: (time.perf_counter() - started) * 1000, PROCESSOR: (_children() - before) * 1000}


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


STUDY = Study(
    name="start",
    title="Start and help",
    note=f"{TIMES} times a round, each start in an empty folder; processor time of all processes",
    rows=(FIRST, HELP, BARE),
    columns=(ELAPSED, PROCESSOR),
    measure=measure,
    targets=(Target(of=FIRST, column=ELAPSED, most=1500), Target(of=HELP, column=ELAPSED, most=200)),
)
