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

from bench.load import Load, Probe, Sink, Source, programs
from bench.measure import MemoryPeak, busy_seconds, cpu_seconds, percentile
from bench.peers import Keys, Kind, System
from bench.report import Run
from bench.scenarios import Scenario
from tests.scenario.harness import free_port

WARM_UP = 20
"""A message for this many of a run's, sent before the clocks start."""

SETTLE_S = 0.3
"""What a system does with a message after the sink has it (settling, logging) belongs to its cost."""

EASED = 0.8


@dataclass(frozen=True, slots=True)
class Effort:
    """How long a run is: `part` of a scenario's messages at full load, `eased_s` seconds at 80 %."""

    rounds: int
    part: float
    eased_s: float


@dataclass(frozen=True, slots=True)
class _Phase:
    accepted: float
    delivered: float
    cpu_us: float
    times_ms: list[float]
    peak_mb: float
    others: float
    whole: bool


def take_turn(folder: Path, keys: Keys, scenario: Scenario, kind: Kind, effort: Effort) -> Run:
    messages = max(scenario.load.sessions, int(scenario.messages * effort.part))
    with Sink(free_port()) as sink, _running(folder, keys, scenario, kind, sink.port) as system:
        sink.wait_ready()
        _send(system, sink, scenario.load, max(scenario.load.sessions, messages // WARM_UP))
        full = _phase(system, sink, scenario, messages)
        rate = EASED * min(full.accepted, full.delivered)
        eased = _phase(system, sink, scenario, max(20, int(rate * effort.eased_s)), rate)
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
def _running(folder: Path, keys: Keys, scenario: Scenario, kind: Kind, sink_port: int) -> Iterator[System]:
    place = Path(tempfile.mkdtemp(dir=folder))
    place.chmod(0o711)
    system = kind.make(place, keys, sink_port, scenario.door, kind.sign)
    try:
        yield system
    finally:
        system.close()
        shutil.rmtree(place, ignore_errors=True)


def _send(system: System, sink: Sink, load: Load, messages: int) -> None:
    expected = sink.count + messages
    with Source(load, system.port, messages) as source:
        source.finish()
    if not sink.wait(expected):
        raise RuntimeError(f"the warm-up did not arrive: {expected - sink.count} missing")


def _phase(system: System, sink: Sink, scenario: Scenario, messages: int, rate: float = 0.0) -> _Phase:
    """One load from its first message until the last one is at the sink and settled."""
    before, load = sink.count, scenario.load
    everything = [os.getpid()]
    cpu, ours, busy, began = cpu_seconds(system.roots), cpu_seconds(everything), busy_seconds(), time.perf_counter()
    with (
        MemoryPeak(system.roots) as memory,
        Probe(load, system.port, scenario.probe_every_s) as probe,
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
    return _Phase(
        accepted=messages / seconds,
        delivered=(sink.count - before) / (sink.changed_at - source.started),
        cpu_us=cpu / total * 1e6,
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
    with Sink(free_port(), keep=kept) as sink, _running(folder, keys, scenario, kind, sink.port) as system:
        sink.wait_ready()
        _send(system, sink, Load(sessions=1, login=scenario.load.login, tls=scenario.load.tls), 1)
        header, _, _ = next(kept.iterdir()).read_text().partition("\n\n")
    shutil.rmtree(kept)
    fields = [line.lower() for line in header.split("\n")]
    for wanted in kind.adds:
        if not any(field.startswith(wanted.lower()) for field in fields):
            raise RuntimeError(f"{kind.name} does not add {wanted}:\n{header}")
