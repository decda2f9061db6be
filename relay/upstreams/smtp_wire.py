"""The SMTP line: strict reply parser and the protocol that pairs replies with commands.

`ReplyParser` is pure. `Wire` is the asyncio protocol of one connection from the greeting to QUIT. It is a subclass of
aiosmtplib's `SMTPProtocol` so that aiosmtplib speaks the opening dialogue (EHLO, STARTTLS, AUTH) through it; every
method that library calls is replaced, because pipelining needs several replies outstanding and because a reply must
never be paired with another command than its own.

Invariants
  - A reply is expected because of a command. What comes unasked, too early or too much makes the connection unusable
    (`fault`), for good. The one exception is a 421, which a server may send at any time (RFC 5321 §3.8): it ends the
    connection but does not cast doubt on the replies before it.
  - A reply is bounded: 8 kB a line, 32 kB in all.
  - One timer handle serves all waits of a connection: waits move `_due`, the timer looks at it when it fires.

Source: RFC 5321 §4.2.1 (reply syntax), RFC 2920 (pipelining), RFC 3207 §4.2 (STARTTLS).
"""

from __future__ import annotations

import asyncio
import re
import select
import ssl
from typing import NamedTuple, cast

from aiosmtplib.errors import SMTPResponseException
from aiosmtplib.protocol import COMMAND_INJECTION_REGEX, SMTPProtocol
from aiosmtplib.response import SMTPResponse

from relay.tap import SILENT, NodeTalk, Tap

LINE_LIMIT = 8192
"""Octets of one reply line; RFC 5321 §4.5.3.1.5 asks for 512, long URLs in texts need more."""
REPLY_LIMIT = 32768
"""Octets of a whole reply: several times the longest EHLO seen, and nothing a server can fill memory with."""
QUIT_WAIT_S = 5.0
"""How long a retired connection may take to answer QUIT."""


class WireFault(Exception):
    """The connection is unusable; the text says why. Never a server's considered answer."""


class WireTimeout(WireFault):
    """The answer did not come in time."""


class WireLost(WireFault):
    """The connection ended."""


class WireReply(NamedTuple):
    """One reply. `text`: its lines joined by LF, without codes; undecodable octets are surrogates."""

    code: int
    text: str


_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])([^\r\n\0]*))?\r\n")
"""A code alone is a reply (RFC 5321 §4.2). The second digit may be above 5: `571` is in use."""


class ReplyParser:
    """Octets in, replies out. After a fault it must not be used again."""

    __slots__ = ("_buffer", "_code", "_lines", "_size")

    def __init__(self) -> None:
        self._buffer = b""
        self._code = b""
        self._lines: list[bytes] = []
        self._size = 0

    @property
    def partial(self) -> bool:
        """True in the middle of a reply."""
        return bool(self._buffer or self._lines)

    def feed(self, data: bytes) -> list[WireReply]:
        """The replies that `data` completes. Raises WireFault on anything that is not a reply line."""
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        replies: list[WireReply] = []
        start, end = 0, len(data)
        while start < end and (match := _LINE.match(data, start)):
            code, separator, text = match.groups()
            if self._lines and code != self._code:
                raise WireFault(f"lines of one reply with different codes: {_shown(match[0])}")
            if match.end() - start > LINE_LIMIT:
                raise WireFault("reply line too long")
            start = match.end()
            if separator == b"-":
                self._code = code
                self._lines.append(text)
                self._size += len(text) + 6  # code, separator, line end
                if self._size > REPLY_LIMIT:
                    raise WireFault("reply too long")
                continue
            if self._lines:
                self._lines.append(text or b"")
                text = b"\n".join(self._lines)
                self._lines, self._size = [], 0
            replies.append(WireReply(int(code), text.decode("utf-8", "surrogateescape") if text else ""))
        if start < end:
            self._buffer = self._checked(data[start:])
        return replies

    def _checked(self, rest: bytes) -> bytes:
        """`rest` if it can still become a reply line."""
        if b"\n" in rest or b"\0" in rest or b"\r" in rest[:-1]:
            raise WireFault(f"malformed reply line: {_shown(rest)}")
        if len(rest) > LINE_LIMIT:
            raise WireFault("reply line too long")
        return rest


def _shown(line: bytes) -> str:
    return repr(line[:80])[2:-1]


