"""What the sessions of one listener share: options, the acceptor, counters, prepared replies, and how they end."""

from __future__ import annotations

import asyncio
import secrets
import ssl
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING

from relay.bridges.bridge import Bridge
from relay.events import Events
from relay.listener.body import BodyLimits
from relay.listener.counters import ConnectionCounter
from relay.listener.options import ListenerOptions
from relay.listener.submission import Acceptor
from relay.tap import SILENT, Tap

if TYPE_CHECKING:
    from relay.listener.connection import Connection

BODY_WRITERS = 4
"""Threads that write large bodies: a disk rarely gains from more, and 50 uploads share them fairly."""


class Service:
    """Shared by the sessions of one listener; lives on one event loop."""

    def __init__(
        self,
        options: ListenerOptions,
        acceptor: Acceptor,
        events: Events,
        counters: ConnectionCounter,
        tls_context: ssl.SSLContext | None,
        tap: Tap = SILENT,
    ) -> None:
        self.acceptor = acceptor
        self.tap = tap
        self.events = events
        self.counters = counters
        self.loop = asyncio.get_running_loop()
        self.sessions: set[Connection] = set()
        self.draining = False
        self.writers = ThreadPoolExecutor(BODY_WRITERS, thread_name_prefix="body")
        self.use(options, tls_context)
        # Unlikely to meet again in a log, cheap to make: a random prefix for the listener and a number.
        self._prefix = secrets.token_hex(4)
        self._sessions_made = 0
        self._refusals: dict[str, int] = {}

    def use(self, options: ListenerOptions, tls_context: ssl.SSLContext | None) -> None:
        """From now on, for sessions that are open too; what they were told before (SIZE, a started DATA) stands."""
        self.options = options
        self.tls_context = tls_context
        self.body_limits = BodyLimits(
            max_size=options.max_size,
            max_header=options.max_header,
            max_fields=options.max_header_fields,
            max_received=options.max_received,
            memory_limit=options.body_in_memory,
            normalize=options.line_endings == "normalize",
        )
        self.greeting = f"220 {options.hostname} ESMTP\r\n".encode()
        self.helo = f"250 {options.hostname}\r\n".encode()
        self._ehlo: dict[tuple[bool, bool], bytes] = {}

    def new_session_id(self) -> str:
        self._sessions_made += 1
        return f"{self._prefix}-{self._sessions_made:x}"

    def ehlo(self, *, tls: bool, auth: bool) -> bytes:
        """The reply to EHLO: what is offered is what works on this connection now."""
        reply = self._ehlo.get((tls, auth))
        if reply is None:
            size = self.options.max_size
            words = [self.options.hostname, "PIPELINING", f"SIZE {size}" if size else "SIZE"]
            if self.offers_starttls and not tls:
                words.append("STARTTLS")
            if auth:
                words.append("AUTH PLAIN LOGIN")
            words += ["ENHANCEDSTATUSCODES", "8BITMIME", "DSN", "SMTPUTF8"]
            lines = [f"250-{word}\r\n" for word in words[:-1]]
            reply = self._ehlo[tls, auth] = "".join([*lines, f"250 {words[-1]}\r\n"]).encode()
        return reply

    @property
    def offers_starttls(self) -> bool:
        return self.options.tls == "starttls" and self.tls_context is not None

    def bridge_for(self, address: str) -> Bridge | None:
        """The bridge of a client that needs no AUTH, or None."""
        return self.acceptor.bridge_for(address) if address else None

    def fault(self, where: str, error: BaseException, *, with_text: bool = True) -> None:
        """Tell operators of an exception that should not have come. `with_text`: False where it may hold a secret."""
        frames = traceback.extract_tb(error.__traceback__)
        place = f" at {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else ""
        text = f": {str(error)[:200]}" if with_text and str(error) else ""
        self.events.fault(where=where, error=f"{type(error).__name__}{place}{text}")

    def refuse(self, *, session: str, peer: str, why: str) -> None:
        """`session_refused`, at most one a second for each reason with the number of those it stands for.

        A flood of connections must not become a flood of log lines.
        """
        if why in self._refusals:
            self._refusals[why] += 1
            return
        self._refusals[why] = 0
        self.loop.call_later(1.0, self._refusals_over, why, peer)
        self.events.session_refused(session=session, peer=peer, why=why)

    def _refusals_over(self, why: str, peer: str) -> None:
        more = self._refusals.pop(why)
        if more:
            self.events.session_refused(session="", peer=peer, why=f"{why} ({more} more within a second)")


@lru_cache(4096)
def canonical_address(address: str) -> str:
    """An IP address in its shortest form, IPv4-mapped IPv6 as IPv4, without zone; `""` when it is none."""
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return str(ip)


def peer_key(address: str) -> str:
    """What `max_per_peer` counts: the address, for IPv6 its /64, since one customer commands that much."""
    if ":" in address:
        network = IPv6Address(int(IPv6Address(address)) >> 64 << 64)
        return f"peer {network}/64"
    return f"peer {address}"
