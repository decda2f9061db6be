"""`relay simulate`."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relay.cli.common import fail, json_option, load_config, print_json
from relay.cli.text import age, plural, print_table, say

if TYPE_CHECKING:
    from relay.app.settings import Settings
    from relay.bridges.bridge import Bridge
    from relay.envelope import Message
    from relay.foresight.simulation import Failure, Report
    from relay.pools.pool import Node

_SPAN = re.compile(r"(?P<node>[^@]+)@(?P<begin>\d+:\d\d(:\d\d)?)-(?P<end>\d+:\d\d(:\d\d)?)")
_LATENCY = re.compile(r"(?:(?P<node>[^=]+)=)?(?P<span>[^=]+)")


@click.command()
@click.option("--messages", type=click.IntRange(1, 10_000_000), help="How many messages come in.")
@click.option("--per-hour", type=click.FloatRange(min=0, min_open=True), help="At which pace; all at once if left out.")
@click.option("--recipients", type=click.IntRange(1, 100_000), default=1, show_default=True, help="Of each message.")
@click.option("--size", default="20kB", show_default=True, help="Of each message.")
@click.option("--bridge", "bridges", multiple=True, help="Bridges it comes through, by turns; every one if left out.")
@click.option("--sample", type=click.Path(exists=True), help="mbox file or folder of .eml: what the messages are like.")
@click.option("--history", "hours", metavar="SPAN", help="What came in during the last SPAN, for example 24h, again.")
@click.option(
    "--fail", "failures", multiple=True, metavar="NODE@H:MM-H:MM", help="NODE fails from, until, since start."
)
@click.option(
    "--latency",
    "latencies",
    multiple=True,
    metavar="[NODE=]SPAN",
    help="A hand-over takes this long.  [default: 500ms]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of all draws.")
@json_option
@click.pass_obj
def simulate(config: str, /, as_json: bool, **wanted: Any) -> None:
    """Run the router over mail that never was, on a clock that does not wait.

    Router, rotation, caps, health, retries and the order of the queue are the relay's own; servers are a model: they
    take every message within the latency, but for those told to fail. Times are hours and minutes since the start.
    The configuration is read from the files; the running relay is not asked and not touched.

    \b
    relay simulate --messages 100000 --per-hour 20000
    relay simulate --messages 5000 --per-hour 5000 --fail primary@00:30-02:00
    relay simulate --history 24h --json
    """
    import asyncio
    import gc

    from relay.foresight.simulation import Simulation

    settings = load_config(config)
    pools = _pools(settings)
    nodes = {node.name: node for pool in pools for node in pool.nodes}
    start = float(round(time.time()))
    simulation = Simulation(
        pools,
        health=settings.health,
        retry=settings.retry,
        shares={bridge.name: bridge.share for bridge in settings.bridges},
        failures=[_failure(text, nodes) for text in wanted["failures"]],
        latency_s=_latency(wanted["latencies"], nodes),
        start=start,
        seed=wanted["seed"],
    )
    arrivals = _arrivals(settings, wanted, start)
    gc.disable()  # nothing here is circular, and walking a hundred thousand messages takes longer than they do
    began = time.monotonic()
    try:
        report = asyncio.run(simulation.run(arrivals))
    finally:
        gc.enable()
    result = {**_result(report), "took_s": round(time.monotonic() - began, 3)}
    if as_json:
        print_json(result)
    else:
        _print(result)


def _pools(settings: Settings) -> Any:
    """As they stand in the files: the connections of all workers together."""
    from relay.config import values

    return values.pools(settings.config)


def _arrivals(settings: Settings, wanted: dict[str, Any], start: float) -> Iterable[Message]:
    from relay.foresight import traffic
    from relay.units import parse_duration, parse_size

    bridges = _bridges(settings, wanted["bridges"])
    if wanted["hours"]:
        if wanted["messages"] or wanted["sample"]:
            raise click.UsageError("--history says what comes in; leave --messages and --sample out")
        try:
            span_s = parse_duration(wanted["hours"])
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--history") from None
        return _replayed(settings, bridges, time.time() - span_s, start)
    if wanted["sample"]:
        try:
            templates = traffic.read_sample(Path(wanted["sample"]))
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--sample") from None
    elif wanted["messages"]:
        try:
            templates = [traffic.plain(recipients=wanted["recipients"], size=parse_size(wanted["size"]))]
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--size") from None
    else:
        raise click.UsageError("say what comes in: --messages, --sample or --history")
    return traffic.steady(
        templates,
        bridges,
        messages=wanted["messages"] or len(templates),
        per_hour=wanted["per_hour"] or float("inf"),
        start=start,
    )


def _replayed(settings: Settings, bridges: Sequence[Bridge], since: float, start: float) -> Iterable[Message]:
    from relay.foresight import traffic
    from relay.history.sqlite import accepted

    events = accepted(settings.directory, since)
    if not events:
        fail(f"the history in {settings.directory} has no message of that time", os.EX_DATAERR)
    return traffic.replayed(events, bridges, start=start)


def _bridges(settings: Settings, names: Sequence[str]) -> Sequence[Bridge]:
    there = {bridge.name: bridge for bridge in settings.bridges}
    for name in names:
        if name not in there:
            fail(f"no bridge is called {name!r}; there are: {', '.join(there) or 'none'}", os.EX_DATAERR)
    if not there:
        fail("there is no bridge for mail to come through", os.EX_DATAERR)
    return [there[name] for name in names] or list(there.values())


def _failure(text: str, nodes: dict[str, Node]) -> Failure:
    from relay.foresight.simulation import Failure

    found = _SPAN.fullmatch(text)
    if found is None:
        raise click.BadParameter(f"{text!r}: write for example primary@00:30-02:00", param_hint="--fail")
    begin, end = _clock(found["begin"]), _clock(found["end"])
    if end <= begin:
        raise click.BadParameter(f"{text!r}: ends before it begins", param_hint="--fail")
    return Failure(_known(found["node"], nodes, "--fail"), begin, end)


def _latency(texts: Sequence[str], nodes: dict[str, Node]) -> dict[str, float]:
    from relay.units import parse_duration

    found = {"": 0.5}
    for text in texts:
        match = _LATENCY.fullmatch(text)
        try:
            span_s = parse_duration(match["span"] if match else text)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--latency") from None
        found[_known(match["node"], nodes, "--latency") if match and match["node"] else ""] = span_s
    return found


def _known(name: str, nodes: dict[str, Node], option: str) -> str:
    if name not in nodes:
        raise click.BadParameter(
            f"no node is called {name!r}; there are: {', '.join(nodes) or 'none'}", param_hint=option
        )
    return name


def _clock(text: str) -> float:
    """`H:MM` or `H:MM:SS` in seconds."""
    hours, minutes, *seconds = (int(part) for part in text.split(":"))
    return hours * 3600.0 + minutes * 60.0 + sum(seconds)


def _result(report: Report) -> dict[str, Any]:
    return {
        "messages": report.messages,
        "recipients": report.recipients,
        "delivered": report.delivered,
        "expired": report.expired,
        "left": report.messages - report.delivered - report.expired,
        "last_arrival_s": round(report.last_arrival, 3),
        "cleared_at_s": round(report.cleared_at, 3),
        "waits_s": {
            "p50": round(report.wait(0.5), 3),
            "p99": round(report.wait(0.99), 3),
            "max": round(report.wait(1.0), 3),
        },
        "peak": {"waiting": report.peak, "at_s": round(report.peak_at, 3)},
        "backlog": [[round(at, 1), waiting] for at, waiting in report.backlog],
        "nodes": [
            {
                "node": name,
                "pool": node.pool,
                "messages": node.attempts,
                "recipients": node.recipients,
                "faults": node.faults,
                "down_s": round(node.down_s, 1),
                "passed_over": node.passed_over,
                "caps": [
                    {
                        "window_s": window_s,
                        "limit": bite.limit,
                        "first_s": round(bite.first, 1),
                        "last_s": round(bite.last, 1),
                    }
                    for window_s, bite in sorted(node.caps.items())
                ],
            }
            for name, node in report.nodes.items()
        ],
    }


def _print(result: dict[str, Any]) -> None:
    print_table(
        ["node", "pool", "messages", "recipients", "share", "faults", "out", "caps that kept mail back"],
        [
            (
                node["node"],
                node["pool"],
                node["messages"],
                node["recipients"],
                _share(node["recipients"], result["recipients"]),
                node["faults"],
                age(node["down_s"]) if node["down_s"] else "-",
                "; ".join(_cap(cap) for cap in node["caps"]) or "-",
            )
            for node in result["nodes"]
        ],
        empty="No nodes.",
        prose=True,
    )
    waits = result["waits_s"]
    say()
    say(
        f"{plural(result['messages'], 'message')} came in until {_at(result['last_arrival_s'])}: "
        f"{result['delivered']} delivered, {result['expired']} given up as too old"
        + (f", {result['left']} without an end" if result["left"] else "")
        + "."
    )
    say(
        f"Wait for a node: half of them up to {_long(waits['p50'])}, 99 % up to {_long(waits['p99'])}, the longest "
        f"{_long(waits['max'])}."
    )
    if result["peak"]["waiting"]:
        say(
            f"Most waited at {_at(result['peak']['at_s'])}: {result['peak']['waiting']}. "
            f"The backlog was cleared at {_at(result['cleared_at_s'])}."
        )
    say(f"Simulated in {result['took_s']:.1f} s.")


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _cap(cap: dict[str, Any]) -> str:
    from relay.router.words import span_words

    return f"{cap['limit']} in {span_words(cap['window_s'])} from {_at(cap['first_s'])} to {_at(cap['last_s'])}"


def _at(seconds: float) -> str:
    """`H:MM:SS` after the start."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _long(seconds: float) -> str:
    return age(seconds) if seconds >= 1 else f"{seconds:.3g} s"
