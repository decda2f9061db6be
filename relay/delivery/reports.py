"""Telling senders what became of their mail: reports are made here and stored like any other message.

A report is stored before the failure it tells of is settled: a crash between the two repeats the report and never
loses it (R35). It leaves through the pool of the original unless the configuration names another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from relay.domains import domain_key
from relay.dsn import RETURN_BYTES, Action, Reporter, build_dsn, due
from relay.envelope import Content, Facts, Lane, Message, Recipient
from relay.errors import SpoolError
from relay.events import Events
from relay.headers import Trace, received
from relay.ids import IdSource
from relay.pools.pool import Pool
from relay.spool import Spool
from relay.transcode import CannotTranscode, transcode


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportPolicy:
    """`pool`: through which reports leave; empty = the original's."""

    enabled: bool
    reporter: Reporter
    pool: str = ""


class Reports:
    """Makes and stores delivery status notifications.

    Args:
        stored: called with each stored report, so that delivery looks at its queue.
    """

    def __init__(
        self,
        *,
        spool: Spool,
        pools: Mapping[str, Pool],
        ids: IdSource,
        events: Events,
        policy: ReportPolicy,
        clock: Callable[[], float],
        stored: Callable[[Message], None],
    ) -> None:
        self.pools = pools
        self._spool = spool
        self._ids = ids
        self._events = events
        self._policy = policy
        self._clock = clock
        self._stored = stored

    def use(self, pools: Mapping[str, Pool], policy: ReportPolicy) -> None:
        """From now on."""
        self.pools, self._policy = pools, policy

    async def tell(
        self, message: Message, recipients: Sequence[Recipient], action: Action, *, content: Content | None = None
    ) -> None:
        """Report on `recipients` where a report is due; says in an event when none is.

        Args:
            content: of the message, when the spool does not have it.

        Raises:
            SpoolFull, SpoolUnhealthy: the report could not be stored; the failure must not be settled yet.
        """
        if not recipients:
            return
        if not self._policy.enabled:
            self._events.dsn_suppressed(message.id, why="reports are switched off (dsn.enabled)")
            return
        pool = self._policy.pool or message.pool
        reporter = reporter_for(self._policy.reporter, self.pools.get(pool), message)
        chosen = due(message, recipients, action, reporter=reporter)
        if not chosen.recipients:
            self._events.dsn_suppressed(message.id, why=chosen.why)
            return
        original = await self._original(message, content)
        now = self._clock()
        dsn_id = self._ids.next()
        hostname = reporter.hostname
        # Whatever the original needed, its report must get to any sender whose address is ASCII.
        smtputf8 = not message.sender.isascii()

        def build(returned: bytes | None) -> tuple[bytes, bytes]:
            return build_dsn(
                message,
                chosen.recipients,
                action,
                reporter=reporter,
                head=original.head if original else b"",
                body=returned,
                now=now,
                message_id=f"<{dsn_id}@{hostname}>",
                boundary=f"=_{dsn_id}",
                smtputf8=smtputf8,
            )

        head, body = build(original.body if original and isinstance(original.body, bytes) else None)
        if not smtputf8 and not _fits_seven_bits(Content(head, body)):
            head, body = build(None)
        trace = Trace(helo="", peer="", hostname=hostname, protocol="ESMTP", id=dsn_id, hide_client=True)
        content = Content(received(trace, now) + head, body)
        report = Message(
            id=dsn_id,
            bridge=message.bridge,
            pool=pool,
            lane=Lane.TRANSACTIONAL,
            sender="",
            recipients=(Recipient(address=message.sender),),
            received_at=now,
            size=content.size,
            feedtype=self.pools[pool].feedtype if pool in self.pools else message.feedtype,
            facts=Facts(
                eight_bit=not (head.isascii() and body.isascii()),
                smtputf8=smtputf8,
                from_domain=reporter.address.rpartition("@")[2].lower(),
                message_id=f"<{dsn_id}@{hostname}>",
                subject=f"Report on {message.id}",
            ),
        )
        await self._spool.store(report, content, lease=False)
        self._events.dsn_created(
            message.id,
            dsn_id=dsn_id,
            to=message.sender,
            action=action,
            recipients=[recipient.address for recipient in chosen.recipients],
        )
        self._stored(report)

    async def _original(self, message: Message, content: Content | None) -> Content | None:
        """The failed message, with its body only when it is small enough to be returned."""
        try:
            content = content or await self._spool.content(message.id)
        except SpoolError:
            return None  # damaged: the report goes without it
        if isinstance(content.body, bytes) or content.body.size > RETURN_BYTES:
            return content
        body = content.body
        try:
            return Content(content.head, await asyncio.to_thread(lambda: b"".join(body.chunks())))
        except OSError:
            return content  # its headers are enough


def reporter_for(reporter: Reporter, pool: Pool | None, message: Message) -> Reporter:
    """Who reports through this pool: the configured one, at another domain where no node may send for its own.

    Nodes with `sender_domains` refuse every other From. A report that no node can take would wait until it is too old,
    and nobody would ever hear of the failure.
    """
    nodes = [node for node in pool.nodes if node.weight > 0] if pool else []
    name, _, domain = reporter.address.rpartition("@")
    if not nodes or any(not node.sender_domains or domain.lower() in node.sender_domains for node in nodes):
        return reporter
    able = {domain for node in nodes for domain in node.sender_domains}
    of_message = domain_key(message.facts.from_domain or message.sender_domain)
    return replace(reporter, address=f"{name}@{of_message if of_message in able else min(able)}")


def _fits_seven_bits(content: Content) -> bool:
    """False for a report that could not go through a node without 8BITMIME: it returns what may not be changed.

    Such a node is often why there is a report, and nobody hears of a report that fails.
    """
    if isinstance(content.body, bytes) and content.head.isascii() and content.body.isascii():
        return True
    try:
        transcode(content, eight_bit=True, long_lines=False, signed=False)
    except CannotTranscode:
        return False
    return True
