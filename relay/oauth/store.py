"""Where tokens are kept: one small versioned record for each node, changed by one process at a time.

The protocol, and its implementation in files. Every worker of a machine works on the same folder. A shared store (for
replicas without a common disk) follows the protocol with a lease (`State.claim`) for the turn and a versioned value for
the record.

Invariants
  - A record is replaced whole, by a rename; whoever reads sees the old one or the new one.
  - `save` never replaces a record that the caller has not seen.
  - Nothing here ever removes a record but `forget`, which an operator asks for.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Protocol

LOOK_AGAIN_S = 0.05
"""Between looks for the turn: a refresh takes some tenths of a second."""

LIMIT = 128 * 1024
"""Octets of a record; a token of Microsoft has two thousand."""


class TokenStoreFault(Exception):
    """The store cannot be read or written now; the text says why and holds no token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The record of a node.

    Attributes:
        version: grows by one with each change.
        seed: mark of the configuration that the chain of tokens began with; see `source.seed_of`.
        expires_at, obtained_at, refresh_expires_at: epoch seconds; 0 = not known.
    """

    version: int = 0
    seed: str = ""
    refresh_token: str = field(default="", repr=False)
    access_token: str = field(default="", repr=False)
    expires_at: float = 0.0
    obtained_at: float = 0.0
    refresh_expires_at: float = 0.0
    scope: str = ""
    account: str = ""


class TokenStore(Protocol):
    """Records by node name. All methods raise `TokenStoreFault`."""

    async def load(self, node: str) -> Stored | None: ...

    async def save(self, node: str, record: Stored, *, seen: int) -> bool:
        """Replace the record, durably on return; False when its version is no longer `seen` (0: there was none)."""
        ...

    def turn(self, node: str, *, patience_s: float) -> AbstractAsyncContextManager[None]:
        """The right to refresh: one holder at a time over all processes. It ends with the process, however it ends."""
        ...

    async def forget(self, node: str) -> bool:
        """Remove the record; False when there was none."""
        ...


class FileTokenStore:
    """One file for each node, readable by the relay's user alone.

    Args:
        folder: made with mode 0700 when the first record is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def load(self, node: str) -> Stored | None:
        return await asyncio.to_thread(_read, self._path(node))

    async def save(self, node: str, record: Stored, *, seen: int) -> bool:
        return await asyncio.to_thread(self._save, node, record, seen)

    async def forget(self, node: str) -> bool:
        try:
            self._path(node).unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise TokenStoreFault(f"{self._path(node)}: {error.strerror}") from error
        return True

    @asynccontextmanager
    async def turn(self, node: str, *, patience_s: float) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + patience_s
        path = self._path(node).with_suffix(".lock")
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise TokenStoreFault(f"{path}: {error.strerror}") from error
        try:
            while not _lock(handle, path):
                if loop.time() >= give_up:
                    raise TokenStoreFault(f"another process has been refreshing for {patience_s:g} s")
                await asyncio.sleep(LOOK_AGAIN_S)
            yield
        finally:
            os.close(handle)  # with it goes the lock

    def _path(self, node: str) -> Path:
        if not node or "/" in node or node.startswith("."):
            raise TokenStoreFault(f"{node!r} is no name of a node")
        return self._folder / f"{node}.json"

    def _save(self, node: str, record: Stored, seen: int) -> bool:
        path = self._path(node)
        there = _read(path)
        if (there.version if there else 0) != seen:
            return False
        temporary = ""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, temporary = tempfile.mkstemp(dir=self._folder, prefix=f".{node}.")  # mode 0600
            with os.fdopen(handle, "wb") as file:
                file.write(json.dumps(asdict(record)).encode())
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            temporary = ""
            _sync(self._folder)
        except OSError as error:
            raise TokenStoreFault(f"{path}: {error.strerror}") from error
        finally:
            if temporary:
                Path(temporary).unlink(missing_ok=True)
        return True


def _read(path: Path) -> Stored | None:
    try:
        data = path.read_bytes()[: LIMIT + 1]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TokenStoreFault(f"{path}: {error.strerror}") from error
    try:
        facts = json.loads(data)
        known = {entry.name: facts[entry.name] for entry in fields(Stored) if entry.name in facts}
        record = Stored(**known)
        if record.version < 1 or not isinstance(record.refresh_token, str):
            raise ValueError
    except (ValueError, TypeError, AttributeError):
        raise TokenStoreFault(f"{path} is damaged; `relay oauth login` writes it anew") from None
    return record


def _lock(handle: int, path: Path) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno == errno.EINTR:
            return False
        raise TokenStoreFault(f"{path} cannot be locked: {error.strerror}") from error
    return True


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
