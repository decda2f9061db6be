"""Bridge values: what a client logs in with and what it may do."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from relay.envelope import Lane
from relay.pools.pool import Cap


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """One SMTP login. `secret` is plain text, an argon2 or bcrypt hash, or `sha256:<hex>` of a generated token."""

    username: str
    secret: str

    def __repr__(self) -> str:
        return f"Credential(username={self.username!r}, secret=***)"


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeLimits:
    """`caps`: messages·recipients the bridge may submit, over which the client is told to wait (4xx). 0 = unlimited."""

    caps: tuple[Cap, ...] = ()
    recipients: int = 1000
    size: int = 25 * 1024 * 1024
    connections: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """One way in, bound to one pool.

    Attributes:
        networks: clients allowed without AUTH.
        senders: allowed reverse-paths and From addresses: `user@domain`, `@domain`, or `@.domain` for subdomains too;
            lower case; empty = any.
        lane: default lane of its messages.
        share: weight against other bridges of the lane, ≥ 1.
        direct: answer DATA with the upstream's own verdict, store nothing.
        may_choose: message headers may choose rotation and lane for their campaign.
    """

    name: str
    pool: str
    credentials: tuple[Credential, ...] = ()
    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    senders: tuple[str, ...] = ()
    feedtype: str = ""
    lane: Lane = Lane.TRANSACTIONAL
    share: int = 1
    direct: bool = False
    may_choose: bool = False
    limits: BridgeLimits = BridgeLimits()
