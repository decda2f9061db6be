"""Changing configuration files as an operator would: comments and layout stay, the file is replaced in one step, and
a change that does not validate is taken back before anybody reads it."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from relay.config.load import load
from relay.errors import ConfigError

_LIST_ITEM = re.compile(r"^( *)- *", re.MULTILINE)


def _yaml(text: str) -> YAML:
    """A round-trip parser that writes lists indented the way the text has them."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # lines that stand stay as long as they are
    items = [len(indent) for indent in _LIST_ITEM.findall(text)]
    offset = 0 if items and min(items) == 0 else 2
    yaml.indent(mapping=2, sequence=offset + 2, offset=offset)
    return yaml


def file_where(files: Sequence[Path], fits: Callable[[Any], bool]) -> Path | None:
    """The first YAML file whose document (a mapping) fits; None when none does."""
    for path in files:
        with contextlib.suppress(YAMLError, UnicodeDecodeError, AttributeError):  # secrets and keys are among the files
            text = path.read_text(encoding="utf-8-sig")
            document = _yaml(text).load(text)
            if isinstance(document, dict) and fits(document):
                return path
    return None


def file_with(files: Sequence[Path], key: str) -> Path:
    """The first YAML file that has this top-level key, else the main file (the first one)."""
    return file_where(files, lambda document: document.get(key) is not None) or files[0]


def edit(config: Path, path: Path, change: Callable[[Any], None]) -> None:
    """Apply `change` to the document in `path` and keep it only when the whole configuration validates.

    Args:
        config: the main file, for validation.
        change: alters the loaded document in place.

    Raises:
        ConfigError: the result does not validate; the file is as it was.
        OSError: the file cannot be written.
    """
    path = path.resolve()  # a symbolic link stays one
    with _alone(path.parent):
        before = path.read_bytes()
        text = before.decode("utf-8-sig")
        yaml = _yaml(text)
        if b"\r\n" in before:
            yaml.line_break = "\r\n"  # type: ignore[assignment]  # untyped there
        document = yaml.load(text)
        if document is None:
            document = yaml.load("{}\n")
        change(document)
        out = io.StringIO(newline="")
        yaml.dump(document, out)
        _replace(path, out.getvalue().encode("utf-8"))
        try:
            load(config)
        except BaseException:
            _replace(path, before)
            raise


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two commands that edit at once do so one after the other."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
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
                try:
                    os.fchown(file.fileno(), facts.st_uid, facts.st_gid)
                except PermissionError as error:
                    raise ConfigError(
                        f"{path} belongs to another user and would not any more; edit it as root"
                    ) from error
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
