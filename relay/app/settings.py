"""A validated configuration as the plain values that the composition root hands out."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass, replace
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

from relay.acceptance import AcceptancePolicy
from relay.app.site import Site, site_of
from relay.bridges.bridge import Bridge
from relay.config import values
from relay.config.load import Loaded
from relay.config.models import Config
from relay.config.models.server import ListenerModel
from relay.delivery.reports import ReportPolicy
from relay.dsn import Reporter
from relay.listener.options import ListenerOptions
from relay.logs.log import LogSettings
from relay.pools.health import HealthPolicy
from relay.pools.pool import Pool
from relay.schedule import RetryPolicy
from relay.signing.keys import load_key
from relay.signing.signer import Signer, Style


@dataclass(frozen=True)
class Settings:
    """Everything derived from one configuration. Nothing here opens a store or a socket.

    `started_as`: the site of the relay that runs, for a configuration it takes over: its folders and the number of its
    workers stay as they are until it is started anew.
    """

    path: Path
    loaded: Loaded
    started_as: Site | None = None

    @property
    def config(self) -> Config:
        return self.loaded.config

    @cached_property
    def pools(self) -> tuple[Pool, ...]:
        """Pools with the connections of each node shared out over the workers."""
        return tuple(
            replace(pool, nodes=tuple(replace(n, connections=self._share(n.connections)) for n in pool.nodes))
            for pool in values.pools(self.config)
        )

    def _share(self, connections: int) -> int:
        """A worker's part of a node's connections, rounded down so that a limit is kept; at least one."""
        return max(1, connections // self.workers)

    @cached_property
    def bridges(self) -> tuple[Bridge, ...]:
        return values.bridges(self.config)

    @cached_property
    def node_options(self) -> dict[str, Any]:
        """Driver options by node name, for one worker."""
        return {
            name: options.model_copy(update={"connections": self._share(options.connections)})
            if hasattr(options, "connections")
            else options
            for name, options in values.options_of_nodes(self.config).items()
        }

    @cached_property
    def hostname(self) -> str:
        return self.config.hostname or socket.getfqdn()

    @cached_property
    def site(self) -> Site:
        """Raises ConfigError for a kind of store this version does not have."""
        return self.started_as or site_of(self.config)

    @property
    def workers(self) -> int:
        """Processes to run."""
        return len(self.site.shards)

    @property
    def shards(self) -> tuple[str, ...]:
        """One spool shard for each worker."""
        return self.site.shards

    @property
    def directory(self) -> Path:
        """Where the spool lives."""
        return self.site.directory

    @property
    def state_directory(self) -> Path:
        return self.site.state_directory

    @property
    def retry(self) -> RetryPolicy:
        retry = self.config.retry
        return RetryPolicy(
            intervals_s=retry.schedule,
            jitter=retry.jitter,
            max_age_s=retry.max_age,
            uncertain_wait_s=self.config.uncertain.wait,
        )

    @property
    def health(self) -> HealthPolicy:
        health = self.config.health
        return HealthPolicy(
            recheck_every_s=health.recheck_every,
            recheck_for_s=health.recheck_for,
            auto_deactivate=health.auto_deactivate,
            auto_recover=health.auto_recover,
        )

    @property
    def acceptance(self) -> AcceptancePolicy:
        return AcceptancePolicy(hostname=self.hostname)

    @property
    def reports(self) -> ReportPolicy:
        dsn = self.config.dsn
        reporter = Reporter(hostname=self.hostname, address=str(dsn.from_ or f"MAILER-DAEMON@{self.hostname}"))
        return ReportPolicy(enabled=dsn.enabled, reporter=reporter, pool=dsn.pool or "")

    @property
    def log(self) -> LogSettings:
        log = self.config.log
        return LogSettings(
            level=log.level,
            format=log.format,
            target=log.target,
            errors_only=log.errors_only,
            redact_recipients=log.redact_recipients,
        )

    def signer(self) -> Signer | None:
        """Loads the DKIM keys; None when there are none. Raises ConfigError naming the file."""
        if not self.config.dkim:
            return None
        keys = [load_key(Path(k.key_file), domain=k.domain, selector=k.selector) for k in self.config.dkim]
        return Signer(keys, Style.of(self.config.dkim[0].canonicalization))

    def listener_options(self, listener: ListenerModel) -> ListenerOptions:
        limits = self.config.limits
        trusted: tuple[IPv4Network | IPv6Network, ...] = tuple(listener.proxy.trusted) if listener.proxy else ()
        host = listener.bind[0]
        loopback = host == "::1" or host.startswith("127.")
        clear = listener.auth_without_tls
        return ListenerOptions(
            hostname=self.hostname,
            tls=listener.tls,
            auth_without_tls=loopback if clear is None else clear,
            proxy_from=trusted,
            line_endings=self.config.line_endings,
            body_dir=self.directory / "incoming",
            max_size=limits.size,
            max_header=limits.header,
            max_received=limits.received,
            max_recipients=limits.recipients,
            max_connections=limits.connections,
            max_per_peer=limits.per_address,
            max_errors=limits.errors,
            max_idle_commands=limits.commands_without_mail,
            max_auth_failures=limits.auth_failures,
            idle_timeout=limits.idle,
            session_timeout=limits.session,
            accept_deadline=self.config.accept_deadline,
        )

    def tls_context(self, listener: ListenerModel) -> ssl.SSLContext | None:
        """The certificate of a listener, loaded; None without TLS."""
        if listener.tls == "none" or listener.cert is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        password = listener.key_password.get_secret_value() if listener.key_password else ""
        # A callable keeps OpenSSL from asking the terminal for a passphrase.
        context.load_cert_chain(listener.cert, listener.key, password=lambda: password)
        return context
