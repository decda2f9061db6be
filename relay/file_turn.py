"""One process at a time: an advisory lock that processes take in turns.

SQLite before 3.51.3 can damage a write-ahead log when one process resets it while another checkpoints it (the
"WAL-reset bug", fixed 2026-03-13; Debian 12 ships 3.40). Processes that write and checkpoint only while they hold this
lock cannot meet there. It also replaces SQLite's own waiting, which sleeps up to 100 ms between looks, many times
longer than anybody holds the file.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType

from relay.store_faults import StoreBusy

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.0002, 0.005
"""Between looks: near the length of a commit."""


class FileTurn:
    """A context manager; for one thread. The lock ends with the process, however it ends.

    Args:
        path: of the lock file; made with mode 0600.
        patience_s: how long another process may hold it.
    """

    def __init__(self, path: Path, patience_s: float) -> None:
        self._path = path
        self._patience_s = patience_s
        self._handle = -1

    def __enter__(self) -> None:
        """Raises StoreBusy when the turn does not come in time."""
        if self._handle < 0:
            self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        give_up = 0.0
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                now = time.monotonic()
                give_up = give_up or now + self._patience_s
                if now >= give_up:
                    raise StoreBusy(f"another process held it for {self._patience_s:g} s") from None
                time.sleep(pause_s)
                pause_s = min(pause_s * 1.5, LONGEST_PAUSE_S)
            else:
                return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fcntl.flock(self._handle, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the file back. Safe to call twice."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
