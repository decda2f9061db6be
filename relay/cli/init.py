"""`relay init`."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import click

from relay.cli.common import fail
from relay.cli.text import say

_CONFIG = """\
# yaml-language-server: $schema=./relay.schema.json
# A first configuration. `relay check` tells every fault at once; the schema beside this file explains every key, also
# to your editor.
version: 1
# The name that the relay gives itself; other mail servers want to find it in DNS.
hostname: {hostname}
store: sqlite:var/relay
account: {{tag: acme, id: 1}}
mtas:
  - {{id: mta1, zone: local}}

listeners:
  - {{{listener}}}

bridges:
  - name: {bridge}
    pool: main
    credentials:
      # The password was printed once by `relay init`; this is its hash. `relay bridge add` makes more.
      - {{username: {bridge}, password: "{stored}"}}

pools:
  - name: main
    id: 1
    mta: mta1
    default: true
    feedtype: transactional
    nodes:
{node}
"""

_SANDBOX = """\
      # Takes mail without sending it and keeps it in var/sandbox. Put a real server in its place, for example
      # {name: smarthost, type: smtp, host: smtp.example.com}.
      - {name: sandbox, type: sandbox, directory: var/sandbox}"""

_SMTP = """\
      - name: smarthost
        type: smtp
        host: {host}
        port: {port}
        tls: {tls}"""

_LOGIN = """
        username: {username}
        password: ${{SMARTHOST_PASSWORD}}"""

_TLS_MODES = ["none", "opportunistic", "starttls", "implicit"]
_PORTS = {"none": 25, "opportunistic": 25, "starttls": 587, "implicit": 465}


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), default=Path("conf"))
@click.option("--type", "kind", type=click.Choice(["sandbox", "smtp"]), help="Type of the first node.")
@click.option("--host", help="SMTP server to relay through.")
@click.option("--port", type=click.IntRange(1, 65535), help="Its port.")
@click.option("--tls", type=click.Choice(_TLS_MODES), help="How it is reached.")
@click.option("--username", help="Login at the SMTP server; empty for none.")
@click.option("--bridge", default="app", show_default=True, help="Name and login of the first bridge.")
@click.option("--bind", default="127.0.0.1:2525", show_default=True, help="Where to listen.")
@click.option("--cert", help="Certificate of the listener; with it STARTTLS is offered, and on port 465 implicit TLS.")
@click.option("--key", help="Its key.")
def init(
    directory: Path,
    kind: str | None,
    host: str | None,
    port: int | None,
    tls: str | None,
    username: str | None,
    bridge: str,
    bind: str,
    cert: str | None,
    key: str | None,
) -> None:
    """Write a first configuration into DIRECTORY; asks for what is not given. Never overwrites."""
    path = directory / "relay.yaml"
    if path.exists():
        fail(f"{path} exists and was left alone; name another DIRECTORY, or remove it", os.EX_CANTCREAT)
    if bool(cert) != bool(key):
        raise click.UsageError("--cert and --key go together")
    if (host or port or tls or username) and kind is None:
        kind = "smtp"
    try:
        kind = kind or click.prompt("Type of the first node", type=click.Choice(["sandbox", "smtp"]), default="sandbox")
        node = _smtp(host, port, tls, username) if kind == "smtp" else _SANDBOX
    except click.Abort:
        click.echo(err=True)
        raise click.UsageError("no answer: say --type sandbox, or --type smtp --host … --tls … --username …") from None
    mode = "none" if not cert else "implicit" if bind.endswith(":465") else "starttls"
    token = _write(path, node, bridge=bridge, bind=bind, mode=mode, cert=cert, key=key)
    admin = _first_admin_token(path)

    me = _command()
    config = shlex.quote(str(path))
    say(f"Wrote {path} and relay.schema.json beside it. The login of bridge {bridge}, shown only now:")
    say(f"  username  {bridge}\n  password  {token}\n")
    if "SMARTHOST_PASSWORD" in node:
        say("Put the password of the SMTP server into the environment first:")
        say("  export SMARTHOST_PASSWORD=…")
    say("Start the relay here, because its files go to var/ below this folder:")
    say(f"  {me} -c {config} run")
    if admin:
        say("Its admin server answers at http://127.0.0.1:8025/ to this token, shown only now:")
        say(f"  {admin}")
    say("In another terminal, in this folder, send a message and see where it went:")
    say(f"  {me} -c {config} send you@example.com --user {shlex.quote(bridge)} --password {token}")
    say(f"  {me} -c {config} status")


def _first_admin_token(path: Path) -> str:
    """A token for who sets the relay up; empty when its folder has some, or cannot be made now (then the relay makes
    one at its first start)."""
    import contextlib
    import sqlite3

    from relay.admin.security.access import Access
    from relay.app.site import site_of
    from relay.config.load import load

    with contextlib.suppress(OSError, sqlite3.Error):
        config = load(path, environment={"SMARTHOST_PASSWORD": "unset", **os.environ}).config
        made = Access(site_of(config).directory).first()
        return made[1] if made else ""
    return ""


def _smtp(host: str | None, port: int | None, tls: str | None, username: str | None) -> str:
    host = host or click.prompt("SMTP server")
    tls = tls or click.prompt("TLS", type=click.Choice(_TLS_MODES), default="starttls")
    port = port or click.prompt("Port", type=click.IntRange(1, 65535), default=_PORTS[tls])
    if username is None:
        username = click.prompt("Username (empty for none)", default="", show_default=False)
    from relay.config.yaml_edit import scalar

    node = _SMTP.format(host=scalar(host), port=port, tls=tls)
    return node + (_LOGIN.format(username=scalar(username)) if username else "")


def _write(path: Path, node: str, *, bridge: str, bind: str, mode: str, cert: str | None, key: str | None) -> str:
    """Write the files and validate them; the password of the bridge. Nothing is left behind when they are not valid."""
    import socket

    from relay.bridges.credentials import generate_token
    from relay.config.load import load
    from relay.config.schema import config_schema
    from relay.config.yaml_edit import scalar
    from relay.errors import ConfigError

    token, stored = generate_token()
    listener: dict[str, Any] = {"bind": bind, "tls": mode}
    if cert and key:
        listener |= {"cert": cert, "key": key}
    text = _CONFIG.format(
        hostname=scalar(socket.getfqdn()),
        listener=", ".join(f"{name}: {scalar(value)}" for name, value in listener.items()),
        bridge=scalar(bridge),
        stored=stored,
        node=node,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        fail(f"{path} cannot be made: {error.strerror}", os.EX_CANTCREAT)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    try:
        load(path, environment={"SMARTHOST_PASSWORD": "unset", **os.environ})
    except ConfigError as error:
        path.unlink()
        fail(f"nothing was written, because the result would not be valid:\n{error}", os.EX_CONFIG)
    import orjson

    schema = path.with_name("relay.schema.json")
    if not schema.exists():
        schema.write_bytes(orjson.dumps(config_schema()))
    return token


def _command() -> str:
    """How this command was called, so that the printed lines can be pasted: `relay` only where the shell finds it."""
    called, found = Path(sys.argv[0]), shutil.which("relay")
    if called.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m relay"
    if found is not None and called.exists() and called.samefile(found):
        return "relay"
    return shlex.quote(sys.argv[0])
