"""The contract between delivery and a driver.

A driver is given an `Outbound` and answers one `RecipientOutcome` for each recipient, always; it raises only on bugs.
It never chooses nodes, never retries on its own after hand-over, and never sees caps or health.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Protocol, runtime_checkable

from relay.envelope import Content
from relay.outcome import Outcome, RecipientOutcome
from relay.pools.pool import Cap
from relay.tap import SILENT, Tap
from relay.upstreams.tokens import TokenSource
from relay.values import thawed

LARGE_AT_ONCE = 4
"""Large messages that are built anew at once in a process: each is in memory about three times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What the connected upstream can take.

    Attributes:
        eight_bit: 8-bit content passes unchanged (8BITMIME, or an API that takes raw MIME).
        smtputf8: RFC 6531 addresses and headers pass.
        dsn: RFC 3461 parameters pass.
        max_size: octets, 0 = not announced.
    """

    eight_bit: bool = True
    smtputf8: bool = False
    dsn: bool = False
    max_size: int = 0


@thawed
@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundRecipient:
    address: str
    notify: str = ""
    orcpt: str = ""


@thawed
@dataclass(frozen=True, slots=True, kw_only=True)
class Outbound:
    """One message for one node, for the recipients that are still pending.

    Attributes:
        id: the spool id, for logs and idempotency keys.
        sender: reverse-path to use (the node's return path when it sets one).
        render: stamps and signs for this node and these capabilities; called after they are known. The returned
            content is CRLF, without dot-stuffing. May take a thread for large bodies.
        smtputf8: the message cannot go without SMTPUTF8.
        eight_bit: the content as stored has octets above 0x7f.
        size: octets of the stored content, an estimate of what `render` returns.
    """

    id: str
    sender: str
    recipients: tuple[OutboundRecipient, ...]
    render: Callable[[Capabilities], Awaitable[Content]]
    size: int
    eight_bit: bool = False
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Result of a connection test that sends no mail. `outcome.status` DELIVERED means the node is well."""

    outcome: Outcome
    steps: tuple[str, ...] = ()
    """What was done and answered, one line each, secrets masked: `connect 127.0.0.1:25`, `220 mx ESMTP`, …"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a driver needs from the process it runs in.

    Attributes:
        ehlo: the relay's host name, said to SMTP servers.
        clock: epoch seconds, for what is written down; timeouts run on the loop's own clock.
        random: for draws; seeded in tests.
        tokens: node name → its source of OAuth 2 access tokens, or None when its options have no plan for them
            (`oauth_options.TokenPlan`).
        tap: where dialogue is listened to.
        room: for work that holds a large message in memory, shared by all drivers.
    """

    ehlo: str
    clock: Callable[[], float] = time.time
    random: Random = field(default_factory=Random)
    tokens: Callable[[str], TokenSource | None] | None = None
    tap: Tap = SILENT
    room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LARGE_AT_ONCE))


class Upstream(Protocol):
    """The driver behind one node. Safe for concurrent `deliver` calls up to the node's `connections`."""

    async def deliver(self, outbound: Outbound, *, deadline: float) -> list[RecipientOutcome]:
        """Hand the message over once.

        Args:
            deadline: monotonic loop time at which the whole call must have ended.
        """
        ...

    async def probe(self) -> Probe:
        """Connect, TLS, AUTH, MAIL, RSET (or the vendor's credential check) without sending mail."""
        ...

    async def close(self) -> None:
        """End idle connections; running deliveries may finish."""
        ...


@runtime_checkable
class Limited(Protocol):
    """A driver whose upstream may be asked what it lets this account send."""

    tells_quota: bool
    """False where there is nothing to ask."""

    async def quota(self) -> tuple[Cap, ...] | None:
        """The account's caps, `source` set; None when the upstream does not tell, or not now. Sends no mail."""
        ...
