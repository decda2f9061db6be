"""`Listener`: sockets in, sessions out, and an orderly end.

Plain and STARTTLS listeners use the loop's own server. Implicit TLS and PROXY need a look at the connection before a
protocol exists (a header to read, a handshake whose failure is worth an event), so those accept by hand; the rest of
the session is the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Sequence
from ipaddress import ip_address

from relay.events import Events
from relay.listener import replies
from relay.listener.connection import Phase
from relay.listener.counters import ConnectionCounter
from relay.listener.options import ListenerOptions
from relay.listener.protocol import RelaySMTP, tls_failure
from relay.listener.proxy import ProxyError, read_header
from relay.listener.service import Service, canonical_address
from relay.listener.submission import Acceptor
from relay.tap import SILENT, Tap

ACCEPT_PAUSE_S = 0.2
"""After an error of accept (no descriptors left): long enough not to spin, short enough to serve who can be served."""


class Listener:
    """One listening address (or several sockets of one policy).

    Use on one event loop: `await start(...)`, later `await drain(...)` and `await close()`.
    """

    def __init__(
        self,
        options: ListenerOptions,
        acceptor: Acceptor,
        events: Events,
        counters: ConnectionCounter,
        tls_context: ssl.SSLContext | None = None,
        tap: Tap = SILENT,
    ) -> None:
        """
        Args:
            tls_context: server context, needed unless `options.tls` is `none`. TLS 1.2 becomes its minimum.
        """
        if options.tls != "none" and tls_context is None:
            raise ValueError(f"tls: {options.tls} needs a certificate")
        self._options = options
        self._acceptor = acceptor
        self._events = events
        self._counters = counters
        self._tap = tap
        self._tls_context = _hardened(tls_context)
        self._service: Service | None = None
        self._server: asyncio.Server | None = None
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._admitting: set[asyncio.Task[None]] = set()

    @property
    def sockets(self) -> Sequence[socket.socket]:
        """The listening sockets; empty once draining has begun."""
        if self._server is not None:
            return self._server.sockets
        return tuple(self._sockets)

    @property
    def sessions(self) -> int:
        """Connections that are being served."""
        return len(self._service.sessions) if self._service is not None else 0

    def use(self, options: ListenerOptions, tls_context: ssl.SSLContext | None) -> None:
        """Go on with these options and this certificate, for sessions that are open too; handshakes that are done
        stay as they are.

        How connections are accepted (TLS from the first octet, PROXY headers) stays: see `accepts_like`.
        """
        if not self.accepts_like(options):
            raise ValueError("this listener accepts connections in another way")
        self._options = options
        self._tls_context = _hardened(tls_context)
        if self._service is not None:
            self._service.use(options, self._tls_context)

    def accepts_like(self, options: ListenerOptions) -> bool:
        """Whether a listener with these options accepts connections as this one does."""
        ours = self._options
        return (ours.tls == "implicit", bool(ours.proxy_from)) == (options.tls == "implicit", bool(options.proxy_from))

    async def start(self, sock: socket.socket | None = None, *, host: str = "127.0.0.1", port: int = 0) -> None:
        """Begin to accept, on `sock` (bound, for SO_REUSEPORT workers or socket activation) or on `host` and `port`.

        Raises:
            OSError: the address cannot be bound.
        """
        # aiosmtpd logs each command at INFO and each line of DATA at DEBUG, the PROXY parser each bad header.
        logging.getLogger("mail.log").setLevel(logging.ERROR)
        logging.getLogger("mail.debug").setLevel(logging.ERROR)
        loop = asyncio.get_running_loop()
        service = Service(self._options, self._acceptor, self._events, self._counters, self._tls_context, self._tap)
        await loop.run_in_executor(service.writers, _prepare_body_dir, self._options, time.time())
        self._service = service
        backlog = self._options.backlog
        if self._options.tls != "implicit" and not self._options.proxy_from:
            if sock is not None:
                self._server = await loop.create_server(lambda: RelaySMTP(service), sock=sock, backlog=backlog)
            else:
                self._server = await loop.create_server(lambda: RelaySMTP(service), host, port, backlog=backlog)
            return
        if sock is None:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            sock = socket.create_server((host, port), family=family, backlog=backlog)
        else:
            sock.listen(backlog)
        sock.setblocking(False)
        self._sockets = [sock]
        self._accepting = [loop.create_task(self._accept(service, sock))]

    async def retire(self) -> None:
        """Accept nothing more. Sessions, and connections that are being taken in, go on."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        self._accepting = []
        for sock in self._sockets:
            sock.close()
        self._sockets = []

    @property
    def idle(self) -> bool:
        """Nobody is connected or being taken in."""
        return not self.sessions and not self._admitting

    async def drain(self, deadline: float) -> int:
        """Stop accepting, send idle clients away, let open transactions finish until `deadline`.

        Args:
            deadline: seconds of the event loop's clock.

        Returns:
            How many sessions were left at the end and were cut. A commit among them goes on, its reply is lost.
        """
        service = self._service
        if service is None:
            return 0
        service.draining = True
        await self._stop_accepting()
        for connection in tuple(service.sessions):
            if connection.envelope is None and connection.phase is Phase.COMMAND:
                connection.dismiss(replies.SHUTTING_DOWN, "")
        while service.sessions and (left := deadline - service.loop.time()) > 0:
            await asyncio.wait([c.task for c in service.sessions], timeout=left, return_when=asyncio.FIRST_COMPLETED)
        remaining = tuple(service.sessions)
        for connection in remaining:
            connection.dismiss(replies.SHUTTING_DOWN, "shutting down")
        return len(remaining)

    async def close(self) -> None:
        """Cut what is left and give everything back. Safe to call twice. Commits that are under way are awaited."""
        service = self._service
        if service is None:
            return
        service.draining = True
        await self._stop_accepting()
        for connection in tuple(service.sessions):
            if connection.phase is not Phase.COMMIT:
                connection.abort()
        if service.sessions:
            await asyncio.wait([c.task for c in service.sessions], timeout=self._options.accept_deadline)
        service.writers.shutdown(wait=False)
        self._service = None

    async def _stop_accepting(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in (*self._accepting, *self._admitting):
            task.cancel()
        await asyncio.gather(*self._accepting, *self._admitting, return_exceptions=True)
        self._accepting = []
        for sock in self._sockets:
            sock.close()
        self._sockets = []

    async def _accept(self, service: Service, listening: socket.socket) -> None:
        while True:
            try:
                sock, name = await service.loop.sock_accept(listening)
            except OSError:
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            task = service.loop.create_task(self._admit(service, sock, name))
            self._admitting.add(task)
            task.add_done_callback(self._admitting.discard)

    async def _admit(self, service: Service, sock: socket.socket, name: object) -> None:
        """Take one connection through PROXY header and TLS handshake to its protocol."""
        direct = canonical_address(str(name[0])) if isinstance(name, tuple) else ""
        options = self._options
        # Counted before the header and the handshake, where strangers may take their time.
        if not service.counters.take("total", options.max_connections):
            service.refuse(session="", peer=direct, why="too many connections")
            sock.close()
            return
        handed_over = False
        try:
            sock.setblocking(False)
            peer = None
            if options.proxy_from and direct and any(ip_address(direct) in net for net in options.proxy_from):
                peer = await read_header(sock, within_s=options.proxy_timeout)
            protocol = RelaySMTP(service, peer, counted=True)
            tls = service.tls_context if options.tls == "implicit" else None
            await service.loop.connect_accepted_socket(
                lambda: protocol, sock, ssl=tls, ssl_handshake_timeout=options.tls_timeout if tls else None
            )
            handed_over = True
        except ProxyError as error:
            service.refuse(session="", peer=direct, why=f"proxy_header_rejected: {error}")
        except OSError as error:
            service.refuse(session="", peer=direct, why=tls_failure(error))
        finally:
            if not handed_over:
                service.counters.give_back("total")
                with contextlib.suppress(OSError):
                    sock.close()


def _prepare_body_dir(options: ListenerOptions, now: float) -> None:
    """Make the folder of large bodies, and remove what a killed process left there.

    Other workers use the folder too: only a file that was not written to for longer than any session lasts is orphaned.
    """
    options.body_dir.mkdir(parents=True, exist_ok=True)
    newest = now - options.session_timeout - options.accept_deadline
    for path in options.body_dir.glob("body-*"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < newest:
                path.unlink()


def _hardened(context: ssl.SSLContext | None) -> ssl.SSLContext | None:
    """`context` without what RFC 8996 retired, and without renegotiation."""
    if context is not None:
        if context.minimum_version < ssl.TLSVersion.TLSv1_2:
            context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    return context
