"""`relay trace`."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import click

from relay.cli.common import fail, json_option, run, workers
from relay.cli.text import clean, say

WAIT_S = 2.0


@click.command()
@click.option("--bridge", default="", help="Only clients of this bridge, from when they have logged in.")
@click.option("--node", default="", help="Only the dialogue with this node.")
@click.option("--peer", default="", metavar="IP", help="Only clients at this address.")
@click.option("--for", "duration", metavar="SPAN", help="End after this time, for example 5m.")
@json_option
@click.pass_obj
def trace(config: str, bridge: str, node: str, peer: str, duration: str | None, as_json: bool) -> None:
    """Watch SMTP sessions live, in and out: commands and replies of all workers. Ends with ^C.

    Credentials are masked and content is not shown. `>` is what a client, or we as the client of a node, said; `<` is
    what was answered. With --json: one object a line.
    """
    from relay.units import parse_duration

    try:
        seconds = parse_duration(duration) if duration else float("inf")
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--for") from None
    show = _as_json if as_json else _as_text
    run(lambda: _follow(config, {"bridge": bridge, "node": node, "peer": peer}, time.monotonic() + seconds, show))


async def _follow(config: str, wanted: dict[str, str], until: float, show: Callable[[dict[str, Any]], None]) -> None:
    async with workers(config) as found:
        if not found:
            fail(f"the relay of {config} does not run", os.EX_UNAVAILABLE)
        await asyncio.gather(*(_listen(worker.call, worker.name, wanted, until, show) for worker in found))


async def _listen(
    call: Callable[..., Awaitable[Any]],
    shard: str,
    wanted: dict[str, str],
    until: float,
    show: Callable[[dict[str, Any]], None],
) -> None:
    listener = secrets.token_hex(8)
    while (left := until - time.monotonic()) > 0:
        answer = await call("trace", listener=listener, wait_s=min(WAIT_S, left), **wanted)
        if answer["dropped"]:
            say(f"({answer['dropped']} lines of worker {shard} came too fast and are missing)", error=True)
        for line in answer["lines"]:
            show({**line, "worker": shard})


def _as_json(line: dict[str, Any]) -> None:
    import orjson

    click.echo(orjson.dumps(line).decode())


def _as_text(line: dict[str, Any]) -> None:
    at = datetime.fromtimestamp(line["at"], UTC).strftime("%H:%M:%S.%f")[:-3]
    ours = line["ours"] == (line["side"] == "client")
    who = line["name"] or line["peer"]
    say(clean(f"{at} {line['side']:6} {line['talk'][-8:]:8} {who:20} {'<' if ours else '>'} {line['text']}"))
