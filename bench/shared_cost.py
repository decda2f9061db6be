"""What a message costs the server of the shared stores, without a relay around it.

    .venv/bin/python -m bench.shared_cost

`spool`: a message of 4 kB stored with its first attempt begun, and settled; as many at once as a busy replica has.
`permits`: one permit over second, hour and day for each message, asked for in batches as replicas do.
`queued`: what a waiting message takes of the server's memory and log.
"""

from __future__ import annotations

import asyncio
import re
import socket
import tempfile
import time
from pathlib import Path
from typing import Self

from relay.envelope import Content
from relay.pools.pool import Cap
from relay.redisdb.address import parse
from relay.spool.redis_store import RedisSpool
from relay.state import Candidate, PermitRequest
from relay.state.redis_store import RedisState
from tests.contract.spool_fixtures import HEAD, delivered, message
from tests.fakes.redis_server import RedisServer

MESSAGES = 6000
AT_ONCE = 64
BODY = b"x" * 72 + b"\r\n"
CONTENT = Content(HEAD, BODY * 55)
CAPS = (Cap(window_s=1.0, limit=10**8), Cap(window_s=3600.0, limit=10**8), Cap(window_s=86400.0, limit=10**8))


def facts(server: RedisServer) -> dict[str, float]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(b"INFO\r\nQUIT\r\n")
        text = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    return {name: float(value) for name, value in re.findall(r"([a-z_]+):([0-9]+(?:[.][0-9]+)?)\r", text)}


class Meter:
    def __init__(self, server: RedisServer, what: str, messages: int) -> None:
        self._server, self._what, self._messages = server, what, messages

    def __enter__(self) -> Self:
        self._before, self._began, self._own = facts(self._server), time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        took, own, after = time.perf_counter() - self._began, time.process_time() - self._own, facts(self._server)

        def grown(*names: str) -> float:
            return sum(after[name] - self._before[name] for name in names) / self._messages

        print(
            f"{self._what:34} {self._messages / took:7.0f}/s"
            f"  server {grown('used_cpu_user', 'used_cpu_sys') * 1e6:5.0f} us"
            f"  client {own / self._messages * 1e6:5.0f} us  {grown('total_commands_processed'):5.1f} commands"
            f"  log {grown('aof_current_size'):6.0f} octets  memory {grown('used_memory'):6.0f} octets"
        )


async def spool(server: RedisServer, folder: Path, fsync: str) -> None:
    store = RedisSpool(parse(f"{server.url}?timeout=10s"), folder)
    await store.start()
    places = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with places:
            lease = await store.store(message(size=CONTENT.size), CONTENT, lease=True)
            assert lease is not None
            await store.settle(lease, delivered(lease.message), due=0.0)

    with Meter(server, f"spool, appendfsync {fsync}", MESSAGES):
        await asyncio.gather(*(one() for _ in range(MESSAGES)))
    with Meter(server, f"queued, appendfsync {fsync}", MESSAGES):
        for _ in range(MESSAGES // 100):
            made = [store.store(message(size=CONTENT.size), CONTENT, lease=False) for _ in range(100)]
            await asyncio.gather(*made)
    await store.close()


async def permits(server: RedisServer, batch: int) -> None:
    state = await RedisState.open(parse(f"{server.url}?timeout=10s"), grace_s=0)
    requests = [PermitRequest((Candidate(f"node:{n % 4}", CAPS),), 1) for n in range(batch)]
    rounds = 3000 // batch
    with Meter(server, f"permits, {batch} in a call", rounds * batch):
        for _ in range(rounds):
            await state.reserve(requests, now=0.0)
    await state.close()


async def main() -> None:
    for fsync in ("always", "everysec"):
        with tempfile.TemporaryDirectory(dir=".") as folder:
            options = ("--appendonly", "yes", "--appendfsync", fsync)
            server = RedisServer(Path(folder) / "data", options=options).start()
            try:
                await spool(server, Path(folder) / "own", fsync)
                if fsync == "always":
                    for batch in (1, 20, 200):
                        await permits(server, batch)
            finally:
                server.close()


if __name__ == "__main__":
    asyncio.run(main())
