"""Which keys of a model hold secrets, whether they are set or not."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, SecretStr


def secret_names(model: type[BaseModel]) -> list[tuple[str, ...]]:
    """Paths of the keys, as they stand in the files; inside of models, not of lists."""
    found: list[tuple[str, ...]] = []
    for name, info in model.model_fields.items():
        key = info.alias or name
        if is_secret(info.annotation):
            found.append((key,))
        elif (inner := _model_in(info.annotation)) is not None:
            found += [(key, *rest) for rest in secret_names(inner)]
    return found


def is_secret(annotation: Any) -> bool:
    """A field of this type holds a secret."""
    return annotation is SecretStr or any(is_secret(part) for part in get_args(annotation))


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)
