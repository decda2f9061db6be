"""The SMTP driver: one node's server, its connections, and what a hand-over to it came to.

Puts the parts together: `smtp_pool` lends a connection, `smtp_transaction` hands the message over, `replies` names the
outcome. Its own decisions are two: what cannot be said to this server at all is refused before anything is sent, and
a connection that turned out dead before MAIL was answered is replaced once, because nothing can have been taken yet.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

from relay.envelope import Content
from relay.outcome import Outcome, RecipientOutcome, Scope, Status
from relay.upstreams import replies
from relay.upstreams.base import Capabilities, Outbound, Probe, Setting
from relay.upstreams.smtp_commands import is_safe
from relay.upstreams.smtp_connect import ConnectFailed, Connection, Connector
from relay.upstreams.smtp_options import SmtpOptions
from relay.upstreams.smtp_pool import ConnectionPool
from relay.upstreams.smtp_transaction import Transaction, limits, needs_smtputf8
from relay.upstreams.smtp_wire import QUIT_WAIT_S, WireFault

PROBE_S = 120.0
"""A test of the connection ends after this at the latest; a sound server answers within seconds."""

PROVEN_S = 900.0
"""A node that delivered within this time may relay; the usual pause between two tests of a node."""


class SmtpUpstream:
    """Driver of one node of type `smtp`. Implements `relay.upstreams.base.Upstream`."""

    def __init__(self, name: str, options: SmtpOptions, setting: Setting) -> None:
        self.name = name
        self._options = options
        self._limits = limits(options.timeouts)
        self._delivered_at = -math.inf  # loop time
        tokens = setting.tokens(name) if setting.tokens and options.oauth else None
        self._connector = Connector(options, setting.ehlo, tokens, node=name, tap=setting.tap)
        self._pool = ConnectionPool(
            self._connector,
            limit=options.connections,
            messages_per_connection=options.messages_per_connection,
            idle_close_s=options.idle_close,
        )

    async def deliver(self, outbound: Outbound, *, deadline: float) -> list[RecipientOutcome]:
        """As the contract says. An address that could break out of its command is refused for itself alone."""
        if not is_safe(outbound.sender):
            return _for_all(outbound, _unsayable(Scope.MESSAGE, "5.1.7", "the sender address cannot be said in SMTP"))
        if all(is_safe(recipient.address) for recipient in outbound.recipients):
            return await self._deliver(outbound, deadline)
        refusal = _unsayable(Scope.RECIPIENT, "5.1.3", "the recipient address cannot be said in SMTP")
        safe = tuple(recipient for recipient in outbound.recipients if is_safe(recipient.address))
        sent = iter(await self._deliver(replace(outbound, recipients=safe), deadline))
        return [
            next(sent) if is_safe(recipient.address) else RecipientOutcome(recipient.address, refusal)
            for recipient in outbound.recipients
        ]

    async def _deliver(self, outbound: Outbound, deadline: float) -> list[RecipientOutcome]:
        if not outbound.recipients:
            return []
        pool = self._pool
        content: Content | None = None
        rendered_for: Capabilities | None = None
        try:
            connection = pool.idle() or await pool.acquire(deadline)
            while True:
                clean = True
                try:
                    if content is None or connection.capabilities != rendered_for:
                        rendered_for = connection.capabilities
                        content = await outbound.render(rendered_for)
                    refusal = _unfit(outbound, content, rendered_for)
                    if refusal is not None:
                        pool.release(connection, reusable=True)
                        return _for_all(outbound, refusal)
                    clean = False
                    result = await Transaction(connection, outbound, content, self._limits, deadline).run()
                except BaseException:
                    pool.release(connection, reusable=clean)
                    raise
                if result.confused:
                    self._connector.pipelining = False
                if result.answered or not connection.reused:
                    pool.release(connection, reusable=result.reusable)
                    return self._weighed(result.outcomes)
                connection = await pool.replace(connection, deadline)
        except ConnectFailed as failed:
            return _for_all(outbound, failed.outcome)

    def _weighed(self, outcomes: list[RecipientOutcome]) -> list[RecipientOutcome]:
        """Look at temporary refusals to relay in the light of what this node took lately.

        Postfix answers `454 4.7.1 Relay access denied` for a single foreign domain. From a node that relays for others
        this is about the recipient: else one such message takes the node out at each of its retries. A permanent
        refusal keeps its weight, because it would return mail to its senders if the right to relay was really lost.
        """
        now = asyncio.get_running_loop().time()
        if any(entry.outcome.status is Status.DELIVERED for entry in outcomes):
            self._delivered_at = now
        if now - self._delivered_at > PROVEN_S:
            return outcomes
        return [
            RecipientOutcome(entry.address, replace(entry.outcome, scope=Scope.RECIPIENT))
            if entry.outcome.phase == "rcpt"
            and entry.outcome.status is Status.DEFERRED
            and entry.outcome.scope is Scope.NODE
            and entry.outcome.code not in (0, 421)
            else entry
            for entry in outcomes
        ]

    async def probe(self) -> Probe:
        """Open a connection of its own, name the null sender, take it back, and leave.

        A server that is well but refuses the null sender passes: it connected and took the login.
        """
        deadline = asyncio.get_running_loop().time() + PROBE_S
        steps: list[str] = []
        try:
            connection = await self._connector.open(deadline, steps.append)
        except ConnectFailed as failed:
            return Probe(outcome=failed.outcome, steps=tuple(steps))
        try:
            outcome = await self._probe_mail(connection, steps, deadline)
        finally:
            connection.wire.retire()
        await asyncio.wait([connection.wire.closed], timeout=QUIT_WAIT_S + 1.0)
        return Probe(outcome=outcome, steps=tuple(steps))

    async def _probe_mail(self, connection: Connection, steps: list[str], deadline: float) -> Outcome:
        loop, outcome = asyncio.get_running_loop(), None
        try:
            for line in ("MAIL FROM:<>", "RSET"):
                steps.append(line)
                connection.wire.send(f"{line}\r\n".encode(), 1)
                due = min(deadline, loop.time() + self._limits["mail"])
                reply = (await connection.wire.collect(1, due))[0]
                steps.append(f"{reply.code} {replies.clean(reply.text)}")
                enhanced, text = replies.split_enhanced(reply.code, reply.text)
                if 200 <= reply.code <= 299:
                    verdict = replace(replies.delivered(reply.code, reply.text), phase="mail", vendor_id="")
                else:
                    verdict = replies.classify("mail", reply.code, enhanced, text)
                    if verdict.scope is Scope.MESSAGE and verdict.status is Status.REFUSED:
                        verdict = replace(verdict, status=Status.DELIVERED)
                outcome = outcome or verdict
        except WireFault as fault:
            steps.append(f"failed: {fault}")
            outcome = (
                outcome if outcome and outcome.status is not Status.DELIVERED else replies.fault("mail", str(fault))
            )
        else:
            steps.append("QUIT")
        assert outcome is not None
        return replace(outcome, attempted=False)

    async def close(self) -> None:
        """End idle connections with QUIT; running deliveries finish and end theirs."""
        await self._pool.close()


def _unfit(outbound: Outbound, content: Content, capabilities: Capabilities) -> Outcome | None:
    """Why this server cannot be given this message, or None."""
    if not capabilities.smtputf8 and needs_smtputf8(outbound):
        return _unsayable(Scope.MESSAGE, "5.6.7", "the message needs SMTPUTF8, which this server does not offer")
    if capabilities.max_size and content.size > capabilities.max_size:
        text = f"{content.size} octets are more than the {capabilities.max_size} that this server takes"
        return _unsayable(Scope.MESSAGE, "5.3.4", text, code=552)
    return None


def _unsayable(scope: Scope, enhanced: str, text: str, *, code: int = 553) -> Outcome:
    return Outcome(
        status=Status.REFUSED, scope=scope, code=code, enhanced=enhanced, text=text, phase="mail", attempted=False
    )


def _for_all(outbound: Outbound, outcome: Outcome) -> list[RecipientOutcome]:
    return [RecipientOutcome(recipient.address, outcome) for recipient in outbound.recipients]
