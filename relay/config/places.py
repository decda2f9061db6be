"""From key paths to places, and the report that faults and warnings are written to.

A path is a tuple of keys and indexes as in `("pools", 0, "nodes", 1, "port")`.
"""

from __future__ import annotations

from collections.abc import Mapping as Table
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from relay.config.faults import Fault, Notice, Place, key_path
from relay.config.yaml12 import Mapping, Node, Scalar, Sequence

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
        dropped: paths that were left out.
    """

    root: Node
    kept: Table[Path, list[int]] = field(default_factory=dict)
    dropped: AbstractSet[Path] = frozenset()
    faults: list[Fault] = field(default_factory=list)
    warnings: list[Notice] = field(default_factory=list)

    def fault(self, path: Path, what: str, hint: str = "") -> None:
        """Note a fault at the value of a path, or at the deepest part of it that was written."""
        self.faults.append(Fault(self.place(path), key_path(self.written(path)), what, hint))

    def warn(self, path: Path, what: str, hint: str = "") -> None:
        """Note a warning."""
        self.warnings.append(Notice(self.place(path), key_path(self.written(path)), what, hint))

    def place(self, path: Path) -> Place:
        """Place of the value."""
        return find(self.root, self.written(path)).node.place

    def quoted(self, path: Path, text: str) -> str:
        """The value for a message: itself when it stands in the file, else what it was interpolated from."""
        node = find(self.root, self.written(path)).node
        return f"the value of {node.origin}" if isinstance(node, Scalar) and node.origin else f'"{text}"'

    def is_literal(self, path: Path) -> bool:
        """True when the value itself stands in a file."""
        spot = find(self.root, self.written(path))
        return isinstance(spot.node, Scalar) and not spot.node.origin and spot.path == self.written(path)

    def written(self, path: Path) -> Path:
        """The path with the indexes of the files."""
        result: Path = ()
        for part in path:
            indexes = self.kept.get(result) if isinstance(part, int) else None
            result = (*result, indexes[part] if indexes is not None and isinstance(part, int) else part)
        return result
