"""As much of PromQL as it takes to see which metrics and labels an expression names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_SELECTOR = re.compile(r"\b(relay_[a-z_]+|up)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'([a-z_]+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_GROUPED = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")
_LEGEND = re.compile(r"\{\{\s*(?:\$labels\.)?([a-z_]+)\s*\}\}")


@dataclass(frozen=True)
class Selector:
    metric: str
    matchers: tuple[tuple[str, str, str], ...]


def selectors(expression: str) -> Iterator[Selector]:
    for metric, inside in _SELECTOR.findall(expression):
        yield Selector(metric, tuple(_MATCHER.findall(inside)))


def grouped(expression: str) -> set[str]:
    """Labels an expression groups or joins by."""
    return {label.strip() for inside in _GROUPED.findall(expression) for label in inside.split(",") if label.strip()}


def legend(text: str) -> set[str]:
    """Labels that a legend or an annotation shows."""
    return set(_LEGEND.findall(text)) - {"value"}
