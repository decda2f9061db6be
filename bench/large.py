"""50 clients with 25 MB each at once, and what a client with small messages feels of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench import lag
from bench.load import Load, Sink
from bench.measure import percentile
from bench.peers import POSTFIX, STAMPS, Door, Keys, Kind, Relay
from bench.study import Figures, Study
from bench.targets import Target
from bench.turn import phase, running, send
from tests.scenario.harness import free_port

SIZE = 25_000_000
LOAD = Load(sessions=50, size=SIZE)
MESSAGES, MESSAGES_QUICKLY = 150, 50
PROBE_EVERY_S = 0.05
WATCHED = Kind("relay", Relay, STAMPS, module="bench.lag")

MB_S, P99, MEMORY, LATE, BUSY = "delivered MB/s", "probe p99 ms", "peak MB", "loop late ms", "callback CPU ms"
COLUMNS = (MB_S, "CPU us/MB", "probe p50 ms", P99, MEMORY, LATE, BUSY)


def measure(folder: Path, keys: Keys, quick: bool) -> Iterator[tuple[str, Figures]]:
    messages = MESSAGES_QUICKLY if quick else MESSAGES
    for kind in (WATCHED, POSTFIX):
        if not kind.missing(Door()):
            yield kind.name, _one(folder, keys, kind, messages)


def _one(folder: Path, keys: Keys, kind: Kind, messages: int) -> Figures:
    with Sink(free_port()) as sink, running(folder, keys, Door(), kind, sink.port) as system:
        sink.wait_ready()
        send(system, sink, Load(sessions=20), 200)
        if isinstance(system, Relay):
            lag.forget(system.folder)
        found = phase(system, sink, LOAD, messages, probe_every_s=PROBE_EVERY_S)
        if not found.whole:
            raise RuntimeError(f"{kind.name}: what arrived is not what was accepted")
        figures = {
            # The probe's messages are in the count and next to nothing in octets.
            MB_S: messages * SIZE / 1e6 / found.seconds,
            "CPU us/MB": found.cpu_us * (messages + len(found.times_ms)) / (messages * SIZE / 1e6),
            "probe p50 ms": percentile(found.times_ms, 0.5),
            P99: percentile(found.times_ms, 0.99),
            MEMORY: found.peak_mb,
        }
        if isinstance(system, Relay):
            figures[LATE], figures[BUSY] = lag.worst(system.folder)
        return figures


STUDY = Study(
    name="size-25m",
    title="50 sessions with 25 MB each at once",
    note="a probe sends 4 kB at a time meanwhile; how late a worker's loop was, and the most computing in one go",
    rows=(WATCHED.name, POSTFIX.name),
    columns=COLUMNS,
    measure=measure,
    targets=(
        Target(of=WATCHED.name, column=MB_S, over=POSTFIX.name, least=1.0),
        Target(of=WATCHED.name, column=MEMORY, most=512),
        Target(of=WATCHED.name, column=P99, over=POSTFIX.name, most=1.0),
        Target(of=WATCHED.name, column=BUSY, most=lag.TARGET_MS),
        Target(of=WATCHED.name, column=LATE, most=lag.TARGET_MS),
    ),
)
