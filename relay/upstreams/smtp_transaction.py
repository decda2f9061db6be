"""One SMTP transaction on an open connection: MAIL, RCPT, DATA, content, final dot, to one outcome per recipient.

With PIPELINING the envelope is one write and, mostly, one read; without it the same commands go one by one. Judging
the answers is the same code for both, so that both give the same outcomes.

Invariants
  - `phase` becomes `dot` only after the octets of the final dot were handed to the transport; before, everything that
    was written earlier is with the kernel already. A loss is uncertain from there on and never earlier.
  - A connection on which anything odd was seen is not used again (`Result.reusable`).
  - Nothing is sent again here. Whether MAIL was answered is reported, the pool's owner decides (`Result.answered`).

Source: RFC 5321 §3.3 and §4.5.3.2, RFC 2920 §3.1, RFC 1047.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace

from relay.envelope import CHUNK_BYTES, Content
from relay.outcome import Outcome, RecipientOutcome, Scope, Status
from relay.upstreams import replies, smtp_commands
from relay.upstreams.base import Outbound
from relay.upstreams.dots import Stuffer, stuffed
from relay.upstreams.smtp_connect import Connection
from relay.upstreams.smtp_options import SmtpTimeouts
from relay.upstreams.smtp_wire import WireFault, WireLost, WireReply, WireTimeout
from relay.values import thawed

_TOO_MANY = "4.5.3"
_ENVELOPE = frozenset({"rset", "mail", "rcpt", "data"})


@thawed
@dataclass(frozen=True, slots=True)
class Result:
    """What became of a transaction.

    Attributes:
        outcomes: one per recipient, in order.
        answered: MAIL was answered by more than a goodbye, so that the message may not be offered again.
        reusable: the connection is at a clean border and may carry the next transaction.
        confused: the server offers PIPELINING and lost its way in it.
    """

    outcomes: list[RecipientOutcome]
    answered: bool
    reusable: bool
    confused: bool


def limits(timeouts: SmtpTimeouts) -> Mapping[str, float]:
    """Longest wait in seconds by phase."""
    return {
        "rset": timeouts.mail,
        "mail": timeouts.mail,
        "rcpt": timeouts.rcpt,
        "data": timeouts.data,
        "body": timeouts.block,
        "dot": timeouts.dot,
    }


class Transaction:
    """Use once: `await Transaction(…).run()`."""

    __slots__ = (
        "_accepted",
        "_answered",
        "_broken",
        "_confused",
        "_connection",
        "_content",
        "_deadline",
        "_go",
        "_limits",
        "_loop",
        "_mail_refused",
        "_outbound",
        "_phase",
        "_verdicts",
        "_wire",
    )

    def __init__(
        self, connection: Connection, outbound: Outbound, content: Content, limits: Mapping[str, float], deadline: float
    ) -> None:
        self._connection = connection
        self._wire = connection.wire
        self._outbound = outbound
        self._content = content
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        self._limits = limits
        self._verdicts: list[Outcome | None] = [None] * len(outbound.recipients)
        self._accepted = 0
        self._phase = "mail"
        self._answered = False
        self._mail_refused = False
        self._go = False
        self._broken = False
        self._confused = False

    async def run(self) -> Result:
        """Never raises for what the upstream does. Cancelled, it leaves the connection for the bin."""
        connection = self._connection
        connection.messages += 1
        try:
            await self._envelope()
            if self._go and self._accepted and not self._broken:
                await self._hand_over()
            elif self._go and not self._broken:
                await self._take_back_data()
        except WireFault as fault:
            self._broken = True
            if self._phase in _ENVELOPE and not isinstance(fault, WireLost):
                silent = isinstance(fault, WireTimeout) and not self._answered  # it did not even get that far
                self._confused = connection.pipelining and not silent
            last_words = self._wire.take()
            if self._phase == "body" and last_words and last_words[0].code >= 400:
                self._rest(self._outcome("body", last_words[0]))
            else:
                self._rest(replies.fault(self._phase, str(fault)))
        self._weigh_recipients()
        outcomes = [
            RecipientOutcome(recipient.address, verdict or self._unjudged())
            for recipient, verdict in zip(self._outbound.recipients, self._verdicts, strict=True)
        ]
        return Result(outcomes, self._answered, not self._broken and self._wire.usable, self._confused)

    # -- envelope ------------------------------------------------------------------------------------------------

    def _commands(self) -> list[tuple[str, int, bytes]]:
        """Phase, index of the recipient, line."""
        outbound, capabilities, content = self._outbound, self._connection.capabilities, self._content
        dsn = capabilities.dsn
        body = content.body
        eight_bit = not (content.head.isascii() and body.isascii()) if isinstance(body, bytes) else outbound.eight_bit
        mail = smtp_commands.mail(
            outbound,
            size=content.size if self._connection.offers_size else 0,
            eight_bit=eight_bit and capabilities.eight_bit,
            smtputf8=capabilities.smtputf8 and needs_smtputf8(outbound),
            dsn=dsn,
        )
        commands = [("rset", 0, b"RSET\r\n")] if self._connection.needs_reset else []
        commands.append(("mail", 0, mail))
        commands += [("rcpt", i, smtp_commands.rcpt(r, dsn=dsn)) for i, r in enumerate(outbound.recipients)]
        commands.append(("data", 0, b"DATA\r\n"))
        return commands

    async def _envelope(self) -> None:
        commands = self._commands()
        self._connection.needs_reset = False
        if self._connection.pipelining:
            await self._exchange(commands)
            return
        for command in commands:
            if command[0] == "data" and not self._accepted:
                self._connection.needs_reset = True
                return
            await self._exchange([command])
            if self._broken or self._mail_refused:
                return

    async def _exchange(self, commands: list[tuple[str, int, bytes]]) -> None:
        """Send the commands together and judge their replies as they come."""
        self._phase = commands[0][0]
        self._wire.send(b"".join([line for _, _, line in commands]), len(commands))
        done = 0
        while done < len(commands):
            self._phase = commands[done][0]
            for reply in await self._wire.collect(1, self._due(self._phase)):
                phase, index, _ = commands[done]
                self._phase = phase
                self._judge(phase, index, reply)
                if reply.code == 421:
                    return
                done += 1

    def _judge(self, phase: str, index: int, reply: WireReply) -> None:
        code = reply.code
        positive = 200 <= code <= 299
        if code == 421:
            self._broken = True
            self._rest(self._outcome(phase, reply))
            return
        if phase == "mail":
            self._answered = True
        if phase == "rset":
            if not positive:
                raise WireFault(f"RSET refused: {code} {reply.text}")
        elif phase == "mail":
            if not positive:
                self._mail_refused = True
                self._rest(self._outcome(phase, reply))
        elif phase == "rcpt":
            if self._mail_refused:
                return
            if positive:
                self._accepted += 1
            else:
                self._verdicts[index] = self._outcome(phase, reply)
        elif code == 354:
            self._go = True
        elif self._accepted:
            self._connection.needs_reset = True
            self._rest(self._outcome(phase, reply))
        else:  # nobody to send to, and the server says so: RFC 2920 §3.1
            self._connection.needs_reset = not self._mail_refused

    def _outcome(self, phase: str, reply: WireReply) -> Outcome:
        """The outcome of a reply that is not the wished one. One of the wrong class ends the connection."""
        if reply.code < 400 or (phase == "data" and reply.code == 503):
            self._broken = True
            self._confused = self._connection.pipelining and phase in _ENVELOPE
        return replies.classify(phase, reply.code, *replies.split_enhanced(reply.code, reply.text))

    def _weigh_recipients(self) -> None:
        """Look at the refused recipients together with the accepted ones.

        `relaying denied` for one of several accepted recipients is about that recipient: a node without the right to
        relay refuses all. Too many recipients is a matter of batches only when the batch was not empty.
        """
        for i, verdict in enumerate(self._verdicts):
            if verdict is None or verdict.phase != "rcpt" or verdict.code == 421:
                continue
            if self._accepted and verdict.scope in (Scope.ACCOUNT, Scope.NODE):
                self._verdicts[i] = replace(verdict, scope=Scope.RECIPIENT)
            elif not self._accepted and verdict.enhanced == _TOO_MANY:
                self._verdicts[i] = replace(verdict, retry_after_s=None)

    # -- content -------------------------------------------------------------------------------------------------

    async def _hand_over(self) -> None:
        body = self._content.body
        if isinstance(body, bytes) and len(body) <= CHUNK_BYTES:
            self._phase = "body"
            self._wire.send(stuffed(self._content.head + b"\r\n" + body), 1)
        elif not await self._stream(self._content):
            return
        self._phase = "dot"
        reply = (await self._wire.collect(1, self._due("dot")))[0]
        if 200 <= reply.code <= 299:
            self._rest(replies.delivered(reply.code, reply.text))
        else:
            self._rest(self._outcome("dot", reply))

    async def _stream(self, content: Content) -> bool:
        """Write large content in pieces, the last one with the final dot. False when it was cut short and judged."""
        wire, stuffer = self._wire, Stuffer()
        self._phase = "body"
        pieces = _pieces(content)
        wire.send(b"", 1)  # an answer from here on belongs to the content, however early
        try:
            while True:
                try:
                    piece = await self._loop.run_in_executor(None, next, pieces, None)
                except OSError as error:  # our own file: the message is ill, not the node
                    self._broken = True
                    detail = replies.clean(f"content cannot be read: {error.strerror}")
                    self._rest(Outcome(status=Status.DEFERRED, scope=Scope.MESSAGE, text=detail, phase="body"))
                    return False
                if wire.early():
                    reply = (await wire.collect(1, self._due("body")))[0]
                    self._broken = True
                    self._rest(self._outcome("body", reply))
                    return False
                if piece is None:
                    wire.send(stuffer.end(), 0)
                    return True
                wire.send(stuffer.piece(piece), 0)
                await wire.drain(self._due("body"))
        finally:
            pieces.close()

    async def _take_back_data(self) -> None:
        """All recipients were refused and the server wants content nevertheless: a lone dot ends it (RFC 2920 §3.1)."""
        self._wire.send(b".\r\n", 1)
        reply = (await self._wire.collect(1, self._due("mail")))[0]
        self._broken = self._broken or self._mail_refused or reply.code < 400
        self._connection.needs_reset = True

    # -- verdicts ------------------------------------------------------------------------------------------------

    def _due(self, phase: str) -> float:
        return min(self._deadline, self._loop.time() + self._limits[phase])

    def _rest(self, outcome: Outcome) -> None:
        """The same outcome for everyone who has none yet."""
        self._verdicts = [verdict or outcome for verdict in self._verdicts]

    def _unjudged(self) -> Outcome:
        return replies.fault(self._phase, "the transaction ended without an answer")


def needs_smtputf8(outbound: Outbound) -> bool:
    """True when the message or an address of its envelope cannot go without SMTPUTF8."""
    return (
        outbound.smtputf8
        or not outbound.sender.isascii()
        or not all(recipient.address.isascii() for recipient in outbound.recipients)
    )


def _pieces(content: Content) -> Generator[bytes, None, None]:
    """Head and body in pieces of at most `CHUNK_BYTES`; blocking for a file."""
    body = content.body
    if not isinstance(body, bytes):
        yield from content.chunks()
        return
    yield content.head + b"\r\n"
    for start in range(0, len(body), CHUNK_BYTES):
        yield body[start : start + CHUNK_BYTES]
