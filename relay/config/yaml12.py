"""YAML text → a tree that remembers where everything stood.

YAML 1.2 core rules, stricter where 1.2 leaves room for surprise: `no`, `on`, dates and `12:30` are plain text; a number
with a leading zero, in octal or hexadecimal, and `.inf`/`.nan` are faults rather than another number or text. Tags,
merge keys, several documents, keys that are not text and keys given twice are refused.

The C parser of PyYAML yields events; the tree is built here without recursion, so neither nesting nor aliases can cost
more than the limits below, and nothing is walked before it was measured. Everything stays `str`, `int`, `float`, `bool`
or `None`: no Python object can be made from a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

from relay.config.faults import Fault, Place

MAX_OCTETS = 1024 * 1024
"""Size of one file, and of what aliases may add to it. 5,000 bridges take half of it; more go in several files."""
MAX_DEPTH = 50
"""The deepest key of the configuration stands at depth 9."""
MAX_ALIASES = 100

Value = str | int | float | bool | None


@dataclass(slots=True, eq=False)
class Scalar:
    """`value` as resolved. `origin` names what it was interpolated from (`${NAME}`), or is empty; `failed`: it could
    not be, and whatever is wrong with the value further on follows from that."""

    place: Place
    value: Value
    origin: str = ""
    failed: bool = False


@dataclass(slots=True, eq=False)
class Sequence:
    place: Place
    items: list[Node] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Mapping:
    """`keys` holds the place of each key, `entries` the value."""

    place: Place
    keys: dict[str, Place] = field(default_factory=dict)
    entries: dict[str, Node] = field(default_factory=dict)


Node = Scalar | Sequence | Mapping


class YamlFault(Exception):
    """The text cannot be turned into a tree."""

    def __init__(self, place: Place, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.fault = Fault(place, "", what, hint)


_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,20}|(0|[1-9][0-9]{0,17})(\.[0-9]{0,20})?)([eE][-+]?[0-9]{1,2})?")
_ODD_NUMBER = re.compile(
    r"[-+]?(0o[0-7]+|0x[0-9a-fA-F]+|[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?|\.[0-9]+([eE][-+]?[0-9]+)?|\.(inf|Inf|INF))"
    r"|\.(nan|NaN|NAN)"
)
_NUMBER_START = frozenset("-+.0123456789")
_UNREADABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def resolve(text: str, place: Place) -> Value:
    """The value of a plain (unquoted) scalar.

    Raises:
        YamlFault: a number that YAML versions read differently, or that no key can use.
    """
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if text[0] not in _NUMBER_START:
        return text
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _ODD_NUMBER.fullmatch(text):
        hint = "write a plain decimal number, or quote it if it is text"
        raise YamlFault(place, "ambiguous or unusable number", hint)
    return text


def decode(data: bytes, file: str) -> str:
    """Text of a file. A UTF-8 byte order mark is dropped.

    Raises:
        YamlFault: too large, another encoding, or characters YAML does not allow, with their place.
    """
    if len(data) > MAX_OCTETS:
        raise YamlFault(Place(file), f"larger than {MAX_OCTETS} octets", "split it with include")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise YamlFault(Place(file), "UTF-16 text", "save the file as UTF-8")
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as fault:
        place = _place_at(data[: fault.start].decode("utf-8"), file)
        raise YamlFault(place, f"octet 0x{data[fault.start]:02x} is not UTF-8", "save the file as UTF-8") from None
    if bad := _UNREADABLE.search(text):
        place = _place_at(text[: bad.start()], file)
        raise YamlFault(place, f"character U+{ord(bad[0]):04X} is not allowed in YAML")
    return text


def parse(data: bytes, file: str) -> tuple[Node, list[Fault]]:
    """The tree of a file, and faults that can be listed together (duplicate keys, odd numbers, tags).

    Raises:
        YamlFault: the text is no tree within the limits.
    """
    text = decode(data, file)
    builder = _Builder(file)
    try:
        loader = yaml.CSafeLoader(text)
        while (event := loader.get_event()) is not None:
            builder.take(event)
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file)
        raise YamlFault(place, *_syntax_message(fault, text, mark.line if mark else -1)) from None
    except yaml.YAMLError as fault:
        raise YamlFault(Place(file), f"not YAML: {type(fault).__name__}") from None
    if builder.root is None:
        raise YamlFault(Place(file), "empty", "`relay init` writes a configuration to start from")
    return builder.root, builder.faults


def _place_at(before: str, file: str) -> Place:
    return Place(file, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)


def _syntax_message(fault: yaml.MarkedYAMLError, text: str, line: int) -> tuple[str, str]:
    """What the parser says, and the two causes it never names: tabs as indent, braces of an unquoted `${…}`."""
    around = text.split("\n", line + 1)[max(line - 1, 0) : line + 1] if line >= 0 else []
    if around and "\t" in around[-1][: len(around[-1]) - len(around[-1].lstrip())]:
        return "tabs are not allowed as indent", "use blanks"
    hint = 'inside { } and [ ] write "${…}" in quotes' if any("${" in piece for piece in around) else ""
    return f"syntax error: {fault.problem or fault.context or 'not YAML'}", hint


@dataclass(slots=True)
class _Open:
    """A collection whose end has not come.

    `weight`: octets it stands for with aliases written out; `height`: levels in it; `key`: the key that waits for its
    value.
    """

    node: Sequence | Mapping
    anchor: str | None
    weight: int = 1
    height: int = 1
    key: str | None = None
    key_place: Place | None = None


class _Builder:
    """Takes parser events, keeps the open collections on a stack of its own."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.root: Node | None = None
        self.faults: list[Fault] = []
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Node, int, int]] = {}
        self._aliases = 0
        self._added = 0
        self._documents = 0

    def take(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event)
        elif isinstance(event, yaml.MappingStartEvent):
            self._begin(event, Mapping(self._place(event)))
        elif isinstance(event, yaml.SequenceStartEvent):
            self._begin(event, Sequence(self._place(event)))
        elif isinstance(event, yaml.CollectionEndEvent):
            self._end()
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise YamlFault(self._place(event), "a second document", "one file holds one document; remove `---`")

    def _place(self, event: yaml.Event) -> Place:
        mark = event.start_mark
        assert mark is not None
        return Place(self.file, mark.line + 1, mark.column + 1)

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        place = self._place(event)
        text: str = event.value
        node = Scalar(place, text, failed=self._has_tag(event, place))
        if event.implicit[0] and not event.style:
            try:
                node.value = resolve(text, place)
            except YamlFault as fault:
                self.faults.append(fault.fault)
                node.failed = True
        if event.anchor is not None:
            self._anchors[event.anchor] = (node, len(text) + 1, 0)
        self._attach(node, len(text) + 1, 0)

    def _begin(self, event: yaml.CollectionStartEvent, node: Sequence | Mapping) -> None:
        if len(self._open) >= MAX_DEPTH:
            raise YamlFault(node.place, f"nested deeper than {MAX_DEPTH}")
        self._has_tag(event, node.place)
        if event.anchor is not None:
            self._anchors.pop(event.anchor, None)
        self._open.append(_Open(node, event.anchor))

    def _end(self) -> None:
        done = self._open.pop()
        if done.anchor is not None:
            self._anchors[done.anchor] = (done.node, done.weight, done.height)
        self._attach(done.node, done.weight, done.height)

    def _alias(self, event: yaml.AliasEvent) -> None:
        place = self._place(event)
        if event.anchor not in self._anchors:
            inside = any(collection.anchor == event.anchor for collection in self._open)
            raise YamlFault(place, f"alias *{event.anchor} {'holds itself' if inside else 'has no anchor before it'}")
        node, weight, height = self._anchors[event.anchor]
        self._aliases += 1
        self._added += weight
        if self._aliases > MAX_ALIASES:
            raise YamlFault(place, f"more than {MAX_ALIASES} aliases")
        if self._added > MAX_OCTETS:
            raise YamlFault(place, f"aliases blow the file up by more than {MAX_OCTETS} octets")
        if len(self._open) + height > MAX_DEPTH:
            raise YamlFault(place, f"nested deeper than {MAX_DEPTH}")
        self._attach(node, weight, height, place)

    def _attach(self, node: Node, weight: int, height: int, place: Place | None = None) -> None:
        """Put a finished node where it belongs: key, value, item or root."""
        if not self._open:
            self.root = node
            return
        parent = self._open[-1]
        parent.weight += weight
        if height >= parent.height:
            parent.height = height + 1
        if isinstance(parent.node, Sequence):
            parent.node.items.append(node)
        elif parent.key_place is None:
            parent.key_place = place or node.place
            parent.key = self._key(node, parent.node, parent.key_place)
        else:
            if parent.key is not None:
                parent.node.keys[parent.key] = parent.key_place
                parent.node.entries[parent.key] = node
            parent.key = parent.key_place = None

    def _key(self, node: Node, mapping: Mapping, place: Place) -> str | None:
        """The key, or None when it cannot be used and its value is dropped."""
        if not isinstance(node, Scalar) or not isinstance(node.value, str):
            self.faults.append(Fault(place, "", "a key must be text", "quote it"))
            return None
        if node.value == "<<":
            self.faults.append(Fault(place, "", "merge keys (<<) are not part of YAML 1.2", "write the keys out"))
            return None
        if node.value in mapping.keys:
            first = mapping.keys[node.value]
            self.faults.append(Fault(place, node.value, "key given twice", f"first at line {first.line}"))
            return None
        return node.value

    def _has_tag(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent, place: Place) -> bool:
        if event.tag is None:
            return False
        self.faults.append(Fault(place, "", "tags (! and !!) are refused", "remove it; types come from the schema"))
        return True


def to_data(node: Node) -> object:
    """Plain Python values of a tree (depth is bounded by `parse`)."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Sequence):
        return [to_data(item) for item in node.items]
    return {key: to_data(value) for key, value in node.entries.items()}


def scalars(node: Node) -> Iterator[tuple[tuple[str | int, ...], Scalar]]:
    """Every scalar with its path, each once even where an alias repeats it."""
    seen: set[int] = set()
    stack: list[tuple[tuple[str | int, ...], Node]] = [((), node)]
    while stack:
        path, current = stack.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, Scalar):
            yield path, current
        elif isinstance(current, Sequence):
            stack.extend(((*path, i), item) for i, item in reversed(list(enumerate(current.items))))
        else:
            stack.extend(((*path, key), value) for key, value in reversed(list(current.entries.items())))
