"""The process is killed at any moment, again and again; what was promised holds (R01, R07, R13)."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.envelope import BodyFile
from relay.ids import key_of
from relay.spool import Selection
from relay.spool.sqlite import SqliteSpool
from relay.spool.sqlite_bodies import Bodies
from tests.contract.spool_fixtures import CONTENT, KEY, NOW, delivered, folder_of, message, sqlite_options

ROOT = Path(__file__).parents[3]
KILLS = 8


async def run_and_kill(folder: Path, ledger: Path, after_s: float) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.unit.spool.storing_child",
        str(folder),
        str(ledger),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stderr is not None
    if await child.stdout.readline() != b"ready\n":
        raise AssertionError((await child.stderr.read()).decode())
    await asyncio.sleep(after_s)
    child.kill()
    await child.communicate()


def promises(ledger: Path) -> tuple[set[str], dict[str, int], set[str]]:
    stored: set[str] = set()
    progress: dict[str, int] = {}
    gone: set[str] = set()
    for line in ledger.read_text().splitlines():
        what, message_id, *count = f"{line} ".split(" ")
        match what:
            case "stored":
                stored.add(message_id)
            case "progress":
                progress[message_id] = int(count[0])
            case "gone":
                gone.add(message_id)
    return stored, progress, gone


async def test_nothing_acknowledged_is_lost_however_often_the_process_is_killed(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    moments = random.Random(20_240_607)
    for _ in range(KILLS):
        await run_and_kill(folder_of(tmp_path), ledger, moments.uniform(0.02, 0.25))
    stored, progress, gone = promises(ledger)
    assert len(stored) > 100
    assert len(gone) > 20
    spool = SqliteSpool(folder_of(tmp_path), **sqlite_options())
    await spool.start()
    await spool.recover(NOW)
    entries = {entry.message.id: entry for entry in await spool.entries(Selection(), limit=10**6)}
    # A removal may be durable without its promise: the kill came in between. At most what was in flight at a kill.
    missing = stored - gone - set(entries)
    assert len(missing) <= KILLS * (8 + 3)
    assert all(_may_be_gone(message_id, ledger) for message_id in missing)
    assert not gone & set(entries), "what was removed stays removed"
    for message_id, entry in entries.items():
        count = progress.get(message_id, 0)
        assert len(entry.message.pending) <= 6 - count, "results that were kept stay kept"
        content = await spool.content(message_id)
        assert b"".join(content.chunks()).count(message_id.encode()) in (50, 8000)
    (depth,) = await spool.depths()
    assert depth.queued == len(entries)
    files = {path.name for path in (folder_of(tmp_path) / "bodies-0").rglob("*") if path.is_file()}
    with_file = {each for each in entries if isinstance((await spool.content(each)).body, BodyFile)}
    assert files == with_file
    await spool.close()


def _may_be_gone(message_id: str, ledger: Path) -> bool:
    """Its last promise is from just before a kill: the store of one without lease, or the last progress of one; or a
    later life, which takes up what it finds, was killed between its removal and the promise of that."""
    lines = ledger.read_text().splitlines()
    last = max(number for number, line in enumerate(lines) if message_id in line)
    return lines[last].startswith("stored") or lines[last].endswith(" 4") or "life" in lines[last:]


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[SqliteSpool]:
    spool = SqliteSpool(folder_of(tmp_path), **sqlite_options())
    await spool.start()
    await spool.recover(NOW)
    yield spool
    await spool.close()


async def test_a_body_without_a_row_is_swept_at_the_next_start(spool: SqliteSpool, tmp_path: Path) -> None:
    """P3, P4: killed between the body's rename and the commit of its row; P11: between the row's end and the body's."""
    from relay.spool.sqlite_disk import Disk

    kept = message()
    await spool.store(kept, type(CONTENT)(CONTENT.head, b"x" * 200_000), lease=False)
    bodies = Bodies(folder_of(tmp_path) / "bodies-0", Disk())
    orphan = message()
    bodies.keep(orphan.id, type(CONTENT)(CONTENT.head, b"x" * 200_000))
    stray = folder_of(tmp_path) / "bodies-0" / "zz"
    stray.mkdir()
    (stray / "half-written[1]").write_bytes(b"x")
    await spool.close()
    again = SqliteSpool(folder_of(tmp_path), **sqlite_options())
    await again.start()
    assert not bodies.path(orphan.id).exists()
    assert not (stray / "half-written[1]").exists()
    assert (await again.content(kept.id)).size == CONTENT.size - len(CONTENT.body) + 200_000  # type: ignore[arg-type]
    await again.close()


async def test_a_restart_with_20000_messages_is_quick_and_exact(spool: SqliteSpool, tmp_path: Path) -> None:
    for _ in range(20):
        await asyncio.gather(*(spool.store(message(), CONTENT, lease=False) for _ in range(1000)))
    leases = await spool.begin(await spool.lease_due(KEY, now=NOW, limit=30))
    assert len({key_of(lease.message.id) for lease in leases}) == 30
    # As a crash leaves it: nothing is settled or released.
    before = await spool.depths()
    await spool.close()
    begin = time.monotonic()
    again = SqliteSpool(folder_of(tmp_path), **sqlite_options())
    await again.start()
    recovered = await again.recover(NOW)
    took = time.monotonic() - begin
    assert {each.id for each in recovered} == {lease.message.id for lease in leases}
    (depth,) = await again.depths()
    assert (depth.queued, depth.size) == (before[0].queued, before[0].size) == (20_000, 20_000 * CONTENT.size)
    lease, *_ = await again.lease_due(KEY, now=NOW, limit=1)
    await again.settle(lease, delivered(lease.message), due=NOW)
    await again.close()
    assert took < 5, "R19: 10,000 in five seconds"
