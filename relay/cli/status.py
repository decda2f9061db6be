"""`relay status` and `relay healthcheck`."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import click

from relay.cli.common import any_of, json_option, print_json, run, shards, workers
from relay.cli.text import age, moment, plural, print_table, say, width, wrapped

SHOWN_WAITS = 10
"""Classes of waiting messages that are listed; each bound message is a class of its own."""


@click.command()
@json_option
@click.pass_obj
def status(config: str, as_json: bool) -> None:
    """Queue, connections and nodes at a glance, with what waits and why.

    Exit 75 when a worker does not answer; the others are shown all the same.
    """

    async def work() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        async with shards(config) as found:
            told = [await _ask(shard) for shard in found]
            well = [shard for shard, answer in zip(found, told, strict=True) if "error" not in answer]
            return told, await any_of(well).call("nodes") if well else []

    told, nodes = run(work)
    running: Counter[str] = Counter()
    for worker in told:
        running.update(worker.get("attempts_by_node", {}))
    for row in nodes:
        row["attempts"] = running[row["name"]]
    if as_json:
        print_json({"workers": told, "nodes": nodes})
    else:
        _print(told, nodes, time.time())
    if any("error" in worker for worker in told):
        sys.exit(os.EX_TEMPFAIL)


async def _ask(shard: Any) -> dict[str, Any]:
    from relay.control.protocol import ControlError

    try:
        answer: dict[str, Any] = await shard.call("status")
    except ControlError as error:
        return {"shard": shard.name, "running": shard.running, "error": str(error), "queues": [], "waiting": []}
    return answer


def _print(told: Sequence[dict[str, Any]], nodes: Sequence[dict[str, Any]], now: float) -> None:
    up = [worker for worker in told if worker["running"] and "error" not in worker]
    if up:
        phase = "" if all(w["phase"] == "running" for w in up) else f" ({', '.join(sorted({w['phase'] for w in up}))})"
        say(
            f"relay {up[0]['version']} is running{phase}: {plural(len(up), 'worker')}, "
            f"up {age(min(w['uptime_s'] for w in up))}; {plural(sum(w['sessions'] for w in up), 'client connection')}, "
            f"{plural(sum(w['attempts'] for w in up), 'attempt')} to deliver"
        )
    elif not any("error" in worker for worker in told):
        say("The relay is stopped; this is what its files say.")
    for worker in told:
        if "error" in worker:
            say(worker["error"])
        elif worker["unhealthy"]:
            say(f"worker {worker['shard']} takes no mail: {worker['unhealthy']}")
        elif up and not worker["running"]:
            count = sum(row["queued"] + row["held"] + row["quarantined"] for row in worker["queues"])
            if count:
                say(f"shard {worker['shard']} has {plural(count, 'message')} and no worker")
    for trouble in dict.fromkeys(text for worker in told for text in worker.get("troubles", ())):
        say(trouble)
    _print_configuration(up, now)
    say()
    _print_queues(told, now)
    _print_waiting(told, now)
    say()
    print_nodes(nodes, now)


def _print_configuration(up: Sequence[dict[str, Any]], now: float) -> None:
    """What is amiss with the configuration that runs; nothing while it is what the last reload wanted."""
    told = [worker["configuration"] for worker in up if worker["configuration"]]
    if len({one["generation"] for one in told}) > 1:
        say("The workers run on different configurations; the log says why: relay.fault of `reload`.")
    failure = max((one["failure"] for one in told if one["failure"]), key=lambda one: one["at"], default=None)
    if failure:
        say(f"The last reload failed {moment(failure['at'], now)}; the configuration before it goes on:")
        for line in failure["error"].splitlines():
            say(wrapped(line, indent="    ", first="  "))
    for one in told:
        if one["returned"]:
            say(f"The last reload was undone {moment(one['returned']['at'], now)}, because delivery broke:")
            say(wrapped(one["returned"]["why"], indent="    ", first="  "))
            say("The files still hold what was undone; put them right before the next reload or start.")
        elif one["watched_until"]:
            say(f"Delivery is watched until {moment(one['watched_until'], now)}: if the reload broke it, it is undone.")
    needed = list(dict.fromkeys(key for one in told for key in one["needs_restart"]))
    if needed:
        say(f"Changed in the files and only taken over by a restart: {', '.join(needed)}.")


def _print_queues(told: Sequence[dict[str, Any]], now: float) -> None:
    totals: dict[tuple[str, str, str], Counter[str]] = {}
    oldest: dict[tuple[str, str, str], float] = {}
    for worker in told:
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


def _print_waiting(told: Sequence[dict[str, Any]], now: float) -> None:
    """What waits and why; what several workers say of the same nodes is said once."""
    waits: dict[tuple[str, tuple[str, ...]], float] = {}
    for worker in told:
        for row in worker["waiting"]:
            key = (row["pool"], tuple(row["why"]))
            waits[key] = min(waits.get(key, float("inf")), row["until"] or float("inf"))
    for (pool, why), until in list(waits.items())[:SHOWN_WAITS]:
        then = f"until {moment(until, now)}" if until != float("inf") else "for a free connection"
        say(f"\nMail of pool {pool} waits {then}:")
        for line in why:
            say(wrapped(line, indent="    ", first="  "))
    if len(waits) > SHOWN_WAITS:
        say(f"\n… and {len(waits) - SHOWN_WAITS} more; --json has them all.")


def print_nodes(nodes: Sequence[dict[str, Any]], now: float) -> None:
    """A row for each node, and below it, in words, why it takes nothing or what was wrong last."""
    print_table(
        ["node", "pool", "type", "state", "caps", "now", "delivered", "deferred", "refused"],
        [
            (
                row["name"],
                row["pool"],
                row["type"],
                state_of(row),
                caps_of(row),
                row.get("attempts", 0),
                *(row["counts"].get(what, 0) for what in ("delivered", "deferred", "refused")),
            )
            for row in nodes
        ],
        empty="No nodes are configured.",
    )
    said = [(row["name"], why) for row in nodes if (why := _trouble(row, now))]
    if said:
        say()
        wide = min(max(len(name) for name, _ in said), width() // 3)
        for name, why in said:
            say(wrapped(why, indent=" " * (wide + 2), first=f"{name.ljust(wide)}  "))


def state_of(row: dict[str, Any]) -> str:
    """The state of a node in one word."""
    if row["status"] == "active" and row["unavailable"]:
        return "cooling"
    return "drained" if row["status"] == "active" and not row["weight"] else str(row["status"])


def caps_of(row: dict[str, Any]) -> str:
    """`3/10000/h`: used, limit, window; and who set it where that was not the configuration."""
    units = {1.0: "s", 60.0: "min", 3600.0: "h", 86400.0: "day"}
    caps = []
    for cap in row["caps"]:
        who = cap.get("source", "configuration")
        said = "" if who == "configuration" else f" ({who})"
        caps.append(f"{cap['used']}/{cap['limit']}/{units.get(cap['window_s'], age(cap['window_s']))}{said}")
    return " ".join(caps) or "none"


def _trouble(row: dict[str, Any], now: float) -> str:
    if row["unavailable"]:
        return str(row["unavailable"])
    full = [cap["free_at"] for cap in row["caps"] if cap["free_at"]]
    if full:
        return f"full: room again {moment(max(full), now)}"
    return f"last test: {row['test_status']}" if row["test_status"] not in ("", "ok") else ""


@click.command()
@click.pass_obj
def healthcheck(config: str) -> None:
    """Exit 0 when every worker runs and can take mail, else 69. For containers and load balancers.

    Looks only at running workers and opens no file of the relay, so it can be called at any moment.
    """

    async def work() -> list[str]:
        from relay.control.protocol import ControlError

        async with workers(config) as found:
            if not found:
                return [f"the relay of {config} does not run"]
            faults, count = [], 0
            for worker in found:
                try:
                    answer = await worker.call("status")
                except ControlError as error:
                    faults.append(str(error))
                    continue
                count = max(count, answer["workers"])
                if answer["phase"] != "running":
                    faults.append(f"worker {worker.name} is {answer['phase']}")
                elif answer["unhealthy"]:
                    faults.append(f"worker {worker.name} takes no mail: {answer['unhealthy']}")
            missing = {str(n) for n in range(count)} - {worker.name for worker in found}
            return faults + [f"worker {name} does not run" for name in sorted(missing)]

    faults = run(work)
    for fault in faults:
        say(fault, error=True)
    sys.exit(os.EX_UNAVAILABLE if faults else 0)
