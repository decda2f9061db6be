"""`relay pool …`."""

from __future__ import annotations

from typing import Any

import click

from relay.cli.common import any_of, json_option, load_config, print_json, run, shards
from relay.cli.text import print_table


@click.group()
def pool() -> None:
    """List pools and the campaigns that go through them."""


@pool.command("list")
@json_option
@click.pass_obj
def list_(config: str, as_json: bool) -> None:
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


@pool.command()
@click.argument("name", required=False, metavar="[POOL]")
@json_option
@click.pass_obj
def campaigns(config: str, name: str | None, as_json: bool) -> None:
    """How many recipients of each campaign each node had. The campaigns used last; older ones are not told apart."""

    async def work() -> Any:
        async with shards(config) as found:
            return await any_of(found).call("campaigns", pool=name or "")

    rows = run(work)
    if as_json:
        print_json(rows)
        return
    whats = ("sent", "delivered", "deferred", "refused", "uncertain")
    print_table(
        ["pool", "campaign", "node", *whats],
        [(row["pool"], row["campaign"], row["node"], *(row["counts"].get(what, 0) for what in whats)) for row in rows],
        empty="No campaign was sent.",
    )
