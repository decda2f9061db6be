"""`relay webhook …`: calls to receivers of events."""

from __future__ import annotations

import base64
import os
import secrets
import time
from typing import TYPE_CHECKING, Any

import click

from relay.cli.common import fail, json_option, load_files, print_json
from relay.cli.text import moment, plural, print_table, say

if TYPE_CHECKING:
    from relay.admin.webhooks.service import Hook
    from relay.admin.webhooks.store import Store

STATES = ("waiting", "taken", "given-up")


@click.group()
def webhook() -> None:
    """List and replay webhook calls, and make signing secrets."""


def _open(config: str) -> tuple[Store, dict[str, Hook]]:
    from relay.admin.webhooks.service import hook_of
    from relay.admin.webhooks.store import Store
    from relay.app.site import site_of
    from relay.errors import ConfigError

    loaded = load_files(config)
    try:
        directory = site_of(loaded.config).directory
    except ConfigError as error:
        fail(str(error), os.EX_CONFIG)
    return Store(directory), {hook.name: hook for hook in map(hook_of, loaded.config.webhooks)}


@webhook.command("list")
@click.argument("name", required=False)
@click.option("--state", type=click.Choice(STATES), help="Only calls in this state.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000))
@json_option
@click.pass_obj
def list_(config: str, name: str | None, state: str | None, limit: int, as_json: bool) -> None:
    """Receivers and how their calls stand; with NAME the calls of one, newest first."""
    from relay.admin.webhooks.service import call_row
    from relay.admin.webhooks.store import State

    store, hooks = _open(config)
    if name is not None:
        _known(name, hooks)
        calls = store.calls(name, state=State(state) if state else None, limit=limit)
        if as_json:
            print_json([call_row(call) for call in calls])
            return
        now = time.time()
        print_table(
            ["id", "event", "when", "state", "tries", "next", "answer"],
            [(c.id, c.name, moment(c.at, now), c.state, c.tries, moment(c.due, now) if c.state == "waiting" else "-",
              c.answer or "-") for c in calls],
            empty="No call matches.",
            prose=True,
        )  # fmt: skip
        return
    counts, silenced = store.counts(), store.silenced()
    rows: list[dict[str, Any]] = [
        {
            "name": hook.name,
            "url": hook.url,
            "events": list(hook.events),
            **{each: counts.get(hook.name, {}).get(each, 0) for each in STATES},
            "silenced": silenced[hook.name][1] if silenced.get(hook.name, ("",))[0] == hook.url else "",
        }
        for hook in hooks.values()
    ]
    if as_json:
        print_json(rows)
        return
    print_table(
        ["webhook", "url", "events", *STATES, "silenced"],
        [
            (r["name"], r["url"], " ".join(r["events"]), *(r[each] for each in STATES), r["silenced"] or "-")
            for r in rows
        ],
        empty="No webhooks are configured.",
    )


@webhook.command()
@click.argument("name")
@click.argument("ids", nargs=-1, metavar="[ID]…")
@click.option("--state", type=click.Choice(STATES), help="All calls in this state, for example given-up.")
@click.option("--since", "ago", help="All events of so long ago until now, for example 2h.")
@click.pass_obj
def replay(config: str, name: str, ids: tuple[str, ...], state: str | None, ago: str | None) -> None:
    """Make calls again: those of the events named, in a state, or of some time. Exit 65 when there are none."""
    from relay.admin.webhooks.store import State
    from relay.units import parse_duration

    if not (ids or state or ago):
        raise click.UsageError("name events by id, or choose calls with --state or --since")
    try:
        since = time.time() - parse_duration(ago) if ago else 0.0
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--since") from None
    store, hooks = _open(config)
    _known(name, hooks)
    count = store.replay(name, time.time(), ids=ids, state=State(state) if state else None, since=since)
    if not count:
        fail("no call matches; events are kept for a week", os.EX_DATAERR)
    say(f"{plural(count, 'call')} will be made again, within a minute if the relay runs.")


@webhook.command()
def secret() -> None:
    """Print a new signing secret for `webhooks: [{secret: …}]`."""
    click.echo("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())


def _known(name: str, hooks: dict[str, Hook]) -> None:
    if name not in hooks:
        fail(f"no webhook is called {name!r}; there are: {', '.join(hooks) or 'none'}", os.EX_DATAERR)
