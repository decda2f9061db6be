"""Where something stands in the configuration, and what is wrong with it.

A `Fault` keeps the configuration from being applied, a `Notice` does not. Both carry a place that an editor can jump to
and never a value that may be secret.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from relay.errors import ConfigError


class Place(NamedTuple):
    """Line and column count from 1; 0 says the file as a whole. `file` is the path as the operator would type it."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


class Fault(NamedTuple):
    """One thing that is wrong.

    Attributes:
        key: dotted key path such as `pools[0].nodes[1].port`; empty for the file as a whole.
        what: what is wrong, without full stop.
        hint: what to do about it, or empty.
    """

    place: Place
    key: str
    what: str
    hint: str = ""

    def __str__(self) -> str:
        key = f" {self.key}:" if self.key else ""
        hint = f"; {self.hint}" if self.hint else ""
        return f"{self.place}:{key} {self.what}{hint}"


class Notice(Fault):
    """Something an operator should look at; the configuration is applied all the same."""

    __slots__ = ()


class InvalidConfig(ConfigError):
    """The configuration cannot be applied. `faults` are all of them, in the order of files and lines."""

    def __init__(self, faults: Sequence[Fault], warnings: Sequence[Notice] = ()) -> None:
        self.faults = tuple(dict.fromkeys(faults))
        self.warnings = tuple(warnings)
        count = f"{len(self.faults)} faults" if len(self.faults) > 1 else "1 fault"
        super().__init__("\n".join([f"configuration not usable, {count}:", *map(str, self.faults)]))


def key_path(parts: Iterable[str | int]) -> str:
    """`("pools", 0, "name")` → `pools[0].name`."""
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that was probably meant, or empty."""
    word = word[:100]
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    # Of those that are about as near the one that begins alike: `pool` is short of `pools`, not of `spool`.
    begun = [found for found in near if found.startswith(word)]
    return (begun or near or [""])[0]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean "port"?`, or empty when nothing is near."""
    near = nearest(word, known)
    return f'did you mean "{near}"?' if near else ""
