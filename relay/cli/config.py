"""`relay check` and `relay schema`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relay.cli.common import json_option, print_json
from relay.cli.text import plural, say

if TYPE_CHECKING:
    from relay.config.faults import Fault


@click.command()
@json_option
@click.pass_obj
def check(config: str, as_json: bool) -> None:
    """Check the configuration: every fault at once with its place and what to do. Exit 78 when there is one.

    What a start needs beside the files is checked too: certificates and DKIM keys are loaded.
    """
    from relay.config.faults import InvalidConfig
    from relay.config.load import load
    from relay.errors import ConfigError

    try:
        loaded = load(Path(config))
    except ConfigError as error:
        faults = error.faults if isinstance(error, InvalidConfig) else ()
        warnings = error.warnings if isinstance(error, InvalidConfig) else ()
        if as_json:
            print_json({"ok": False, "faults": _rows(faults), "warnings": _rows(warnings)})
        else:
            say(str(error), error=True)
            for warning in warnings:
                say(f"warning: {warning}", error=True)
        sys.exit(os.EX_CONFIG)
    trouble = _rehearse(Path(config), loaded)
    if as_json:
        rows = [{"place": "", "key": "", "what": what, "hint": ""} for what in trouble]
        print_json({"ok": not trouble, "faults": rows, "warnings": _rows(loaded.warnings)})
    else:
        for warning in loaded.warnings:
            say(f"warning: {warning}")
        for what in trouble:
            say(f"{config}: {what}", error=True)
        if not trouble:
            read = sum(file.suffix in (".yaml", ".yml", ".json") for file in loaded.files)
            pools = loaded.config.pools
            nodes = sum(len(pool.nodes) for pool in pools) + len(loaded.config.nodes)
            say(
                f"{config}: ok ({plural(read, 'file')}, {plural(len(loaded.config.bridges), 'bridge')}, "
                f"{plural(len(pools), 'pool')}, {plural(nodes, 'node')})"
            )
    if trouble:
        sys.exit(os.EX_CONFIG)


def _rehearse(path: Path, loaded: Any) -> list[str]:
    """What would stop a start although the files are valid; nothing is opened for writing and no port bound."""
    from relay.app.settings import Settings
    from relay.app.stores import check_stores
    from relay.errors import ConfigError

    trouble = []
    settings = Settings(path, loaded)
    try:
        settings.signer()
        _ = settings.site
        check_stores(settings)
    except (ConfigError, OSError) as error:
        trouble.append(str(error))
    for listener in settings.config.listeners:
        try:
            settings.tls_context(listener)
        except (ConfigError, OSError) as error:
            trouble.append(f"listener {listener.bind[0]}:{listener.bind[1]}: certificate {listener.cert}: {error}")
    return trouble


def _rows(found: Sequence[Fault]) -> list[dict[str, str]]:
    return [{"place": str(f.place), "key": f.key, "what": f.what, "hint": f.hint} for f in found]


@click.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    from relay.config.schema import config_schema

    print_json(config_schema())
