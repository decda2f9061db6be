"""Changing the configuration files: under a lock, validated as a whole before anything is written, each in one step.

Whoever changes the files of a configuration (command line, API) does it here, so two never work on the same text. The
result is tried out while it exists only in memory; a reader of the files sees them as they were or as they shall be.
A change of several files replaces them one after the other; between two of them lie microseconds, and a reader that
hits those sees a configuration that may not validate, and says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from relay.config.include import read_bytes
from relay.config.load import Loaded, load
from relay.config.yaml_edit import CannotEdit, Text
from relay.errors import ConfigError


class Outdated(ConfigError):
    """The files are not those that the change was meant for."""


class Draft:
    """The files of a configuration while they are being changed. `loaded`: as they were."""

    def __init__(self, main: Path, loaded: Loaded) -> None:
        self.main = main
        self.loaded = loaded
        self._texts: dict[Path, Text] = {}
        self._before: dict[Path, bytes] = {}

    def text(self, path: Path) -> Text:
        """A file, to be changed. Raises OSError, CannotEdit."""
        path = path.resolve()  # a symbolic link stays one
        if path not in self._texts:
            before = path.read_bytes()
            try:
                raw = before.decode("utf-8").removeprefix("\ufeff")
            except UnicodeDecodeError as error:
                raise CannotEdit(f"{path} is not UTF-8 text") from error
            self._before[path] = before
            self._texts[path] = Text(raw.replace("\r\n", "\n"))
        return self._texts[path]

    def read(self, path: Path) -> bytes:
        """As `load` reads files: those that were changed as they are to be."""
        changed = self._texts.get(path.resolve())
        return self._encoded(path.resolve(), changed) if changed is not None else read_bytes(path)

    def _encoded(self, path: Path, text: Text) -> bytes:
        """With the mark and the line ends that the file has."""
        before = self._before[path]
        raw = text.text.replace("\n", "\r\n") if b"\r\n" in before else text.text
        return (b"\xef\xbb\xbf" if before.startswith(b"\xef\xbb\xbf") else b"") + raw.encode("utf-8")

    def save(self) -> list[Path]:
        """Write what changed; all or nothing as far as a disk allows. Returns the files that differ."""
        changed = {
            path: new for path, text in self._texts.items() if (new := self._encoded(path, text)) != self._before[path]
        }
        written: list[Path] = []
        try:
            for path, content in changed.items():
                _replace(path, content)
                written.append(path)
        except OSError:
            for path in written:
                _replace(path, self._before[path])
            raise
        return written


def change(
    main: Path,
    work: Callable[[Draft], None],
    proof: Callable[[Loaded], bool] = lambda _: True,
    *,
    if_match: str = "",
    dry_run: bool = False,
) -> Loaded:
    """Apply `work` to the files and keep the result only when the whole configuration validates and is what was meant.

    Args:
        proof: looks at the configuration that results.
        if_match: `fingerprint` of the files the change was made for; empty for any.
        dry_run: try it out only.

    Returns:
        The configuration as it is now.

    Raises:
        ConfigError: nothing has changed. Of it: Outdated; CannotEdit when a file is of a form that only a person can
            change; InvalidConfig with the faults of what would have been.
        OSError: a file cannot be read or written; nothing has changed.
    """
    with alone(main):
        loaded = load(main)
        if if_match and if_match != fingerprint(loaded.files):
            raise Outdated("the configuration was changed meanwhile; read it again and repeat the change")
        draft = Draft(main, loaded)
        work(draft)
        after = load(main, read=draft.read)
        if not proof(after):
            raise CannotEdit("the files are of a form that cannot be changed here; edit them by hand")
        if not dry_run:
            draft.save()
        return after


def edit(config: Path, path: Path, work: Callable[[Text], None], proof: Callable[[Loaded], bool]) -> None:
    """Change one file; see `change`."""
    change(config, lambda draft: work(draft.text(path)), proof)


def fingerprint(files: Sequence[Path]) -> str:
    """What the files of a configuration hold, in 32 hexadecimal digits; it changes when any of them does."""
    digest = hashlib.sha256()
    for path in files:
        try:
            content = path.read_bytes()
        except OSError:
            content = b""
        digest.update(str(path).encode() + b"\0" + hashlib.sha256(content).digest())
    return digest.hexdigest()[:32]


@contextlib.contextmanager
def alone(main: Path) -> Iterator[None]:
    """Those who change the files of one configuration do so one after the other."""
    handle = os.open(main.resolve().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _replace(path: Path, content: bytes) -> None:
    """Write beside and rename: a reader sees the old file or the new one, never half of it. Mode and owner stay."""
    facts = path.stat()
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), facts.st_mode & 0o7777)
            if (facts.st_uid, facts.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(file.fileno(), facts.st_uid, facts.st_gid)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
