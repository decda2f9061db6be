"""`relay queue …`."""

from __future__ import annotations

import heapq
import os
import sys
import time
from typing import Any

import click

from relay.cli.common import ask_all, fail, json_option, operator_name, print_json, run, shards
from relay.cli.text import age, moment, octets, plural, print_table, say, wrapped

PAGE = 1000
"""Messages asked for at once: a worker answers in some milliseconds and goes on delivering."""


@click.group()
def queue() -> None:
    """List, show, retry, hold and drop messages that are not done."""


def _chosen(function: Any) -> Any:
    """The options that say which messages are meant."""
    for option in (
        click.argument("ids", nargs=-1, metavar="[ID]…"),
        click.option("--pool", default="", help="Only messages of this pool."),
        click.option("--bridge", default="", help="Only messages of this bridge."),
        click.option(
            "--standing", type=click.Choice(["queued", "held", "quarantined"]), help="Only messages that stand so."
        ),
        click.option("--text", default="", help="Part of the sender, a recipient or the subject."),
    ):
        function = option(function)
    return function


def _selection(ids: tuple[str, ...], pool: str, bridge: str, standing: str | None, text: str) -> dict[str, Any]:
    known = tuple(message_id.strip().upper() for message_id in ids)
    return {"ids": known, "pool": pool, "bridge": bridge, "standing": standing, "text": text}


@queue.command("list")
@_chosen
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1_000_000))
@json_option
@click.pass_obj
def list_(config: str, /, limit: int, as_json: bool, **chosen: Any) -> None:
    """Messages that are not done yet, oldest first, with why they wait."""
    selection = _selection(**chosen)

    async def pages(shard: Any) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        while len(rows) < limit:
            size = min(PAGE, limit - len(rows))
            page = await shard.call("entries", selection=selection, limit=size, after=rows[-1]["id"] if rows else "")
            rows += page
            if len(page) < size:
                break
        return rows

    async def work() -> tuple[list[dict[str, Any]], int]:
        async with shards(config) as found:
            lists = [await pages(shard) for shard in found]
            depths = await ask_all(found, "status")
        total = sum(r["queued"] + r["held"] + r["quarantined"] for worker in depths for r in worker["queues"])
        return list(heapq.merge(*lists, key=lambda row: str(row["id"])))[:limit], total

    rows, total = run(work)
    if as_json:
        print_json(rows)
        return
    now = time.time()
    print_table(
        ["id", "age", "state", "next", "pool", "sender", "to", "reason"],
        [
            (
                row["id"],
                age(now - row["received_at"]),
                row["state"],
                _next(row, now),
                row["pool"],
                row["sender"] or "<>",
                sum(r["status"] == "pending" for r in row["recipients"]),
                row["reason"] or "-",
            )
            for row in rows
        ],
        empty="No message matches." if any(selection.values()) and total else "The queue is empty.",
        prose=True,
    )
    if len(rows) == limit and total > limit:
        say(f"\nThe first {limit} of {total} in the queue; --limit shows more, --json everything about each.")


def _next(row: dict[str, Any], now: float) -> str:
    if row["state"] != "waiting":
        return "-" if row["state"] in ("held", "quarantined") else "now"
    return f"in {age(row['due'] - now)}" if row["due"] else "soon"


@queue.command()
@click.argument("message_id")
@json_option
@click.pass_obj
def show(config: str, message_id: str, as_json: bool) -> None:
    """One message: envelope, recipients, header section."""
    message_id = message_id.strip().upper()

    async def work() -> dict[str, Any] | None:
        async with shards(config) as found:
            return next((hit for hit in await ask_all(found, "show", message_id=message_id) if hit), None)

    row = run(work)
    if row is None:
        fail(f"no message {message_id} is in the queue; `relay explain {message_id}` may know its story", os.EX_DATAERR)
    if as_json:
        print_json(row)
        return
    now = time.time()
    facts = {key: row[key] for key in ("id", "state", "reason", "bridge", "pool", "lane", "campaign")}
    facts["sender"] = row["sender"] or "<>"
    facts |= {"subject": row["subject"], "size": octets(row["size"]), "attempts": row["attempts"]}
    facts["received"] = moment(row["received_at"], now)
    if row["state"] == "waiting":
        facts["next"] = moment(row["due"], now) if row["due"] else "when a connection is free"
    for key, value in facts.items():
        if value not in ("", None):
            say(wrapped(str(value), indent=" " * 11, first=f"{key:10} "))
    for recipient in row["recipients"]:
        said = f": {recipient['code'] or ''} {recipient['text']} ({recipient['node']})" if recipient["node"] else ""
        text = f"{recipient['address']} {recipient['status']}{said}"
        say(wrapped(text, indent=" " * 13, first=f"{'recipient':10} "))
    say()
    say(row["head"].replace("\r\n", "\n").replace("\t", "    ").rstrip("\n"))


def _act(config: str, operation: str, said: str, selection: dict[str, Any], **args: Any) -> None:
    if not any(selection.values()):
        raise click.UsageError("name messages by id, or choose them with --pool, --bridge, --standing or --text")

    async def work() -> tuple[list[dict[str, int]], bool]:
        async with shards(config) as found:
            return await ask_all(found, operation, selection=selection, **args), any(s.running for s in found)

    answers, running = run(work)
    if operation == "retry" and not running:
        said = "will be tried when the relay starts"
    count = sum(answer["changed"] for answer in answers)
    busy = sum(answer["delivering"] for answer in answers)
    say(f"{plural(count, 'message')} {said}.")
    if busy:
        say(f"{plural(busy, 'message')} left alone: being delivered right now.")
    if not count:
        sys.exit(os.EX_TEMPFAIL if busy else os.EX_DATAERR)


@queue.command()
@_chosen
@click.pass_obj
def retry(config: str, /, **chosen: Any) -> None:
    """Try messages now; also releases held and quarantined ones. Exit 65 when none matches."""
    _act(config, "retry", "will be tried now", _selection(**chosen))


@queue.command()
@_chosen
@click.option("--reason", default="no reason given", show_default=True)
@click.pass_obj
def hold(config: str, /, reason: str, **chosen: Any) -> None:
    """Keep messages back until `relay queue retry`. Exit 65 when none matches."""
    _act(config, "hold", "held", _selection(**chosen), reason=f"held by {operator_name()}: {reason}")


@queue.command()
@_chosen
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def drop(config: str, /, yes: bool, **chosen: Any) -> None:
    """Remove messages for good; their senders are not told. Exit 65 when none matches."""
    selection = _selection(**chosen)
    if not yes and any(selection.values()):
        if not sys.stdin.isatty():
            raise click.UsageError("this removes messages for good: confirm it with --yes")
        click.confirm("Remove these messages for good, without telling their senders?", abort=True)
    _act(config, "drop", "dropped", selection, by=operator_name())
