"""What has an end: certificates of listeners and of the admin server, and consents of mailboxes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509

from relay.admin.alerts.rules import Expiring
from relay.app.drivers import TOKENS
from relay.app.site import Site
from relay.config import Config
from relay.config.checks.references import nodes_of
from relay.oauth.store import FileTokenStore, TokenStoreFault


async def expiring(config: Config, site: Site) -> list[Expiring]:
    """Everything whose end is known; what cannot be read is left out, other checks speak of it."""
    certificates = await asyncio.to_thread(lambda: list(_certificates(config)))
    return [*certificates, *await _consents(config, site)]


def _certificates(config: Config) -> Iterator[Expiring]:
    files = [str(each.cert) for each in config.listeners if each.tls != "none" and each.cert is not None]
    if config.admin is not None and config.admin.cert is not None:
        files.append(str(config.admin.cert))
    for file in dict.fromkeys(files):
        try:
            first = x509.load_pem_x509_certificates(Path(file).read_bytes())[0]
        except (OSError, ValueError, IndexError):
            continue
        ends = first.not_valid_after_utc.timestamp()
        yield Expiring(id=file, what=f"the certificate in {file}", ends=ends, remedy="renew it, then `relay reload`")


async def _consents(config: Config, site: Site) -> list[Expiring]:
    store = FileTokenStore(site.directory / TOKENS)
    default = next((pool.name for pool in config.pools if pool.default), "")
    of_pool = {node.name: pool.name for pool in config.pools for node in pool.nodes}
    found = []
    for _, node in nodes_of(config):
        if getattr(node, "oauth", None) is None:
            continue
        try:
            record = await store.load(node.name)
        except TokenStoreFault:
            continue
        if record is not None and record.refresh_expires_at:
            found.append(
                Expiring(
                    id=f"oauth:{node.name}",
                    what=f"the consent of node {node.name}",
                    ends=record.refresh_expires_at,
                    remedy=f"`relay oauth login {node.name}` renews it",
                    node=node.name,
                    pool=of_pool.get(node.name) or node.pool or default,
                )
            )
    return found
