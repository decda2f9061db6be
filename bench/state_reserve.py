"""What a permit costs in the SQLite state: processor time of the whole process for each request, wall time of a call.

    .venv/bin/python -m bench.state_reserve

The books are full before the clock starts: every slot of every window holds something, the worst case for size.
`one call`: all requests of a batch in one `reserve`; `callers`: as many tasks with one request each.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from relay.pools.pool import Cap
from relay.state import Candidate, PermitRequest
from relay.state.sqlite import SqliteState

WINDOWS = {1: (3600.0,), 3: (1.0, 3600.0, 86400.0)}
REQUESTS = 6000


async def measure(windows: int, batch: int, kind: str, *, limit: int = 10**8) -> None:
    caps = tuple(Cap(window_s=window_s, limit=limit) for window_s in WINDOWS[windows])
    request = PermitRequest((Candidate("node:a", caps),), 1)
    with tempfile.TemporaryDirectory() as folder:
        state = await SqliteState.open(Path(folder) / "state.db")
        now = 1_800_000_000.0
        for window_s in sorted(WINDOWS[windows], reverse=True):
            for step in range(1000):
                await state.reserve([request], now=now - window_s * (1 - step / 1000))
        rounds = max(20, REQUESTS // batch // (1 if batch > 1 else 6))
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(rounds):
            now += 0.002
            if kind == "one call":
                await state.reserve([request] * batch, now=now)
            else:
                await asyncio.gather(*(state.reserve([request], now=now) for _ in range(batch)))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        await state.close()
    answer = "granted" if limit > 1 else "denied "
    print(
        f"{windows} windows  batch {batch:3d}  {kind}  {answer}"
        f"  {cpu / rounds / batch * 1e6:6.1f} us CPU a request  {wall / rounds * 1e3:6.2f} ms a batch"
    )


async def main() -> None:
    for windows in WINDOWS:
        for batch in (1, 20, 100):
            await measure(windows, batch, "one call")
            if batch > 1:
                await measure(windows, batch, "callers ")
        await measure(windows, 20, "one call", limit=1)


if __name__ == "__main__":
    asyncio.run(main())
