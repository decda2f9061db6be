"""The relay itself in the configuration: who it is, where it listens, how it stores, retries and reports."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from relay.config.models.shapes import Bind, ByteCount, MessageSize, Name, Network, StoreUrl
from relay.fields import (
    Address,
    Count,
    CountOrNone,
    Domain,
    FilePath,
    Flag,
    Integer,
    Options,
    Period,
    Ratio,
    Secret,
)


class AccountModel(Options):
    """Whose relay this is; part of every pool's internal name."""

    tag: Name = "relay"
    """Short name."""
    id: Annotated[Integer, Field(ge=0, le=2**53)] = 1
    """Number."""


class MtaModel(Options):
    """A backend that pools are bound to."""

    id: Name
    """Its id, the value of X-ServerID."""
    zone: Name
    """Its region, the value of X-Zone."""


class ProxyModel(Options):
    """PROXY protocol (v1 and v2) in front of a listener."""

    trusted: Annotated[tuple[Network, ...], Field(min_length=1)]
    """Networks the proxy connects from. Every connection must come from one and begin with a PROXY header."""


class ListenerModel(Options):
    """One place to accept mail at."""

    bind: Bind
    """IP address and port; `0.0.0.0` or `[::]` for every interface."""
    tls: Literal["none", "starttls", "implicit"] = "none"
    """`starttls` offers STARTTLS, `implicit` is TLS from the first octet (port 465)."""
    cert: FilePath | None = None
    """PEM file with the certificate and its chain, the server's own first."""
    key: FilePath | None = None
    """PEM file with the private key of `cert`."""
    key_password: Secret | None = None
    """Passphrase of `key`, when it has one."""
    auth_without_tls: Flag | None = None
    """Take logins in clear text. Left out: yes on a loopback address, no elsewhere."""
    proxy: ProxyModel | None = None
    """Set when a load balancer speaks the PROXY protocol to this listener."""


class LimitsModel(Options):
    """What one client, and all together, may cost a listener's process."""

    connections: Count = 1000
    """Sessions at once."""
    per_address: Count = 50
    """Sessions at once from one client address."""
    recipients: Count = 1000
    """Recipients of one message."""
    size: MessageSize = 25 * 1024 * 1024
    """Octets of one message, announced with SIZE."""
    errors: Count = 10
    """Refused commands after which a session is ended."""
    idle: Period = 60.0
    """A session without a command is ended after this time."""
    session: Period = 3600.0
    """A session is ended after this time, whatever it does."""
    auth_failures: Count = 3
    """Failed logins after which a session is ended."""
    commands_without_mail: Count = 100
    """Commands that lead to no message, after which a session is ended."""
    header: MessageSize = 256 * 1024
    """Octets of a header section."""
    received: Count = 50
    """Received headers that say a message runs in a loop."""


class DkimModel(Options):
    """A key to sign with. Several for one domain are all used."""

    domain: Domain
    """Domain of the From header it signs for (d=)."""
    selector: Domain
    """Selector under which the public key stands in the DNS (s=)."""
    key_file: FilePath
    """PEM file with the private key: RSA of at least 1024 bits, or Ed25519."""
    canonicalization: Literal["relaxed/relaxed", "relaxed/simple", "simple/simple"] = "relaxed/relaxed"
    """Header and body canonicalisation (c=); relaxed survives what gateways do to blanks."""


class HealthModel(Options):
    """What happens to a node that fails."""

    recheck_every: Period = 900.0
    """A node that was taken out is tested this often."""
    recheck_for: Period = 86400.0
    """After this time the tests end and the node waits for an operator."""
    auto_deactivate: Flag = True
    """Take a failing node out at once."""
    auto_recover: Flag = True
    """Bring it back when a test succeeds."""
    test_at_start: Flag = True
    """Test every node when the relay starts; one that was never tested takes no mail before it passed."""


class RetryModel(Options):
    """When a deferred message is tried again, and when it is given up."""

    schedule: Annotated[tuple[Period, ...], Field(min_length=1, max_length=100)] = (60.0, 300.0, 900.0, 3600.0, 14400.0)
    """Waits after the first, second, … attempt; the last one repeats."""
    max_age: Period = 259200.0
    """A message older than this goes back to its sender."""
    jitter: Annotated[Ratio, Field(le=0.5)] = 0.2
    """Part by which each wait is drawn longer or shorter, so that a backlog does not come due at once."""


class UncertainModel(Options):
    """After no answer to the final dot: a copy may have been delivered, so no other node is tried at once."""

    wait: Period = 900.0
    """The same node is tried again after this time."""


class ReloadModel(Options):
    """What happens after a changed configuration was taken over."""

    watch: Annotated[Period, Field(le=3600.0)] = 120.0
    """Delivery is watched for this time after a reload."""
    auto_return: Flag = True
    """Go back to the configuration before when every node of a pool fails because of the reload."""


class DsnModel(Options):
    """Reports to senders about mail that could not be delivered (RFC 3464)."""

    enabled: Flag = True
    """Make reports."""
    from_: Annotated[Address | None, Field(alias="from")] = None
    """From header of reports; `MAILER-DAEMON@` the relay's hostname when left out. The same name at a domain that
    the pool can send for, where no node of it can send for this one."""
    pool: Name | None = None
    """Pool that reports go through; the one of the failed message when left out."""


class SecretsModel(Options):
    """How `${sealed:…}` values in these files are opened."""

    key_file: FilePath | None = None
    """File with the keys, one a line, the first one seals; RELAY_SECRET_KEY and RELAY_SECRET_KEY_FILE win over it."""


class LogModel(Options):
    """What is written, and where."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level that is written."""
    format: Literal["auto", "json", "text"] = "auto"
    """`auto` is text on a terminal and JSON elsewhere."""
    target: Literal["stdout", "syslog"] = "stdout"
    """Where lines go."""
    errors_only: Flag = False
    """Write nothing about mail that went well."""
    redact_recipients: Flag = False
    """Show recipients by domain only."""


class HistoryModel(Options):
    """What is kept about finished messages, for `relay explain`."""

    keep_for: Period = 7 * 86400.0
    """How long."""
    max_messages: CountOrNone = 1_000_000
    """At most this many, the newest; 0 = without bound."""


class SpoolModel(Options):
    """Bounds of what may wait. At a bound clients are told to come back (452), nothing is lost."""

    min_free: ByteCount = 256 * 1024 * 1024
    """Octets that stay free on the disk."""
    max_messages: CountOrNone = 0
    """Messages that may wait; 0 = without bound."""
    max_bytes: ByteCount = 0
    """Octets that may wait; 0 = without bound."""


class StoreModel(Options):
    """Where messages and shared state live."""

    spool: StoreUrl = Field(default="sqlite:var/relay", repr=False)
    """Messages: `sqlite:FOLDER`, or `redis://…`."""
    state: StoreUrl = Field(default="sqlite:var/relay", repr=False)
    """Caps, health, rotation: `sqlite:FOLDER`, or `redis://…` for one truth over several machines."""
    folder: FilePath = "var/relay"
    """Where a relay with a shared spool keeps what is its own: control sockets, history, large bodies on their way."""


def _store(value: object) -> object:
    return {"spool": value, "state": value} if isinstance(value, str) else value


Store = Annotated[StoreModel, BeforeValidator(_store, json_schema_input_type=StoreUrl | StoreModel)]

Workers = Annotated[
    Annotated[Literal["auto"], Tag("{auto}")] | Annotated[Count, Field(le=256), Tag("{count}")],
    Discriminator(lambda value: "{auto}" if value == "auto" else "{count}"),
]
