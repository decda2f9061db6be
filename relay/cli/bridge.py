"""`relay bridge …`: who may log in."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from relay.cli.common import json_option, load_config, print_json, print_table, run, shards


@click.group()
def bridge() -> None:
    """List, add and revoke bridges."""


@bridge.command("list")
@json_option
@click.pass_obj
def list_(config: str, as_json: bool) -> None:
    """Every bridge with its pool, logins and networks."""
    rows: list[dict[str, Any]] = [
        {
            "name": b.name,
            "pool": b.pool,
            "usernames": [c.username for c in b.credentials],
            "networks": [str(n) for n in b.networks],
            "senders": list(b.senders),
            "lane": str(b.lane),
            "share": b.share,
            "delivery": "direct" if b.direct else "queue",
        }
        for b in load_config(config).bridges
    ]
    if as_json:
        print_json(rows)
        return
    print_table(
        ["bridge", "pool", "lane", "logins", "networks", "senders"],
        [
            (
                row["name"],
                row["pool"],
                row["lane"],
                " ".join(row["usernames"]) or "-",
                " ".join(row["networks"]) or "-",
                " ".join(row["senders"]) or "any",
            )
            for row in rows
        ],
        empty="No bridges are configured.",
    )


@bridge.command()
@click.argument("name")
@click.option("--pool", help="Pool it leads to; default: the pool of the default nodes.")
@click.option("--username", help="Login name; default: the bridge's name.")
@click.option("--sender", "senders", multiple=True, help="Allowed sender such as @acme.example; may be repeated.")
@click.pass_obj
def add(config: str, name: str, pool: str | None, username: str | None, senders: tuple[str, ...]) -> None:
    """Add a bridge with a generated password, or a further login to a bridge that exists.

    The password is printed once; the file keeps only its hash.
    """
    from relay.bridges.credentials import generate_token
    from relay.cli.yaml_edit import edit, file_with

    settings = load_config(config)
    login = username or name
    token, stored = generate_token()
    path = file_with(settings.loaded.files, "bridges")
    exists = any(b.name == name for b in settings.bridges)
    if not exists and pool is None:
        pool = next((p.name for p in settings.pools if p.default), None)
        if pool is None:
            raise click.UsageError("no pool is the default; say --pool")

    def change(document: Any) -> None:
        bridges = document.setdefault("bridges", [])
        credential = {"username": login, "password": stored}
        for entry in bridges:
            if entry["name"] == name:
                entry.setdefault("credentials", []).append(credential)
                return
        entry = {"name": name, "pool": pool, "credentials": [credential]}
        if senders:
            entry["senders"] = list(senders)
        bridges.append(entry)

    _apply(config, lambda: edit(Path(config), path, change))
    click.echo(f"{'Login added to' if exists else 'Added'} bridge {name} in {path}. This password is shown only now:")
    click.echo(f"  username  {login}")
    click.echo(f"  password  {token}")
    _reload(config)


@bridge.command()
@click.argument("name")
@click.option("--username", help="Revoke only this login.")
@click.pass_obj
def revoke(config: str, name: str, username: str | None) -> None:
    """Take a bridge, or one of its logins, away. Sessions that use it end at their next MAIL; its queued mail stays."""
    from relay.cli.yaml_edit import edit, file_with

    settings = load_config(config)
    chosen = next((b for b in settings.bridges if b.name == name), None)
    if chosen is None or (username and all(c.username != username for c in chosen.credentials)):
        click.echo(f"There is no bridge {name}{f' with login {username}' if username else ''}.", err=True)
        sys.exit(os.EX_DATAERR)
    path = file_with(settings.loaded.files, "bridges")

    def change(document: Any) -> None:
        bridges = document.get("bridges", [])
        for position, entry in enumerate(bridges):
            if entry["name"] != name:
                continue
            left = [c for c in entry.get("credentials", []) if c["username"] != username]
            if username and (left or entry.get("networks")):
                entry["credentials"] = left
            else:
                del bridges[position]
            return

    _apply(config, lambda: edit(Path(config), path, change))
    click.echo(f"Revoked {f'login {username} of ' if username else ''}bridge {name} in {path}.")
    _reload(config)


def _apply(config: str, work: Any) -> None:
    from relay.errors import ConfigError

    try:
        work()
    except ConfigError as error:
        click.echo(f"{config}: nothing was changed, because the result would not be valid:\n{error}", err=True)
        sys.exit(os.EX_CONFIG)


def _reload(config: str) -> None:
    """Tell a running relay."""

    async def work() -> bool:
        async with shards(config) as found:
            running = [shard for shard in found if shard.running]
            for shard in running:
                await shard.call("reload")
            return bool(running)

    if run(work):
        click.echo("The running relay uses it from now on.")
