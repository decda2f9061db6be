"""Changing the text of a configuration file as an operator would: only the lines that change are touched, so that
comments, `${…}` and layout stay. `relay.config.change` applies such changes to files.

PyYAML tells where things stand, and the text is cut and pasted there. Both block and flow style (and JSON) are known.
A `Text` knows where things stand anew after each change: nodes taken from it before are void then.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode, SequenceNode

from relay.errors import ConfigError

Item = Mapping[str, Any]
"""A mapping of what JSON knows."""


@dataclass(frozen=True, slots=True)
class Piece:
    """An item as it is written in a file, to be put elsewhere. `block`: its lines without indentation; empty for an
    item in flow style. `comments`: the lines above it."""

    flow: str
    block: str = ""
    comments: tuple[str, ...] = ()


class CannotEdit(ConfigError):
    """The text is not of a form that can be changed here; an operator must."""


class Text:
    """The text of a YAML file, and what it says as far as it is needed for changing it."""

    def __init__(self, text: str) -> None:
        self._become(text)

    def _become(self, text: str) -> None:
        self.text = text
        try:
            self.root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            raise CannotEdit(f"not readable as YAML: {error}") from None

    def items(self, key: str, of: Node | None = None) -> list[MappingNode]:
        """The mappings of a list under a key of the document, or of one of its mappings; empty when there is none."""
        found = _value(of or self.root, key)
        return (
            [item for item in found.value if isinstance(item, MappingNode)] if isinstance(found, SequenceNode) else []
        )

    def piece(self, item: Node) -> Piece:
        """An item as it stands here, comments inside it included where it is in block style."""
        if not isinstance(item, MappingNode) or item.flow_style:
            return Piece(self._flow_of(item))
        lines = self.text.splitlines(keepends=True)
        column = item.start_mark.column
        first = item.start_mark.line
        above = first
        while above and lines[above - 1].lstrip().startswith("#"):
            above -= 1
        comments = tuple(line.strip() for line in lines[above:first])
        block = "".join(
            line[column:] if not line[:column].strip(" -") else line.lstrip()
            for line in lines[item.start_mark.line : _last_line(item) + 1]
        )
        return Piece(self._flow_of(item), block if block.endswith("\n") else block + "\n", comments)

    def _flow_of(self, node: Node) -> str:
        """A node in flow style, scalars as they are written."""
        if isinstance(node, ScalarNode):
            if node.style in ("|", ">"):
                return json.dumps(node.value, ensure_ascii=False)
            text = self.text[node.start_mark.index : node.end_mark.index]
            plain = node.style is None and any(mark in text for mark in ",[]{}")  # fine in a block, not in flow
            return json.dumps(text, ensure_ascii=False) if plain else " ".join(text.split("\n")) or "null"
        if isinstance(node, MappingNode):
            pairs = (f"{self._flow_of(key)}: {self._flow_of(value)}" for key, value in node.value)
            return "{" + ", ".join(pairs) + "}"
        return "[" + ", ".join(self._flow_of(each) for each in node.value) + "]"

    def set(self, key: str, value: Any, of: MappingNode) -> None:
        """Give a key of a mapping a value, in the place of the one it has."""
        found = next((pair for pair in of.value if isinstance(pair[0], ScalarNode) and pair[0].value == key), None)
        if found is None:
            if of.flow_style:
                pair = f'"{key}": {_flow(value)}' if _is_json(of) else f"{key}: {_plain_flow(value)}"
                self._splice(of.end_mark.index - 1, (", " if of.value else "") + pair)
            else:
                self._insert_after(_last_line(of), "", {key: value}, of.start_mark.column)
            return
        name, old = found
        if (isinstance(old, CollectionNode) and not old.flow_style) or (
            isinstance(old, ScalarNode) and old.style in ("|", ">")
        ):
            start, lines = name.end_mark.index, self.text.splitlines(keepends=True)
            end = sum(len(line) for line in lines[: _last_line(old) + 1])
            self._cut(start, end, f": {_plain_flow(value)}\n")
        elif old.start_mark.index == old.end_mark.index:  # nothing stands there
            self._splice(old.start_mark.index, f" {_flow(value)}")
        else:
            quoted = isinstance(old, ScalarNode) and old.style is None and not of.flow_style
            text = _plain_flow(value) if quoted or not _is_json(of) else _flow(value)
            self._cut(old.start_mark.index, old.end_mark.index, text)

    def unset(self, key: str, of: MappingNode) -> None:
        """Remove a key of a mapping with its value. Comments around it stay where that can be."""
        names = [name.value if isinstance(name, ScalarNode) else None for name, _ in of.value]
        if key not in names:
            return
        at = names.index(key)
        name, old = of.value[at]
        if len(names) == 1:
            raise CannotEdit(f"{key} is the only key of its mapping; remove it by hand")
        if at + 1 < len(names) and (of.flow_style or name.start_mark.line == of.start_mark.line):
            # Behind a dash or a brace: the next key takes its place.
            self._cut(name.start_mark.index, of.value[at + 1][0].start_mark.index, "")
        elif of.flow_style:
            self._cut(of.value[at - 1][1].end_mark.index, old.end_mark.index, "")
        else:
            lines = self.text.splitlines(keepends=True)
            del lines[name.start_mark.line : _last_line(old) + 1]
            self._become("".join(lines))

    def put(self, key: str, piece: Piece, of: Node | None = None) -> None:
        """Append an item from elsewhere to the list under a key."""
        parent = self.root if of is None else of
        found = None if parent is None else _value(parent, key)
        if isinstance(found, SequenceNode) and not found.flow_style and found.value:
            column = found.start_mark.column
            if piece.block:
                self._insert_lines(_last_line(found.value[-1]), _indented(piece, column))
            else:
                self._insert_lines(_last_line(found.value[-1]), f"{' ' * column}- {piece.flow}\n")
        elif isinstance(found, SequenceNode):
            self._splice(found.end_mark.index - 1, ("" if not found.value else ", ") + piece.flow)
        elif isinstance(parent, MappingNode) and found is None and not parent.flow_style:
            pad = " " * parent.start_mark.column
            lines = _indented(piece, len(pad) + 2) if piece.block else f"{pad}  - {piece.flow}\n"
            self._insert_lines(_last_line(parent), f"{pad}{key}:\n{lines}")
        elif isinstance(parent, MappingNode) and found is None:
            lead = ", " if parent.value else ""
            name = f'"{key}"' if _is_json(parent) else key
            self._splice(parent.end_mark.index - 1, f"{lead}{name}: [{piece.flow}]")
        else:
            raise CannotEdit(f"{key} is no list")

    def add(self, key: str, item: Item, of: Node | None = None) -> None:
        """Append to the list under a key, which is made when it is not there."""
        parent = self.root if of is None else of
        found = None if parent is None else _value(parent, key)
        if parent is None:
            self._become(self.text + _block({key: [item]}, 0))
        elif not isinstance(parent, MappingNode):
            raise CannotEdit("a mapping is expected here")
        elif isinstance(found, SequenceNode) and not found.flow_style and found.value:
            last = found.value[-1]
            if isinstance(last, MappingNode) and last.flow_style and not _is_json(last):
                self._insert_lines(_last_line(last), f"{' ' * found.start_mark.column}- {_plain_flow(item)}\n")
            else:
                self._insert_after(_last_line(last), "- ", item, found.start_mark.column)
        elif isinstance(found, SequenceNode):
            siblings = found.value or ([parent] if isinstance(parent, MappingNode) else [])
            as_json = any(isinstance(each, MappingNode) and _is_json(each) for each in siblings)
            text = _flow(item) if as_json else _plain_flow(item)
            self._splice(found.end_mark.index - 1, ("" if not found.value else ", ") + text)
        elif found is not None and (not isinstance(found, ScalarNode) or found.value not in ("", "null", "~")):
            raise CannotEdit(f"{key} is no list")
        elif found is not None:
            self._cut(found.start_mark.index, found.end_mark.index, f" [{_flow(item)}]")
        elif parent.flow_style:
            pair = f'"{key}": [{_flow(item)}]' if _is_json(parent) else f"{key}: [{_plain_flow(item)}]"
            self._splice(parent.end_mark.index - 1, (", " if parent.value else "") + pair)
        else:
            line = _last_line(parent)
            self._insert_after(line, "", {key: [item]}, parent.start_mark.column)

    def remove(self, key: str, position: int, of: Node | None = None, *, comments: int = 0) -> None:
        """Take one item out of a list. Comments above it stay, but for `comments` lines of them that go along."""
        found = _value(of or self.root, key)
        if not isinstance(found, SequenceNode):
            raise CannotEdit(f"{key} is no list")
        item = found.value[position]
        if found.flow_style:
            start, end = item.start_mark.index, item.end_mark.index
            if position + 1 < len(found.value):
                end = found.value[position + 1].start_mark.index
            elif position:
                start = found.value[position - 1].end_mark.index
            self._cut(start, end, "")
            return
        lines = self.text.splitlines(keepends=True)
        first = item.start_mark.line
        while not lines[first][found.start_mark.column :].startswith("-"):
            first -= 1
        first -= comments
        if len(found.value) == 1:
            # The list is empty from now on, which must be said: a key with nothing below it says null.
            above = first - 1
            while not lines[above].strip() or lines[above].lstrip().startswith("#"):
                above -= 1
            lines[above] = re.sub(r":(\s)", r": []\1", lines[above], count=1)
        del lines[first : _last_line(item) + 1]
        self._become("".join(lines))

    def set_text(self, key: str, value: str, of: Node) -> None:
        """Set a key of a mapping to a text, quoted and as it is: `${…}` stays a reference. In place where it is there
        already."""
        found = _value(of, key)
        if isinstance(found, ScalarNode):
            self.rewrite({(found.start_mark.line, found.start_mark.column): value})
        elif found is not None:
            raise CannotEdit(f"{_where(found)}: {key} is no text")
        elif not isinstance(of, MappingNode):
            raise CannotEdit(f"{_where(of)}: a mapping is expected here")
        elif of.flow_style:
            self._splice(of.end_mark.index - 1, f"{', ' if of.value else ''}{json.dumps(key)}: {_quoted(value)}")
        else:
            self._insert_lines(_last_line(of), f"{' ' * of.start_mark.column}{key}: {_quoted(value)}\n")

    def mapping(self, key: str, of: Node) -> MappingNode | None:
        """The mapping under a key of a mapping; None when there is none."""
        found = _value(of, key)
        return found if isinstance(found, MappingNode) else None

    def rewrite(self, values: Mapping[tuple[int, int], str]) -> None:
        """Replace scalars, told by line and column (from 0) of their start, by quoted texts.

        Raises:
            CannotEdit: one of them is not there, or has an anchor that would be lost.
        """
        found = {
            (node.start_mark.line, node.start_mark.column): node
            for node in _nodes(self.root)
            if isinstance(node, ScalarNode)
        }
        for place in sorted(values, reverse=True):  # from the end, while the marks before still hold
            node = found.get(place)
            if node is None:
                raise CannotEdit(f"line {place[0] + 1}, column {place[1] + 1}: not found as it was read; try again")
            start, end = node.start_mark.index, node.end_mark.index
            if self.text[start] in "&*!":
                raise CannotEdit(f"{_where(node)}: the value has an anchor; write it out where it is used")
            self._cut(start, end, _quoted(values[place]) + ("\n" if node.style in ("|", ">") else ""))

    def _splice(self, index: int, text: str) -> None:
        self._cut(index, index, text)

    def _cut(self, start: int, end: int, text: str) -> None:
        self._become(self.text[:start] + text + self.text[end:])

    def _insert_after(self, line: int, lead: str, item: Item, column: int) -> None:
        self._insert_lines(line, _block([item], column) if lead else _block(item, column))

    def _insert_lines(self, line: int, block: str) -> None:
        lines = self.text.splitlines(keepends=True)
        if not lines[line].endswith("\n"):
            lines[line] += "\n"
        lines.insert(line + 1, block)
        self._become("".join(lines))


def scalar(text: str) -> str:
    """Text as a YAML scalar: plain where nobody could read it otherwise."""
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_./-]*", text) and text.lower() not in ("true", "false", "null", "yes", "no"):
        return text
    return json.dumps(text.replace("$", "$$"), ensure_ascii=False)


def file_where(files: Sequence[Path], fits: Callable[[Text], bool]) -> Path | None:
    """The first YAML file whose text fits; None when none does. What is no YAML mapping is passed over."""
    for path in files:
        with contextlib.suppress(CannotEdit, UnicodeDecodeError, OSError):  # secrets and keys are among the files
            text = Text(path.read_text(encoding="utf-8-sig"))
            if isinstance(text.root, MappingNode) and fits(text):
                return path
    return None


def file_with(files: Sequence[Path], key: str) -> Path:
    """The first YAML file that has this top-level key, else the main file (the first one)."""
    return file_where(files, lambda text: _value(text.root, key) is not None) or files[0]


def text_of(node: Node, key: str) -> str:
    """The scalar under a key of a mapping, as it is written; empty when there is none."""
    found = _value(node, key)
    return str(found.value) if isinstance(found, ScalarNode) else ""


def has(node: Node, key: str) -> bool:
    """Whether a mapping has something under this key that is not empty."""
    found = _value(node, key)
    return found is not None and bool(found.value)


def _value(node: Node | None, key: str) -> Node | None:
    if isinstance(node, MappingNode):
        for name, value in node.value:
            if isinstance(name, ScalarNode) and name.value == key:
                return value  # type: ignore[no-any-return]
    return None


def _nodes(node: Node | None) -> Iterator[Node]:
    """Every node once; aliases make a tree a graph."""
    waiting, seen = [node] if node is not None else [], set[int]()
    while waiting:
        current = waiting.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        if isinstance(current, MappingNode):
            waiting += [part for pair in current.value for part in pair]
        elif isinstance(current, SequenceNode):
            waiting += current.value


def _where(node: Node) -> str:
    return f"line {node.start_mark.line + 1}, column {node.start_mark.column + 1}"


def _quoted(text: str) -> str:
    """As JSON and YAML both read it. Not escaped for interpolation: the text may be a reference."""
    return json.dumps(text, ensure_ascii=False)


def _last_line(node: Node) -> int:
    """The last line that belongs to a node; PyYAML lets block nodes end where the next token begins."""
    if not isinstance(node, CollectionNode) or node.flow_style or not node.value:
        end = node.end_mark
        return int(end.line - (end.column == 0 and end.line > node.start_mark.line))
    parts = [part for pair in node.value for part in pair] if isinstance(node, MappingNode) else node.value
    return max(_last_line(part) for part in parts)


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f'"{key}": {_flow(each)}' for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_flow(each) for each in value) + "]"
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    return json.dumps(str(value).replace("$", "$$"), ensure_ascii=False)  # quoted: JSON stays JSON


def _plain_flow(value: Any) -> str:
    """Flow style as people write it: quotes only where they are needed."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(str(key))}: {_plain_flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_plain_flow(each) for each in value) + "]"
    return _line(value)


