"""Every file operation of the spool goes through `Disk`, so that tests can fail, delay, log or count each of them.

Blocking throughout: called from worker threads, except `free_bytes`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from relay.envelope import CHUNK_BYTES
from relay.errors import SpoolError


class Disk:
    """The real file system. Raises OSError as the system does."""

    def write(self, path: Path, pieces: Iterable[bytes]) -> None:
        """Make a new file of mode 0600 and bring its bytes to stable storage. A failed one is removed."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with open(descriptor, "wb", buffering=0) as file:
                for piece in pieces:
                    rest = memoryview(piece)
                    while rest:
                        rest = rest[file.write(rest) :]
                self.sync(file.fileno())
        except BaseException:
            with contextlib.suppress(OSError):
                path.unlink()
            raise

    def read(self, path: Path) -> Iterator[bytes]:
        """The file in pieces. Only a regular file of our own is read: what else lies in a spool is an attack or an
        accident (CVE-2010-2023)."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb", buffering=0) as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid():
                raise PermissionError(f"{path} is not a regular file of our own")
            while piece := file.read(CHUNK_BYTES):
                yield piece

    def sync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def sync_file(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self.sync(descriptor)
        finally:
            os.close(descriptor)

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder durable."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.sync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)

    def link(self, source: Path, target: Path) -> None:
        os.link(source, target)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def reserve(self, path: Path, size: int) -> None:
        """A file that really occupies `size` octets."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
        except BaseException:
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        finally:
            os.close(descriptor)

    def free_bytes(self, path: Path) -> int:
        """Octets an ordinary user may still write. One system call, no disk access."""
        facts = os.statvfs(path)
        return facts.f_bavail * facts.f_frsize


def probe(directory: Path, disk: Disk) -> None:
    """Find out at start what would fail later: make the folder, write, fsync, rename and remove a file in it.

    Raises:
        SpoolError: what does not work here, in words an operator can act on.
    """
    step = "be created"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = directory.stat()
        if facts.st_uid == os.geteuid() and facts.st_mode & 0o077:
            directory.chmod(0o700)
        first, second = directory / f"probe-{os.getpid()}", directory / f"probe-{os.getpid()}-renamed"
        for left in (first, second):
            left.unlink(missing_ok=True)
        step = "be written (write and fsync)"
        disk.write(first, [b"probe"])
        step = "have files renamed in it"
        disk.rename(first, second)
        step = "be fsynced"
        disk.sync_folder(directory)
        step = "have files removed from it"
        disk.unlink(second)
    except OSError as error:
        raise SpoolError(f"the spool folder {directory} cannot {step}: {error.strerror or error}") from error


def remove_tree(path: Path) -> None:
    """Remove a folder and all in it, as far as it goes."""
    shutil.rmtree(path, ignore_errors=True)
