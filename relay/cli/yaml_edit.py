"""Changing configuration files as an operator would: comments and layout stay, the file is replaced in one step, and
a change that does not validate is taken back before anybody reads it."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from relay.config.load import load


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def file_with(files: Sequence[Path], key: str) -> Path:
    """The first file that has this top-level key, else the main file (the first one)."""
    for path in files:
        document = _yaml().load(path.read_text(encoding="utf-8"))
        if isinstance(document, dict) and document.get(key) is not None:
            return path
    return files[0]


def edit(config: Path, path: Path, change: Callable[[Any], None]) -> None:
    """Apply `change` to the document in `path` and keep it only when the whole configuration validates.

    Args:
        config: the main file, for validation.
        change: alters the loaded document in place.

    Raises:
        ConfigError: the result does not validate; the file is as it was.
    """
    before = path.read_bytes()
    yaml = _yaml()
    document = yaml.load(before.decode("utf-8"))
    if document is None:
        document = {}
    change(document)
    out = io.StringIO()
    yaml.dump(document, out)
    _replace(path, out.getvalue().encode("utf-8"))
    try:
        load(config)
    except BaseException:
        _replace(path, before)
        raise


def _replace(path: Path, content: bytes) -> None:
    """Write beside and rename: a reader sees the old file or the new one, never half of it."""
    mode = path.stat().st_mode & 0o777
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
