"""`relay token …`: who may use the admin server."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import click

from relay.cli.common import fail, json_option, load_files, operator_name, print_json
from relay.cli.text import print_table, say, when

if TYPE_CHECKING:
    from relay.admin.security.access import Access

ROLES = ("viewer", "operator", "admin")


@click.group()
def token() -> None:
    """Make, list and revoke tokens of the admin server."""


def access_of(config: str) -> Access:
    """The tokens of this relay, running or not."""
    from relay.admin.security.access import Access
    from relay.app.site import site_of
    from relay.errors import ConfigError

    try:
        return Access(site_of(load_files(config).config).directory)
    except ConfigError as error:
        fail(str(error), os.EX_CONFIG)


@token.command()
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), default="viewer", show_default=True, help="What it may do.")
@click.option("--for", "duration", help="Valid so long, for example 90d; without it until it is revoked.")
@json_option
@click.pass_obj
def add(config: str, name: str, role: str, duration: str | None, as_json: bool) -> None:
    """Make a token; it is printed once. viewer sees, operator acts on mail and nodes, admin changes everything."""
    from relay.admin.security.access import NameTaken
    from relay.admin.security.roles import Role
    from relay.units import parse_duration

    try:
        expires = time.time() + parse_duration(duration) if duration else 0.0
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--for") from None
    access = access_of(config)
    try:
        made, secret = access.add(name, Role(role), by=operator_name(), expires=expires)
    except NameTaken as error:
        fail(str(error), os.EX_DATAERR)
    if as_json:
        print_json({"id": made.id, "name": name, "role": role, "token": secret})
        return
    say(f"Made token {name} ({role}). It is shown only now:")
    say(f"  {secret}")


@token.command("list")
@json_option
@click.pass_obj
def list_(config: str, as_json: bool) -> None:
    """Every token with its role and last use; the tokens themselves are not kept."""
    rows = access_of(config).tokens()
    if as_json:
        fields = ("id", "name", "role", "made", "made_by", "expires", "used")
        print_json([{field: getattr(row, field) for field in fields} for row in rows])
        return
    print_table(
        ["id", "name", "role", "made", "by", "expires", "last used"],
        [(r.id, r.name, str(r.role), when(r.made), r.made_by, when(r.expires), when(r.used)) for r in rows],
        empty="There are no tokens; `relay token add NAME --role admin` makes one.",
    )


@token.command()
@click.argument("token")
@click.pass_obj
def revoke(config: str, token: str) -> None:
    """Take a token away, by its id or name; sessions that were opened with it end at once."""
    gone = access_of(config).revoke(token)
    if gone is None:
        fail(f"there is no token {token!r}; `relay token list` shows them", os.EX_DATAERR)
    say(f"Revoked token {gone.name} ({gone.role}).")
