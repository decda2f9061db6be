"""`relay node …` and `relay pool …`."""

from __future__ import annotations

import getpass
import os
import sys
import time
from typing import Any

import click

from relay.cli.common import age, json_option, load_config, print_json, print_table, run, shards, when
from relay.units import parse_duration


@click.group()
def node() -> None:
    """List, test, pause and resume nodes."""


@node.command("list")
@json_option
@click.pass_obj
def list_(config: str, as_json: bool) -> None:
    """Every node with its state, caps and counts."""

    async def work() -> list[dict[str, Any]]:
        async with shards(config) as found:
            return await found[0].call("nodes")  # type: ignore[no-any-return]

    rows = run(work)
    if as_json:
        print_json(rows)
        return
    print_table(
        ["node", "pool", "type", "state", "caps", "delivered", "since", "test status"],
        [
            (
                row["name"],
                row["pool"],
                row["type"],
                row["status"] if not row["unavailable"] else row["unavailable"],
                " ".join(f"{c['used']}/{c['limit']} per {age(c['window_s'])}" for c in row["caps"]) or "none",
                row["counts"].get("delivered", 0),
                when(row["since"]),
                row["test_status"] or "-",
            )
            for row in rows
        ],
        empty="No nodes are configured.",
    )


def _call(config: str, operation: str, **args: Any) -> dict[str, Any]:
    async def work() -> dict[str, Any]:
        async with shards(config) as found:
            return await found[0].call(operation, **args)  # type: ignore[no-any-return]

    return run(work)


@node.command()
@click.argument("names", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Test every node.")
@json_option
@click.pass_obj
def test(config: str, names: tuple[str, ...], every: bool, as_json: bool) -> None:
    """Connect, TLS, AUTH, MAIL, RSET with the real transport; sends no mail."""
    if bool(names) == every:
        raise click.UsageError("name the nodes to test, or say --all")

    async def work() -> list[dict[str, Any]]:
        async with shards(config) as found:
            chosen = [row["name"] for row in await found[0].call("nodes")] if every else names
            return [await found[0].call("node_test", name=name) for name in chosen]

    results = run(work)
    if as_json:
        print_json(results)
    else:
        for result in results:
            click.echo(f"{'ok  ' if result['ok'] else 'FAIL'} {result['name']}: {result['answer']}")
            for step in result["steps"]:
                click.echo(f"       {step}")
    if not all(result["ok"] for result in results):
        sys.exit(os.EX_UNAVAILABLE)


@node.command()
@click.argument("name")
@click.option("--reason", required=True, help="Why; shown wherever the node is.")
@click.option("--for", "duration", help="Resume by itself after this long, for example 2h.")
@click.pass_obj
def pause(config: str, name: str, reason: str, duration: str | None) -> None:
    """Take a node out of the rotation."""
    try:
        until = time.time() + parse_duration(duration) if duration else 0.0
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--for") from None
    _call(config, "node_pause", name=name, reason=reason, by=getpass.getuser(), until=until)
    click.echo(f"{name} is paused{f' until {when(until)}' if until else ''}.")


@node.command()
@click.argument("name")
@click.pass_obj
def resume(config: str, name: str) -> None:
    """Put a paused or inactive node back into the rotation."""
    _call(config, "node_resume", name=name, by=getpass.getuser())
    click.echo(f"{name} is active.")


@click.group()
def pool() -> None:
    """List pools."""


@pool.command("list")
@json_option
@click.pass_obj
def pool_list(config: str, as_json: bool) -> None:
    """Every pool with its rotation, nodes and bridges."""
    settings = load_config(config)
    rows: list[dict[str, Any]] = [
        {
            "name": p.name,
            "internal_name": p.internal_name,
            "kind": p.kind,
            "zone": p.zone,
            "mta": p.mta,
            "feedtype": p.feedtype,
            "rotation": str(p.rotation),
            "default": p.default,
            "nodes": [n.name for n in p.nodes],
            "bridges": [b.name for b in settings.bridges if b.pool == p.name],
        }
        for p in settings.pools
    ]
    if as_json:
        print_json(rows)
        return
    print_table(
        ["pool", "internal name", "kind", "zone", "feed type", "rotation", "nodes", "bridges"],
        [
            (
                f"{row['name']}{' (default)' if row['default'] else ''}",
                row["internal_name"],
                row["kind"],
                row["zone"],
                row["feedtype"],
                row["rotation"],
                len(row["nodes"]),
                len(row["bridges"]),
            )
            for row in rows
        ],
        empty="No pools are configured.",
    )
