"""Shards of a spool folder and who owns them.

A shard is `spool-<name>.db` with its body folder. It is claimed by a lock on `spool-<name>.lock`, which the kernel
gives back when the owner dies, however it dies; the file tells the owner's process id.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from relay.errors import SpoolError

_NAME = re.compile(r"[A-Za-z0-9_]{1,40}")
_DATABASE = re.compile(r"spool-([A-Za-z0-9_]{1,40})\.db")


@dataclass(frozen=True, slots=True)
class Shard:
    """`owner`: process id of who has it open; None when nobody has, 0 when it cannot be told."""

    name: str
    owner: int | None


class Claim:
    """The right to a shard, until `release` or the end of the process."""

    def __init__(self, directory: Path, shard: str) -> None:
        """Raises SpoolError naming the owner when somebody else has it."""
        if not _NAME.fullmatch(shard):
            raise SpoolError(f"{shard!r} is no name for a shard: letters, digits and _")
        self.path = directory / f"spool-{shard}.lock"
        while True:
            try:
                self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError as error:
                raise SpoolError(f"{self.path} cannot be opened: {error.strerror or error}") from error
            try:
                _lock(self._descriptor)
            except OSError as error:
                owner = os.pread(self._descriptor, 20, 0).decode("ascii", "replace").strip()
                os.close(self._descriptor)
                if not isinstance(error, BlockingIOError):
                    raise SpoolError(f"{self.path} cannot be locked: {error.strerror or error}") from error
                raise SpoolError(
                    f"spool shard {shard} in {directory} is in use by process {owner or 'unknown'}"
                ) from error
            if self._is_current():
                break
            os.close(self._descriptor)  # whoever emptied this shard removed the file while we waited for it
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False

    def release(self, *, remove: bool = False) -> None:
        """Give the shard up; `remove`: it is empty, the lock file goes too."""
        if remove:
            with contextlib.suppress(OSError):
                self.path.unlink()
        os.close(self._descriptor)


def shards(directory: Path) -> list[Shard]:
    """The shards in a folder, by name. Looks only; blocking."""
    found = []
    for path in sorted(directory.glob("spool-*.db")):
        match = _DATABASE.fullmatch(path.name)
        if match:
            found.append(Shard(match[1], _owner(directory / f"spool-{match[1]}.lock")))
    return found


def _owner(lock: Path) -> int | None:
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError:
        return 0
    try:
        text = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
        return (int(text) if text.isdigit() else 0) if _is_locked(descriptor) else None
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Take the lock. Tried a few times: `shards` holds it for a moment to see whether it is free."""
    for _ in range(4):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.02)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False
