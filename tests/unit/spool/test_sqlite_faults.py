"""What the disk may do to the SQLite spool: refuse, fail, fill up, be slow."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from relay.envelope import BodyFile, Content, Message
from relay.errors import SpoolError, SpoolFull, SpoolUnhealthy
from relay.spool import Selection
from relay.spool.sqlite import SqliteSpool
from relay.spool.sqlite_disk import Disk
from tests.contract.spool_fixtures import CONTENT, HEAD, KEY, NOW, delivered, folder_of, message, sqlite_options

LARGE = Content(HEAD, b"large body\r\n" * 20_000)

Opener = Callable[..., Awaitable[SqliteSpool]]


class FaultyDisk(Disk):
    """Logs what is done, and fails the calls it was told to fail."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.faults: dict[str, int] = {}
        self.free = 10**12

    def _do(self, what: str) -> None:
        self.log.append(what)
        if what in self.faults:
            code = self.faults[what]
            raise OSError(code, os.strerror(code))

    def write(self, path: Path, pieces: Iterable[bytes]) -> None:
        self._do("write")
        super().write(path, pieces)

    def sync(self, descriptor: int) -> None:
        folder = os.path.isdir(f"/proc/self/fd/{descriptor}")
        self._do("fsync folder" if folder else "fsync file")
        super().sync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        self._do("rename")
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self._do("unlink")
        super().unlink(path)

    def reserve(self, path: Path, size: int) -> None:
        self._do("reserve")
        super().reserve(path, size)

    def free_bytes(self, path: Path) -> int:
        return self.free


