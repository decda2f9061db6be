"""`relay node …`."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Any

import click

from relay.cli.common import any_of, ask_all, fail, json_option, operator_name, print_json, run, shards
from relay.cli.status import print_nodes
from relay.cli.text import moment, say, wrapped

DRAIN_LOOK_S = 0.2


@click.group()
def node() -> None:
    """List, test, pause, drain and resume nodes."""


def _call(config: str, operation: str, *, lasting: bool = False, **args: Any) -> Any:
    async def work() -> Any:
        async with shards(config, lasting=lasting) as found:
            return await any_of(found).call(operation, **args)

    return run(work)


@node.command("list")
@json_option
@click.pass_obj
def list_(config: str, as_json: bool) -> None:
    """Every node with its state, caps and counts, and what is wrong with it."""
    rows = _call(config, "nodes")
    if as_json:
        print_json(rows)
    else:
        print_nodes(rows, time.time())


@node.command()
@click.argument("names", nargs=-1, metavar="[NAME]…")
@click.option("--all", "every", is_flag=True, help="Test every node.")
@json_option
@click.pass_obj
def test(config: str, names: tuple[str, ...], every: bool, as_json: bool) -> None:
    """SMTP: connect, TLS, AUTH, MAIL, RSET with the real transport. API: the vendor's check of the credentials.

    Sends no mail. What the upstream answered is shown in its own words.

    On a running relay the result also decides whether the node is used. Exit 69 when a test fails.
    """
    if bool(names) == every:
        raise click.UsageError("name the nodes to test, or say --all")
    results = _call(config, "node_test", names=names)
    if as_json:
        print_json(results)
    else:
        for result in results:
            say(
                wrapped(
                    result["answer"], indent="     ", first=f"{'ok  ' if result['ok'] else 'FAIL'} {result['name']}: "
                )
            )
            if result["advice"]:
                say(wrapped(result["advice"], indent=" " * 7, first="     → "))
            for step in result["steps"]:
                say(wrapped(step, indent=" " * 9, first=" " * 7))
        if not results:
            say("No nodes are configured.")
    if not all(result["ok"] for result in results):
        sys.exit(os.EX_UNAVAILABLE)


@node.command()
@click.argument("name")
@click.option("--reason", required=True, help="Why; shown wherever the node is.")
@click.option("--for", "duration", help="Resume by itself after this long, for example 2h.")
@click.pass_obj
def pause(config: str, name: str, reason: str, duration: str | None) -> None:
    """Take a node out of the rotation. Deliveries that run are finished."""
    from relay.units import parse_duration

    try:
        until = time.time() + parse_duration(duration) if duration else 0.0
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--for") from None
    _call(config, "node_pause", lasting=True, name=name, reason=reason, by=operator_name(), until=until)
    say(f"{name} is paused {f'until {moment(until, time.time())}' if until else 'until it is resumed'}.")


@node.command()
@click.argument("name")
@click.option("--reason", default="drained", show_default=True, help="Why; shown wherever the node is.")
@click.option(
    "--wait", "patience", default="10m", show_default=True, help="How long running deliveries are waited for."
)
@click.pass_obj
def drain(config: str, name: str, reason: str, patience: str) -> None:
    """Give a node nothing new, wait until what runs has ended, and leave it paused.

    Its mail goes through the other nodes of its pool. Exit 75 when something still runs after the wait; the node stays
    paused.
    """
    from relay.units import parse_duration

    try:
        patience_s = parse_duration(patience)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--wait") from None

    async def work() -> int:
        async with shards(config, lasting=True) as found:
            order = {"name": name, "reason": reason, "by": operator_name(), "until": 0.0}
            await any_of(found).call("node_pause", **order)
            give_up_at = time.monotonic() + patience_s
            while True:
                told = await ask_all(found, "status")
                left: int = sum(worker["attempts_by_node"].get(name, 0) for worker in told)
                if not left or time.monotonic() >= give_up_at:
                    return left
                await asyncio.sleep(DRAIN_LOOK_S)

    left = run(work)
    if left:
        fail(f"{name} is paused; {left} of its deliveries still run", os.EX_TEMPFAIL)
    say(f"{name} is drained and paused until it is resumed.")


@node.command()
@click.argument("name")
@click.pass_obj
def resume(config: str, name: str) -> None:
    """Put a paused, inactive or cooling node back into the rotation."""
    done = _call(config, "node_resume", lasting=True, name=name, by=operator_name())
    say(f"{name} is active." if done["was"] else f"{name} was active already.")
