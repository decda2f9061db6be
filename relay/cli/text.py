"""How the command line prints: tables that fit the terminal, times in UTC with their distance, no control characters.

Tables are for people; scripts take `--json`, where nothing is shortened. Where output is piped, the width is that of a
terminal of 100 columns, so that what a script or a colleague sees does not depend on a window.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

WIDTH = 100
LEAST = 12
"""No column is made narrower than this to fit."""
NOTES = 8


def width() -> int:
    """Columns to fit into: those of the terminal, at least 80."""
    if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        return WIDTH
    return max(80, shutil.get_terminal_size((WIDTH, 24)).columns)


def clean(text: object) -> str:
    """Text from outside without control characters: a subject must not move the cursor or colour the terminal."""
    words = str(text)
    return words if words.isprintable() else "".join(c if c.isprintable() else "�" for c in words)


def say(text: str = "", *, error: bool = False) -> None:
    """Print lines, cleaned."""
    for line in text.split("\n"):
        click.echo(clean(line), err=error)


def shorten(text: str, room: int) -> str:
    """At most `room` characters, the cut marked."""
    return text if len(text) <= room else text[: max(1, room - 1)].rstrip() + "…"


def print_table(headings: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str, prose: bool = False) -> None:
    """Aligned columns; numbers to the right. What is too wide is taken from the widest columns but the first, which
    names the row and must be fit to be copied, and the cut is marked. `empty` is said instead of an empty table.

    Args:
        prose: the last column holds sentences. The long ones get a number and stand whole below the table, as long as
            they are few: mail that waits mostly waits for the same reason.
    """
    if not rows:
        say(empty)
        return
    numeric = [all(isinstance(row[n], int | float) for row in rows) for n in range(len(headings))]
    cells = [[heading.upper() for heading in headings], *([clean(cell) for cell in row] for row in rows)]
    notes = _noted(cells) if prose else []
    widths = [max(len(row[n]) for row in cells) for n in range(len(headings))]
    surplus = sum(widths) + 2 * (len(widths) - 1) - width()
    if prose and surplus > 0:
        cut = min(surplus, max(0, widths[-1] - LEAST))
        widths[-1] -= cut
        surplus -= cut
    while surplus > 0 and max(widths[1:]) > LEAST:
        widest = 1 + widths[1:].index(max(widths[1:]))
        widths[widest] -= 1
        surplus -= 1
    for row in cells:
        line = "  ".join(
            shorten(cell, wide).rjust(wide) if right else shorten(cell, wide).ljust(wide)
            for cell, wide, right in zip(row, widths, numeric, strict=True)
        )
        click.echo(line.rstrip())
    if notes:
        click.echo()
    for number, text in enumerate(notes, 1):
        say(wrapped(text, indent="    ", first=f"[{number}] "))


def _noted(cells: list[list[str]]) -> list[str]:
    """Number the long texts of the last column; the numbered texts. None when they are too many to be read."""
    room = width() - sum(max(len(row[n]) for row in cells) + 2 for n in range(len(cells[0]) - 1))
    long = list(dict.fromkeys(row[-1] for row in cells if len(row[-1]) > room))
    if len(long) > NOTES:
        return []
    numbers = {text: number for number, text in enumerate(long, 1)}
    for row in cells:
        if row[-1] in numbers:
            row[-1] = f"[{numbers[row[-1]]}] {row[-1]}"
    return long


def wrapped(text: str, *, indent: str, first: str | None = None) -> str:
    """Prose within the width; `first` begins the first line instead of `indent`."""
    return textwrap.fill(
        clean(text),
        width(),
        initial_indent=indent if first is None else first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def plural(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def when(epoch: float | None) -> str:
    """UTC, seconds; `-` for none."""
    if not epoch:
        return "-"
    try:
        return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (OverflowError, ValueError, OSError):  # out of a damaged file
        return f"@{epoch:.0f}"


def moment(epoch: float | None, now: float) -> str:
    """A time and how far away it is: `2026-01-31 12:00:00Z (in 4m 10s)`."""
    if not epoch:
        return "-"
    distance = f"in {age(epoch - now)}" if epoch > now else f"{age(now - epoch)} ago"
    return f"{when(epoch)} ({distance})"


def age(seconds: float | None) -> str:
    """A duration in its two largest units."""
    if seconds is None:
        return "-"
    left = max(0, round(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if left >= size or (unit == "s" and not parts):
            parts.append(f"{left // size}{unit}")
            left %= size
        elif parts:
            break
    return " ".join(parts[:2])


def octets(count: int) -> str:
    """`812 B`, `4.2 kB`, `17 MB`."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.1f} {unit}" if unit != "B" and size < 10 else f"{size:.0f} {unit}"
        size /= 1000
    return ""
