"""R25: mail that may not go now waits at no cost, whatever it waits for."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from relay.envelope import Content, Lane, Message, Recipient
from relay.ids import IdSource
from relay.spool.sqlite import SqliteSpool
from tests.scenario.conftest import Scene
from tests.scenario.harness import Relay, free_port, resident_peak, wait_for

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(110)]

MESSAGES = 100_000
POOLS = ("dead", "capped", "drained", "spread")


async def fill(directory: Path) -> None:
    """A spool of yesterday's size."""
    directory.mkdir()
    spool = SqliteSpool(directory, shard="0", min_free=1)
    await spool.start()
    ids, now = IdSource(time.time, shard="0"), time.time()
    content = Content(b"Subject: x\r\n", b"hello\r\n" * 10)

    def message(number: int) -> Message:
        pool = POOLS[number % len(POOLS)]
        return Message(
            id=ids.next(),
            bridge="app",
            pool=pool,
            lane=Lane.TRANSACTIONAL,
            sender="a@b.example",
            recipients=(Recipient(address=f"r{number}@d.example"),),
            received_at=now,
            size=100,
        )

    for start in range(0, MESSAGES, 2000):
        await asyncio.gather(*(spool.store(message(start + n), content, lease=False) for n in range(2000)))
    await spool.close()


def cpu_s(pid: int) -> float:
    """Processor time a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(relay: Relay, seconds: float) -> float:
    """Share of a core that the only worker uses over so many seconds."""
    (pid,) = relay.workers()
    before = cpu_s(pid)
    time.sleep(seconds)
    return (cpu_s(pid) - before) / seconds


def test_a_hundred_thousand_waiting_messages_leave_the_processor_alone(scene: Scene) -> None:
    """A quarter each behind a dead node, a cap that is used up, a node with weight 0, and a cap of one each second."""
    asyncio.run(fill(scene.directory / "var"))
    sink = scene.sink("sink")
    gone = {"type": "smtp", "host": "127.0.0.1", "port": free_port(), "tls": "none"}
    nodes = {
        "dead": {"name": "dead", **gone},
        "capped": sink.node(name="capped", caps={"day": 5}),
        "drained": sink.node(name="drained", weight=0),
        "spread": sink.node(name="spread", caps={"hour": {"limit": 3600, "spread": True}}),
    }
    relay = scene.relay(
        [],
        health={"recheck_every": "15m", "recheck_for": "24h"},
        retry={"schedule": ["5m"], "max_age": "3d"},
        bridges=[{"name": "app", "pool": "capped", "credentials": [{"username": "app", "password": "app-password"}]}],
        pools=[{"name": name, "id": n, "mta": "mta4", "nodes": [nodes[name]]} for n, name in enumerate(POOLS, 1)],
    )
    wait_for(lambda: load(relay, 1.0) < 0.05, what="an idle processor")
    lines, sent = len(relay.log().splitlines()), len(sink.transactions())
    share = load(relay, 6.0)
    lines, sent = len(relay.log().splitlines()) - lines, len(sink.transactions()) - sent
    (pid,) = relay.workers()
    peak = resident_peak(pid)
    scene.result(share=round(share, 3), lines=lines, sent=sent, peak_mb=peak // 2**20, queued=relay.queued())
    assert 2 <= sent <= 10, "one each second, and nothing else"
    assert share < 0.05
    assert lines < 6 * 20
    assert peak < 200 * 2**20
    assert relay.queued() > MESSAGES - 100
    waiting = {row["pool"] for row in relay.ask("status")[0]["waiting"]}
    assert waiting == set(POOLS), "status does not say what waits, and why"
