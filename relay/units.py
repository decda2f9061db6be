"""Durations and sizes as operators write them: `30s`, `15m`, `24h`, `3d`; `512kB`, `25MB`.

Usable as pydantic field types; the values are plain `float` seconds and `int` octets. A bare number is seconds or
octets. Sizes are binary: 1 MB = 1,048,576 octets, because that is what SMTP servers that say "25 MB" mean.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

_DURATION = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*(ms|s|m|h|d|w)?")
_SECONDS = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*(B|k|kB|KB|KiB|M|MB|MiB|G|GB|GiB)?")
_OCTETS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30}


def parse_duration(text: object) -> float:
    """Seconds of `text`. Raises ValueError with an example."""
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        text = f"{text:f}" if isinstance(text, float) else str(text)
    match = _DURATION.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ValueError("not a duration; write for example 30s, 15m, 24h or 3d")
    return float(match[1]) * _SECONDS[match[2] or ""]


def parse_size(text: object) -> int:
    """Octets of `text`. Raises ValueError with an example."""
    if isinstance(text, int) and not isinstance(text, bool):
        text = str(text)
    match = _SIZE.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ValueError("not a size; write for example 512kB or 25MB")
    return int(float(match[1]) * _OCTETS[(match[2] or "")[:1].lower()])


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema({"type": ["string", "number"], "pattern": r"^\d+(\.\d+)?\s*(ms|s|m|h|d|w)?$", "examples": ["15m"]}),
]
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema(
        {"type": ["string", "integer"], "pattern": r"^\d+(\.\d+)?\s*([kKMG]i?B?|B)?$", "examples": ["25MB"]}
    ),
]
