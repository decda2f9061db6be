"""Pools and nodes as values. Shared by router, delivery and state; nothing here does I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Rotation(StrEnum):
    RANDOM = "random"
    ROUND_ROBIN = "round-robin"
    WEIGHTED = "weighted"
    PRIORITY = "priority"
    LEAST_USED = "least-used"
    INTERVAL = "interval"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """At most `limit` recipients in any `window_s` seconds (rolling).

    `spread`: hand the limit out evenly over the window (one recipient each window/limit seconds) instead of allowing
    it to burn in the first moment. `source`: who set it where it was not the configuration, for people.
    """

    window_s: float
    limit: int
    spread: bool = False
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One upstream identity in exactly one pool.

    Attributes:
        name: unique over the whole configuration; key of caps, health and connections.
        weight: share for `weighted`, int ≥ 0, 0 = drained.
        priority: lower first for `priority`; higher numbers stand by.
        connections: attempts at once in one process.
        sender_domains: lower case; the node can only send for these (From header or reverse-path domain); empty = any.
        max_size: octets it can take, 0 = unknown.
        smtputf8: False when it is known that the node cannot take SMTPUTF8.
        null_sender: False when the node cannot say the null reverse-path.
        headers: added to what passes here, wins over pool and global.
        return_path: reverse-path used instead of the client's (never instead of the null one), or empty.
        from_name, from_email, reply_to: defaults for what a message lacks, or empty.
        eight_bit: `auto` converts only where the upstream cannot take 8-bit, `convert` always, `pass` never.
    """

    name: str
    pool: str
    type: str
    weight: int = 1
    priority: int = 1
    caps: tuple[Cap, ...] = ()
    connections: int = 20
    sender_domains: frozenset[str] = frozenset()
    max_size: int = 0
    max_recipients: int = 100
    smtputf8: bool = True
    null_sender: bool = True
    headers: tuple[tuple[str, str], ...] = ()
    return_path: str = ""
    from_name: str = ""
    from_email: str = ""
    reply_to: str = ""
    eight_bit: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A named group of nodes with one routing logic.

    Attributes:
        name: friendly, unique.
        internal_name: `{account.tag}-{account.id}-{mta}-pool-{id}`, the value of X-Virtual-MTA.
        kind: `dedicated` or `shared`.
        zone: of the mta, the value of X-Zone; mta: its id, the value of X-ServerID.
        interval_s: for `interval`: the next node takes over every so many seconds.
    """

    name: str
    id: int
    internal_name: str
    mta: str
    zone: str
    feedtype: str
    rotation: Rotation
    nodes: tuple[Node, ...]
    kind: str = "shared"
    default: bool = False
    interval_s: float = 300.0
    headers: tuple[tuple[str, str], ...] = field(default=())

    @property
    def max_size(self) -> int:
        """Octets of the largest message that any node in use takes; 0 = not known of every one of them."""
        sizes = [node.max_size for node in self.nodes if node.weight]
        return max(sizes, default=0) if all(sizes) else 0
