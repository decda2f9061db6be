"""Changing configuration files as an operator would: only the lines that change are touched, so that comments and
layout stay; the file is replaced in one step, and what does not validate is taken back before anybody reads it.

PyYAML tells where things stand, and the text is cut and pasted there. Both block and flow style (and JSON) are known.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode, SequenceNode

from relay.config.load import Loaded, load
from relay.errors import ConfigError

Item = Mapping[str, Any]
"""A mapping of texts, lists of texts and lists of such mappings."""


class CannotEdit(ConfigError):
    """The text is not of a form that can be changed here; an operator must."""


class Text:
    """The text of a YAML file, and what it says as far as it is needed for changing it."""

    def __init__(self, text: str) -> None:
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

    def add(self, key: str, item: Item, of: Node | None = None) -> None:
        """Append to the list under a key, which is made when it is not there."""
        parent = self.root if of is None else of
        found = None if parent is None else _value(parent, key)
        if parent is None:
            self.text += _block({key: [item]}, 0)
        elif not isinstance(parent, MappingNode):
            raise CannotEdit("a mapping is expected here")
        elif isinstance(found, SequenceNode) and not found.flow_style and found.value:
            last = found.value[-1]
            self._insert_after(_last_line(last), "- ", item, found.start_mark.column)
        elif isinstance(found, SequenceNode):
            self._splice(found.end_mark.index - 1, ("" if not found.value else ", ") + _flow(item))
        elif found is not None and (not isinstance(found, ScalarNode) or found.value not in ("", "null", "~")):
            raise CannotEdit(f"{key} is no list")
        elif found is not None:
            self._cut(found.start_mark.index, found.end_mark.index, f" [{_flow(item)}]")
        elif parent.flow_style:
            self._splice(parent.end_mark.index - 1, f'{", " if parent.value else ""}"{key}": [{_flow(item)}]')
        else:
            line = _last_line(parent)
            self._insert_after(line, "", {key: [item]}, parent.start_mark.column)

    def remove(self, key: str, position: int, of: Node | None = None) -> None:
        """Take one item out of a list. Comments above it stay."""
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
        if len(found.value) == 1:
            # The list is empty from now on, which must be said: a key with nothing below it says null.
            above = first - 1
            while not lines[above].strip() or lines[above].lstrip().startswith("#"):
                above -= 1
            lines[above] = re.sub(r":(\s)", r": []\1", lines[above], count=1)
        del lines[first : _last_line(item) + 1]
        self.text = "".join(lines)

    def put(self, key: str, value: str, of: Node) -> None:
        """Set a key of a mapping to a text, quoted; in place where it is there already."""
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
            lines = self.text.splitlines(keepends=True)
            line = _last_line(of)
            if not lines[line].endswith("\n"):
                lines[line] += "\n"
            lines.insert(line + 1, f"{' ' * of.start_mark.column}{key}: {_quoted(value)}\n")
            self.text = "".join(lines)

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
        self.text = self.text[:start] + text + self.text[end:]

    def _insert_after(self, line: int, lead: str, item: Item, column: int) -> None:
        lines = self.text.splitlines(keepends=True)
        if not lines[line].endswith("\n"):
            lines[line] += "\n"
        block = _block([item], column) if lead else _block(item, column)
        lines.insert(line + 1, block)
        self.text = "".join(lines)


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


def edit(config: Path, path: Path, change: Callable[[Text], None], proof: Callable[[Loaded], bool]) -> None:
    """Apply `change` to a file and keep it only when the whole configuration validates and is what was meant.

    Args:
        config: the main file, for validation.
        proof: looks at the configuration that results.

    Raises:
        ConfigError: the result does not validate; the file is as it was.
        OSError: the file cannot be written.
    """
    path = path.resolve()  # a symbolic link stays one
    with _alone(path.parent):
        before = path.read_bytes()
        raw = before.decode("utf-8")
        mark = raw[: raw.startswith("\ufeff")]
        crlf = "\r\n" in raw
        text = Text(raw[len(mark) :].replace("\r\n", "\n"))
        change(text)
        after = mark + (text.text.replace("\n", "\r\n") if crlf else text.text)
        _replace(path, after.encode("utf-8"))
        try:
            if not proof(load(config)):
                raise CannotEdit(f"{path} is of a form that cannot be changed here; edit it by hand")
        except BaseException:
            _replace(path, before)
            raise


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
    return json.dumps(str(value).replace("$", "$$"), ensure_ascii=False)  # quoted: JSON stays JSON


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
                    lines += f"{pad}  - {{{', '.join(f'{k}: {scalar(v)}' for k, v in item.items())}}}\n"
        elif isinstance(each, list):
            lines += f"{pad}{key}: [{', '.join(scalar(part) for part in each)}]\n"
        else:
            lines += f"{pad}{key}: {scalar(each)}\n"
    return lines


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
                os.fchown(file.fileno(), facts.st_uid, facts.st_gid)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
