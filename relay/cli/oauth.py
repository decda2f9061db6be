"""`relay oauth …`: consent of mailboxes."""

from __future__ import annotations

import os
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import click

from relay.cli.common import fail, json_option, load_config, print_json, run
from relay.cli.text import moment, print_table, say

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from relay.app.settings import Settings
    from relay.oauth.endpoint import Endpoint
    from relay.oauth.requests import Granted
    from relay.oauth.store import FileTokenStore
    from relay.upstreams.oauth_options import TokenPlan


@click.group()
def oauth() -> None:
    """Log nodes in to their mailboxes by OAuth 2, and show how their consent stands."""


@oauth.command()
@click.argument("name", metavar="NODE")
@click.option("--browser", is_flag=True, help="Open a page on this machine; the answer comes to a port of it.")
@click.option("--paste", is_flag=True, help="Open a page anywhere, then paste the address that it ends at.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port for --browser; default: any free one.")
@click.option("--redirect-uri", help="For --paste: where the registered application sends the browser.")
@click.pass_obj
def login(config: str, name: str, browser: bool, paste: bool, port: int, redirect_uri: str | None) -> None:
    """Ask a person for consent and store the tokens of NODE.

    Without options a code is shown that is entered on another device, where the provider has that (Microsoft), else an
    address to paste is asked for (Google). A running relay uses the new tokens at once.
    """
    from relay.oauth import login as flows

    if browser and paste:
        raise click.UsageError("--browser and --paste are two ways; choose one")
    settings = load_config(config)
    plan = _plan(settings, name)
    if plan.flow != "refresh-token":
        fail(f"node {name} uses flow {plan.flow}: nobody's consent is needed; `relay node test {name}`", os.EX_USAGE)

    async def work() -> Granted:
        async with _endpoint() as endpoint:
            if browser:
                async with flows.loopback(port) as (address, answer):
                    page = flows.page_for(plan, address)
                    say("Open this page in a browser on this machine, and agree:")
                    click.echo(f"\n  {page.url}\n")
                    granted = await flows.by_code(plan, endpoint.post, page, await answer(), node=name)
            elif paste or not plan.device_url:
                page = flows.page_for(plan, redirect_uri or "http://127.0.0.1:8400/")
                say("Open this page in any browser, and agree:")
                click.echo(f"\n  {page.url}\n")
                say("It ends at an address that does not load; that is as it should be. Paste that address here.")
                granted = await flows.by_code(plan, endpoint.post, page, click.prompt("Address"), node=name)
            else:
                granted = await flows.by_device(plan, endpoint.post, _show, node=name)
            await _keep(settings, name, plan, granted)
            return granted

    granted = run(work)
    say(f"Node {name} is logged in{f' with {granted.scope}' if granted.scope else ''}.")
    say(f"See that the server takes it: relay node test {name}")


@oauth.command()
@json_option
@click.pass_obj
def status(config: str, as_json: bool) -> None:
    """Every node that uses OAuth 2, and what is stored for it."""
    from relay.app.drivers import plan_of
    from relay.oauth.store import TokenStoreFault

    settings = load_config(config)
    store = _store(settings)
    plans = {name: plan for name, options in settings.node_options.items() if (plan := plan_of(options)) is not None}

    async def work() -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for name, plan in plans.items():
            row: dict[str, Any] = {"node": name, "flow": plan.flow, "account": plan.account}
            rows.append(row | {"stored": False, "standing": "needs no login"})
            if plan.flow != "refresh-token":
                continue
            try:
                rows[-1] |= _standing(await store.load(name), plan, name)
            except TokenStoreFault as fault:
                rows[-1]["standing"] = str(fault)
        return rows

    rows = run(work)
    if as_json:
        print_json(rows)
        return
    print_table(
        ["node", "flow", "account", "standing"],
        [(row["node"], row["flow"], row["account"] or "-", row["standing"]) for row in rows],
        empty="No node uses OAuth 2.",
    )


@oauth.command()
@click.argument("name", metavar="NODE")
@click.pass_obj
def logout(config: str, name: str) -> None:
    """Remove the stored tokens of NODE. The consent itself is withdrawn at the provider."""
    settings = load_config(config)
    _plan(settings, name)
    store = _store(settings)

    async def work() -> bool:
        async with store.turn(name, patience_s=30.0):
            return await store.forget(name)

    say(f"The tokens of node {name} are removed." if _guarded(work) else f"Nothing was stored for node {name}.")


def _standing(stored: Any, plan: TokenPlan, name: str) -> dict[str, Any]:
    from relay.oauth.source import seed_of

    if stored is None:
        configured = "begins with the configured refresh token" if plan.refresh_token else ""
        return {"standing": configured or f"not logged in: relay oauth login {name}"}
    facts = {
        "stored": True,
        "scope": stored.scope,
        "renewed_at": stored.obtained_at,
        "consent_ends": stored.refresh_expires_at or None,
    }
    if stored.seed != seed_of(plan):
        ahead = "the configured refresh token is next" if plan.refresh_token else f"relay oauth login {name}"
        return facts | {"standing": f"stored for another application or account: {ahead}"}
    now = time.time()
    ends = f", consent ends {moment(stored.refresh_expires_at, now)}" if stored.refresh_expires_at else ""
    return facts | {"standing": f"logged in, last renewed {moment(stored.obtained_at, now)}{ends}"}


def _plan(settings: Settings, name: str) -> TokenPlan:
    from relay.app.drivers import plan_of

    if name not in settings.node_options:
        there = ", ".join(sorted(settings.node_options)) or "none"
        fail(f"no node is called {name!r}; there are: {there}", os.EX_DATAERR)
    plan = plan_of(settings.node_options[name])
    if plan is None:
        fail(f"node {name} does not use OAuth 2: give it the key oauth", os.EX_DATAERR)
    return plan


def _store(settings: Settings) -> FileTokenStore:
    from relay.app.drivers import token_folder
    from relay.oauth.store import FileTokenStore

    return FileTokenStore(token_folder(settings))


async def _keep(settings: Settings, name: str, plan: TokenPlan, granted: Granted) -> None:
    from relay.app.offline import become_owner
    from relay.oauth.source import logged_in
    from relay.oauth.store import TokenStoreFault

    store = _store(settings)
    become_owner(settings.directory)
    try:
        async with store.turn(name, patience_s=90.0):
            try:
                before = await store.load(name)
            except TokenStoreFault:  # damaged: this login is what mends it
                await store.forget(name)
                before = None
            seen = before.version if before else 0
            await store.save(name, logged_in(plan, granted, before, now=time.time()), seen=seen)
    except TokenStoreFault as fault:
        fail(f"consent was given, but the tokens could not be stored: {fault}", os.EX_IOERR)


def _guarded(work: Any) -> Any:
    from relay.oauth.store import TokenStoreFault

    try:
        return run(work)
    except TokenStoreFault as fault:
        fail(str(fault), os.EX_IOERR)


@asynccontextmanager
async def _endpoint() -> AsyncIterator[Endpoint]:
    from relay.oauth.endpoint import Endpoint

    endpoint = Endpoint()
    try:
        yield endpoint
    finally:
        await endpoint.close()


def _show(code: Any) -> None:
    if code.complete_uri:
        say("Open this page on any device:")
        click.echo(f"\n  {code.complete_uri}\n")
        say(f"or {code.verification_uri} and enter the code {code.user_code}")
    else:
        say("Open this page on any device, and enter the code:")
        click.echo(f"\n  {code.verification_uri}\n  {code.user_code}\n")
    say("Waiting for consent …")
