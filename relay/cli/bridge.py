"""`relay bridge …`: who may log in."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relay.cli.common import fail, json_option, load_files, print_json, run
from relay.cli.text import print_table, say

if TYPE_CHECKING:
    from relay.config.load import Loaded
    from relay.config.yaml_edit import Text


@click.group()
def bridge() -> None:
    """List, add and revoke bridges."""


@bridge.command("list")
@json_option
@click.pass_obj
def list_(config: str, as_json: bool) -> None:
    """Every bridge with its pool, logins and networks."""
    from relay.config import values

    rows: list[dict[str, Any]] = [
        {
            "name": b.name,
            "pool": b.pool,
            "usernames": [c.username for c in b.credentials],
            "networks": [str(n) for n in b.networks],
            "senders": list(b.senders),
            "lane": str(b.lane),
            "share": b.share,
            "delivery": "direct" if b.direct else "queue",
        }
        for b in values.bridges(load_files(config).config)
    ]
    if as_json:
        print_json(rows)
        return
    print_table(
        ["bridge", "pool", "lane", "delivery", "logins", "networks", "senders"],
        [
            (
                row["name"],
                row["pool"],
                row["lane"],
                row["delivery"],
                " ".join(row["usernames"]) or "-",
                " ".join(row["networks"]) or "-",
                " ".join(row["senders"]) or "any",
            )
            for row in rows
        ],
        empty="No bridges are configured; `relay bridge add NAME` makes one.",
    )


@bridge.command()
@click.argument("name")
@click.option("--pool", help="Pool it leads to; default: the default pool.")
@click.option("--username", help="Login name; default: the bridge's name.")
@click.option("--sender", "senders", multiple=True, help="Allowed sender such as @acme.example; may be repeated.")
@json_option
@click.pass_obj
def add(
    config: str, name: str, pool: str | None, username: str | None, senders: tuple[str, ...], as_json: bool
) -> None:
    """Add a bridge with a generated password, or a further login to a bridge that exists.

    The password is printed once; the file keeps only its hash. Comments and layout of the file stay, and a running
    relay takes the login at once.
    """
    from relay.bridges.credentials import generate_token
    from relay.config.yaml_edit import file_with

    loaded = load_files(config)
    login = username or name
    known = {b.name: b for b in loaded.config.bridges}
    exists = name in known
    if exists and (pool or senders):
        raise click.UsageError(f"bridge {name} exists: this adds a login to it; change --pool and --sender in the file")
    if any(c.username == login for b in loaded.config.bridges for c in b.credentials):
        fail(f"the login {login} exists already; choose another --username, or revoke it first", os.EX_DATAERR)
    if pool is not None and all(p.name != pool for p in loaded.config.pools):
        there = ", ".join(p.name for p in loaded.config.pools) or "none"
        fail(f"no pool is called {pool!r}; there are: {there}", os.EX_DATAERR)
    if not exists and pool is None:
        pool = next((p.name for p in loaded.config.pools if p.default), None)
        if pool is None:
            raise click.UsageError("no pool is the default; say --pool")
    token, stored = generate_token()
    credential = {"username": login, "password": stored}

    def change(text: Text) -> None:
        if exists:
            text.add("credentials", credential, of=text.items("bridges")[_position(text, name)])
        else:
            allowed = {"senders": list(senders)} if senders else {}
            text.add("bridges", {"name": name, "pool": pool, "credentials": [credential], **allowed})

    def proof(after: Loaded) -> bool:
        return _logins(after) == {**before, name: [*before.get(name, ()), login]}

    before = _logins(loaded)
    path = _home(loaded.files, name) if exists else file_with(loaded.files, "bridges")
    _edit(config, path, change, proof)
    taken = _reload(config)
    if as_json:
        print_json({"bridge": name, "username": login, "password": token, "file": str(path), **taken})
        return
    say(f"{'Login added to' if exists else 'Added'} bridge {name} in {path}. This password is shown only now:")
    say(f"  username  {login}")
    say(f"  password  {token}")
    _tell(taken)


@bridge.command()
@click.argument("name")
@click.option("--username", help="Revoke only this login.")
@json_option
@click.pass_obj
def revoke(config: str, name: str, username: str | None, as_json: bool) -> None:
    """Take a bridge, or one of its logins, away.

    Sessions that use it end at their next MAIL; mail that was accepted from it is still delivered.
    """
    loaded = load_files(config)
    chosen = next((b for b in loaded.config.bridges if b.name == name), None)
    if chosen is None:
        there = ", ".join(b.name for b in loaded.config.bridges) or "none"
        fail(f"no bridge is called {name!r}; there are: {there}", os.EX_DATAERR)
    logins = [c.username for c in chosen.credentials]
    if username and username not in logins:
        fail(
            f"bridge {name} has no login {username!r}; it has: {', '.join(logins) or 'none, only networks'}",
            os.EX_DATAERR,
        )

    only_login = bool(username) and (len(logins) > 1 or bool(chosen.networks))

    def change(text: Text) -> None:
        from relay.config.yaml_edit import text_of

        position = _position(text, name)
        if not only_login:
            text.remove("bridges", position)
            return
        entry = text.items("bridges")[position]
        written = [text_of(item, "username") for item in text.items("credentials", of=entry)]
        # In the file a name may stand as ${NAME}; the order is the same.
        at = written.index(username) if username in written else logins.index(username or "")
        text.remove("credentials", at, of=entry)

    def proof(after: Loaded) -> bool:
        left = [login for login in logins if login != username] if only_login else None
        wanted = {**before, name: left}
        return _logins(after) == {key: value for key, value in wanted.items() if value is not None}

    before = _logins(loaded)
    path = _home(loaded.files, name)
    _edit(config, path, change, proof)
    taken = _reload(config)
    if as_json:
        print_json({"bridge": name, "username": username, "file": str(path), **taken})
        return
    say(f"Revoked {f'login {username} of ' if username else ''}bridge {name} in {path}.")
    _tell(taken)


def _logins(loaded: Loaded) -> dict[str, list[str]]:
    return {b.name: [c.username for c in b.credentials] for b in loaded.config.bridges}


def _position(text: Text, name: str) -> int:
    from relay.config.yaml_edit import text_of

    return [text_of(entry, "name") for entry in text.items("bridges")].index(name)


def _home(files: tuple[Path, ...], name: str) -> Path:
    """The file in which this bridge is written."""
    from relay.config.yaml_edit import file_where, text_of

    found = file_where(files, lambda text: name in [text_of(entry, "name") for entry in text.items("bridges")])
    if found is None:
        fail(f"bridge {name} is in none of the files as plain YAML; edit it by hand", os.EX_CONFIG)
    return found


def _edit(config: str, path: Path, change: Callable[[Text], None], proof: Callable[[Loaded], bool]) -> None:
    from relay.config.change import edit
    from relay.config.yaml_edit import CannotEdit
    from relay.errors import ConfigError

    try:
        edit(Path(config), path, change, proof)
    except CannotEdit as error:
        fail(f"nothing was changed: {error}", os.EX_CONFIG)
    except ConfigError as error:
        fail(f"nothing was changed, because the result would not be valid:\n{error}", os.EX_CONFIG)
    except OSError as error:
        fail(f"nothing was changed: {path} cannot be written: {error.strerror or error}", os.EX_CANTCREAT)


def _reload(config: str) -> dict[str, Any]:
    """Tell a running relay. `running`: how many workers took it over; `problem`: why they did not."""

    async def work() -> dict[str, Any]:
        from relay.cli.reload import ask_to_reload
        from relay.control.protocol import ControlError

        try:
            done = await ask_to_reload(config)
        except ControlError as error:
            return {"running": 0, "problem": str(error), "needs_restart": []}
        if done is None:
            return {"running": 0, "problem": "", "needs_restart": []}
        return {"running": done["workers"], "problem": "", "needs_restart": done["needs_restart"]}

    return run(work)


def _tell(taken: dict[str, Any]) -> None:
    if taken["running"]:
        say("The running relay uses it from now on.")
    if taken["needs_restart"]:
        say(f"Changed in the files before and only taken over by a restart: {', '.join(taken['needs_restart'])}.")
    if taken["problem"]:
        fail(f"the file is changed, but the running relay did not take it over: {taken['problem']}", os.EX_TEMPFAIL)
