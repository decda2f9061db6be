"""`relay reload`."""

from __future__ import annotations

import os
from typing import Any

import click

from relay.cli.common import any_of, fail, json_option, print_json, run, workers
from relay.cli.text import plural, say


@click.command()
@json_option
@click.pass_obj
def reload(config: str, as_json: bool) -> None:
    """Have the running relay take over its files: in all workers, or in none.

    No session and no message is dropped. When the files do not validate, or a worker cannot work with them, nothing
    changes: exit 78 with every fault. `relay plan` shows before what this would change.
    """
    done = run(lambda: ask_to_reload(config))
    if done is None:
        fail(f"the relay of {config} does not run; its files are read when it starts", os.EX_UNAVAILABLE)
    if as_json:
        print_json(done)
    else:
        for warning in done["warnings"]:
            say(f"warning: {warning}", error=True)
        say(f"Taken over by {plural(done['workers'], 'worker')}, with {plural(done['bridges'], 'bridge')}.")
        tell_rest(done)


async def ask_to_reload(config: str) -> dict[str, Any] | None:
    """The answer of the worker that led; None when no worker runs."""
    async with workers(config) as found:
        if not found:
            return None
        answer: dict[str, Any] = await any_of(found).call("reload")
        return answer


def tell_rest(done: dict[str, Any]) -> None:
    """What a reload leaves to the operator."""
    if done["needs_restart"]:
        say(f"Only a restart takes over: {', '.join(done['needs_restart'])}.")
    for pool, count in done["unrouted"].items():
        say(
            f"{plural(count, 'message')} for pool {pool}, which is configured no more: waiting until they are too old. "
            f"Configure the pool again, or drop them: relay queue drop --pool {pool}"
        )
