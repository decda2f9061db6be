"""Plain data → `Config`, with every fault of shape told in the operator's terms, at its place.

When items are faulty the rest is still validated without them, so that faults between items (a bridge that names no
pool) come out in the same run. No message holds a value, only keys and what was expected: a password may have slipped
into any line.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from relay.config.faults import Fault, Place, did_you_mean, key_path
from relay.config.models import Config
from relay.config.places import Path, Report, find
from relay.config.schema import known_keys
from relay.config.yaml12 import Mapping, Node, Scalar, to_data
from relay.upstreams import KINDS

_YES_NO = {"yes", "no", "on", "off", "y", "n"}


@dataclass(slots=True)
class Shaped:
    """Outcome of validation.

    Attributes:
        config: the whole configuration when there are no faults; with faults, what is left without the faulty items,
            fit for cross checks alone; None when nothing sensible is left.
        kept: path of a list → indexes of the items in `config`.
        dropped: paths that are not in `config`.
    """

    config: Config | None
    faults: list[Fault] = field(default_factory=list)
    kept: dict[Path, list[int]] = field(default_factory=dict)
    dropped: set[Path] = field(default_factory=set)


def shape(root: Mapping) -> Shaped:
    """Validate a joined tree."""
    data: dict[str, Any] = to_data(root)  # type: ignore[assignment]
    failed = _failed_paths(root)
    shaped = Shaped(None, dropped={_unit(path, _FINE) for path in failed})
    try:
        config = Config.model_validate(data)
        if not failed:
            shaped.config = config
            return shaped
    except ValidationError as fault:
        for error in fault.errors(include_url=False, include_input=False):
            path = _tree_path(error["loc"])
            spot = find(root, path)
            shaped.dropped.add(_unit(spot.path or path[:1], _FINE))
            if not (isinstance(spot.node, Scalar) and spot.node.failed):
                shaped.faults.append(_describe(error, path, root, data))
    # What was left out may have been required: each round leaves out more around it, until the rest stands alone.
    for size in (_ITEM, _ITEM, _KEY):
        left, shaped.kept = _without(data, shaped.dropped)
        left["version"] = 1
        try:
            shaped.config = Config.model_validate(left)
            break
        except ValidationError as fault:
            report = Report(root, shaped.kept)
            paths = [report.written(_tree_path(error["loc"])) for error in fault.errors(include_url=False)]
            shaped.dropped |= {_unit(path, size) for path in paths}
    return shaped


def _failed_paths(root: Node) -> list[Path]:
    """Scalars whose fault was reported before; an alias repeats them, so every path counts."""
    paths: list[Path] = []
    stack: list[tuple[Path, Node]] = [((), root)]
    while stack:
        path, node = stack.pop()
        if isinstance(node, Scalar):
            if node.failed:
                paths.append(path)
        elif isinstance(node, Mapping):
            stack.extend(((*path, key), value) for key, value in node.entries.items())
        else:
            stack.extend(((*path, index), item) for index, item in enumerate(node.items))
    return paths


def _tree_path(loc: tuple[int | str, ...]) -> Path:
    """A pydantic location without the parts that name variants of a model: `{flag}`, `[key]`."""
    return tuple(
        part for part in loc if not (isinstance(part, str) and (part == "[key]" or re.fullmatch(r"\{\w+\}", part)))
    )


_FINE, _ITEM, _KEY = range(3)


def _unit(path: Path, size: int) -> Path:
    """What is left out for a fault at `path`, so that the checks of the rest draw no wrong conclusions.

    A node or listener goes as a whole, for its keys are judged together; a section such as `retry` too. Of a bridge or
    pool only the faulty key goes, or the item of its list.
    """
    if len(path) < 2 or not isinstance(path[1], int) or size == _KEY:
        return path[:1]
    if path[0] == "pools" and path[2:3] == ("nodes",) and len(path) > 3 and isinstance(path[3], int):
        return path[:4]
    if path[0] in ("bridges", "pools") and size == _FINE:
        return path[:4] if len(path) > 3 and isinstance(path[3], int) else path[:3]
    return path[:2]


def _without(data: dict[str, Any], dropped: set[Path]) -> tuple[dict[str, Any], dict[Path, list[int]]]:
    """A copy without the dropped paths, and for lists that lost items the indexes of those that stayed."""
    left = copy.deepcopy(data)
    kept: dict[Path, list[int]] = {}
    items: dict[Path, set[int]] = {}
    for path in sorted(dropped, key=len, reverse=True):  # the inner ones first, while indexes still hold
        last = path[-1]
        if isinstance(last, int):
            items.setdefault(path[:-1], set()).add(last)
        else:
            _at(left, path[:-1]).pop(last, None)
    for path in sorted(items, key=len, reverse=True):
        holder = _at(left, path[:-1])
        listed = holder.get(path[-1])
        if isinstance(listed, list):
            kept[path] = [index for index in range(len(listed)) if index not in items[path]]
            holder[path[-1]] = [listed[index] for index in kept[path]]
    return left, kept


def _at(data: Any, path: Path) -> Any:
    """The mapping at a path, or an empty one where something around it was left out."""
    for part in path:
        inside = part < len(data) if isinstance(data, list) and isinstance(part, int) else part in data
        data = data[part] if inside else {}
    return data if isinstance(data, dict) else {}


def _describe(error: ErrorDetails, path: Path, root: Mapping, data: object) -> Fault:
    """One pydantic error as a fault."""
    spot = find(root, path)
    kind = error["type"]
    context = error.get("ctx", {})
    key = key_path(spot.path)
    if kind == "missing":
        name = str(path[-1])
        return Fault(spot.node.place, key_path((*spot.path, name)), f'"{name}" is missing', _missing_hint(name))
    if kind == "extra_forbidden":
        name = str(path[-1])
        known = known_keys(data, spot.path[:-1])
        hint = did_you_mean(name, known) or f"known here: {', '.join(known)}"
        return Fault(spot.key, key, "unknown key", hint)
    if kind == "union_tag_not_found":
        return Fault(spot.node.place, f"{key}.type", '"type" is missing', f"one of {', '.join(KINDS)}")
    if kind == "union_tag_invalid":
        chosen = find(root, (*spot.path, "type")).node
        name = str(chosen.value) if isinstance(chosen, Scalar) and not chosen.origin else ""
        known_types = f"one of {', '.join(KINDS)}"
        return Fault(chosen.place, f"{key}.type", "unknown type", did_you_mean(name, KINDS) or known_types)
    if error["loc"] and error["loc"][-1] == "[key]":
        return Fault(spot.key, key, _sentence(error))
    what, hint = _wording(kind, error, context, spot.node)
    return Fault(spot.node.place, key, what, hint)


def _missing_hint(name: str) -> str:
    return "begin the configuration with `version: 1`" if name == "version" else ""


def _wording(kind: str, error: ErrorDetails, context: dict[str, Any], node: Node) -> tuple[str, str]:
    """What is wrong and what to do, by the kind of the error."""
    value = node.value if isinstance(node, Scalar) else None
    literal = value if isinstance(value, str) and isinstance(node, Scalar) and not node.origin else ""
    if isinstance(node, Scalar) and value is None:
        return "has no value", "give one, or remove the key"
    match kind:
        case "literal_error" | "enum":
            choices = re.findall(r"'([^']*)'", str(context.get("expected", "")))
            return f"must be {_choices(context)}", did_you_mean(literal, choices)
        case "string_type":
            if isinstance(node, Scalar):
                return "must be text, not a number or flag", "put it in quotes"
            return "must be text", ""
        case "int_type" | "int_from_float":
            quoted = literal.strip().lstrip("+-").isdigit()
            return "must be a whole number", "remove the quotes" if quoted else ""
        case "bool_type":
            meant = literal.lower() in _YES_NO
            return "must be true or false", "YAML 1.2 has no yes, no, on and off" if meant else ""
        case "tuple_type" | "list_type":
            return "must be a list", "write [a, b], or one item a line beginning with `- `"
        case "dict_type" | "model_type" | "model_attributes_type":
            return "must hold keys (key: value)", ""
        case "greater_than":
            return f"must be more than {_number(context['gt'])}", ""
        case "greater_than_equal":
            return f"must be at least {_number(context['ge'])}", ""
        case "less_than_equal":
            return f"must be at most {_number(context['le'])}", ""
        case "too_short":
            return f"needs at least {context['min_length']} item", ""
        case "too_long":
            return f"has more than {context['max_length']} items", ""
        case "string_too_short":
            return "is empty", ""
        case "string_too_long":
            return f"is longer than {context['max_length']} characters", ""
        case _:
            return _sentence(error), ""


def _choices(context: dict[str, Any]) -> str:
    return str(context.get("expected", "")).replace("'", "")


def _number(value: float) -> str:
    return f"{int(value)}" if float(value).is_integer() else f"{value:g}"


def _sentence(error: ErrorDetails) -> str:
    return error["msg"].removeprefix("Value error, ")


def sort_key(files: list[str]) -> Any:
    """Order of faults: by file as read, then line and column."""
    order = {name: index for index, name in enumerate(files)}

    def key(fault: Fault) -> tuple[int, int, int]:
        place: Place = fault.place
        return order.get(place.file, len(order)), place.line, place.column

    return key
