"""Where nodes, pools and bridges stand in the configuration files, for changing them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from yaml.nodes import MappingNode

from relay.config.change import Draft
from relay.config.yaml_edit import CannotEdit, Text, file_with, text_of


def texts(draft: Draft) -> Iterator[tuple[Path, Text]]:
    """The YAML files of the configuration; secrets and keys, which are among its files, are passed over."""
    for path in draft.loaded.files:
        try:
            text = draft.text(path)
        except (CannotEdit, OSError):
            continue
        if isinstance(text.root, MappingNode):
            yield path, text


class Spot:
    """An item of a list in a file. Looked up anew by `item` after each change of the text."""

    def __init__(self, path: Path, text: Text, key: str, position: int, parent: int | None) -> None:
        self.path = path
        self.text = text
        self.key = key
        self.position = position
        self._parent = parent  # position of the pool, for a node in its list

    @property
    def holder(self) -> MappingNode | None:
        """The pool whose list it is in; None for a top-level list."""
        return None if self._parent is None else self.text.items("pools")[self._parent]

    @property
    def item(self) -> MappingNode:
        return self.text.items(self.key, of=self.holder)[self.position]

    def remove(self, *, comments: int = 0) -> None:
        self.text.remove(self.key, self.position, of=self.holder, comments=comments)


def find(draft: Draft, key: str, name: str) -> Spot:
    """The pool (`pools`), bridge (`bridges`) or node (`nodes`) of this name.

    Raises:
        CannotEdit: it is in no file as plain YAML, for example because its name is `${…}`.
    """
    for path, text in texts(draft):
        for position, item in enumerate(text.items(key)):
            if text_of(item, "name") == name:
                return Spot(path, text, key, position, None)
        if key == "nodes":
            for number, pool in enumerate(text.items("pools")):
                for position, item in enumerate(text.items("nodes", of=pool)):
                    if text_of(item, "name") == name:
                        return Spot(path, text, key, position, number)
    raise CannotEdit(f"{name} is in none of the files as plain YAML; edit it by hand")


def home_of(draft: Draft, key: str) -> Text:
    """The file that new items of a top-level list go to."""
    return draft.text(file_with([path for path, _ in texts(draft)], key))
