"""`relay check`, `relay schema` and `relay init`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from relay.cli.common import json_option, print_json


@click.command()
@json_option
@click.pass_obj
def check(config: str, as_json: bool) -> None:
    """Check the configuration: every fault at once with its place. Exit 78 when there is one."""
    from relay.config.load import load
    from relay.errors import ConfigError

    try:
        loaded = load(Path(config))
    except ConfigError as error:
        if as_json:
            print_json({"ok": False, "faults": str(error).splitlines(), "warnings": []})
        else:
            click.echo(str(error), err=True)
        sys.exit(os.EX_CONFIG)
    warnings = [str(warning) for warning in loaded.warnings]
    if as_json:
        print_json({"ok": True, "faults": [], "warnings": warnings})
        return
    for warning in warnings:
        click.echo(f"warning: {warning}")
    click.echo(f"{config}: ok ({len(loaded.files)} file{'' if len(loaded.files) == 1 else 's'})")


@click.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    from relay.config.schema import config_schema

    print_json(config_schema())
