"""A form out of an options model, and the model's mapping out of a form. Pure.

The fields are those of the JSON schema that the API publishes, so a new vendor has its form by being declared. What is
left empty is left out of the file; a secret that is there is never shown, and stays when its field is left empty.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from typing import Any

from relay.admin.refusals import Refused
from relay.admin.services.masking import MASK
from relay.config.models.traffic import NODE_CLASSES, BridgeModel, NodeModel, PoolModel
from relay.config.yaml12 import YamlFault, parse, to_data
from relay.fields import Options
from relay.upstreams.api_options import ApiOptions, ShownOptions

PREFIX = "o."
"""Of the names of form fields, so that they never meet other fields of a page."""


class Kind(StrEnum):
    TEXT = "text"
    SECRET = "secret"  # noqa: S105 - a kind of field
    INTEGER = "integer"
    NUMBER = "number"
    FLAG = "flag"
    CHOICE = "choice"
    LINES = "lines"  # a list of texts, one a line
    PAIRS = "pairs"  # a mapping of texts, `name: value` a line
    YAML = "yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """
    Attributes:
        key: of the mapping; with a dot for a key of a mapping in it.
        value: as the form shows it; a flag's is `on` or empty.
        is_set: the file says it.
        is_common: shown at once, not below "more".
    """

    key: str
    label: str
    help: str
    kind: Kind
    default: str = ""
    choices: tuple[str, ...] = ()
    is_required: bool = False
    value: str = ""
    is_set: bool = False
    is_common: bool = False

    @property
    def name(self) -> str:
        return f"{PREFIX}{self.key}"


_LABELS = {
    "tls": "TLS", "ehlo": "EHLO name", "smtputf8": "International addresses (SMTPUTF8)", "base_url": "Base URL",
    "ca_file": "CA file", "id": "Id", "mta": "MTA", "eight_bit": "8-bit content", "url": "URL", "api_key": "API key",
    "auth": "AUTH mechanism", "max_size": "Largest message", "return_path": "Return path",
}  # fmt: skip
_ALWAYS_COMMON = {"weight", "priority", "caps"}
_NEVER_COMMON = {"connections", "auth", "source_address", "ehlo", "messages_per_connection", "idle_close", "pipelining"}
_SPAN = "ms|s|m|h|d|w"


def node_fields(kind: str, current: Mapping[str, Any] | None = None) -> list[Field]:
    """Of a node of this type, but its name, pool and type. `current`: as it is written, secrets masked."""
    every = set(NodeModel.model_fields) | {"from"}
    shared = every | set(ApiOptions.model_fields) | set(ShownOptions.model_fields)
    common = {key for key in NODE_CLASSES[kind].model_fields if key not in shared} - _NEVER_COMMON | _ALWAYS_COMMON
    fields = _with_values(_fields(NODE_CLASSES[kind], {"name", "pool", "type"}), current or {})
    own = [
        replace(f, is_common=f.is_required or (_head(f.key) in common and ("." not in f.key or f.key[:5] == "caps.")))
        for f in fields
    ]
    # Where to, then who, then how much: what the driver asks for comes before what every node has.
    return sorted(own, key=lambda field: (not field.is_required, _head(field.key) in every))


def pool_fields(current: Mapping[str, Any] | None = None) -> list[Field]:
    """Of a pool, but its nodes; name, id and mta of one that exists are not changed."""
    hidden = {"nodes"} | ({"name", "id", "mta"} if current is not None else set())
    fields = _with_values(_fields(PoolModel, hidden), current or {})
    return [
        replace(f, is_common=f.key in ("name", "rotation", "feedtype", "mta", "kind"), is_required=f.key == "name")
        for f in fields
    ]


def bridge_fields(current: Mapping[str, Any] | None = None) -> list[Field]:
    """Of a bridge, but its pool and logins."""
    hidden = {"credentials", "pool"} | ({"name"} if current is not None else set())
    fields = _with_values(_fields(BridgeModel, hidden), current or {})
    common = ("name", "senders", "networks", "delivery", "limits.hour", "limits.day")
    return [replace(f, is_common=f.key in common) for f in fields]


def mapping_of(fields: Collection[Field], form: Mapping[str, Any]) -> dict[str, Any]:
    """What a form says. Raises Refused 422 with every field that cannot be read."""
    found: dict[str, Any] = {}
    faults: list[dict[str, str]] = []
    for field in fields:
        raw = form.get(field.name, "")
        text = raw if isinstance(raw, str) else ""
        try:
            value = _read(field, text.replace("\r\n", "\n"))
        except ValueError as error:
            faults.append({"where": field.key, "what": str(error)})
            continue
        if value is None:
            continue
        head, _, rest = field.key.partition(".")
        if rest:
            found.setdefault(head, {})[rest] = value
        else:
            found[head] = value
    if faults:
        raise Refused(422, "not as it must be", errors=faults)
    return found


def filled(fields: Collection[Field], form: Mapping[str, Any]) -> list[Field]:
    """The fields with what was typed, to show a form again; secrets have to be typed again."""
    return [
        field if field.kind is Kind.SECRET else replace(field, value=str(form.get(field.name, ""))) for field in fields
    ]


def _read(field: Field, text: str) -> Any:
    """The value of a field; None leaves its key out. Raises ValueError."""
    bare = text.strip()
    match field.kind:
        case Kind.FLAG:
            wanted = bare == "on"
            return wanted if field.is_set or wanted != (field.default == "on") else None
        case Kind.SECRET:
            return text if bare else (MASK if field.is_set else None)
        case Kind.CHOICE:
            return bare if bare and (field.is_set or bare != field.default) else None
        case _ if not bare:
            return None
        case Kind.INTEGER:
            return int(bare) if re.fullmatch(r"[-+]?[0-9]{1,18}", bare) else bare
        case Kind.NUMBER:
            return float(bare) if re.fullmatch(r"[-+]?[0-9]{1,18}(\.[0-9]{1,18})?", bare) else bare
        case Kind.LINES:
            return [line.strip() for line in bare.split("\n") if line.strip()]
        case Kind.PAIRS:
            return _pairs(bare)
        case Kind.YAML:
            return _yaml(bare)
        case Kind.TEXT:
            return bare


def _pairs(text: str) -> dict[str, str]:
    found = {}
    for line in text.split("\n"):
        if not line.strip():
            continue
        name, colon, value = line.partition(":")
        if not colon:
            raise ValueError("write `Name: value`, one a line")
        found[name.strip()] = value.strip()
    return found


def _yaml(text: str) -> Any:
    try:
        node, faults = parse(text.encode(), "form")
    except YamlFault as error:
        raise ValueError(f"not readable as YAML: {error}") from None
    if faults:
        raise ValueError(f"not readable as YAML: {faults[0].what}")
    return to_data(node)


# From the schema


def _fields(model: type[Options], hidden: Collection[str]) -> list[Field]:
    return [field for field in _all_fields(model) if _head(field.key) not in hidden]


@cache
def _all_fields(model: type[Options]) -> tuple[Field, ...]:
    schema = model.model_json_schema(by_alias=True)
    return tuple(_of_properties(schema, schema.get("$defs", {}), ""))


def _of_properties(schema: Mapping[str, Any], defs: Mapping[str, Any], inside: str) -> Iterator[Field]:
    required = schema.get("required", ())
    for key, raw in schema["properties"].items():
        shape = _resolved(raw, defs)
        if shape.get("type") == "object" and "properties" in shape and not inside:
            yield from _of_properties(shape, defs, f"{key}.")
        else:
            yield _field(f"{inside}{key}", {**shape, **_said(raw)}, key in required and not inside)


def _said(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: raw[key] for key in ("description", "default") if key in raw}


def _resolved(raw: Mapping[str, Any], defs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The one shape a key may have; what may have several is told as YAML."""
    if "$ref" in raw:
        return _resolved(defs[raw["$ref"].rpartition("/")[2]], defs)
    for word in ("anyOf", "oneOf"):
        if word in raw:
            choices = [each for each in raw[word] if each.get("type") != "null"]
            return _resolved(choices[0], defs) if len(choices) == 1 else {"type": "several"}
    return raw


