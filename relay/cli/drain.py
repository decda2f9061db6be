"""`relay drain`."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import click

from relay.cli.common import ask_all, fail, run, workers
from relay.cli.text import plural, say

POLL_S = 0.5


class _Seconds(click.ParamType):  # type: ignore[type-arg]
    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        from relay.units import parse_duration

        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.option("--timeout", default="5m", show_default=True, type=_Seconds(), help="How long to wait for the queue.")
@click.pass_obj
def drain(config: str, timeout: float) -> None:
    """Take no more mail, and empty the queue: before this replica is taken away for good.

    With a shared spool what it holds goes back to the other replicas, at once. With a spool of its own it goes on
    delivering until nothing is left; exit 75 when that takes longer than the timeout. The relay runs on, and accepts
    nothing, until it is stopped.
    """

    async def work() -> tuple[bool, int]:
        import asyncio

        async with workers(config) as found:
            if not found:
                fail("the relay does not run, so it takes no mail; its queue is delivered when it is started again", 69)
            answers = await ask_all(found, "drain")
            if all(answer.get("shared") for answer in answers):
                return True, 0
            end = time.monotonic() + timeout
            while True:
                told = await ask_all(found, "status")
                left = sum(r["queued"] + r["held"] + r["quarantined"] for worker in told for r in worker["queues"])
                if not left or time.monotonic() > end:
                    return False, left
                await asyncio.sleep(POLL_S)

    shared, left = run(work)
    if shared:
        say("No more mail is taken; the other replicas have what was held here.")
    elif not left:
        say("No more mail is taken; the queue is empty.")
    else:
        say(
            f"No more mail is taken, but {plural(left, 'message')} could not be delivered yet; `relay queue list` says "
            "why. Keep this replica's folder, or they are lost: they go on when it is started again.",
            error=True,
        )
        sys.exit(os.EX_TEMPFAIL)
