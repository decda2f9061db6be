"""Large bodies as files beside the database.

A body file is on stable storage, name included, before the row that refers to it commits, and goes after the row is
gone. So a crash leaves at most a file without a row, which `sweep` removes at the next start; never a row whose file
was not there.

Files lie in `bodies-<shard>/<last two characters of the id>/<id>`: those characters are random, so a million files
spread over a thousand folders.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import zlib
from collections.abc import Iterable
from pathlib import Path

from relay.envelope import BodyFile, Content
from relay.spool.sqlite_disk import Disk


class Damaged(Exception):
    """What was read back is not what was written; the text says how."""


def seed(message_id: str, head: bytes) -> int:
    """Checksum over the id and the head; the body continues it. Covering the id tells a swapped body."""
    return zlib.crc32(head, zlib.crc32(b"%s %d " % (message_id.encode(), len(head))))


def checksum(message_id: str, head: bytes, pieces: Iterable[bytes]) -> int:
    value = seed(message_id, head)
    for piece in pieces:
        value = zlib.crc32(piece, value)
    return value


class Bodies:
    """The body files of one shard. Blocking: for worker threads."""

    def __init__(self, root: Path, disk: Disk) -> None:
        self._root = root
        self._disk = disk
        self._folders: set[str] = set()

    def path(self, message_id: str) -> Path:
        return self._root / message_id[-2:] / message_id

    def prepare(self) -> None:
        """Make the root folder, once at start."""
        if not self._root.is_dir():
            self._root.mkdir(mode=0o700)
            self._disk.sync_folder(self._root.parent)

    def keep(self, message_id: str, content: Content) -> int:
        """Make the body of `content` ours, durably; returns the checksum of the content.

        A `BodyFile` is renamed, or copied when it lies on another file system.

        Raises:
            OSError: nothing is kept.
        """
        target = self._target(message_id)
        if target.exists():
            raise FileExistsError(errno.EEXIST, f"a body of message {message_id} is there already")
        if isinstance(content.body, bytes):
            self._disk.write(target, [content.body])
            value = checksum(message_id, content.head, [content.body])
        else:
            # The sum is taken of what lies in the file now: what the disk makes of it later is what it guards.
            value = checksum(message_id, content.head, content.body.chunks())
            self._adopt(content.body, target)
        try:
            self._disk.sync_folder(target.parent)
        except OSError:
            self.remove(message_id)
            raise
        return value

    def link(self, source: Path, message_id: str) -> None:
        """Give a body file of another shard a second name here. Safe to repeat."""
        target = self._target(message_id)
        try:
            self._disk.link(source, target)
        except FileExistsError:
            if not target.samefile(source):
                raise
        self._disk.sync_folder(target.parent)

    def check(self, message_id: str, head: bytes, size: int, expected: int) -> BodyFile:
        """The body file, read through once and found whole.

        Raises:
            Damaged: missing, cut, changed, or no file of ours.
        """
        path = self.path(message_id)
        value, seen = seed(message_id, head), 0
        try:
            for piece in self._disk.read(path):
                value = zlib.crc32(piece, value)
                seen += len(piece)
        except FileNotFoundError as error:
            raise Damaged("the body file is missing") from error
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR):
                raise
            raise Damaged(f"the body file cannot be read: {error.strerror or error}") from error
        if seen != size:
            raise Damaged(f"the body file holds {seen} octets instead of {size}")
        if value != expected:
            raise Damaged("the body file was changed on disk")
        return BodyFile(path, size)

    def remove(self, message_id: str) -> None:
        """Remove a body file, if it is there. What cannot be removed now is swept at the next start."""
        with contextlib.suppress(OSError):
            self._disk.unlink(self.path(message_id))

    def names(self) -> list[str]:
        """Every file that lies here."""
        folders = [folder for folder in self._root.iterdir() if folder.is_dir() and not folder.is_symlink()]
        return [file.name for folder in folders for file in folder.iterdir()]

    def sweep(self, strays: Iterable[str]) -> None:
        """Remove files that no message refers to: the traces of crashes."""
        for name in strays:
            for file in self._root.glob(f"*/{glob.escape(name)}"):
                with contextlib.suppress(OSError):
                    self._disk.unlink(file)

    def _target(self, message_id: str) -> Path:
        target = self.path(message_id)
        if target.parent.name not in self._folders:
            if not target.parent.is_dir():
                target.parent.mkdir(mode=0o700, exist_ok=True)
                self._disk.sync_folder(self._root)
            self._folders.add(target.parent.name)
        return target

    def _adopt(self, body: BodyFile, target: Path) -> None:
        try:
            self._disk.sync_file(body.path)
            self._disk.rename(body.path, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._disk.write(target, body.chunks())
            with contextlib.suppress(OSError):
                self._disk.unlink(body.path)
