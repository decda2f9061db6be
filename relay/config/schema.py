"""JSON Schema of the configuration, for editors (`relay schema`), and the keys known at a path, for suggestions."""

from __future__ import annotations

from functools import cache
from typing import Any

from relay.config.models import Config

SCHEMA_ID = "https://json-schema.org/draft/2020-12/schema"


def config_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a configuration file.

    `version` is required by the model as a whole; an included file need not repeat it, so the schema does not ask.
    """
    schema = Config.model_json_schema(by_alias=True, mode="validation")
    schema["required"] = [key for key in schema.get("required", []) if key != "version"]
    return {"$schema": SCHEMA_ID, "title": "relay configuration", **schema}


@cache
def _schema() -> dict[str, Any]:
    return config_schema()


def known_keys(data: object, path: tuple[str | int, ...]) -> tuple[str, ...]:
    """Keys that may stand in the mapping a path leads to; `data` (the whole configuration) tells variants apart."""
    variants = [_schema()]
    for part in path:
        variants = [step for variant in _expanded(variants, data) for step in _below(variant, part)]
        data = _item(data, part)
    return tuple(dict.fromkeys(key for variant in _expanded(variants, data) for key in variant.get("properties", ())))


def _item(data: object, part: str | int) -> object:
    if isinstance(data, dict) or (isinstance(data, list) and isinstance(part, int) and part < len(data)):
        return data.get(part) if isinstance(data, dict) else data[int(part)]
    return None


def _below(variant: dict[str, Any], part: str | int) -> list[dict[str, Any]]:
    if isinstance(part, int):
        return [variant["items"]] if isinstance(variant.get("items"), dict) else []
    below = variant.get("properties", {}).get(part)
    return [below] if isinstance(below, dict) else []


def _expanded(variants: list[dict[str, Any]], data: object) -> list[dict[str, Any]]:
    """Follow references and alternatives; of alternatives told apart by a key, the one `data` names."""
    result: list[dict[str, Any]] = []
    waiting = list(variants)
    while waiting:
        variant = waiting.pop(0)
        if "$ref" in variant:
            waiting.append(_schema()["$defs"][variant["$ref"].rpartition("/")[2]])
        elif "discriminator" in variant:
            chooser = variant["discriminator"]
            chosen = data.get(chooser["propertyName"]) if isinstance(data, dict) else None
            mapping: dict[str, str] = chooser.get("mapping", {})
            references = [mapping[chosen]] if isinstance(chosen, str) and chosen in mapping else list(mapping.values())
            waiting.extend({"$ref": reference} for reference in references)
        elif "properties" in variant:  # `anyOf` beside it only says which of them must be there
            result.append(variant)
        elif alternatives := variant.get("anyOf") or variant.get("oneOf"):
            waiting.extend(alternatives)
        else:
            result.append(variant)
    return result
