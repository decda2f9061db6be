"""`relay pool …`."""

from __future__ import annotations

from typing import Any

import click

from relay.cli.common import json_option, load_config, print_json
from relay.cli.text import print_table


@click.group()
def pool() -> None:
    """List pools."""


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
