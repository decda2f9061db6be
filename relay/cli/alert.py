"""`relay alert …`: issues, and who is told of them."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import click

from relay.cli.common import fail, json_option, load_files, operator_name, print_json, run
from relay.cli.text import moment, print_table, say

if TYPE_CHECKING:
    from relay.admin.alerts.targets import Told
    from relay.app.site import Site
    from relay.config.load import Loaded


@click.group()
def alert() -> None:
    """List issues and targets of alerts, and try a target."""


def _site(config: str) -> tuple[Loaded, Site]:
    from relay.app.site import site_of
    from relay.errors import ConfigError

    loaded = load_files(config)
    try:
        return loaded, site_of(loaded.config)
    except ConfigError as error:
        fail(str(error), os.EX_CONFIG)


@alert.command("list")
@click.option("--state", type=click.Choice(["open", "closed", "all"]), default="open", show_default=True)
@click.option("--node", default="", help="Only issues of this node.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000))
@json_option
@click.pass_obj
def list_(config: str, state: str, node: str, limit: int, as_json: bool) -> None:
    """Issues: what is or was wrong, newest first."""
    from relay.admin.alerts.store import Store
    from relay.admin.alerts.words import issue_row

    _, site = _site(config)
    store = Store(site.directory)
    wanted = "" if state == "all" else state
    found = store.issues(state=wanted, node=node, limit=limit) if store.database.path.exists() else []
    rows = [issue_row(issue) for issue in found]
    if as_json:
        print_json(rows)
        return
    now = time.time()
    for r in rows:
        span = f"until {moment(r['until'], now)}" if r["until"] else "open"
        say(f"{r['number']}  {r['title']}  ({moment(r['since'], now)}, {span})")
        say(f"    {r['error']}")
        if r["last_error"] != r["error"]:
            say(f"    last: {r['last_error']}")
        if r["how"]:
            say(f"    ended: {r['how']}")
    if not rows:
        say("No issue is open." if state == "open" else "There are no such issues.")


@alert.command()
@json_option
@click.pass_obj
def targets(config: str, as_json: bool) -> None:
    """Who is told of issues."""
    from relay.admin.services.issues import target_row

    rows = [target_row(target) for target in load_files(config).config.alerts.targets]
    if as_json:
        print_json(rows)
        return
    print_table(
        ["target", "kind", "to", "rules", "recovery"],
        [(r["name"], r["kind"], r["to"], " ".join(r["rules"]), "yes" if r["recovery"] else "no") for r in rows],
        empty="Nobody is told; see alerts.targets in the configuration.",
    )


@alert.command()
@click.argument("target")
@json_option
@click.pass_obj
def test(config: str, target: str, as_json: bool) -> None:
    """Tell TARGET that this is a test, the way it would be told of trouble. Exit 69 when it does not take it.

    Mail and webhooks need a running relay: they go through it.
    """
    told = run(lambda: _try(config, target))
    if as_json:
        print_json({"target": target, "taken": told.taken, "answer": told.answer})
    elif told.taken:
        say(f"{target}: taken ({told.answer})")
    if not told.taken:
        fail(f"{target}: {told.answer}", os.EX_UNAVAILABLE)


async def _try(config: str, name: str) -> Told:
    from relay.admin.feed import Feed
    from relay.admin.services.issues import try_target
    from relay.admin.services.own_mail import OwnMail
    from relay.admin.webhooks.service import Webhooks
    from relay.admin.webhooks.store import Store
    from relay.admin.workers import Workers

    loaded, site = _site(config)
    known = {target.name: target for target in loaded.config.alerts.targets}
    if name not in known:
        fail(f"no target is called {name!r}; there are: {', '.join(known) or 'none'}", os.EX_DATAERR)
    webhooks = Webhooks(Store(site.directory), Feed(site.directory), loaded.config, tell=lambda *_: None)
    mail = OwnMail(Workers(lambda: site))
    return await try_target(known[name], loaded.config, webhooks, mail, by=operator_name())
