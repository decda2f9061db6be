"""`relay dkim …`: keys and their DNS records."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from relay.cli.common import json_option, load_config, print_json, run


@click.group()
def dkim() -> None:
    """Make DKIM keys and check their DNS records."""


@dkim.command()
@click.argument("domain")
@click.option("--selector", default="s1", show_default=True)
@click.option("--kind", type=click.Choice(["rsa", "ed25519"]), default="rsa", show_default=True)
@click.option("--bits", default=2048, show_default=True, help="Size of an RSA key.")
@click.option("--out", type=click.Path(path_type=Path), help="Key file; default conf/dkim/DOMAIN.SELECTOR.pem.")
def keygen(domain: str, selector: str, kind: str, bits: int, out: Path | None) -> None:
    """Make a key, and print the DNS record to publish and the lines for the configuration."""
    from relay.signing.keys import dns_record, parse_key
    from relay.signing.keys import keygen as make

    path = out or Path("conf/dkim") / f"{domain}.{selector}.pem"
    try:
        pem, _ = make(kind, bits)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        click.echo(f"{path} exists and was left alone; choose another --selector or --out.", err=True)
        sys.exit(os.EX_CANTCREAT)
    with os.fdopen(handle, "wb") as file:
        file.write(pem)
    name, strings = dns_record(parse_key(pem, domain=domain, selector=selector))
    click.echo(f"Key written to {path}. Publish this record, then check it with `relay dkim check`:\n")
    click.echo(f"{name}. IN TXT ({' '.join(chr(34) + s + chr(34) for s in strings)})\n")
    click.echo(f"dkim:\n  - {{domain: {domain}, selector: {selector}, key_file: {path}}}")


@dkim.command()
@click.argument("domains", nargs=-1)
@click.option("--nameserver", help="Ask this server (address or address:port) instead of the system's.")
@json_option
@click.pass_obj
def check(config: str, domains: tuple[str, ...], nameserver: str | None, as_json: bool) -> None:
    """Compare the configured keys with what DNS serves."""
    import dns.asyncresolver

    from relay.signing.keys import load_key
    from relay.signing.published import check as look_up

    settings = load_config(config)
    keys = [key for key in settings.config.dkim if not domains or key.domain in domains]
    if not keys:
        click.echo("No DKIM key is configured for that.", err=True)
        sys.exit(os.EX_DATAERR)

    async def work() -> list[dict[str, Any]]:
        resolver = dns.asyncresolver.Resolver(configure=nameserver is None)
        if nameserver:
            host, _, port = nameserver.rpartition(":") if nameserver.count(":") == 1 else (nameserver, "", "53")
            resolver.nameservers = [host]
            resolver.port = int(port)
        rows = []
        for key in keys:
            loaded = load_key(Path(key.key_file), domain=key.domain, selector=key.selector)
            verdict = await look_up(key.domain, key.selector, loaded, resolver)
            rows.append(
                {
                    "domain": key.domain,
                    "selector": key.selector,
                    "ok": verdict.ok,
                    "name": verdict.name,
                    "standing": str(verdict.standing),
                    "detail": verdict.detail,
                }
            )
        return rows

    rows = run(work)
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            click.echo(f"{'ok  ' if row['ok'] else 'FAIL'} {row['name']}: {row['detail'] or row['standing']}")
    if not all(row["ok"] for row in rows):
        sys.exit(os.EX_DATAERR)
