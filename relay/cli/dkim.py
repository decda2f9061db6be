"""`relay dkim …`: keys and their DNS records."""

from __future__ import annotations

import os
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import click

from relay.cli.common import fail, json_option, load_files, print_json, run
from relay.cli.text import say, wrapped


@click.group()
def dkim() -> None:
    """Make DKIM keys and check their DNS records."""


@dkim.command()
@click.argument("domain")
@click.option("--selector", default="s1", show_default=True, help="Name of the key below the domain.")
@click.option("--kind", type=click.Choice(["rsa", "ed25519"]), default="rsa", show_default=True)
@click.option("--bits", default=2048, show_default=True, help="Size of an RSA key.")
@click.option("--out", type=click.Path(path_type=Path), help="Key file; default conf/dkim/DOMAIN.SELECTOR.pem.")
@json_option
def keygen(domain: str, selector: str, kind: str, bits: int, out: Path | None, as_json: bool) -> None:
    """Make a key, and print the DNS record to publish and the lines for the configuration. Never overwrites."""
    from relay.errors import ConfigError
    from relay.signing.keys import dns_record, parse_key
    from relay.signing.keys import keygen as make

    try:
        pem, _ = make(kind, bits)
        key = parse_key(pem, domain=domain, selector=selector)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--bits") from None
    except ConfigError as error:
        fail(str(error).removeprefix("DKIM key given as text: "), os.EX_USAGE)
    path = out or Path("conf/dkim") / f"{key.domain}.{key.selector}.pem"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        fail(f"{path} exists and was left alone; choose another --selector or --out", os.EX_CANTCREAT)
    except OSError as error:
        fail(f"{path} cannot be made: {error.strerror}", os.EX_CANTCREAT)
    with os.fdopen(handle, "wb") as file:
        file.write(pem)
    name, strings = dns_record(key)
    if as_json:
        print_json({"file": str(path), "name": name, "value": "".join(strings), "strings": list(strings)})
        return
    say(f"Key written to {path}. Publish this record:\n")
    click.echo(f"{name}. IN TXT ({' '.join(chr(34) + s + chr(34) for s in strings)})\n")
    say("Add these lines to the configuration, then compare with DNS by `relay dkim check`:\n")
    click.echo(f"dkim:\n  - {{domain: {key.domain}, selector: {key.selector}, key_file: {path}}}")


@dkim.command()
@click.argument("domains", nargs=-1, metavar="[DOMAIN]…")
@click.option("--nameserver", help="Ask this server (address or address:port) instead of the system's.")
@json_option
@click.pass_obj
def check(config: str, domains: tuple[str, ...], nameserver: str | None, as_json: bool) -> None:
    """Compare the configured keys with what DNS serves. Exit 65 when one differs, 75 when DNS does not answer."""
    from relay.errors import ConfigError
    from relay.signing.keys import ascii_domain, dns_record, load_key
    from relay.signing.published import Standing
    from relay.signing.published import check as look_up

    resolver = _resolver(nameserver)
    configured = load_files(config).config.dkim
    wanted = {ascii_domain(domain) for domain in domains}
    keys = [key for key in configured if not wanted or ascii_domain(key.domain) in wanted]
    if not keys:
        there = ", ".join(dict.fromkeys(key.domain for key in configured)) or "none; `relay dkim keygen` makes one"
        fail(f"no DKIM key is configured for that; there are: {there}", os.EX_DATAERR)

    async def work() -> list[dict[str, Any]]:
        rows = []
        for key in keys:
            row: dict[str, Any] = {"domain": key.domain, "selector": key.selector, "key_file": str(key.key_file)}
            rows.append(row)
            try:
                loaded = load_key(Path(key.key_file), domain=key.domain, selector=key.selector)
            except ConfigError as error:
                name = f"{key.selector}._domainkey.{key.domain}"
                row |= {"ok": False, "name": name, "standing": "unreadable", "detail": str(error)}
                continue
            verdict = await look_up(key.domain, key.selector, loaded, resolver)
            row |= {"ok": verdict.ok, "name": verdict.name, "standing": str(verdict.standing)}
            row |= {"detail": verdict.detail, "found": verdict.found, "expected": "".join(dns_record(loaded)[1])}
        return rows

    rows = run(work)
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            mark = "ok  " if row["ok"] else "FAIL"
            say(wrapped(row["detail"] or row["standing"], indent="     ", first=f"{mark} {row['name']}: "))
            if row.get("found") and not row["ok"]:
                say(f"     DNS has    {row['found']}")
            if row["standing"] not in (Standing.MATCH, Standing.UNKNOWN, "unreadable"):
                say(f"     publish    {row['expected']}")
    if not all(row["ok"] or row["standing"] == Standing.UNKNOWN for row in rows):
        sys.exit(os.EX_DATAERR)
    if not all(row["ok"] for row in rows):
        sys.exit(os.EX_TEMPFAIL)


def _resolver(nameserver: str | None) -> Any:
    import dns.asyncresolver
    import dns.resolver

    try:
        resolver = dns.asyncresolver.Resolver(configure=nameserver is None)
    except dns.resolver.NoResolverConfiguration as error:
        fail(f"{error}; name a server with --nameserver", os.EX_UNAVAILABLE)
    if nameserver:
        host, port = nameserver, "53"
        if nameserver.startswith("[") or nameserver.count(":") == 1:
            host, _, port = nameserver.rpartition(":")
        try:
            resolver.nameservers = [str(ip_address(host.removeprefix("[").removesuffix("]")))]
            resolver.port = int(port)
        except ValueError:
            raise click.BadParameter("write an address or address:port", param_hint="--nameserver") from None
    return resolver
