"""Lua scripts: each one atomic step of a store.

The source lies beside the store's modules in `<name>.lua`; what several share lies in `common.lua` and is put in front.
By convention `ARGV[1]` of every script is `1` when the same call may have been carried out before (no answer came the
first time), else `0`; scripts are written so that a repeated call changes nothing twice.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True)
class Script:
    """`keep`: it writes, so it counts only when as many copies have it as the address asks for."""

    name: str
    source: bytes = field(repr=False)
    keep: bool = True

    @cached_property
    def sha(self) -> str:
        """The name the server knows it by."""
        return hashlib.sha1(self.source, usedforsecurity=False).hexdigest()


class Needs(StrEnum):
    """What a script is allowed where the server's memory is full: all of it happens, or nothing (Redis 7, Valkey)."""

    ROOM = ""  # refused: it would keep something large
    NO_ROOM = "flags=allow-oom"  # goes on: it frees memory, or keeps next to nothing
    READS = "flags=no-writes"


def load_script(
    folder: Path, name: str, *, common: str = "", keep: bool = True, needs: Needs = Needs.NO_ROOM
) -> Script:
    """The script of a file `<name>.lua`, with that of `<common>.lua` in front."""
    parts = [folder / f"{common}.lua"] if common else []
    texts = [path.read_bytes() for path in [*parts, folder / f"{name}.lua"]]
    return Script(name, b"\n".join([f"#!lua {needs}".strip().encode(), *texts]), keep)
