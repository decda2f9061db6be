"""The command line: thin commands over `app`, `config` and `control`.

Each command lives in the module of its group and is imported only when it runs, so that `--help` needs nothing but
click. Exit codes are those of sysexits.h: 64 usage, 65 bad data, 69 unavailable, 70 internal, 75 try again, 78
configuration.
"""

from __future__ import annotations

import importlib
from typing import Any

import click

import relay

# command -> (module, attribute, short help); the help stands here so that listing imports nothing
_COMMANDS = {
    "run": ("relay.cli.run", "run", "Start the relay."),
    "check": ("relay.cli.config", "check", "Check the configuration; all faults at once."),
    "schema": ("relay.cli.config", "schema", "Print the JSON Schema of the configuration."),
    "init": ("relay.cli.config", "init", "Write a first configuration."),
    "send": ("relay.cli.send", "send", "Send a test message through a running relay."),
    "status": ("relay.cli.status", "status", "Show queue, connections and nodes."),
    "explain": ("relay.cli.status", "explain", "Tell the story of one message."),
    "queue": ("relay.cli.queue", "queue", "List, show, retry, hold and drop messages."),
    "node": ("relay.cli.node", "node", "List, test, pause and resume nodes."),
    "pool": ("relay.cli.node", "pool", "List pools."),
    "bridge": ("relay.cli.bridge", "bridge", "List, add and revoke bridges."),
    "dkim": ("relay.cli.dkim", "dkim", "Make DKIM keys and check their DNS records."),
    "healthcheck": ("relay.cli.status", "healthcheck", "Exit 0 when the relay is up and can accept mail."),
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_COMMANDS, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in _COMMANDS:
            module, attribute, _ = _COMMANDS[name]
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        return super().get_command(ctx, name)

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002 - click calls it so
        formatter: click.HelpFormatter,
    ) -> None:
        with formatter.section("Commands"):
            rows = [(name, text) for name, (_, _, text) in _COMMANDS.items()]
            formatter.write_dl([*rows, ("version", "Print the version.")])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-c",
    "--config",
    metavar="FILE",
    envvar="RELAY_CONFIG",
    default="conf/relay.yaml",
    show_default=True,
    help="Configuration file; also $RELAY_CONFIG.",
)
@click.pass_context
def cli(ctx: click.Context, config: str) -> None:
    """An SMTP relay: one login in, many nodes out, nothing lost in between."""
    ctx.obj = config


@cli.command()
def version() -> None:
    """Print the version."""
    click.echo(relay.__version__)


def main(args: list[str] | None = None) -> Any:
    """Entry point of the `relay` command."""
    return cli.main(args=args, prog_name="relay")
