"""`relay status`, `relay explain` and `relay healthcheck`."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from typing import Any

import click

from relay.cli.common import age, json_option, print_json, print_table, run, shards, when


@click.command()
@json_option
@click.pass_obj
def status(config: str, as_json: bool) -> None:
    """Queue, connections and nodes at a glance, with what waits and why."""

    async def work() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        async with shards(config) as found:
            return [await shard.call("status") for shard in found], await found[0].call("nodes")

    workers, nodes = run(work)
    if as_json:
        print_json({"workers": workers, "nodes": nodes})
        return
    now = time.time()
    up = [worker for worker in workers if worker["running"]]
    if up:
        click.echo(
            f"relay {up[0]['version']} is running: {len(up)} worker{'' if len(up) == 1 else 's'}, "
            f"up {age(min(w['uptime_s'] for w in up))}, {sum(w['sessions'] for w in up)} client sessions, "
            f"{sum(w['attempts'] for w in up)} attempts"
        )
    else:
        click.echo("The relay is stopped; this is what its files say.")
    for worker in workers:
        if worker["unhealthy"]:
            click.echo(f"worker {worker['shard']} takes no mail: {worker['unhealthy']}")
    click.echo()
    _print_queues(workers, now)
    _print_waiting(workers, now)
    click.echo()
    print_table(
        ["node", "pool", "state", "caps", "delivered", "deferred", "refused", "test status"],
        [
            (
                row["name"],
                row["pool"],
                row["unavailable"] or row["status"],
                " ".join(f"{c['used']}/{c['limit']} per {age(c['window_s'])}" for c in row["caps"]) or "none",
                *(row["counts"].get(what, 0) for what in ("delivered", "deferred", "refused")),
                row["test_status"] or "-",
            )
            for row in nodes
        ],
        empty="No nodes are configured.",
    )


def _print_queues(workers: list[dict[str, Any]], now: float) -> None:
    totals: dict[tuple[str, str, str], Counter[str]] = {}
    oldest: dict[tuple[str, str, str], float] = {}
    for worker in workers:
        for row in worker["queues"]:
            key = (row["pool"], row["lane"], row["bridge"])
            totals.setdefault(key, Counter()).update({k: row[k] for k in ("queued", "held", "quarantined")})
            if row["oldest"]:
                oldest[key] = min(oldest.get(key, now), row["oldest"])
    print_table(
        ["pool", "lane", "bridge", "queued", "held", "quarantined", "oldest"],
        [
            (*key, t["queued"], t["held"], t["quarantined"], age(now - oldest[key]) if key in oldest else "-")
            for key, t in sorted(totals.items())
        ],
        empty="The queue is empty.",
    )


def _print_waiting(workers: list[dict[str, Any]], now: float) -> None:
    for worker in workers:
        for row in worker["waiting"]:
            click.echo(f"\npool {row['pool']} waits until {when(row['until'])} ({age(row['until'] - now)}):")
            for why in row["why"]:
                click.echo(f"  {why}")


@click.command()
@click.argument("message_id")
@json_option
@click.pass_obj
def explain(config: str, message_id: str, as_json: bool) -> None:
    """What happened to a message: each decision with why every node was taken or skipped, each answer."""

    async def work() -> dict[str, Any] | None:
        async with shards(config) as found:
            told = [t for shard in found if (t := await shard.call("explain", message_id=message_id))]
        if not told:
            return None
        # Every shard reads the histories of all: what several tell is one event.
        events = {(event["at"], event["event"], event.get("node", "")): event for t in told for event in t["story"]}
        story = sorted(events.values(), key=lambda event: event["at"])
        return {"id": message_id, "now": next((t["now"] for t in told if t["now"]), None), "story": story}

    told = run(work)
    if told is None:
        click.echo(
            f"Nothing is known of {message_id}: it never came here, or its history was removed by age.", err=True
        )
        sys.exit(os.EX_DATAERR)
    if as_json:
        print_json(told)
        return
    for event in told["story"]:
        data = {k: v for k, v in event.items() if k not in ("at", "event", "level", "id", "route")}
        said = " ".join(f"{k}={_short(v)}" for k, v in data.items() if v not in ("", None, [], 0))
        click.echo(f"{when(event['at'])}  {event['event']}  {said}")
        for node, verdict, reason in event.get("route", ()):
            click.echo(f"    {node}: {verdict}{f' ({reason})' if reason else ''}")
    entry = told["now"]
    if entry is None:
        click.echo("now: done")
    else:
        click.echo(
            f"now: {entry['standing']}, next look {when(entry['due'])}; {entry['reason'] or 'waits for its turn'}"
        )


def _short(value: Any) -> str:
    if isinstance(value, list):
        head = ", ".join(str(v) for v in value[:5])
        return f"[{head}{f' and {len(value) - 5} more' if len(value) > 5 else ''}]"
    text = str(value)
    return repr(text) if " " in text else text


@click.command()
@click.pass_obj
def healthcheck(config: str) -> None:
    """Exit 0 when every worker runs and can take mail, else 69. For containers and load balancers."""

    async def work() -> list[str]:
        async with shards(config) as found:
            faults = []
            for number, shard in enumerate(found):
                if not shard.running:
                    faults.append(f"worker {number} does not run")
                elif reason := (await shard.call("status"))["unhealthy"]:
                    faults.append(f"worker {number} takes no mail: {reason}")
            return faults

    faults = run(work)
    for fault in faults:
        click.echo(fault, err=True)
    sys.exit(os.EX_UNAVAILABLE if faults else 0)
