"""One relay per folder: a lock that lives as long as any of its processes, however they end.

The parent takes it before it binds a port, and its workers inherit it. So a second start is refused with the number of
the first one's process, and commands can tell a relay whose worker restarts from one that is stopped.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from relay.errors import RelayError

NAME = "relay.lock"


class AlreadyRunning(RelayError):
    """Another relay works on the folder; the message names its process."""


class RunLock:
    """Held until the end of this process and of all that were forked from it."""

    def __init__(self, directory: Path) -> None:
        """Raises AlreadyRunning; OSError when the file cannot be made."""
        path = directory / NAME
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _read(self._descriptor)
            os.close(self._descriptor)
            raise AlreadyRunning(
                f"a relay runs on {directory} already, as process {owner or 'unknown'}; stop it first, or give this "
                "one another store"
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give it up early, for tests."""
        os.close(self._descriptor)


def running_process(directory: Path) -> int | None:
    """Process id of the relay that works on this folder, 0 when it cannot be told, None when none does. Looks only."""
    try:
        descriptor = os.open(directory / NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
        return _read(descriptor)
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> int:
    text = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
    return int(text) if text.isdigit() else 0
