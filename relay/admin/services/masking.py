"""The configuration as it may be shown. Pure."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, SecretStr

MASK = "***"
"""Stands for a secret, in what is shown and, where it is sent back, for the secret that is there."""

_LOGIN = re.compile(r"(?<=://)[^/@\s]*@")


def shown(value: Any) -> Any:
    """A model as JSON values under its file's keys: secrets masked, logins in URLs too, what was not set left out."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {
            fields[name].alias or name: shown(getattr(value, name)) for name in fields if name in value.model_fields_set
        }
    return _plain(value)


def effective(value: Any) -> Any:
    """As `shown`, with all that was left out at its default."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {fields[name].alias or name: effective(getattr(value, name)) for name in fields}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return [effective(each) for each in value]
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, dict):
        return {str(key): shown(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)) and not hasattr(value, "_fields"):
        return [shown(each) for each in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return _LOGIN.sub(f"{MASK}@", str(value))
