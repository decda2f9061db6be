"""A measurement that is no load put to several systems alike: it brings its own rows and columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.measure import Spread, spread
from bench.peers import Keys
from bench.report import cell
from bench.targets import Target

NAME_WIDTH, WIDTH = 34, 19

Figures = Mapping[str, float]
"""What one round found for one row, by column."""

Measure = Callable[[Path, Keys, bool], Iterator[tuple[str, Figures]]]
"""One round in a folder, `True` = quick: rows as they are found. Raises what `run.FAILURES` holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One table of its own kind."""

    name: str
    title: str
    note: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    measure: Measure
    targets: tuple[Target, ...] = ()


def summarize(rounds: Mapping[str, Sequence[Figures]]) -> dict[str, dict[str, Spread]]:
    """The spread of every figure over the rounds, by row."""
    return {
        row: {column: spread([figures[column] for figures in found]) for column in found[0]}
        for row, found in rounds.items()
    }


def table(figures: Mapping[str, Mapping[str, Spread]], columns: Sequence[str]) -> str:
    """One line for each row; `-` where a row has no such figure."""
    lines = [" " * NAME_WIDTH + "".join(column.rjust(WIDTH) for column in columns)]
    for row, found in figures.items():
        cells = (cell(found[column]) if column in found else "-" for column in columns)
        lines.append(row.ljust(NAME_WIDTH) + "".join(text.rjust(WIDTH) for text in cells))
    return "\n".join(lines)