class Wire(SMTPProtocol):
    """One connection. `collect` is for one task at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tap: Tap = SILENT, node: str = "") -> None:
        super().__init__(loop=loop)
        self._tap = tap
        self._node = node
        self._talk: NodeTalk | None = None
        self.fault: WireFault | None = None
        self.closing = False
        """A 421 was read: the server ends the connection."""
        self.closed: asyncio.Future[None] = loop.create_future()
        self._out: asyncio.Transport | None = None
        self._parser = ReplyParser()
        self._replies: list[WireReply] = []
        self._expected = 1  # the greeting
        self._need = 0
        self._waiter: asyncio.Future[None] | None = None
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._writable: asyncio.Future[None] | None = None
        self._write_paused = False
        self._upgrading = False
        self._retired = False

    # -- asyncio's side ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._out = cast("asyncio.Transport", transport)
        self._out.set_write_buffer_limits(high=0)  # `drain` then means: everything is with the kernel
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.fault is not None:
            return
        if self._retired:  # the answer to QUIT, whatever it is
            self.abort()
            return
        try:
            replies = self._parser.feed(data)
        except WireFault as fault:
            self._fail(fault)
            return
        if self._tap.open:
            for reply in replies:
                self._overheard().said(reply.code, reply.text)
        for reply in replies:
            if self.closing:
                break
            self._take(reply)
        if self._expected == 0 and self._parser.partial and self.fault is None and not self.closing:
            self._fail(WireFault("data that no command asked for"))
        elif self.fault is None:
            self._wake()

    def _take(self, reply: WireReply) -> None:
        if reply.code == 421:
            self.closing = True
            if self._expected:
                self._expected = 0
                self._replies.append(reply)
        elif self._expected == 0:
            self._fail(WireFault(f"a reply that no command asked for: {reply.code} {reply.text[:80]}"))
        else:
            self._expected -= 1
            self._replies.append(reply)

    def eof_received(self) -> bool:
        return False  # close: nobody half-closes an SMTP connection and goes on

    def connection_lost(self, exc: BaseException | None) -> None:
        self.transport = None
        self._cancel_timer()
        if not self.closed.done():
            self.closed.set_result(None)
        if self._parser.partial:
            detail = "connection closed in the middle of a reply"
        else:
            detail = f"connection lost: {exc}" if exc else "connection closed by the upstream"
        self._fail(WireLost(detail))

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    # -- aiosmtplib's side: one command at a time, in the opening dialogue ----------------------------------------

    async def read_response(self, timeout: float | None = None) -> SMTPResponse:  # noqa: ASYNC109 - its signature
        due = self._loop.time() + (timeout or 0.0)
        return SMTPResponse(*(await self.collect(1, due))[0])

    async def execute_command(self, *args: bytes, timeout: float | None = None) -> SMTPResponse:  # noqa: ASYNC109
        if any(COMMAND_INJECTION_REGEX.search(arg) for arg in args):
            raise ValueError("control character in a command")
        self.send(b" ".join(args) + b"\r\n", 1)
        return await self.read_response(timeout)

    async def start_tls(
        self,
        tls_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> SMTPResponse:
        """STARTTLS and the handshake. Raises SMTPResponseException when refused, ssl.SSLError or OSError when failed.

        Plain text behind the 220 is a reply that nobody asked for, hence a fault; it never gets into the session.
        """
        response = await self.execute_command(b"STARTTLS", timeout=timeout)
        if response.code != 220:
            raise SMTPResponseException(response.code, response.message)
        if self.fault is not None:
            raise self.fault
        if self._out is None or self._out.is_closing():
            raise WireLost("connection closed by the upstream")
        self._upgrading = True
        try:
            upgraded = await self._loop.start_tls(
                self._out, self, tls_context, server_hostname=server_hostname, ssl_handshake_timeout=timeout
            )
        finally:
            self._upgrading = False
        if upgraded is None:
            raise WireLost("connection closed during the TLS handshake")
        upgraded.set_write_buffer_limits(high=0)
        self._out = self.transport = upgraded
        return response

    # -- our side ------------------------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """True when nothing is outstanding and nothing is wrong: a transaction may begin."""
        return (
            self.fault is None
            and not self.closing
            and not self._expected
            and not self._retired
            and self._out is not None
            and not self._out.is_closing()
        )

    def has_unread(self) -> bool:
        """True when the kernel holds octets, or the end of the connection, that the loop has not read yet."""
        sock = self._out.get_extra_info("socket") if self._out is not None else None
        if sock is None:
            return True
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def send(self, data: bytes, replies: int) -> None:
        """Write `data`, to which `replies` replies belong. Raises WireFault when the connection is gone."""
        if self.fault is not None:
            raise self.fault
        if self._out is None or self._out.is_closing() or self.closing:
            raise WireLost("connection closed by the upstream")
        if self._tap.open:
            # Content goes out whole with no reply outstanding, or in pieces with one; whole, it begins with a header.
            self._overheard(idle=not self._expected and data.startswith(b"MAIL FROM:<")).told(data)
        self._expected += replies
        self._out.write(data)

    async def collect(self, count: int, due: float) -> list[WireReply]:
        """The next `count` replies.

        Fewer when the last one is a 421, after which no more come.

        Args:
            due: loop time by which all must have come.

        Raises:
            WireTimeout: they did not.
            WireFault: anything else went wrong. What was read before stays in `take`.
        """
        if self.fault is None and not self.closing and len(self._replies) < count:
            self._need = count
            self._waiter = self._loop.create_future()
            self._watch(due)
            try:
                await self._waiter
            finally:
                self._waiter = None
        fault = self.fault
        if fault is not None and not self._answered(count, fault):
            raise fault
        if not self._replies:
            raise WireLost("connection closed by the upstream")
        return self.take()

    def _answered(self, count: int, fault: WireFault) -> bool:
        """True when all that was asked for came before the connection merely ended."""
        complete = len(self._replies) >= count or (bool(self._replies) and self._replies[-1].code == 421)
        return complete and isinstance(fault, WireLost)

    def take(self) -> list[WireReply]:
        """The replies read so far, which are then forgotten."""
        replies = self._replies
        self._replies = []
        return replies

    def early(self) -> bool:
        """True when something came while we were still sending."""
        return bool(self._replies) or self.fault is not None or self.closing

    async def drain(self, due: float) -> None:
        """Wait until the transport takes more. Raises as `collect`."""
        if self.fault is not None:
            raise self.fault
        if not self._write_paused:
            return
        self._writable = self._loop.create_future()
        self._watch(due)
        try:
            await self._writable
        finally:
            self._writable = None

    def abort(self) -> None:
        """End the connection now, without a word."""
        self._cancel_timer()
        if self._out is not None:
            self._out.abort()

    def retire(self) -> None:
        """Say QUIT and close when it is answered, after `QUIT_WAIT_S` at the latest. Returns at once."""
        if not self.usable or self._out is None:
            self.abort()
            return
        self._retired = True
        if self._tap.open:
            self._overheard().told(b"QUIT\r\n")
        self._out.write(b"QUIT\r\n")
        self._cancel_timer()
        self._timer = self._loop.call_later(QUIT_WAIT_S, self.abort)

    def _overheard(self, *, idle: bool = False) -> NodeTalk:
        if self._talk is None or self._talk.opened != self._tap.opened:
            name = self._out.get_extra_info("peername") if self._out is not None else None
            peer = f"{name[0]}:{name[1]}" if isinstance(name, tuple) and len(name) >= 2 else ""
            self._talk = NodeTalk(self._tap, f"{id(self):x}", self._node, peer, idle=idle)
        return self._talk

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done() and (len(self._replies) >= self._need or self.closing):
            waiter.set_result(None)

    def _fail(self, fault: WireFault) -> None:
        if self.fault is None:
            self.fault = fault
        waiter, writable = self._waiter, self._writable
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if writable is not None and not writable.done():
            writable.set_exception(fault)
        if self._out is not None and not self._upgrading:
            self._out.abort()

    def _watch(self, due: float) -> None:
        self._due = due
        timer = self._timer
        if timer is None:
            self._timer = self._loop.call_at(due, self._look)
        elif due < timer.when():
            timer.cancel()
            self._timer = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._waiter is None and self._writable is None:
            return
        if self._loop.time() >= self._due:
            self._fail(WireTimeout("no answer in time"))
        else:
            self._timer = self._loop.call_at(self._due, self._look)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
