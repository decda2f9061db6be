"""Stores and works on messages until it is killed; every promise is in the ledger before the next step.

Usage: storing_child.py FOLDER LEDGER. Ledger lines: `life` at each start, `stored ID`, `progress ID COUNT`, `gone ID`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from relay.envelope import Content
from relay.spool.sqlite import SqliteSpool
from tests.contract.spool_fixtures import HEAD, KEY, NOW, _ids, delivered, message, sqlite_options

RECIPIENTS = tuple(f"r{number}@customer.example" for number in range(6))


async def main(folder: Path, ledger_path: Path) -> None:
    _ids._clock = time.time
    spool = SqliteSpool(folder, **sqlite_options())
    await spool.start()
    await spool.recover(NOW)
    ledger = os.open(ledger_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def promise(line: str) -> None:
        os.write(ledger, f"{line}\n".encode())
        os.fsync(ledger)

    promise("life")

    async def client(number: int) -> None:
        while True:
            made = message(*RECIPIENTS, id=_ids.next())
            body = made.id.encode() * (8000 if number % 4 == 0 else 50)
            lease = await spool.store(made, Content(HEAD, body), lease=number % 2 == 0)
            promise(f"stored {made.id}")
            if lease is None:
                continue
            for count in (2, 4):
                lease = await spool.progress(lease, delivered(lease.message, count))
                promise(f"progress {made.id} {count}")
            if number % 3 == 0:
                await spool.settle(lease, delivered(lease.message), due=NOW)
                promise(f"gone {made.id}")
            else:
                await spool.settle(lease, lease.message, due=NOW + 9)

    async def worker() -> None:
        while True:
            for lease in await spool.begin(await spool.lease_due(KEY, now=NOW, limit=3)):
                await spool.settle(lease, delivered(lease.message), due=NOW)
                promise(f"gone {lease.message.id}")
            await asyncio.sleep(0.001)

    print("ready", flush=True)
    await asyncio.gather(*(client(number) for number in range(8)), worker())


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
