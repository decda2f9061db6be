"""`relay queue …`."""

from __future__ import annotations

import getpass
import os
import sys
import time
from typing import Any

import click

from relay.cli.common import age, json_option, print_json, print_table, run, shards, when


@click.group()
def queue() -> None:
    """List, show, retry, hold and drop messages."""


def _chosen(function: Any) -> Any:
    """The options that say which messages are meant."""
    for option in (
        click.argument("ids", nargs=-1),
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
    return {"ids": ids, "pool": pool, "bridge": bridge, "standing": standing, "text": text}


@queue.command("list")
@_chosen
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 100_000))
@json_option
@click.pass_obj
def list_(config: str, /, limit: int, as_json: bool, **chosen: Any) -> None:
    """Messages that are not done yet, oldest first, with why they wait."""

    async def work() -> list[dict[str, Any]]:
        async with shards(config) as found:
            rows = [row for s in found for row in await s.call("entries", selection=_selection(**chosen), limit=limit)]
        return sorted(rows, key=lambda row: row["id"])[:limit]

    rows = run(work)
    if as_json:
        print_json(rows)
        return
    now = time.time()
    print_table(
        ["id", "age", "standing", "next", "pool", "sender", "rcpts", "reason"],
        [
            (
                row["id"],
                age(now - row["received_at"]),
                "in delivery" if row["leased"] else row["standing"],
                when(row["due"]) if row["due"] > now else "now",
                row["pool"],
                row["sender"] or "<>",
                sum(r["status"] == "pending" for r in row["recipients"]),
                row["reason"] or "-",
            )
            for row in rows
        ],
        empty="The queue is empty.",
    )


@queue.command()
@click.argument("message_id")
@json_option
@click.pass_obj
def show(config: str, message_id: str, as_json: bool) -> None:
    """One message: envelope, recipients, header section."""

    async def work() -> dict[str, Any] | None:
        async with shards(config) as found:
            for shard in found:
                if hit := await shard.call("show", message_id=message_id):
                    return hit  # type: ignore[no-any-return]
        return None

    row = run(work)
    if row is None:
        click.echo(
            f"No message {message_id} is in the queue; `relay explain {message_id}` may know its story.", err=True
        )
        sys.exit(os.EX_DATAERR)
    if as_json:
        print_json(row)
        return
    for key in (
        "id",
        "standing",
        "reason",
        "bridge",
        "pool",
        "lane",
        "campaign",
        "sender",
        "subject",
        "size",
        "attempts",
    ):
        click.echo(f"{key:10} {row[key]}")
    click.echo(f"{'received':10} {when(row['received_at'])}")
    click.echo(f"{'next':10} {when(row['due'])}")
    for recipient in row["recipients"]:
        said = f" {recipient['code']} {recipient['text']} ({recipient['node']})" if recipient["node"] else ""
        click.echo(f"{'recipient':10} {recipient['address']} {recipient['status']}{said}")
    click.echo()
    click.echo(row["head"].replace("\r\n", "\n"))


def _act(config: str, operation: str, said: str, selection: dict[str, Any], **args: Any) -> None:
    if not any(selection.values()):
        raise click.UsageError("name messages by id, or choose them with --pool, --bridge, --standing or --text")

    async def work() -> int:
        async with shards(config) as found:
            return sum([await shard.call(operation, selection=selection, **args) for shard in found])

    count = run(work)
    click.echo(f"{count} message{'' if count == 1 else 's'} {said}.")
    if not count:
        sys.exit(os.EX_DATAERR)


@queue.command()
@_chosen
@click.pass_obj
def retry(config: str, /, **chosen: Any) -> None:
    """Try messages now; also releases held and quarantined ones."""
    _act(config, "retry", "will be tried now", _selection(**chosen))


@queue.command()
@_chosen
@click.option("--reason", default="held by an operator", show_default=True)
@click.pass_obj
def hold(config: str, /, reason: str, **chosen: Any) -> None:
    """Keep messages back until `relay queue retry`."""
    _act(config, "hold", "held", _selection(**chosen), reason=reason)


@queue.command()
@_chosen
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def drop(config: str, /, yes: bool, **chosen: Any) -> None:
    """Remove messages for good; their senders are not told."""
    if not yes:
        click.confirm("Remove these messages for good, without telling their senders?", abort=True)
    _act(config, "drop", "dropped", _selection(**chosen), by=getpass.getuser())
