"""`relay run`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from relay.cli.common import load_config

if TYPE_CHECKING:
    from relay.app.settings import Settings
    from relay.logs.log import LogSettings
    from relay.process.supervisor import WorkerContext


@click.command()
@click.pass_obj
def run(config: str) -> None:
    """Start the relay and serve until SIGTERM."""
    from relay.app.serve import serve

    settings = load_config(config)
    needed = settings.config.admin is not None or settings.config.webhooks or settings.config.alerts.targets
    sys.exit(serve(settings, {"admin": _admin} if needed else {}))


def _admin(settings: Settings, log_settings: LogSettings, process: WorkerContext) -> int:
    """The control process; what it imports, the workers never have in memory."""
    from relay.admin.process import run_admin

    return run_admin(settings, log_settings, process)
