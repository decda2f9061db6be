"""What the commands share: loading the configuration, reaching the relay, printing."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click
import orjson

from relay.app.offline import open_relay
from relay.app.settings import Settings
from relay.config.load import load
from relay.control.client import Shard
from relay.control.operator import UnknownName
from relay.errors import ConfigError, RelayError

T = TypeVar("T")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def load_config(path: str) -> Settings:
    """The configuration, or its faults on stderr and exit 78."""
    try:
        loaded = load(Path(path))
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(os.EX_CONFIG)
    return Settings(Path(path), loaded)


@asynccontextmanager
async def shards(path: str) -> AsyncIterator[list[Shard]]:
    """The shards of the relay of this configuration, running or not."""
    async with open_relay(load_config(path)) as found:
        yield found


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run a command's coroutine; errors become one line and an exit code."""
    try:
        return asyncio.run(work())  # type: ignore[arg-type]
    except UnknownName as error:
        click.echo(f"relay: {error}", err=True)
        sys.exit(os.EX_DATAERR)
    except (RelayError, ConfigError) as error:
        click.echo(f"relay: {error}", err=True)
        sys.exit(os.EX_UNAVAILABLE)


def print_json(value: Any) -> None:
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def print_table(headings: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str) -> None:
    """Aligned columns; plain text so that it can be piped. `empty` is said instead of an empty table."""
    if not rows:
        click.echo(empty)
        return
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[n]) for row in [list(headings), *cells]) for n in range(len(headings))]
    for row in [[h.upper() for h in headings], *cells]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def when(epoch: float | None) -> str:
    """Local-independent time for tables: UTC, seconds."""
    if not epoch:
        return "-"
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def age(seconds: float | None) -> str:
    """A duration in its two largest units."""
    if seconds is None:
        return "-"
    left = int(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if left >= size or (unit == "s" and not parts):
            parts.append(f"{left // size}{unit}")
            left %= size
    return " ".join(parts[:2])
