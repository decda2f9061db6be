"""DATA: from 354 to the reply that is the promise.

Whatever happens after 354, the transaction is over when the reply to the final dot is queued, and the body file, if
there is one, has either been adopted or is gone. The commit is a plain await in the session's own task, which nobody
cancels: a client that closes, resets or half-closes meanwhile changes nothing about it. When it takes longer than
`accept_deadline` the timer answers 451 in its place (see `Acceptor.submit`).
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import secrets
from dataclasses import replace
from pathlib import Path

from relay.envelope import BodyFile, Content, Reply
from relay.errors import AcceptanceError, SpoolError, SpoolFull, SpoolUnhealthy
from relay.listener import replies
from relay.listener.body import BodyScanner
from relay.listener.commands import MailCommands
from relay.listener.connection import Phase, is_being_cancelled
from relay.listener.service import Service
from relay.listener.session import Transaction
from relay.listener.submission import Submission

NO_ROOM = Reply(452, "4.3.1", "No room for the message now, try again later")
FAULT = Reply(451, "4.3.0", "Temporary trouble, try again later")

WRITE_AT = 256 * 1024
"""Body octets that gather before one write: 50 uploads hold at most some 25 MB between them."""

GIVE_UP_FACTOR = 4
"""A refused message may go on for this many times its limit."""


class BodyWriter:
    """A large body on its way to a temporary file. Every file operation runs in the listener's writer threads."""

    __slots__ = ("_file", "_service", "begun", "path", "size")

    def __init__(self, service: Service) -> None:
        self._service = service
        self._file: io.FileIO | None = None
        self.path: Path | None = None
        self.begun = False
        self.size = 0

    async def write(self, pieces: list[bytes]) -> None:
        if not self.begun:
            self.begun = True
            self.path = self._service.options.body_dir / f"body-{secrets.token_hex(12)}"
        await self._service.loop.run_in_executor(self._service.writers, self._write, pieces)

    def _write(self, pieces: list[bytes]) -> None:
        if self._file is None:
            assert self.path is not None
            self._file = io.FileIO(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                rest = rest[self._file.write(rest) :]
            self.size += len(piece)

    async def close(self, *, delete: bool) -> None:
        """Close the file. `delete`: remove it too, if nobody adopted it meanwhile. Safe to call twice."""
        await self._service.loop.run_in_executor(self._service.writers, self._close, delete)

    def _close(self, delete: bool) -> None:
        if self._file is not None:
            self._file.close()
        if delete and self.path is not None:
            self.path.unlink(missing_ok=True)

    @property
    def body(self) -> BodyFile:
        assert self.path is not None
        return BodyFile(self.path, self.size)


class DataCommand(MailCommands):
    """The DATA command."""

    async def smtp_DATA(self, argument: bytes) -> None:
        transaction = self.envelope
        if transaction is None:
            self.fail(replies.MAIL_FIRST if self.session.bridge is not None else replies.AUTH_FIRST)
        elif argument:
            self.fail(replies.NO_ARGUMENT)
        elif not transaction.recipients:
            if transaction.refused:
                # The client may not have read that every RCPT failed and send the message all the same; few of its
                # lines may be taken for commands (RFC 2920 §3.1).
                self.fail(replies.NO_RECIPIENTS)
                self.errors = max(self.errors, self.service.options.max_errors - 3)
            else:
                self.fail(replies.RCPT_FIRST)
        else:
            self.say(replies.GO_AHEAD)
            await self._message(transaction)

    async def _message(self, transaction: Transaction) -> None:
        """Take one message to its end; the client has its reply (or is gone) when this returns."""
        limits = self.service.body_limits
        if transaction.max_size != limits.max_size:
            limits = replace(limits, max_size=transaction.max_size)
        scanner = BodyScanner(limits)
        writer = BodyWriter(self.service)
        try:
            await self._receive(scanner, writer)
            if scanner.refusal is None:
                await self._commit(transaction, scanner, writer)
            else:
                self.reject("data", scanner.refusal)
                self.say(replies.encode(scanner.refusal))
        finally:
            self.envelope = None
            self._phase = Phase.RUN
            if writer.begun:
                await writer.close(delete=True)

    async def _receive(self, scanner: BodyScanner, writer: BodyWriter) -> None:
        """Feed the scanner until the final dot. Raises Gone when the client goes away before."""
        options = self.service.options
        self._enter(Phase.DATA, options.data_window)
        self._window_start = self._received
        while True:
            chunk = self._take_input()
            if chunk:
                self._pending = scanner.feed(chunk)
                if scanner.refusal is None:
                    if scanner.waiting > (options.body_in_memory if scanner.done else WRITE_AT) or (
                        scanner.done and writer.begun
                    ):
                        await self._write(scanner, writer)
                elif self._phase is not Phase.DISCARD:
                    self._enter(Phase.DISCARD, options.discard_timeout)
                if scanner.done:
                    return
                if scanner.refusal is not None and scanner.taken > GIVE_UP_FACTOR * options.max_size > 0:
                    self.reject("data", scanner.refusal)
                    self.end(replies.GAVE_UP, "message goes on after its limit")
            if not self._pending:  # more may have come during the write
                await self._more()

    async def _write(self, scanner: BodyScanner, writer: BodyWriter) -> None:
        """Move the gathered body to the file. When that fails the message is refused, at its end."""
        try:
            await writer.write(scanner.take_body())
            if scanner.done:
                await writer.close(delete=False)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                scanner.refuse(NO_ROOM)
            else:
                self.service.fault("listener.body", error)
                scanner.refuse(FAULT)

    async def _commit(self, transaction: Transaction, scanner: BodyScanner, writer: BodyWriter) -> None:
        """Hand the message over and answer for it."""
        service = self.service
        session = self.session
        assert session.bridge is not None  # MAIL saw to it
        assert transaction.mail_from is not None
        body = writer.body if writer.begun else b"".join(scanner.take_body())
        self._flush()
        self._enter(Phase.COMMIT, service.options.accept_deadline)
        reply = await self._submit(
            Submission(
                bridge=session.bridge,
                session=session.describe(smtputf8=transaction.smtp_utf8),
                sender=transaction.mail_from,
                recipients=tuple(transaction.recipients),
                content=Content(scanner.head, body),
                eight_bit=scanner.eight_bit,
                long_lines=scanner.long_lines,
                smtputf8=transaction.smtp_utf8,
                ret=transaction.ret,
                envid=transaction.envid,
            )
        )
        if self._phase is Phase.LATE:
            self.reject("data", replies.TOO_LATE)
            if reply.code < 400:
                service.events.fault(where="listener.submit", error="a message was kept after it was given up")
            return
        if reply.code < 400:
            self.accepted += 1
            self.idle_commands = 0
            self.replies_lost += self._lost
        else:
            self.reject("data", reply)
        if reply.code == 421:
            self.end(replies.encode(reply), reply.text)
        else:
            self.say(replies.encode(reply))

    async def _submit(self, submission: Submission) -> Reply:
        """The acceptor's reply; an exception of it is our trouble, never the client's, and never shown."""
        try:
            return await self.service.acceptor.submit(submission, deadline=self._deadline)
        except AcceptanceError as error:
            return error.reply
        except SpoolFull:
            return NO_ROOM
        except SpoolUnhealthy:
            return Reply(421, "4.3.0", "Temporary trouble, try again later")
        except SpoolError:
            return FAULT
        except asyncio.CancelledError as error:
            if is_being_cancelled():
                raise
            self.service.fault("listener.submit", error)
            return FAULT
        except Exception as error:
            self.service.fault("listener.submit", error)
            return FAULT
