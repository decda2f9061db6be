"""What must be reached, and whether a run reached it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.measure import Spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One bound on one figure.

    Attributes:
        of: name of a row.
        column: which of its figures.
        over: another row that the figure is divided by; empty for the figure itself.
        least, most: the bounds, both included.
    """

    of: str
    column: str
    over: str = ""
    least: float = -math.inf
    most: float = math.inf

    def value(self, figures: Mapping[str, Mapping[str, Spread]]) -> float:
        """The figure or ratio, of medians; NaN when a row, a figure or a divisor is missing."""
        mine = _median(figures, self.of, self.column)
        if not self.over:
            return mine
        peer = _median(figures, self.over, self.column)
        return mine / peer if peer else math.nan

    def describe(self, title: str) -> str:
        bounds = []
        if self.least > -math.inf:
            bounds.append(f"at least {self.least:g}")
        if self.most < math.inf:
            bounds.append(f"at most {self.most:g}")
        return f"{title} of {self.of}: {' and '.join(bounds)}{f' x {self.over}' if self.over else ''}"


def verdicts(
    targets: Sequence[Target], figures: Mapping[str, Mapping[str, Spread]], titles: Mapping[str, str]
) -> list[str]:
    """A line for each target: reached, not reached, or not measured."""
    lines = []
    for target in targets:
        value = target.value(figures)
        if math.isnan(value):
            word, found = "not measured", ""
        else:
            word = "reached" if target.least <= value <= target.most else "NOT REACHED"
            found = f", is {value:.3g}{' x' if target.over else ''}"
        lines.append(f"  target {word:12} {target.describe(titles.get(target.column, target.column))}{found}")
    return lines


def _median(figures: Mapping[str, Mapping[str, Spread]], row: str, column: str) -> float:
    found = figures.get(row, {}).get(column)
    return math.nan if found is None else found.median
