"""`relay plan`."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from relay.cli.common import ask_all, fail, json_option, load_config, print_json, run, shards
from relay.cli.text import plural, print_table, say

DAY_S = 86400.0
CHANGED = 1
"""Exit code, as of `diff`."""

_SIGNS = {"added": "+", "removed": "-", "changed": "~"}


@click.command()
@click.option("-c", "--config", "new", metavar="FILE", help="The new configuration; the relay's own files if left out.")
@click.option("--against", metavar="FILE", help="Compare with this configuration, not with the one that runs.")
@json_option
@click.pass_obj
def plan(config: str, new: str | None, against: str | None, as_json: bool) -> None:
    """Show what the files would change: items, where bridges lead, a day's mail and the ceilings of an hour.

    Compared with what runs now; nothing is changed. Volumes are those of the last 24 hours, as far as the history
    keeps them, shared out as the rotations and caps of the new configuration would. Exit 0 when there is no change, 1
    when there is one, 78 when the files do not validate.
    """
    result = run(lambda: _compare(config, new or config, against))
    if as_json:
        print_json(result)
    else:
        _print(result)
    sys.exit(CHANGED if result["changed"] else 0)


async def _compare(config: str, new: str, against: str | None) -> dict[str, Any]:
    from relay.control.client import RemoteShard

    if against is not None:
        return _of_files(against, new, {})
    full, same = os.path.abspath(new), os.path.realpath(new) == os.path.realpath(config)  # noqa: ASYNC240 - a command
    async with shards(config) as found:
        waiting: Counter[str] = Counter()
        for told in await ask_all(found, "status"):
            for row in told["queues"]:
                waiting[row["pool"]] += row["queued"] + row["held"] + row["quarantined"]
        for shard in found:
            if isinstance(shard, RemoteShard):
                volumes = {**_volumes(shard.directory), "waiting": waiting}
                answer: dict[str, Any] = await shard.call("plan", path=full, volumes=volumes)
                return answer
        if same:
            fail("the relay does not run; name what to compare with: --against FILE", os.EX_USAGE)
        return _of_files(config, new, waiting)


def _of_files(old: str, new: str, waiting: Mapping[str, int]) -> dict[str, Any]:
    from relay.app.plan import plan as compare

    before = load_config(old)
    volumes = _volumes(before.directory)
    return compare(before, load_config(new), **volumes, waiting=waiting)


def _volumes(directory: Path) -> dict[str, dict[str, int]]:
    from relay.history.volumes import volumes

    found = volumes(directory, since=time.time() - DAY_S)
    return {"by_bridge": dict(found.bridges), "by_node": dict(found.nodes)}


def _print(result: dict[str, Any]) -> None:
    if not result["changed"]:
        say("No change.")
        return
    for change in result["changes"]:
        say(f"{_SIGNS[change['what']]} {change['kind']} {change['name']}")
        for one in change["differences"]:
            say(f"    {one['key']}: {_shown(one['before'])} -> {_shown(one['after'])}")
    if result["routes"]:
        say()
        print_table(
            ["bridge", "led to", "leads to", "last 24 h"],
            [(r["bridge"], r["before"] or "-", r["after"] or "-", r["day"]) for r in result["routes"]],
            empty="",
        )
    say()
    print_table(
        ["pool", "node", "24 h", "expected", "an hour", "then"],
        [row for pool in result["pools"] if pool["affected"] for row in _rows(pool)],
        empty="No pool sends otherwise than before.",
    )
    say()
    for pool in result["pools"]:
        if pool["over_ceiling"]:
            say(
                f"Pool {pool['pool']} would get {pool['over_ceiling']} recipients a day more than its caps let through."
            )
    for name, count in result["unrouted"].items():
        say(
            f"Pool {name} goes and {plural(count, 'message')} would wait for it: let it empty first, or drop them then."
        )
    if result["needs_restart"]:
        say(f"Only a restart takes over: {', '.join(result['needs_restart'])}.")
    say(
        f"{plural(len(result['changes']), 'change')}. 24 h: recipients delivered by a node, accepted for a pool; "
        "expected: the same mail under the new configuration; an hour: the most that caps let through."
    )


def _rows(pool: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = [(pool["pool"], "(all)", *_numbers(pool))]
    return rows + [("", node["node"], *_numbers(node)) for node in pool["nodes"]]


def _numbers(row: dict[str, Any]) -> list[str]:
    hours = ["no cap" if hour is None else str(hour) for hour in (row["hour_before"], row["hour_after"])]
    return [str(row["day_before"]), str(row["day_after"]), *hours]


def _shown(value: str | None) -> str:
    return "(none)" if value is None else value or '""'
