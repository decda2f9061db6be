"""`relay top`: rates, queue and nodes, drawn anew every few seconds."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from relay.cli.common import any_of, ask_all, fail, json_option, print_json, run, workers
from relay.cli.text import age, clean, moment, plural
from relay.cli.top_view import Look, NodeLine, View, view

BAR = 14
"""Characters of a cap's bar."""

SHOWN_WAITS = 8

_COLOURS = {"active": "green", "cooling": "yellow", "paused": "blue", "inactive": "red"}


@click.command()
@click.option(
    "--every", type=click.FloatRange(0.2, 60.0), default=2.0, show_default=True, help="Seconds between looks."
)
@click.option("--once", is_flag=True, help="Look twice, print, and end; always so where the output is no terminal.")
@json_option
@click.pass_obj
def top(config: str, every: float, once: bool, as_json: bool) -> None:
    """Watch the relay: rates, what waits and why, nodes with the fill of their caps. Ends with ^C.

    Rates are those between two looks. With --json: two looks, one answer.
    """
    if as_json:
        print_json(asdict(run(lambda: _twice(config, every))))
        return
    from rich.console import Console

    console = Console()
    if once or not console.is_terminal:
        shown = run(lambda: _twice(config, every))
        console.print(_screen(shown))
        return
    run(lambda: _live(config, every, console))


async def _twice(config: str, every: float) -> View:
    async with workers(config) as found:
        first = await _look(config, found)
        await asyncio.sleep(every)
        return view(await _look(config, found), first)


async def _live(config: str, every: float, console: Any) -> None:
    """Connections are made anew for each look: workers come and go."""
    from rich.live import Live
    from rich.text import Text

    from relay.control.protocol import ControlError

    before: Look | None = None
    with Live(Text("…"), console=console, screen=True, auto_refresh=False) as live:
        while True:
            try:
                async with workers(config) as found:
                    now = await _look(config, found)
            except ControlError as error:
                live.update(Text(clean(error)), refresh=True)
            else:
                live.update(_screen(view(now, before)), refresh=True)
                before = now
            await asyncio.sleep(every)


async def _look(config: str, found: Sequence[Any]) -> Look:
    if not found:
        fail(f"the relay of {config} does not run", os.EX_UNAVAILABLE)
    told = await ask_all(found, "status")
    return Look(time.time(), told, await any_of(found).call("nodes"))


def _screen(shown: View) -> Any:
    from rich.console import Group
    from rich.text import Text

    rates = "   ".join(f"{name} {rate:.1f}/s" for name, rate in shown.rates.items())
    head = Text(
        f"{plural(shown.workers, 'worker')}   {plural(shown.sessions, 'client connection')}   "
        f"{plural(shown.attempts, 'attempt')}\n{rates}\n"
        f"queued {shown.queued}   held {shown.held}   quarantined {shown.quarantined}   oldest {age(shown.oldest_s)}"
    )
    notes = [Text(clean(note), style="bold red") for note in shown.notes]
    return Group(head, *notes, *_waits(shown), _table(shown.nodes))


def _waits(shown: View) -> list[Any]:
    from rich.text import Text

    lines = []
    for count, pool, until, why in shown.waits[:SHOWN_WAITS]:
        then = f"until {moment(until, shown.at)}" if until else "for a free connection"
        lines.append(Text(clean(f"{count} of pool {pool} wait {then}: {why}"), style="yellow", no_wrap=True))
    if len(shown.waits) > SHOWN_WAITS:
        lines.append(Text(f"… and {len(shown.waits) - SHOWN_WAITS} more reasons"))
    return lines


def _table(nodes: Sequence[NodeLine]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, expand=False)
    for name in ("NODE", "POOL", "STATE"):
        table.add_column(name, no_wrap=True)
    for name in ("/MIN", "NOW"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("FULLEST CAP", no_wrap=True)
    table.add_column("WHY", no_wrap=True, overflow="ellipsis")
    for node in nodes:
        table.add_row(
            clean(node.name),
            clean(node.pool),
            Text(node.state, style=_COLOURS.get(node.state, "")),
            f"{node.rate:.0f}",
            str(node.running),
            bar(node.cap),
            Text(clean(node.trouble)),
        )
    return table


def bar(cap: tuple[int, int, float] | None) -> str:
    """`████░░░░ 40/100/h`; what is shown full is full."""
    if cap is None:
        return "-"
    used, limit, window_s = cap
    filled = BAR if used >= limit else min(BAR - 1, int(BAR * used / limit))
    unit = {1.0: "s", 60.0: "min", 3600.0: "h", 86400.0: "day"}.get(window_s, age(window_s))
    return f"{'█' * filled}{'░' * (BAR - filled)} {used}/{limit}/{unit}"
