"""What an update of a mapping in the configuration comes to, key by key. Pure.

Only keys whose meaning changes are written: `30s` stays where 30 seconds are asked for, `${NAME}` where the value it
has is asked for, and a secret where its mask is sent back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, SecretStr, TypeAdapter, ValidationError

from relay.admin.refusals import Refused, faults_of
from relay.admin.services.masking import MASK


@dataclass(frozen=True, slots=True)
class Difference:
    """Keys to write with their values as they were asked for, and keys to remove."""

    write: Mapping[str, Any]
    remove: tuple[str, ...]


def read(adapter: TypeAdapter[Any], body: Mapping[str, Any]) -> BaseModel:
    """The model that a body stands for. Raises Refused 422 with every fault."""
    try:
        model: BaseModel = adapter.validate_python(dict(body))
    except ValidationError as error:
        faults = faults_of(error.errors(include_url=False, include_input=False))
        raise Refused(422, "not as it must be", errors=faults) from None
    return model


def unmasked(body: Mapping[str, Any], current: BaseModel | None) -> dict[str, Any]:
    """The body with the secrets that are there in the place of their masks. Raises Refused 422 where there is none."""
    result: dict[str, Any] = {}
    for key, value in body.items():
        known = None if current is None else getattr(current, _attribute(current, key), None)
        if value == MASK:
            if not isinstance(known, SecretStr):
                raise Refused(422, f"{key}: {MASK} stands for the secret that is there, and there is none")
            result[key] = known.get_secret_value()
        elif isinstance(value, Mapping):
            result[key] = unmasked(value, known if isinstance(known, BaseModel) else None)
        else:
            result[key] = value
    return result


def written(model: BaseModel) -> dict[str, Any]:
    """What was set on a model, under the keys of the file; values as the model has them, secrets included."""
    fields = type(model).model_fields
    return {fields[name].alias or name: getattr(model, name) for name in model.model_fields_set}


def difference(body: Mapping[str, Any], wanted: BaseModel, current: BaseModel, *, partial: bool) -> Difference:
    """
    Args:
        body: as it was asked for, masks included; `wanted` is the model of it.
        partial: keys that the body lacks stay; else they go back to their defaults.
    """
    write: dict[str, Any] = {}
    for key, value in body.items():
        name = _attribute(wanted, key)
        is_written = name in current.model_fields_set
        if value == MASK or (is_written and _same(getattr(wanted, name), getattr(current, name, None))):
            continue
        if isinstance(value, Mapping) and MASK in value.values():
            # Its keys are written together, and what stands in the file for the secret is not known here.
            raise Refused(422, f"{key}: to change it, give its secrets anew instead of {MASK}")
        write[key] = value
    fields = type(current).model_fields
    written = {fields[name].alias or name for name in current.model_fields_set}
    return Difference(write, () if partial else tuple(sorted(written - set(body))))


def _same(one: Any, other: Any) -> bool:
    return bool(one == other)


def _attribute(model: BaseModel, key: str) -> str:
    for name, field in type(model).model_fields.items():
        if (field.alias or name) == key:
            return name
    return key
