"""Where the secrets of a configuration are, and in which form each is written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path as FilePath

from pydantic import BaseModel, SecretStr

from relay.config.faults import Place, key_path
from relay.config.include import gather
from relay.config.interpolate import Interpolation
from relay.config.models import Config
from relay.config.models.traffic import is_hash
from relay.config.places import Path, find
from relay.config.yaml12 import Scalar


class Form(StrEnum):
    PLAIN = "plain"  # stands in the file as it is
    SEALED = "sealed"
    ELSEWHERE = "elsewhere"  # `${NAME}`, `${file:…}`
    HASH = "hash"  # of a client's password: nothing to hide


@dataclass(frozen=True, slots=True)
class SecretField:
    """`key`: dotted path. `origin`: what it was interpolated from, without the secret; empty for plain ones."""

    key: str
    place: Place
    form: Form
    origin: str = ""
    value: str = field(default="", repr=False)


def secret_paths(model: BaseModel, path: Path = ()) -> Iterator[tuple[Path, SecretStr]]:
    """Every secret of a validated model, by the keys of the files."""
    for name, info in type(model).model_fields.items():
        yield from _within(getattr(model, name), (*path, info.alias or name))


def _within(value: object, path: Path) -> Iterator[tuple[Path, SecretStr]]:
    if isinstance(value, SecretStr):
        yield path, value
    elif isinstance(value, BaseModel):
        yield from secret_paths(value, path)
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _within(item, (*path, index))


def secret_fields(main: FilePath, config: Config) -> list[SecretField]:
    """The secrets of a sound configuration as its files write them, in their order; one that an alias repeats, once."""
    root = gather(main, Interpolation(os.environ, FilePath())).root
    found: dict[Place, SecretField] = {}
    for path, secret in secret_paths(config):
        spot = find(root, path)
        if spot.path != path or not isinstance(spot.node, Scalar):
            continue
        value, origin = secret.get_secret_value(), spot.node.origin
        place = spot.node.place
        found.setdefault(place, SecretField(key_path(path), place, _form(value, origin), origin, value))
    return list(found.values())


def _form(value: str, origin: str) -> Form:
    if origin:
        return Form.SEALED if origin.startswith("${sealed:") else Form.ELSEWHERE
    return Form.HASH if is_hash(value) else Form.PLAIN