def _is_json(mapping: MappingNode) -> bool:
    """Whether the keys of a mapping are written in quotes."""
    return any(isinstance(key, ScalarNode) and key.style == '"' for key, _ in mapping.value)


def _indented(piece: Piece, column: int) -> str:
    """An item of a block list at this column, its comments above it."""
    pad = " " * column
    body = "".join(f"{pad}  {line}" if line.strip() else line for line in piece.block.splitlines(keepends=True))
    comments = "".join(f"{pad}{comment}\n" for comment in piece.comments)
    return f"{comments}{pad}- {body[column + 2 :]}"


def _line(value: Any) -> str:
    return scalar(value) if isinstance(value, str) else _flow(value)


def _block(value: Any, column: int) -> str:
    """A mapping, or a list of mappings, as lines; what lies deeper as one line each."""
    pad = " " * column
    if isinstance(value, list):
        return "".join(f"{pad}- {_block(item, column + 2).lstrip()}" for item in value)
    lines = ""
    for key, each in value.items():
        if isinstance(each, list) and each and isinstance(each[0], Mapping):
            lines += f"{pad}{key}:\n"
            for item in each:
                if any(isinstance(part, list) for part in item.values()):
                    lines += _block([item], column + 2)
                else:
                    lines += f"{pad}  - {{{', '.join(f'{k}: {_line(v)}' for k, v in item.items())}}}\n"
        elif isinstance(each, list):
            lines += f"{pad}{key}: [{', '.join(_line(part) for part in each)}]\n"
        elif isinstance(each, Mapping) and each:
            lines += f"{pad}{key}: {{{', '.join(f'{scalar(str(k))}: {_line(v)}' for k, v in each.items())}}}\n"
        else:
            lines += f"{pad}{key}: {_line(each)}\n"
    return lines
