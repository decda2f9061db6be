"""Values that are frozen for the type checker and plain at run time.

A frozen dataclass sets each field through `object.__setattr__`, which makes it three times as dear to build as a plain
one. A message on its way builds some thirty values; `mypy --strict` sees to it that nobody changes one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, TypeVar, cast

T = TypeVar("T")

_cloners: dict[type[Any], Callable[[Any], Any]] = {}


def thawed(cls: type[T]) -> type[T]:
    """Give a frozen dataclass a constructor that simply assigns. Goes above `@dataclass`; needed for `evolve`."""
    members = fields(cast("Any", cls))
    parameters: list[str] = []
    assigned: list[str] = []
    scope: dict[str, Any] = {"_missing": MISSING, "_new": cls.__new__, "_cls": cls}
    for field in sorted(members, key=lambda field: field.kw_only is True):
        name = field.name
        if field.kw_only and "*" not in parameters:
            parameters.append("*")
        value = name
        if field.default is not MISSING:
            scope[f"_default_{name}"] = field.default
            parameters.append(f"{name}=_default_{name}")
        elif field.default_factory is not MISSING:
            scope[f"_make_{name}"] = field.default_factory
            parameters.append(f"{name}=_missing")
            value = f"_make_{name}() if {name} is _missing else {name}"
        else:
            parameters.append(name)
        assigned.append(f" self.{name} = {value}")
    if hasattr(cls, "__post_init__"):
        assigned.append(" self.__post_init__()")
    copied = [f" made.{field.name} = value.{field.name}" for field in members]
    source = [
        f"def __init__(self, {', '.join(parameters)}):",
        *assigned,
        "def clone(value):",
        " made = _new(_cls)",
        *copied,
        " return made",
    ]
    exec("\n".join(source), scope)  # noqa: S102 - names of our own fields
    scope["__init__"].__qualname__ = f"{cls.__qualname__}.__init__"
    for name, method in (
        ("__init__", scope["__init__"]),
        ("__setattr__", object.__setattr__),
        ("__delattr__", object.__delattr__),
    ):
        setattr(cls, name, method)
    _cloners[cls] = scope["clone"]
    return cls


def evolve(value: T, **changes: Any) -> T:
    """A copy of a thawed value with some fields changed: `dataclasses.replace` at a quarter of the price.

    `__post_init__` is not run again.

    Raises:
        AttributeError: there is no such field.
    """
    made: T = _cloners[type(value)](value)
    for name, change in changes.items():
        setattr(made, name, change)
    return made
