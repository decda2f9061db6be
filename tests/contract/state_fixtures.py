"""Other processes at one state, started by the contract suite as programs of their own.

Each waits for a line on its standard input, so that all begin together, and writes what it was given to a file of its
own with one `write` each: what a killed process was told before its death can be read.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from relay.pools.pool import Cap
from relay.redisdb.address import parse
from relay.state import Candidate, Permit, PermitRequest, State
from relay.state.redis_store import RedisState
from relay.state.sqlite import SqliteState

ROOT = Path(__file__).resolve().parents[2]

HAMMER_CAPS = (Cap(window_s=1.0, limit=60), Cap(window_s=3600.0, limit=150))


class Crew:
    """Processes that work on one state at the same time; `place` is the path of its file, or its URL."""

    def __init__(self, what: str, place: str, folder: Path, number: int, *arguments: str) -> None:
        self.logs = [folder / f"{what}-{place}.log" for place in range(number)]
        self.members = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.contract.state_fixtures", what, place, str(log), *arguments],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for log in self.logs
        ]
        for member in self.members:
            assert member.stdout is not None
            assert member.stdout.readline() == b"ready\n"

    def go(self) -> None:
        for member in self.members:
            assert member.stdin is not None
            member.stdin.write(b"go\n")
            member.stdin.flush()

    def wait(self) -> list[int]:
        """Exit codes."""
        codes = [member.wait(60) for member in self.members]
        for member in self.members:
            assert member.stdin is not None
            assert member.stdout is not None
            member.stdin.close()
            member.stdout.close()
        return codes

    def lines(self) -> list[list[tuple[float, ...]]]:
        """What each wrote, without a last line that was cut by a kill."""
        told = []
        for log in self.logs:
            text = log.read_text()
            told.append(
                [tuple(float(word) for word in line.split()) for line in text[: text.rfind("\n") + 1].splitlines()]
            )
        return told


async def hammer(state: State, tell: Callable[[str], None], seconds: str) -> None:
    """Ask for batches as fast as it goes; tells `at granted` of each permit."""
    candidates = (Candidate("node:a", HAMMER_CAPS),)
    end = time.monotonic() + float(seconds)

    async def one(cost: int) -> None:
        while time.monotonic() < end:
            for given in await state.reserve([PermitRequest(candidates, cost)] * 2, now=time.time()):
                if isinstance(given, Permit):
                    tell(f"{given.at!r} {given.granted}")
                else:
                    await asyncio.sleep(min(0.02, max(0.0, given.until - time.time())))

    await asyncio.gather(*(one(cost) for cost in (1, 2, 3, 5)))


async def take_turns(state: State, tell: Callable[[str], None], number: str) -> None:
    """Tells `first count` of each hand of turns, of one or two."""

    async def one(count: int) -> None:
        for step in range(int(number)):
            tell(f"{await state.turns('pool', count)} {count}")
            if step % 20 == 0:
                await asyncio.sleep(0.01)  # quiet moments, so that blocks shrink and grow

    await asyncio.gather(one(1), one(1), one(2))


async def fail(state: State, tell: Callable[[str], None], number: str) -> None:
    """Count failures of one node, several at once."""

    async def one() -> None:
        for _ in range(int(number)):
            await state.update_health("a", lambda health: replace(health, failures=health.failures + 1))

    await asyncio.gather(one(), one())
    tell(str(2 * int(number)))


async def claim(state: State, tell: Callable[[str], None], number: str) -> None:
    """Try to claim each of some names at one moment; tells the names won."""
    for name in range(int(number)):
        if await state.claim(f"check:{name}", owner=str(os.getpid()), ttl_s=60.0, now=1_800_000_000.0):
            tell(str(name))


async def main(what: str, path: str, log: str, arguments: Sequence[str]) -> None:
    real = what == "hammer"
    state: State
    if path.startswith("redis"):
        state = await RedisState.open(parse(path), server_clock=real, grace_s=0)
    else:
        state = await SqliteState.open(Path(path), clock=time.time if real else None)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    print("ready", flush=True)
    sys.stdin.readline()
    work = {"hammer": hammer, "turns": take_turns, "fail": fail, "claim": claim}[what]
    await work(state, lambda line: _write(file, line), *arguments)
    await state.close()


def _write(file: int, line: str) -> None:
    os.write(file, f"{line}\n".encode())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]))
