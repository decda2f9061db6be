"""Builders for configuration texts. `§` in a text marks where a fault is expected; it is not part of the file."""

from __future__ import annotations

import re
from pathlib import Path

from relay.config import InvalidConfig, Loaded, load

SECTIONS = {
    "version": "version: 1\n",
    "bridges": "bridges:\n  - {name: shop, pool: main, credentials: [{username: shop, password: '${PW}'}]}\n",
    "pools": "pools:\n  - {name: main, id: 1, nodes: [{name: n1, type: sandbox}]}\n",
}
ENVIRONMENT = {"PW": "s3cret-of-shop", "PORT": "2525", "EMPTY": ""}


def text_with(**sections: str) -> str:
    """A sound configuration with some sections replaced or added; an empty text removes one."""
    return "".join({**SECTIONS, **sections}.values())


def unmark(text: str, file: str = "") -> tuple[str, list[str]]:
    """The text without `§`, and `file:line:column` of each."""
    places = []
    clean = ""
    for piece in re.split("(§)", text):
        if piece == "§":
            places.append(f"{file}:{clean.count(chr(10)) + 1}:{len(clean) - clean.rfind(chr(10))}")
        else:
            clean += piece
    return clean, places


def write(folder: Path, files: dict[str, str]) -> list[str]:
    """Write files, give the marked places in the order of the files."""
    places: list[str] = []
    for name, marked in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        clean, found = unmark(marked, str(path))
        path.write_text(clean, encoding="utf-8")
        places += found
    return places


def load_text(folder: Path, text: str, environment: dict[str, str] | None = None) -> Loaded:
    """Load one file made of `text` (marks removed)."""
    write(folder, {"relay.yaml": text})
    return load(folder / "relay.yaml", environment=ENVIRONMENT if environment is None else environment, base=folder)


def faults_of(folder: Path, text: str, environment: dict[str, str] | None = None) -> InvalidConfig:
    """The refusal of a text; fails when it loads."""
    try:
        load_text(folder, text, environment)
    except InvalidConfig as refusal:
        return refusal
    raise AssertionError("the configuration was taken")
