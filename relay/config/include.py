"""Files → one tree: reads the main file, follows `include`, joins lists.

Every file holds the same top-level keys. Lists are joined in the order the files are named; any other key may stand in
one file only (`version` may be repeated). Patterns are relative to the file that names them; nothing outside the folder
of the main file is read, symbolic links included, so an include cannot be turned into a way to read the machine.
"""

from __future__ import annotations

import glob
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from relay.config.disk import Unreadable, read_regular
from relay.config.faults import Fault, Notice, Place, key_path
from relay.config.interpolate import Interpolation
from relay.config.yaml12 import MAX_OCTETS, Mapping, Scalar, Sequence, YamlFault, parse

MAX_FILES = 500
MAX_TOTAL_OCTETS = 16 * MAX_OCTETS
"""Together with `MAX_FILES`: far above any configuration, far below what would stall a reload."""

_REPEATABLE = frozenset({"version"})


def read_bytes(path: Path) -> bytes:
    """The content of a file, at most one octet above the limit (the parser says that it is too large).

    Raises:
        Unreadable: missing, a directory, a device, no permission.
    """
    return read_regular(path, MAX_OCTETS + 1)[0]


@dataclass(slots=True)
class Gathered:
    """The joined tree. `complete`: every file could be read and parsed; else keys may be missing from the tree."""

    root: Mapping
    files: list[Path] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    warnings: list[Notice] = field(default_factory=list)
    complete: bool = True


@dataclass(frozen=True, slots=True)
class _Source:
    """A file to read: how to name it in messages, where it was asked for, and the files that led to it."""

    path: Path
    shown: str
    asked: Fault | None
    trail: tuple[Path, ...]


def gather(main: Path, interpolation: Interpolation, read: Callable[[Path], bytes] = read_bytes) -> Gathered:
    """Read and join everything that `main` leads to. Faults are collected, never raised."""
    return _Gathering(main, interpolation, read).run()


class _Gathering:
    def __init__(self, main: Path, interpolation: Interpolation, read: Callable[[Path], bytes]) -> None:
        self._main = main
        self._folder = main.parent.resolve()
        self._interpolation = interpolation
        self._read = read
        self._seen: dict[Path, str] = {}
        self._octets = 0
        self._result = Gathered(Mapping(Place(str(main), 1, 1)))

    def run(self) -> Gathered:
        self._take(_Source(self._main, str(self._main), None, ()))
        self._interpolation.open_sealed(self._result.root)
        self._result.faults.extend(self._interpolation.faults)
        self._result.warnings.extend(self._interpolation.warnings)
        return self._result

    def _take(self, source: _Source) -> None:
        tree = self._tree(source)
        if tree is None:
            self._result.complete = False
            return
        self._interpolation.apply(tree)
        self._join(tree)
        trail = (*source.trail, source.path.resolve())
        for key, item in self._patterns(tree):
            for included in self._matches(item, key, source, trail):
                self._take(included)

    def _tree(self, source: _Source) -> Mapping | None:
        """The tree of one file, or None when there is none to join."""
        path = source.path
        place = Place(source.shown)
        self._result.files.append(path)
        try:
            data = self._read(path)
        except Unreadable as fault:
            hint = "name it with -c, or write one with `relay init`" if source.asked is None else ""
            asked = source.asked or Fault(place, "", "", hint)
            self._result.faults.append(asked._replace(what=f"file {source.shown} {fault}", hint=hint))
            return None
        self._octets += len(data)
        if self._octets > MAX_TOTAL_OCTETS:
            self._result.faults.append(Fault(place, "", f"all files together exceed {MAX_TOTAL_OCTETS} octets"))
            return None
        try:
            tree, faults = parse(data, source.shown)
        except YamlFault as fault:
            self._result.faults.append(fault.fault)
            return None
        self._result.faults.extend(faults)
        if not isinstance(tree, Mapping):
            hint = "begin with `version: 1`"
            self._result.faults.append(Fault(tree.place, "", "the top level must hold keys (key: value)", hint))
            return None
        return tree

    def _join(self, tree: Mapping) -> None:
        root = self._result.root
        if not root.keys:
            root.place = tree.place
        for key, value in tree.entries.items():
            if key not in root.entries:
                root.keys[key] = tree.keys[key]
                root.entries[key] = Sequence(value.place, list(value.items)) if isinstance(value, Sequence) else value
                continue
            first = root.entries[key]
            if isinstance(first, Sequence) and isinstance(value, Sequence):
                first.items.extend(value.items)
            elif (
                isinstance(first, Scalar)
                and isinstance(value, Scalar)
                and key in _REPEATABLE
                and first.value == value.value
            ):
                continue
            else:
                what = f"also set at {root.keys[key]}"
                self._result.faults.append(Fault(tree.keys[key], key, what, "only lists are joined; keep one of them"))

    def _patterns(self, tree: Mapping) -> list[tuple[str, Scalar]]:
        """The includes of one file; items of another shape are left to the model to refuse."""
        listed = tree.entries.get("include")
        if not isinstance(listed, Sequence):
            return []
        return [
            (key_path(("include", index)), item)
            for index, item in enumerate(listed.items)
            if isinstance(item, Scalar)
            and isinstance(item.value, str)
            and item.value.isprintable()
            and item.value
            and not item.failed
        ]

    def _matches(self, item: Scalar, key: str, source: _Source, trail: tuple[Path, ...]) -> list[_Source]:
        pattern = str(item.value)
        asked = Fault(item.place, key, "")
        parts = PurePath(pattern)
        if parts.is_absolute() or ".." in parts.parts:
            return self._refuse(
                asked, "leads out of the configuration directory", "use a path below this file's folder"
            )
        folder = source.path.parent
        if glob.has_magic(pattern):
            names = sorted(glob.glob(pattern, root_dir=folder))
            if not names:
                what = f"no file matches {pattern}"
                self._result.warnings.append(Notice(item.place, key, what, "remove the line if none is wanted"))
        else:
            names = [pattern]
        found: list[_Source] = []
        for name in names:
            path = folder / name
            refusal = self._refusal(path, trail)
            if refusal:
                self._refuse(asked, f"{name} {refusal}")
                continue
            self._seen[path.resolve()] = str(item.place)
            found.append(_Source(path, str(path), asked, trail))
        return found

    def _refusal(self, path: Path, trail: tuple[Path, ...]) -> str:
        """Why a file is not taken, or empty."""
        try:
            real = path.resolve()
        except (OSError, RuntimeError):
            return "cannot be followed (a circle of symbolic links)"
        if not real.is_relative_to(self._folder):
            return "leads out of the configuration directory"
        if real in trail:
            return "includes itself (a cycle)"
        if real in self._seen:
            return f"is included already, at {self._seen[real]}"
        if len(self._seen) >= MAX_FILES:
            return f"is one file too many (at most {MAX_FILES})"
        return ""

    def _refuse(self, asked: Fault, what: str, hint: str = "") -> list[_Source]:
        self._result.faults.append(asked._replace(what=what, hint=hint))
        self._result.complete = False
        return []
