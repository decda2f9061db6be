"""The command line: thin commands over `app`, `config` and `control`.

Each command lives in the module of its group and is imported only when it runs, so that `--help` needs nothing but
click. Exit codes are those of sysexits.h: 64 usage, 65 bad data, 69 unavailable, 70 internal, 73 cannot create, 74 file
trouble, 75 try again, 77 not permitted, 78 configuration; 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

import relay

# command -> (module, attribute, short help); the help stands here so that listing imports nothing
_COMMANDS = {
    "run": ("relay.cli.run", "run", "Start the relay."),
    "check": ("relay.cli.config", "check", "Check the configuration; all faults at once."),
    "schema": ("relay.cli.config", "schema", "Print the JSON Schema of the configuration."),
    "init": ("relay.cli.init", "init", "Write a first configuration."),
    "send": ("relay.cli.send", "send", "Send a test message through a running relay."),
    "status": ("relay.cli.status", "status", "Show queue, connections and nodes."),
    "reload": ("relay.cli.reload", "reload", "Have the running relay take over its changed files."),
    "plan": ("relay.cli.plan", "plan", "Show what the files would change before they are taken over."),
    "simulate": ("relay.cli.simulate", "simulate", "Run the router over a stated volume or a sample of mail."),
    "top": ("relay.cli.top", "top", "Watch rates, queue and nodes live."),
    "trace": ("relay.cli.trace", "trace", "Watch SMTP sessions live, in and out."),
    "explain": ("relay.cli.explain", "explain", "Tell the story of one message."),
    "drain": ("relay.cli.drain", "drain", "Take no more mail and empty the queue, before a replica goes."),
    "queue": ("relay.cli.queue", "queue", "List, show, retry, hold and drop messages."),
    "node": ("relay.cli.node", "node", "List, test, pause, drain and resume nodes."),
    "oauth": ("relay.cli.oauth", "oauth", "Log nodes in by OAuth 2."),
    "pool": ("relay.cli.pool", "pool", "List pools and campaigns."),
    "bridge": ("relay.cli.bridge", "bridge", "List, add and revoke bridges."),
    "token": ("relay.cli.token", "token", "Make, list and revoke tokens of the admin server."),
    "webhook": ("relay.cli.webhook", "webhook", "List and replay webhook calls."),
    "alert": ("relay.cli.alert", "alert", "List issues, and try the targets of alerts."),
    "dkim": ("relay.cli.dkim", "dkim", "Make DKIM keys and check their DNS records."),
    "secret": ("relay.cli.secret", "secret", "Seal secrets in the configuration."),
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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            if not near:
                raise
            raise click.UsageError(f"{error.message} Did you mean {near[0]!r}?", ctx) from None

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002 - click calls it so
        formatter: click.HelpFormatter,
    ) -> None:
        with formatter.section("Commands"):
            rows = [(name, text) for name, (_, _, text) in _COMMANDS.items()]
            formatter.write_dl([*rows, ("version", "Print the version.")])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(relay.__version__, message="%(version)s")
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
    """Entry point of the `relay` command. Ends with SystemExit and never with a traceback, unless $RELAY_DEBUG asks
    for one."""
    try:
        code = cli.main(args=args, prog_name="relay", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        error.show()
        code = os.EX_USAGE
    except click.ClickException as error:
        error.show()
        code = os.EX_USAGE
    except (click.Abort, KeyboardInterrupt):
        click.echo("relay: interrupted", err=True)
        code = 130
    except BrokenPipeError:
        # Whoever read our output has seen enough, for example `head`; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141  # as a shell sees the end by SIGPIPE
    except PermissionError as error:
        click.echo(f"relay: {_where(error)}; run the command as the user that the relay runs as", err=True)
        code = os.EX_NOPERM
    except OSError as error:
        click.echo(f"relay: {_where(error)}", err=True)
        code = os.EX_IOERR
    except Exception as error:
        if os.environ.get("RELAY_DEBUG"):
            raise
        click.echo(
            f"relay: internal fault: {type(error).__name__}: {error}\n"
            "This is a defect; the same command with RELAY_DEBUG=1 shows where.",
            err=True,
        )
        code = os.EX_SOFTWARE
    sys.exit(code if isinstance(code, int) else 0)


def _where(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
