"""One turn of one system: started afresh, warmed up, loaded as fast as it takes, then with a part of that."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.fill import fill
from bench.load import Load, Probe, Sink, Source, programs
from bench.measure import MemoryPeak, busy_seconds, cpu_seconds, percentile
from bench.peers import Door, Keys, Kind, Relay, System
from bench.report import Run
from bench.scenarios import Scenario
from tests.scenario.harness import free_port

WARM_UP = 20
"""A message for this many of a run's, sent before the clocks start; at least one for each login."""

SETTLE_S = 0.3
"""What a system does with a message after the sink has it (settling, logging) belongs to its cost."""

CALM_LOOK_S, CALM_PART, CALM_PATIENCE_S = 0.5, 0.1, 20.0
"""A system that uses less than a tenth of a core for so long has started; one that never does is measured as it is."""

EASED = 0.8


@dataclass(frozen=True, slots=True)
class Effort:
    """How long a run is: `part` of a scenario's messages at full load, `eased_s` seconds at 80 %, and `quick` for
    those that have their own measure."""

    rounds: int
    part: float
    eased_s: float
    quick: bool = False


@dataclass(frozen=True, slots=True)
class Phase:
    """What one load gave, as in `report.Run`; `seconds` from the first message to the last arrival."""

    accepted: float
    delivered: float
    cpu_us: float
    seconds: float
    times_ms: list[float]
    peak_mb: float
    others: float
    whole: bool


def take_turn(folder: Path, keys: Keys, scenario: Scenario, kind: Kind, effort: Effort) -> Run:
    messages = max(scenario.load.sessions, int(scenario.messages * effort.part))
    load = scenario.load_for(kind)
    with Sink(free_port()) as sink, running(folder, keys, scenario.door, kind, sink.port) as system:
        sink.wait_ready()
        queued = kind.shape.queued
        if queued and isinstance(system, Relay):
            fill(system, queued)
        send(system, sink, load, max(load.sessions, load.logins, messages // WARM_UP))
        full = phase(system, sink, load, messages, probe_every_s=scenario.probe_every_s)
        rate = EASED * min(full.accepted, full.delivered)
        eased_messages = max(20, int(rate * effort.eased_s))
        eased = phase(system, sink, load, eased_messages, rate, probe_every_s=scenario.probe_every_s)
        if queued and isinstance(system, Relay) and (left := system.queued()) != queued:
            raise RuntimeError(f"{left} of {queued} messages are queued at the end")
    return Run(
        accepted=full.accepted,
        delivered=full.delivered,
        cpu_us=full.cpu_us,
        p50_ms=percentile(full.times_ms, 0.5),
        p99_ms=percentile(full.times_ms, 0.99),
        p50_ms_at_80=percentile(eased.times_ms, 0.5),
        p99_ms_at_80=percentile(eased.times_ms, 0.99),
        cpu_us_at_80=eased.cpu_us,
        peak_mb=max(full.peak_mb, eased.peak_mb),
        others=max(full.others, eased.others),
        whole=full.whole and eased.whole,
    )


@contextlib.contextmanager
def running(folder: Path, keys: Keys, door: Door, kind: Kind, sink_port: int) -> Iterator[System]:
    """A system in a folder of its own, both gone afterwards."""
    place = Path(tempfile.mkdtemp(dir=folder))
    place.chmod(0o711)
    system = kind.start(place, keys, sink_port, door)
    try:
        _calm_down(system)
        yield system
    finally:
        system.close()
        shutil.rmtree(place, ignore_errors=True)


def _calm_down(system: System) -> None:
    """Let it finish what it does once after a start: hundreds of nodes take seconds to test."""
    deadline = time.perf_counter() + CALM_PATIENCE_S
    before = cpu_seconds(system.roots)
    while time.perf_counter() < deadline:
        time.sleep(CALM_LOOK_S)
        now = cpu_seconds(system.roots)
        if now - before <= CALM_PART * CALM_LOOK_S:
            return
        before = now


def send(system: System, sink: Sink, load: Load, messages: int) -> None:
    """Mail that is not measured, until it is at the sink."""
    expected = sink.count + messages
    with Source(load, system.port, messages) as source:
        source.finish()
    if not sink.wait(expected):
        raise RuntimeError(f"the warm-up did not arrive: {expected - sink.count} missing")


def phase(system: System, sink: Sink, load: Load, messages: int, rate: float = 0.0, *, probe_every_s: float) -> Phase:
    """One load from its first message until the last one is at the sink and settled."""
    before = sink.count
    everything = [os.getpid()]
    cpu, ours, busy, began = cpu_seconds(system.roots), cpu_seconds(everything), busy_seconds(), time.perf_counter()
    with (
        MemoryPeak(system.roots) as memory,
        Probe(load, system.port, probe_every_s) as probe,
        Source(load, system.port, messages, rate=rate) as source,
    ):
        seconds = source.finish()
        times_ms = probe.finish()
        total = messages + len(times_ms)
        whole = sink.wait(before + total)
        time.sleep(SETTLE_S)
    whole = whole and sink.count == before + total
    cpu, ours, busy = cpu_seconds(system.roots) - cpu, cpu_seconds(everything) - ours, busy_seconds() - busy
    elapsed = time.perf_counter() - began
    return Phase(
        accepted=messages / seconds,
        delivered=(sink.count - before) / (sink.changed_at - source.started),
        cpu_us=cpu / total * 1e6,
        seconds=sink.changed_at - source.started,
        times_ms=times_ms,
        peak_mb=memory.octets / 1e6,
        others=max(0.0, busy - ours) / elapsed / (os.cpu_count() or 1),
        whole=whole,
    )


def prove(folder: Path, keys: Keys, scenario: Scenario, kind: Kind) -> None:
    """See that one message leaves with every header the system is there to add; figures of less would be none.

    Raises:
        RuntimeError: it does not.
    """
    if programs().sink is None:
        return  # the fallback keeps nothing
    kept = Path(tempfile.mkdtemp(dir=folder))
    with Sink(free_port(), keep=kept) as sink, running(folder, keys, scenario.door, kind, sink.port) as system:
        sink.wait_ready()
        send(system, sink, Load(sessions=1, login=scenario.load.login, tls=scenario.load.tls), 1)
        header, _, _ = next(kept.iterdir()).read_text().partition("\n\n")
    shutil.rmtree(kept)
    fields = [line.lower() for line in header.split("\n")]
    for wanted in kind.adds:
        if not any(field.startswith(wanted.lower()) for field in fields):
            raise RuntimeError(f"{kind.name} does not add {wanted}:\n{header}")
