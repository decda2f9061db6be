"""The relay with a clock in each worker's event loop, to see how long one callback keeps it from the others.

    python -m bench.lag -c FILE run

Nothing of it is in the product: the worker's `run` is wrapped here. A timer that should fire every `EVERY_S` writes
down how late it was, and how much of that the loop's own thread spent computing: the rest is time in which another
thread or another program had the interpreter or the processor. Both, in milliseconds, stand in `lag-PID.json` beside
the configuration, the worst since the file was last removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from pathlib import Path

from relay.app import serve
from relay.app.worker import Worker
from relay.cli import main

EVERY_S = 0.005
WRITE_EVERY_S = 0.25
TARGET_MS = 100.0


class _Watched(Worker):
    async def run(self) -> int:
        watch = asyncio.get_running_loop().create_task(_watch(Path(f"lag-{os.getpid()}.json")))
        try:
            return await super().run()
        finally:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch


async def _watch(path: Path) -> None:
    late_ms = busy_ms = 0.0
    written_at = time.perf_counter()
    while True:
        before, thread = time.perf_counter(), time.thread_time()
        await asyncio.sleep(EVERY_S)
        now = time.perf_counter()
        late_ms = max(late_ms, (now - before - EVERY_S) * 1000)
        busy_ms = max(busy_ms, (time.thread_time() - thread) * 1000)
        if now - written_at > WRITE_EVERY_S:
            if not path.exists():  # somebody wants a fresh count
                late_ms = busy_ms = 0.0
            path.write_text(json.dumps({"late_ms": late_ms, "busy_ms": busy_ms}))
            written_at = time.perf_counter()


def worst(folder: Path) -> tuple[float, float]:
    """Most lateness and most computing over all workers of a relay in this folder, milliseconds; then forget both."""
    told = [json.loads(path.read_text()) for path in folder.glob("lag-*.json")]
    forget(folder)
    return max(entry["late_ms"] for entry in told), max(entry["busy_ms"] for entry in told)


def forget(folder: Path) -> None:
    """Count afresh, and return once every worker does."""
    paths = list(folder.glob("lag-*.json"))
    for path in paths:
        path.unlink()
    while not all(path.exists() for path in paths):
        time.sleep(0.05)


if __name__ == "__main__":
    serve.Worker = _Watched  # type: ignore[misc]
    main()
