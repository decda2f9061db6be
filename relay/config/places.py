"""From key paths to places, and the report that faults and warnings are written to.

A path is a tuple of keys and indexes as in `("pools", 0, "nodes", 1, "port")`.
"""

from __future__ import annotations

from collections.abc import Mapping as Table
from dataclasses import dataclass, field

from relay.config.faults import Fault, Notice, Place, key_path
from relay.config.yaml12 import Mapping, Node, Sequence

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a path leads: as much of it as the files hold (`path`), its node, and the place of its key or item."""

    path: Path
    node: Node
    key: Place


def find(root: Node, path: Path) -> Spot:
    """Follow a path; parts that the tree does not have are passed over (they name variants of a model, not keys)."""
    node, key, found = root, root.place, []
    for part in path:
        if isinstance(node, Mapping) and isinstance(part, str) and part in node.entries:
            key = node.keys[part]
            node = node.entries[part]
        elif isinstance(node, Sequence) and isinstance(part, int) and 0 <= part < len(node.items):
            node = node.items[part]
            key = node.place
        else:
            continue
        found.append(part)
    return Spot(tuple(found), node, key)


@dataclass(slots=True)
class Report:
    """Collects what is wrong, with places.

    Attributes:
        kept: for lists that were checked without their faulty items: path → indexes of the items that stayed.
    """

    root: Node
    kept: Table[Path, list[int]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    warnings: list[Notice] = field(default_factory=list)

    def fault(self, path: Path, what: str, hint: str = "") -> None:
        """Note a fault at the value of a path, or at the deepest part of it that was written."""
        self.fault_at(self.place(path), key_path(self.written(path)), what, hint)

    def warn(self, path: Path, what: str, hint: str = "") -> None:
        """Note a warning."""
        self.warn_at(self.place(path), key_path(self.written(path)), what, hint)

    def fault_at(self, place: Place, key: str, what: str, hint: str = "") -> None:
        """Note a fault whose place is known."""
        self.faults.append(Fault(place, key, what, hint))

    def warn_at(self, place: Place, key: str, what: str, hint: str = "") -> None:
        """Note a warning whose place is known."""
        self.warnings.append(Notice(place, key, what, hint))

    def place(self, path: Path) -> Place:
        """Place of the value."""
        return find(self.root, self.written(path)).node.place

    def written(self, path: Path) -> Path:
        """The path with the indexes of the files."""
        result: Path = ()
        for part in path:
            indexes = self.kept.get(result) if isinstance(part, int) else None
            result = (*result, indexes[part] if indexes is not None and isinstance(part, int) else part)
        return result
