"""`relay run`."""

from __future__ import annotations

import sys

import click

from relay.cli.common import load_config


@click.command()
@click.pass_obj
def run(config: str) -> None:
    """Start the relay and serve until SIGTERM."""
    from relay.app.serve import serve

    sys.exit(serve(load_config(config)))
