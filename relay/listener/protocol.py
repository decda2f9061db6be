"""`RelaySMTP`: aiosmtpd's protocol with everything replaced that is slow, lax or wrong for a relay.

What stays of aiosmtpd is the class itself, its session and envelope, the names of its methods and its PROXY parser.
The overrides are spread over the base classes by subject, each a link of one chain:

`Connection` (bytes, timer) → `AuthCommands` → `MailCommands` → `DataCommand` → `RelaySMTP` (the dialogue, STARTTLS).

Lines end in CRLF, hold no control characters and nothing but ASCII outside SMTPUTF8 paths. Whatever a client sends
gets one reply for each command, or the connection ends.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable
from typing import ClassVar

from relay.errors import AcceptanceError
from relay.listener import replies
from relay.listener.connection import OUTPUT_HIGH, Gone, Phase, is_being_cancelled
from relay.listener.data import DataCommand
from relay.listener.proxy import PROXY_V2_SIGNATURE
from relay.listener.session import Client

MAX_LINE = 510
"""RFC 5321 §4.5.3.1.4, without CRLF."""

MAX_PATH_LINE = 2046
"""MAIL and RCPT: a path of 256 octets in UTF-8, and ENVID or ORCPT with every octet encoded as three."""

MAX_AUTH_LINE = 12_288 + MAX_LINE

MAX_SKIPPED = 64 * 1024
"""An over-long line is read up to here for the sake of staying in step; beyond, the client is no mail client."""

_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_PATH_VERBS = (b"MAIL ", b"RCPT ")

_HTTP = frozenset({b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"TRACE", b"PATCH", b"CONNECT", b"HOST:"})
"""A browser that is made to post a form to a mail port sends commands in the body (ALPACA, 2021)."""

Command = Callable[["RelaySMTP", bytes], Awaitable[None]]


class RelaySMTP(DataCommand):
    """One SMTP session."""

    commands: ClassVar[dict[bytes, Command]] = {}
    """Verb → method, for upper and lower case; made once, after the class."""

    async def _handle_client(self) -> None:
        """The whole life of a connection. Overrides aiosmtpd's loop; started by `connection_made`."""
        try:
            if self._open():
                await self._serve()
            await self._say_goodbye()
        except (Gone, ConnectionError):
            if self._ending and not self._lost:
                await self._say_goodbye()
        except Exception as error:
            self.service.fault("listener.session", error)
            self._flush()
        finally:
            self._leave()

    def _open(self) -> bool:
        """Greet, unless this client cannot be served."""
        service = self.service
        session = self.session
        if service.draining:
            self.end(replies.SHUTTING_DOWN, "")
        elif not self._counted and not self.count("total", service.options.max_connections):
            self.end(replies.BUSY, "too many connections")
        elif not self.count_peer():
            self.end(replies.PEER_BUSY, "too many connections from one address")
        else:
            self._note_tls()
            bridge = service.bridge_for(session.address)
            if bridge is not None and not self.use_bridge(bridge):
                self.end(replies.BRIDGE_BUSY, f"too many connections of bridge {bridge.name}")
            else:
                self.say(service.greeting)
                return True
        return False

    async def _serve(self) -> None:
        """Read commands and run them until the session ends."""
        service = self.service
        while not self._ending:
            pending = self._pending
            pos = self._pos
            end = pending.find(b"\n", pos)
            if end < 0:
                if service.draining and self.envelope is None:
                    self.end(replies.SHUTTING_DOWN, "")
                    return
                self._check_partial(len(pending) - pos)
                if self._phase is not Phase.COMMAND:
                    self._enter(Phase.COMMAND, service.options.idle_timeout)
                await self._more()
                continue
            self._phase = Phase.RUN
            if end + 1 == len(pending):
                self._pending = b""
                self._pos = 0
            else:
                self._pos = end + 1
            if self._skipping:
                self._skipping = 0
                self.fail(replies.TOO_LONG)
            elif end > pos and pending[end - 1] == 13:
                await self._run(pending[pos : end - 1])
            else:
                await self._bare_lf(pending[pos:end])
            if self._out_size > OUTPUT_HIGH:
                self._flush()
                if self._write_paused:
                    await self._until_written()

    async def _run(self, line: bytes) -> None:
        """Check one line and run its command."""
        if self.service.tap.open:
            session = self.session
            bridge = session.bridge.name if session.bridge else ""
            self.service.tap.client_said(session.id, bridge, session.address, line)
        verb, _, argument = line.partition(b" ")
        command = self.commands.get(verb)
        if command is None:
            line = line.rstrip(b" \t")
            verb, _, argument = line.partition(b" ")
            command = self.commands.get(verb.upper())
        if _CONTROL.search(line) is not None:
            self._malformed(line)
        elif command is None:
            self._unknown(verb)
        elif (len(line) > MAX_LINE or not line.isascii()) and not self._is_allowed(line):
            self.fail(replies.TOO_LONG if line.isascii() else replies.NOT_ASCII)
        else:
            try:
                await command(self, argument.strip(b" "))
            except AcceptanceError as error:
                self.reject(verb.decode().lower(), error.reply)
                self.refuse_with(error.reply)
            except (Gone, ConnectionError):
                raise
            except asyncio.CancelledError as error:
                if is_being_cancelled():
                    raise
                self._trouble(verb, error)
            except Exception as error:
                self._trouble(verb, error)

    def _trouble(self, verb: bytes, error: BaseException) -> None:
        """A command failed by our own fault: forget the transaction, say nothing of the reason."""
        self.envelope = None
        name = verb.decode().lower()
        # What AUTH raises may quote what it was given.
        self.service.fault(f"listener.{name}", error, with_text=name != "auth")
        self.say(replies.FAULT)

    async def handle_exception(self, error: Exception) -> str:
        """aiosmtpd's way to answer an exception tells its class and text; nothing inherited may do that."""
        self.service.fault("listener", error, with_text=False)
        return replies.as_text(replies.FAULT)

    @staticmethod
    def _is_allowed(line: bytes) -> bool:
        """Longer than a plain command or not ASCII, and yet fine: paths may hold UTF-8, AUTH responses are long."""
        start = line[:5].upper()
        if start in _PATH_VERBS:
            return len(line) <= MAX_PATH_LINE
        return start == b"AUTH " and line.isascii() and len(line) <= MAX_AUTH_LINE

    def _unknown(self, verb: bytes) -> None:
        word = verb.upper()
        if word in _HTTP:
            self.end(replies.NOT_HTTP, "HTTP on a mail port")
        elif word == b"PROXY" and self.service.options.proxy_from:
            self.end(replies.UNKNOWN, "proxy_header_rejected: peer is not trusted")
        else:
            self.fail(replies.UNKNOWN if verb.isascii() else replies.NOT_A_COMMAND)

    def _malformed(self, line: bytes) -> None:
        if line.startswith(b"\x16\x03"):
            self.end(replies.NOT_A_COMMAND, "TLS where none is expected")
        else:
            self.fail(replies.NOT_A_COMMAND)

    async def _bare_lf(self, line: bytes) -> None:
        """A line that ends in LF alone: either switch decides for the whole listener, never for a line."""
        if line == PROXY_V2_SIGNATURE.split()[-1] and self.service.options.proxy_from:
            self.end(replies.NOT_A_COMMAND, "proxy_header_rejected: peer is not trusted")
        elif self.service.options.line_endings == "normalize":
            await self._run(line)
        else:
            self.end(replies.BARE_LF, "bare LF in a command")

    def _check_partial(self, size: int) -> None:
        """Input without line end: drop it when it is longer than any command; end the session when it goes on."""
        if size > MAX_AUTH_LINE or self._skipping:
            self._skipping += size
            self._pending = b""
            self._pos = 0
            if self._skipping > MAX_SKIPPED:
                self.end(replies.TOO_LONG, "line too long")

    # TLS

    async def smtp_STARTTLS(self, argument: bytes) -> None:
        """Upgrade, and begin anew: nothing said or sent in clear counts inside (RFC 3207 §4.2, CVE-2011-0411)."""
        if self.session.tls:
            self.fail(replies.TLS_ACTIVE)
        elif not self.service.offers_starttls:
            self.fail(replies.NOT_IMPLEMENTED)
        elif argument:
            self.fail(replies.NO_ARGUMENT)
        else:
            self.say(replies.START_TLS)
            self._flush()
            await self._upgrade()

    async def _upgrade(self) -> None:
        service = self.service
        context = service.tls_context
        assert context is not None
        self._take_input()
        self.envelope = None
        if self._read_paused:
            self._read_paused = False
            self.transport.resume_reading()
        self._enter(Phase.TLS, service.options.tls_timeout + 1.0)
        try:
            transport = await self.loop.start_tls(
                self.transport, self, context, server_side=True, ssl_handshake_timeout=service.options.tls_timeout
            )
        except OSError as error:  # ssl.SSLError, ConnectionError and TimeoutError are among these
            self.why = tls_failure(error)
            self._eof = self._lost = True
            raise Gone from error
        if transport is None:
            raise Gone
        self.transport = transport
        before = self.session
        self.session = Client(self.loop, before.id, before.address, before.port)
        self.session.auth_failures = before.auth_failures
        self.release_bridge()
        self._note_tls()
        bridge = service.bridge_for(before.address)
        if bridge is not None and not self.use_bridge(bridge):
            self.end(replies.BRIDGE_BUSY, f"too many connections of bridge {bridge.name}")

    def _note_tls(self) -> None:
        tls = self.transport.get_extra_info("ssl_object")
        if tls is not None:
            cipher = tls.cipher()
            self.session.tls = f"{tls.version()} {cipher[0]}" if cipher else str(tls.version())


def tls_failure(error: OSError) -> str:
    """Why a handshake failed, in words for a log: OpenSSL's reason, or the kind of error."""
    reason = error.reason if isinstance(error, ssl.SSLError) and error.reason else type(error).__name__
    return f"tls_handshake_failed: {reason.lower().replace('_', ' ')}"


RelaySMTP.commands = {
    spelling.encode(): getattr(RelaySMTP, name)
    for name in dir(RelaySMTP)
    if name.startswith("smtp_")
    for spelling in (name.removeprefix("smtp_"), name.removeprefix("smtp_").lower())
}
