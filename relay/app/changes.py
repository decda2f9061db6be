"""What differs between two configurations, in an operator's words. Pure; secrets are compared and never shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, SecretStr

from relay.config.models import Config
from relay.config.models.traffic import NodeModel
from relay.config.values import default_pool

HIDDEN = "(secret)"
OTHER = "(another secret)"

_KEYS = ("name", "username", "id", "domain", "bind")
"""What entries of lists are told apart by, the first that they have."""


class What(StrEnum):
    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Difference:
    """One key. Absent on one side: None."""

    key: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """`kind`: pool, node, bridge, or setting (then `name` is a top-level key)."""

    what: What
    kind: str
    name: str
    differences: tuple[Difference, ...] = ()


def changes(before: Config, after: Config) -> tuple[Change, ...]:
    """Settings, pools, nodes, bridges, each in the order of the files; removed ones last of their kind."""
    settings = [name for name in type(after).model_fields if name not in ("include", "bridges", "pools", "nodes")]
    found = [
        Change(What.CHANGED, "setting", name, differences)
        for name in settings
        if (differences := _differences(_flat(getattr(before, name), name), _flat(getattr(after, name), name)))
    ]
    found += _of_kind("pool", _pools(before), _pools(after))
    found += _of_kind("node", _nodes(before), _nodes(after))
    found += _of_kind("bridge", _bridges(before), _bridges(after))
    return tuple(found)


Flat = Mapping[str, tuple[object, str]]
"""Key -> value to compare, and how it is shown."""


def _of_kind(kind: str, before: Mapping[str, Flat], after: Mapping[str, Flat]) -> Iterator[Change]:
    for name, flat in after.items():
        if name not in before:
            yield Change(What.ADDED, kind, name)
        elif differences := _differences(before[name], flat):
            yield Change(What.CHANGED, kind, name, differences)
    for name in before:
        if name not in after:
            yield Change(What.REMOVED, kind, name)


def _differences(before: Flat, after: Flat) -> tuple[Difference, ...]:
    found = []
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key), after.get(key)
        if old is not None and new is not None:
            if old[0] == new[0]:
                continue
            shown = OTHER if new[1] == HIDDEN else new[1]
            found.append(Difference(key, old[1], shown))
        else:
            found.append(Difference(key, old[1] if old else None, new[1] if new else None))
    return tuple(found)


def _pools(config: Config) -> dict[str, Flat]:
    return {pool.name: {k: v for k, v in _flat(pool, "").items() if not k.startswith("nodes")} for pool in config.pools}


def _nodes(config: Config) -> dict[str, Flat]:
    default = default_pool(config)
    placed: list[tuple[NodeModel, str]] = [(node, pool.name) for pool in config.pools for node in pool.nodes]
    placed += [(node, node.pool or default) for node in config.nodes]
    return {node.name: {**_flat(node, ""), "pool": (pool, pool)} for node, pool in placed}


def _bridges(config: Config) -> dict[str, Flat]:
    default = default_pool(config)
    return {
        bridge.name: {**_flat(bridge, ""), "pool": (bridge.pool or default, bridge.pool or default)}
        for bridge in config.bridges
    }


def _flat(value: Any, key: str) -> dict[str, tuple[object, str]]:
    """The leaves of a value by dotted key."""
    if isinstance(value, SecretStr):
        return {key: (value.get_secret_value(), HIDDEN)}
    if isinstance(value, BaseModel):
        found: dict[str, tuple[object, str]] = {}
        for name, field in type(value).model_fields.items():
            found.update(_flat(getattr(value, name), _under(key, field.alias or name)))
        return found
    if isinstance(value, Mapping):
        return {k: v for name, item in value.items() for k, v in _flat(item, _under(key, str(name))).items()}
    if isinstance(value, tuple | list) and any(isinstance(item, BaseModel) for item in value):
        found = {}
        for number, item in enumerate(value):
            name = next((str(getattr(item, k)) for k in _KEYS if getattr(item, k, None) is not None), str(number))
            found.update(_flat(item, f"{key}[{name}]"))
        return found
    if hasattr(value, "url") or "://" in str(value):
        return {key: (value, str(value).partition("://")[0] + "://…")}  # may hold a password
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return {key: (value, "[" + ", ".join(str(item) for item in value) + "]")}
    return {key: (value, str(value))}


def _under(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
