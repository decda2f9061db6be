"""`relay check`, `relay schema` and `relay init`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from relay.cli.common import json_option, print_json


@click.command()
@json_option
@click.pass_obj
def check(config: str, as_json: bool) -> None:
    """Check the configuration: every fault at once with its place. Exit 78 when there is one."""
    from relay.config.load import load
    from relay.errors import ConfigError

    try:
        loaded = load(Path(config))
    except ConfigError as error:
        if as_json:
            print_json({"ok": False, "faults": str(error).splitlines(), "warnings": []})
        else:
            click.echo(str(error), err=True)
        sys.exit(os.EX_CONFIG)
    warnings = [str(warning) for warning in loaded.warnings]
    if as_json:
        print_json({"ok": True, "faults": [], "warnings": warnings})
        return
    for warning in warnings:
        click.echo(f"warning: {warning}")
    click.echo(f"{config}: ok ({len(loaded.files)} file{'' if len(loaded.files) == 1 else 's'})")


@click.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    from relay.config.schema import config_schema

    print_json(config_schema())


_FIRST = """\
# yaml-language-server: $schema=./relay.schema.json
# A first configuration. `relay check` tells every fault at once; every key is explained in
# conf/examples/reference.yaml and by `relay schema`.
version: 1
hostname: {hostname}
store: sqlite:var/relay
account: {{tag: {tag}, id: 1}}
mtas:
  - {{id: mta1, zone: local}}

listeners:
  - {{bind: "{bind}", tls: none}}

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
      # Takes mail without sending it and keeps it in var/sandbox. Replace it with a real server:
      # `relay init --type smtp` writes one.
      - {name: sandbox, type: sandbox, directory: var/sandbox}
"""

_SMTP = """\
      - name: smarthost
        type: smtp
        host: {host}
        port: {port}
        tls: {tls}
{login}"""


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), default=Path("conf"))
@click.option("--type", "kind", type=click.Choice(["sandbox", "smtp"]), help="Type of the first node.")
@click.option("--host", help="SMTP server to relay through.")
@click.option("--port", type=click.IntRange(1, 65535), help="Its port.")
@click.option("--tls", type=click.Choice(["none", "opportunistic", "starttls", "implicit"]), help="How it is reached.")
@click.option("--username", help="Login at the SMTP server; empty for none.")
@click.option("--bridge", default="app", show_default=True, help="Name and login of the first bridge.")
@click.option("--bind", default="127.0.0.1:2525", show_default=True, help="Where to listen.")
def init(
    directory: Path,
    kind: str | None,
    host: str | None,
    port: int | None,
    tls: str | None,
    username: str | None,
    bridge: str,
    bind: str,
) -> None:
    """Write a first configuration into DIRECTORY; asks for what is not given. Never overwrites."""
    import socket

    from relay.bridges.credentials import generate_token
    from relay.config.load import load
    from relay.errors import ConfigError

    path = directory / "relay.yaml"
    if path.exists():
        click.echo(f"{path} exists and was left alone.", err=True)
        sys.exit(os.EX_CANTCREAT)
    kind = kind or click.prompt("Type of the first node", type=click.Choice(["sandbox", "smtp"]), default="sandbox")
    node, needs_password = _SANDBOX, False
    if kind == "smtp":
        host = host or click.prompt("SMTP server")
        tls = tls or click.prompt("TLS", type=click.Choice(["none", "starttls", "implicit"]), default="starttls")
        port = port or click.prompt("Port", type=int, default={"none": 25, "implicit": 465}.get(tls, 587))
        if username is None:
            username = click.prompt("Username (empty for none)", default="", show_default=False)
        needs_password = bool(username)
        login = f"        username: {username}\n        password: ${{SMARTHOST_PASSWORD}}\n" if username else ""
        node = _SMTP.format(host=host, port=port, tls=tls, login=login)
    token, stored = generate_token()
    directory.mkdir(parents=True, exist_ok=True)
    text = _FIRST.format(
        hostname=socket.getfqdn(), tag="acme", bind=bind, bridge=bridge, stored=stored, node=node.rstrip("\n")
    )
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    try:
        load(path, environment={**os.environ, "SMARTHOST_PASSWORD": os.environ.get("SMARTHOST_PASSWORD", "unset")})
    except ConfigError as error:
        path.unlink()
        click.echo(str(error), err=True)
        sys.exit(os.EX_CONFIG)
    click.echo(f"Wrote {path}. The login of bridge {bridge}, shown only now:")
    click.echo(f"  username  {bridge}\n  password  {token}\n")
    if needs_password:
        click.echo("Set $SMARTHOST_PASSWORD in the environment of the relay.")
    click.echo(f"Start it:        relay -c {path} run")
    click.echo(f"Send a message:  relay send you@example.com --server {bind} --user {bridge} --password {token}")