class Commits:
    """A committer that logs into the disk's log and fails or waits when told to."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.errors: list[Exception] = []
        self.open = threading.Event()
        self.open.set()
        self.after: Callable[[], None] = lambda: None

    def __call__(self, commit: Callable[[], None]) -> None:
        self.open.wait()
        self.log.append("commit")
        if self.errors:
            raise self.errors.pop(0)
        commit()
        self.after()


@pytest.fixture
def disk() -> FaultyDisk:
    return FaultyDisk()


@pytest.fixture
def commits(disk: FaultyDisk) -> Commits:
    return Commits(disk.log)


@pytest.fixture
async def open_spool(tmp_path: Path, disk: FaultyDisk, commits: Commits) -> AsyncIterator[Opener]:
    opened: list[SqliteSpool] = []

    async def opener(**options: Any) -> SqliteSpool:
        spool = SqliteSpool(folder_of(tmp_path), disk=disk, committer=commits, **sqlite_options(**options))
        await spool.start()
        await spool.recover(NOW)
        opened.append(spool)
        disk.log.clear()
        return spool

    yield opener
    commits.open.set()
    disk.faults.clear()
    for spool in opened:
        await spool.close()


def files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder_of(folder) / "bodies-0").rglob("*") if path.is_file())


async def kept_ids(spool: SqliteSpool) -> set[str]:
    return {entry.message.id for entry in await spool.entries(Selection(), limit=1000)}


# R02: order


async def test_a_small_message_is_acknowledged_after_its_commit(open_spool: Opener, disk: FaultyDisk) -> None:
    spool = await open_spool()
    await spool.store(message(), CONTENT, lease=False)
    disk.log.append("acknowledged")
    assert disk.log == ["commit", "acknowledged"]


async def test_a_large_body_is_on_disk_name_and_all_before_its_row(
    open_spool: Opener, disk: FaultyDisk, tmp_path: Path
) -> None:
    spool = await open_spool()
    incoming = tmp_path / "incoming"
    incoming.write_bytes(b"x" * 200_000)
    await spool.store(message(), Content(HEAD, BodyFile(incoming, 200_000)), lease=False)
    disk.log.append("acknowledged")
    # The first folder is the new one's parent: the name of the folder has to last as well.
    assert disk.log == ["fsync folder", "fsync file", "rename", "fsync folder", "commit", "acknowledged"]


async def test_a_body_goes_after_its_row(open_spool: Opener, disk: FaultyDisk, tmp_path: Path) -> None:
    spool = await open_spool()
    lease = await spool.store(message(), LARGE, lease=True)
    assert lease is not None
    assert len(files(tmp_path)) == 1
    disk.log.clear()
    await spool.settle(lease, delivered(lease.message), due=NOW)
    await spool.close()
    assert disk.log == ["commit", "unlink"]
    assert files(tmp_path) == []


async def test_the_file_is_synchronous_and_its_commit_waits_for_the_disk(open_spool: Opener) -> None:
    spool = await open_spool()
    pragmas = await spool._core.group.run(
        lambda connection: [
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
        ]
    )
    assert pragmas == ["wal", 2]


async def test_every_acknowledged_message_is_in_a_disk_image_taken_at_that_moment(
    open_spool: Opener, commits: Commits, tmp_path: Path
) -> None:
    """After a power cut the log ends with the last synced frame, and then perhaps with rubbish."""
    spool = await open_spool()
    images: list[Path] = []

    def copy() -> None:
        image = tmp_path / f"image-{len(images)}"
        # In another process: closing these files in ours would drop SQLite's locks on them.
        subprocess.run(["cp", "-r", str(folder_of(tmp_path)), str(image)], check=True)
        images.append(image)

    commits.after = copy
    acknowledged: list[str] = []
    promised: list[set[str]] = []
    for number in range(20):
        made = message()
        await spool.store(made, LARGE if number % 5 == 0 else CONTENT, lease=False)
        acknowledged.append(made.id)
        promised.append(set(acknowledged))
    commits.after = lambda: None
    assert len(images) == 20
    for image, promise in zip(images, promised, strict=True):
        for rubbish in (b"", b"\xaa" * 1000, b"\0" * 9000):
            shutil.copytree(image, tmp_path / "replay")
            with (tmp_path / "replay" / "spool-0.db-wal").open("ab") as log:
                log.write(rubbish)
            replay = SqliteSpool(tmp_path / "replay", **sqlite_options())
            await replay.start()
            await replay.recover(NOW)
            assert await kept_ids(replay) == promise
            for message_id in sorted(promise)[-2:]:
                await replay.content(message_id)
            await replay.close()
            shutil.rmtree(tmp_path / "replay")


# R03: refusals


@pytest.mark.parametrize("call", ["fsync file", "rename", "fsync folder"])
@pytest.mark.parametrize(("code", "expected"), [(errno.ENOSPC, SpoolFull), (errno.EIO, SpoolError)])
async def test_a_body_that_cannot_be_kept_is_not_accepted(
    open_spool: Opener, disk: FaultyDisk, tmp_path: Path, call: str, code: int, expected: type[Exception]
) -> None:
    spool = await open_spool()
    for number in range(2):  # the second time the folders are there
        incoming = tmp_path / f"incoming-{number}"
        incoming.write_bytes(b"x" * 200_000)
        disk.faults = {call: code}
        with pytest.raises(expected):
            await spool.store(message(), Content(HEAD, BodyFile(incoming, 200_000)), lease=True)
        disk.faults = {}
        assert await kept_ids(spool) == set()
        assert await spool.depths() == []
        assert files(tmp_path) == []
        lease = await spool.store(message(), LARGE, lease=True)
        assert lease is not None
        await spool.settle(lease, delivered(lease.message), due=NOW)


@pytest.mark.parametrize("content", [CONTENT, LARGE], ids=["small", "large"])
async def test_a_commit_without_room_accepts_nothing_and_passes(
    open_spool: Opener, commits: Commits, content: Content, tmp_path: Path
) -> None:
    spool = await open_spool()
    commits.errors = [OSError(errno.ENOSPC, "No space left on device")]
    with pytest.raises(SpoolFull):
        await spool.store(message(), content, lease=True)
    assert await spool.depths() == []
    assert files(tmp_path) == []
    assert spool.unhealthy_reason() == ""
    made = message()
    await spool.store(made, content, lease=False)
    assert await kept_ids(spool) == {made.id}


async def test_a_failed_fsync_ends_all_promises(open_spool: Opener, commits: Commits) -> None:
    spool = await open_spool()
    lease = await spool.store(message(), CONTENT, lease=True)
    assert lease is not None
    commits.errors = [OSError(errno.EIO, "Input/output error")]
    with pytest.raises(SpoolUnhealthy):
        await spool.store(message(), CONTENT, lease=True)
    commits.log.clear()
    for call in (
        lambda: spool.store(message(), CONTENT, lease=False),
        lambda: spool.settle(lease, delivered(lease.message), due=NOW),
        lambda: spool.begin([lease]),
    ):
        with pytest.raises(SpoolError):
            await call()
    assert "Input/output error" in spool.unhealthy_reason()
    assert "commit" not in commits.log, "the file was not asked to sync again"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
async def test_random_faults_never_lead_to_a_false_promise(
    tmp_path: Path, disk: FaultyDisk, commits: Commits, code: int
) -> None:
    """Faults all along the way of 60 messages, then a restart: what was acknowledged is there, and little else."""
    acknowledged: set[str] = set()
    refused: set[str] = set()
    spool: SqliteSpool | None = None
    for number in range(60):
        if spool is None or spool.unhealthy_reason():
            if spool is not None:
                await spool.close()
            disk.faults = {}
            spool = SqliteSpool(folder_of(tmp_path), disk=disk, committer=commits, **sqlite_options())
            await spool.start()
            await spool.recover(NOW)
        disk.faults = {["write", "fsync file", "fsync folder", "rename"][number % 4]: code} if number % 3 == 0 else {}
        commits.errors = [OSError(code, os.strerror(code))] if number % 7 == 0 else []
        made = message()
        try:
            await spool.store(made, LARGE if number % 2 else CONTENT, lease=False)
            acknowledged.add(made.id)
        except SpoolError:
            refused.add(made.id)
        commits.errors = []
    assert spool is not None
    disk.faults = {}
    await spool.close()
    spool = SqliteSpool(folder_of(tmp_path), **sqlite_options())
    await spool.start()
    await spool.recover(NOW)
    kept = await kept_ids(spool)
    for message_id in kept:
        await spool.content(message_id)
    await spool.close()
    assert len(acknowledged) > 30
    assert len(refused) > 10
    assert acknowledged <= kept
    assert kept == acknowledged, "these faults came before the commit, so nothing refused may be there"


# R06: groups


async def test_a_blocked_disk_answers_nobody_and_then_all(open_spool: Opener, commits: Commits) -> None:
    spool = await open_spool()
    commits.open.clear()
    tasks = [asyncio.create_task(spool.store(message(), CONTENT, lease=False)) for _ in range(50)]
    await asyncio.wait(tasks, timeout=0.1)
    assert not any(task.done() for task in tasks)
    assert await spool.depths() == []
    commits.open.set()
    await asyncio.gather(*tasks)
    (depth,) = await spool.depths()
    assert depth.queued == 50


async def test_a_failing_commit_fails_exactly_the_messages_of_its_group(open_spool: Opener, commits: Commits) -> None:
    spool = await open_spool()
    commits.open.clear()
    made = [message() for _ in range(21)]
    tasks = [asyncio.create_task(spool.store(each, CONTENT, lease=False)) for each in made]
    await asyncio.sleep(0)
    commits.errors = [OSError(errno.ENOSPC, "No space left on device")]
    commits.open.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    failed = {each.id for each, result in zip(made, results, strict=True) if isinstance(result, SpoolFull)}
    assert failed
    assert {result for result in results if not isinstance(result, SpoolFull)} <= {None}
    assert await kept_ids(spool) == {each.id for each in made} - failed
    depths = await spool.depths()
    assert sum(depth.queued for depth in depths) == 21 - len(failed)


async def test_a_cancelled_store_on_a_slow_disk_gives_its_lease_back(open_spool: Opener, commits: Commits) -> None:
    spool = await open_spool()
    for content in (CONTENT, LARGE):
        made = message()
        commits.open.clear()
        task = asyncio.create_task(spool.store(made, content, lease=True))
        await asyncio.wait([task], timeout=0.05)
        task.cancel()
        await asyncio.wait([task])
        commits.open.set()
        async with asyncio.timeout(5):
            while not (leases := await spool.lease_due(KEY, now=NOW, limit=5)):
                await asyncio.sleep(0.005)
        (lease,) = leases
        assert (lease.message.id, lease.message.attempts) == (made.id, 0)
        await spool.settle(lease, delivered(lease.message), due=NOW)


# R14: room


async def test_below_the_reserve_nothing_new_is_taken_and_the_old_goes_on(
    tmp_path: Path, disk: FaultyDisk, commits: Commits
) -> None:
    now = [0.0]
    spool = SqliteSpool(
        folder_of(tmp_path), disk=disk, committer=commits, min_free=1000, ballast_bytes=0, clock=lambda: now[0]
    )
    await spool.start()
    lease = await spool.store(message(), CONTENT, lease=True)
    assert lease is not None
    disk.free = 999
    now[0] += 2
    with pytest.raises(SpoolFull, match="999 octets free"):
        await spool.store(message(), CONTENT, lease=False)
    assert "octets free" in spool.full_reason()
    assert spool.unhealthy_reason() == ""
    await spool.settle(lease, delivered(lease.message), due=NOW)
    disk.free = 10**9
    now[0] += 2
    await spool.store(message(), CONTENT, lease=False)
    await spool.close()


async def test_on_a_full_disk_the_ballast_makes_room_for_outcomes(
    tmp_path: Path, disk: FaultyDisk, commits: Commits
) -> None:
    now = [0.0]
    spool = SqliteSpool(
        folder_of(tmp_path), disk=disk, committer=commits, min_free=10, ballast_bytes=100_000, clock=lambda: now[0]
    )
    await spool.start()
    ballast = folder_of(tmp_path) / "ballast-0"
    assert ballast.stat().st_size == 100_000
    assert ballast.stat().st_blocks * 512 >= 100_000, "real blocks, not a hole"
    leases = [await spool.store(message(), CONTENT, lease=True) for _ in range(2)]
    full = OSError(errno.ENOSPC, "No space left on device")
    commits.errors = [full]
    assert leases[0] is not None
    assert leases[1] is not None
    await spool.settle(leases[0], delivered(leases[0].message), due=NOW)
    assert not ballast.exists()
    disk.free = 100_000
    with pytest.raises(SpoolFull):
        await spool.store(message(), CONTENT, lease=False)
    commits.errors = [full]
    with pytest.raises(SpoolFull):
        await spool.settle(leases[1], delivered(leases[1].message), due=NOW)
    assert "outcomes cannot be written" in spool.unhealthy_reason()
    await spool.settle(leases[1], delivered(leases[1].message), due=NOW)
    assert spool.unhealthy_reason() == ""
    assert await spool.depths() == []
    disk.free = 10**9
    now[0] += 2
    await spool.store(message(), CONTENT, lease=False)
    assert ballast.stat().st_size == 100_000, "the reserve is back before anything new is taken"
    await spool.close()


async def test_the_last_blocks_of_a_disk_bring_the_ballast_back_to_it(
    tmp_path: Path, disk: FaultyDisk, commits: Commits
) -> None:
    """The stores beside the spool need room as well, before any write of the spool has failed."""
    spool = SqliteSpool(folder_of(tmp_path), disk=disk, committer=commits, min_free=10, ballast_bytes=100_000)
    await spool.start()
    ballast = folder_of(tmp_path) / "ballast-0"
    disk.free = 2 * 2**20
    assert not await spool.relieve()
    assert ballast.exists()
    disk.free = 4096
    assert await spool.relieve()
    assert not ballast.exists()
    assert not await spool.relieve(), "said once"
    with pytest.raises(SpoolFull):
        await spool.store(message(), CONTENT, lease=False)
    await spool.close()


async def test_sqlite_itself_running_out_of_pages_is_full_not_broken(open_spool: Opener) -> None:
    spool = await open_spool()

    def limit(pages: int) -> Callable[[sqlite3.Connection], None]:
        return lambda connection: connection.execute(f"PRAGMA max_page_count={pages}").fetchone() and None

    await spool._core.group.run(limit(30))
    stored: list[Message] = []

    async def fill() -> None:
        while True:
            made = message()
            await spool.store(made, Content(HEAD, b"x" * 4000), lease=False)
            stored.append(made)

    with pytest.raises(SpoolFull):
        await fill()
    assert len(stored) > 3
    assert await kept_ids(spool) == {made.id for made in stored}
    leases = await spool.lease_due(KEY, now=NOW, limit=100)
    for lease in await spool.begin(leases):
        await spool.settle(lease, delivered(lease.message), due=NOW)
    await spool.store(message(), Content(HEAD, b"x" * 4000), lease=False)


# Start-up


@pytest.mark.parametrize(
    ("call", "words"), [("write", "be written"), ("rename", "renamed"), ("fsync folder", "be fsynced")]
)
async def test_start_says_what_the_folder_cannot_do(tmp_path: Path, call: str, words: str) -> None:
    disk = FaultyDisk()
    disk.faults = {call: errno.EROFS}
    with pytest.raises(SpoolError, match=f"{words}.*Read-only file system"):
        await SqliteSpool(folder_of(tmp_path), disk=disk, **sqlite_options()).start()


async def test_the_folder_and_its_files_are_ours_alone(open_spool: Opener, tmp_path: Path) -> None:
    spool = await open_spool(ballast_bytes=1000)
    await spool.store(message(), LARGE, lease=False)
    for path in [folder_of(tmp_path), *folder_of(tmp_path).rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path
