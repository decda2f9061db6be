"""How fast a queue drains that grew while its node was paused, beside the same relay with an empty queue."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from bench.fill import put
from bench.load import Load, Sink
from bench.measure import MemoryPeak, cpu_seconds
from bench.peers import RELAY, Door, Keys, Relay
from bench.study import Figures, Study
from bench.targets import Target
from bench.turn import SETTLE_S, phase, running, send
from tests.scenario.harness import free_port

BACKLOG, BACKLOG_QUICKLY = 200_000, 20_000
MESSAGES, MESSAGES_QUICKLY = 10_000, 3_000
LOAD = Load(sessions=20)
FILL = Load(sessions=200)
"""Many connections, so that the kernel gives the workers about as much each."""

EMPTY, DRAIN = "empty queue, end to end", "backlog, draining"
COLUMNS = ("messages", "delivered/s", "CPU us/msg", "peak MB")


def measure(folder: Path, keys: Keys, quick: bool) -> Iterator[tuple[str, Figures]]:
    with Sink(free_port()) as sink, running(folder, keys, Door(), RELAY, sink.port) as relay:
        assert isinstance(relay, Relay)
        sink.wait_ready()
        send(relay, sink, LOAD, 500)
        messages = MESSAGES_QUICKLY if quick else MESSAGES
        full = phase(relay, sink, LOAD, messages, probe_every_s=1.0)
        yield EMPTY, dict(zip(COLUMNS, (messages, full.delivered, full.cpu_us, full.peak_mb), strict=True))
        yield DRAIN, _drain(relay, sink, BACKLOG_QUICKLY if quick else BACKLOG)


def _drain(relay: Relay, sink: Sink, messages: int) -> Figures:
    relay.pause("smarthost")
    put(relay, FILL, messages)
    before, cpu = sink.count, cpu_seconds(relay.roots)
    with MemoryPeak(relay.roots) as memory:
        started = time.perf_counter()
        relay.resume("smarthost")
        if not sink.wait(before + messages):
            raise RuntimeError(f"{before + messages - sink.count} of {messages} did not arrive")
        time.sleep(SETTLE_S)
    if sink.count != before + messages:
        raise RuntimeError(f"{sink.count - before} arrived of {messages}")
    rate = messages / (sink.changed_at - started)
    cpu_us = (cpu_seconds(relay.roots) - cpu) / messages * 1e6
    return dict(zip(COLUMNS, (messages, rate, cpu_us, memory.octets / 1e6), strict=True))


STUDY = Study(
    name="backlog",
    title=f"{BACKLOG:,} messages of 4 kB drain after their node was paused",
    note=f"--quick: {BACKLOG_QUICKLY:,}; the clock runs from the order to resume to the last message at the sink",
    rows=(EMPTY, DRAIN),
    columns=COLUMNS,
    measure=measure,
    targets=(Target(of=DRAIN, column="delivered/s", over=EMPTY, least=0.8),),
)