def _field(key: str, shape: Mapping[str, Any], is_required: bool) -> Field:
    kind = _kind(shape)
    default = shape.get("default")
    shown = "" if default is None or default in ("", [], {}, ()) else str(default)
    if kind is Kind.FLAG:
        shown = "on" if default else ""
    elif kind is Kind.YAML:
        shown = "" if default is None or isinstance(default, (dict, list, tuple)) else json.dumps(default)
    elif _SPAN in str(shape.get("pattern", "")) and isinstance(default, float):
        shown = f"{default:g} s"
    return Field(
        key=key,
        label=_label(key),
        help=str(shape.get("description", "")).replace("`", "").replace("\n", " "),
        kind=kind,
        default=shown,
        choices=tuple(str(each) for each in shape.get("enum", ())),
        is_required=is_required,
    )


def _kind(shape: Mapping[str, Any]) -> Kind:
    kind = shape.get("type")
    if shape.get("format") == "password":
        return Kind.SECRET
    if "enum" in shape:
        return Kind.CHOICE
    if kind == "boolean":
        return Kind.FLAG
    if kind == "integer":
        return Kind.INTEGER
    if kind == "number":
        return Kind.NUMBER
    if kind == "string" or (isinstance(kind, list) and "string" in kind):
        return Kind.TEXT
    if kind == "array" and shape.get("items", {}).get("type") == "string":
        return Kind.LINES
    if kind == "object" and shape.get("additionalProperties") not in (None, False):
        return Kind.PAIRS
    return Kind.YAML


def _label(key: str) -> str:
    head, _, rest = key.partition(".")
    if head == "caps":
        return f"Recipients {'an' if rest == 'hour' else 'a'} {rest}"
    word = _LABELS.get(rest or head) or (rest or head).replace("_", " ").capitalize()
    return f"{head.capitalize()}: {word.lower()}" if rest else word


def _with_values(fields: Collection[Field], current: Mapping[str, Any]) -> list[Field]:
    found = []
    for field in fields:
        head, _, rest = field.key.partition(".")
        value = current.get(head)
        if rest:
            value = value.get(rest) if isinstance(value, Mapping) else None
        if value is None:
            shown = field.default if field.kind in (Kind.FLAG, Kind.CHOICE) else ""
            found.append(replace(field, value=shown))
        else:
            found.append(replace(field, value=_shown(field, value), is_set=True))
    return found


def _shown(field: Field, value: Any) -> str:
    match field.kind:
        case Kind.SECRET:
            return ""
        case Kind.FLAG:
            return "on" if value else ""
        case Kind.LINES if isinstance(value, list):
            return "\n".join(str(each) for each in value)
        case Kind.PAIRS if isinstance(value, Mapping):
            return "\n".join(f"{name}: {each}" for name, each in value.items())
        case Kind.YAML:
            if isinstance(value, Mapping) and set(value) == {"limit"}:
                return str(value["limit"])
            return json.dumps(value, ensure_ascii=False)
        case _:
            return f"{value:g}" if isinstance(value, float) else str(value)


def _head(key: str) -> str:
    return key.partition(".")[0]
