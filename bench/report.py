"""Runs to figures, figures to tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from bench.measure import Spread, spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one run of one system gave. `at_80` figures: at 80 % of the rate this run could keep up.

    Attributes:
        others: part of the machine that processes outside the benchmark used meanwhile, 0 to 1.
        whole: everything that was accepted arrived.
    """

    accepted: float
    delivered: float
    cpu_us: float
    p50_ms: float
    p99_ms: float
    p50_ms_at_80: float
    p99_ms_at_80: float
    cpu_us_at_80: float
    peak_mb: float
    others: float
    whole: bool = True


COLUMNS = {
    "accepted": "accepted/s",
    "delivered": "delivered/s",
    "cpu_us": "CPU us/msg",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "p50_ms_at_80": "p50 ms @80%",
    "p99_ms_at_80": "p99 ms @80%",
    "cpu_us_at_80": "CPU us @80%",
    "peak_mb": "peak MB",
}
NAME_WIDTH, WIDTH = 26, 13


def summarize(runs: Sequence[Run]) -> dict[str, Spread]:
    """The spread of every figure over runs of one system."""
    return {
        field.name: spread([getattr(run, field.name) for run in runs]) for field in fields(Run) if field.name != "whole"
    }


def ratios(mine: Mapping[str, Spread], peer: Mapping[str, Spread]) -> dict[str, float]:
    """Median over median; above 1 is better for rates, below 1 for all else."""
    return {name: mine[name].median / peer[name].median for name in COLUMNS if peer[name].median}


def table(runs: Mapping[str, Sequence[Run]], relays: set[str]) -> str:
    """One line for each system, then each relay over each peer."""
    lines = [" " * NAME_WIDTH + "".join(title.rjust(WIDTH) for title in COLUMNS.values())]
    figures = {name: summarize(done) for name, done in runs.items()}
    for name, figure in figures.items():
        lines.append(name.ljust(NAME_WIDTH) + "".join(cell(figure[column]).rjust(WIDTH) for column in COLUMNS))
    for name in figures:
        for peer in figures:
            if name in relays and peer not in relays:
                over = ratios(figures[name], figures[peer])
                row = "".join(f"{over[c]:.2f} x".rjust(WIDTH) if c in over else "-".rjust(WIDTH) for c in COLUMNS)
                lines.append(
                    f"  over {peer}"[:NAME_WIDTH].ljust(NAME_WIDTH) + row + (f"   ({name})" if len(relays) > 1 else "")
                )
    busiest = max((run.others for done in runs.values() for run in done), default=0.0)
    if busiest > 0.1:
        lines.append(f"  Other programs and the kernel's threads used up to {busiest:.0%} of the machine meanwhile.")
    return "\n".join(lines)


def cell(figure: Spread) -> str:
    """Median, and half the distance between the ends as a part of it where there were several runs."""
    text = f"{figure.median:.0f}" if figure.median >= 100 else f"{figure.median:.1f}"
    if figure.low == figure.high or not figure.median:
        return text
    return f"{text} ±{(figure.high - figure.low) / 2 / figure.median:.0%}"


def as_json(runs: Mapping[str, Sequence[Run]], relays: set[str]) -> dict[str, Any]:
    figures = {name: summarize(done) for name, done in runs.items()}
    return {
        "systems": {
            name: {"figures": {k: asdict(v) for k, v in figures[name].items()}, "runs": [asdict(run) for run in done]}
            for name, done in runs.items()
        },
        "ratios": {
            f"{name} over {peer}": ratios(figures[name], figures[peer])
            for name in figures
            for peer in figures
            if name in relays and peer not in relays
        },
    }
