"""SMTP clients in processes of their own: a source for what smtp-source cannot do, and a probe of reply times.

    python -m bench.client source --port P --sessions 20 --messages 1000 [--rate R] [--fresh] [--login U:P] [--tls] …
    python -m bench.client probe  --port P [--every 0.02] [--login U:P] [--tls]

`source` sends as fast as its sessions get answers, or `--rate` messages a second, and says how long it took. Like
smtp-source it does not pipeline. `--fresh` takes a new connection (and a new login) for each message; with
`--logins N` connections take turns with N user names (see `numbered`). `--address` is where they come from.

`probe` sends one small message at a time until its standard input is closed. It times the reply to end-of-data: all
but the final dot is sent first, and the clock runs from the dot to the reply.

Both print one JSON object. A refused command ends them with an error, because a figure that counts refusals is none.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
import select
import socket
import ssl
import sys
import time
from collections.abc import Iterator

import uvloop

HOST = "127.0.0.1"
SENDER = "news@acme.example"
RECIPIENT = "user{}@customer.example"
DOT = b"\r\n.\r\n"
STRIDE = 7919
"""A prime: connections one after the other use logins far apart, and all of them in turn."""


def content(size: int) -> bytes:
    """A plain message of `size` octets: header section, and lines as smtp-source makes them."""
    head = (
        f"From: <{SENDER}>\r\nTo: <{RECIPIENT.format('')}>\r\nDate: Mon, 1 Jan 2024 10:00:00 +0000\r\n"
        "Message-Id: <bench@acme.example>\r\nSubject: bench\r\n\r\n"
    ).encode()
    line = b"X" * 78 + b"\r\n"
    body = line * (max(0, size - len(head)) // len(line) + 1)
    return (head + body)[: max(size, len(head)) - 2]


def numbered(login: str, number: int) -> str:
    """The login of the client `number`: `app:secret`, `app1:secret`, `app2:secret`, …"""
    user, _, password = login.partition(":")
    return f"{user}{number or ''}:{password}"


def login_line(login: str) -> bytes:
    user, _, password = login.partition(":")
    return b"AUTH PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode()) + b"\r\n"


def tls_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class RefusedError(Exception):
    """A reply other than the one the dialogue needs."""


# Source


class _Link(asyncio.Protocol):
    """One connection: whole replies are awaited one by one."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._waiting: asyncio.Future[bytes] | None = None
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._waiting is not None and self._whole():
            waiting, self._waiting = self._waiting, None
            if not waiting.done():
                waiting.set_result(self._take())

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(RefusedError(f"connection lost: {error}"))

    def _whole(self) -> bool:
        """Whether the last line is the last one of a reply (RFC 5321 §4.2.1)."""
        if not self._buffer.endswith(b"\n"):
            return False
        start = self._buffer.rfind(b"\n", 0, -1) + 1
        return self._buffer[start + 3 : start + 4] != b"-"

    def _take(self) -> bytes:
        taken, self._buffer = self._buffer, b""
        return taken

    async def reply(self, want: bytes) -> None:
        if self._whole():
            got = self._take()
        elif self._lost:
            raise RefusedError("connection lost")
        else:
            self._waiting = self._loop.create_future()
            got = await self._waiting
        if not got.startswith(want):
            raise RefusedError(got.decode(errors="replace").strip())

    async def say(self, line: bytes, want: bytes) -> None:
        self.transport.write(line)  # type: ignore[attr-defined]
        await self.reply(want)


class _Source:
    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._body = content(options.size) + DOT
        self._recipients = [f"RCPT TO:<{RECIPIENT.format(n)}>\r\n".encode() for n in range(options.recipients)]
        self._logins = [login_line(numbered(options.login, n)) for n in range(options.logins)] if options.login else []
        self._connections = itertools.count()
        self._context = tls_context() if options.tls else None

    async def run(self) -> tuple[float, float]:
        """Send everything; when it began on the machine's monotonic clock, seconds until the last reply."""
        started = time.perf_counter()
        turns = iter(range(self._options.messages))
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._options.sessions):
                tasks.create_task(self._session(turns, started))
        return started, time.perf_counter() - started

    async def _session(self, turns: Iterator[int], started: float) -> None:
        link: _Link | None = None
        for turn in turns:
            if self._options.rate:
                await asyncio.sleep(max(0.0, started + turn / self._options.rate - time.perf_counter()))
            if link is None:
                link = await self._connect()
            await link.say(f"MAIL FROM:<{SENDER}>\r\n".encode(), b"250")
            for line in self._recipients:
                await link.say(line, b"250")
            await link.say(b"DATA\r\n", b"354")
            await link.say(self._body, b"250")
            if self._options.fresh:
                await self._quit(link)
                link = None
        if link is not None:
            await self._quit(link)

    async def _connect(self) -> _Link:
        loop = asyncio.get_running_loop()
        local = (self._options.address, 0) if self._options.address else None
        _, link = await loop.create_connection(_Link, HOST, self._options.port, local_addr=local)
        await link.reply(b"220")
        await link.say(b"EHLO client.acme.example\r\n", b"250")
        if self._context is not None:
            await link.say(b"STARTTLS\r\n", b"220")
            link.transport = await loop.start_tls(link.transport, link, self._context, server_hostname="localhost")  # type: ignore[arg-type,assignment]
            await link.say(b"EHLO client.acme.example\r\n", b"250")
        if self._logins:
            await link.say(self._logins[next(self._connections) * STRIDE % len(self._logins)], b"235")
        return link

    async def _quit(self, link: _Link) -> None:
        await link.say(b"QUIT\r\n", b"221")
        link.transport.close()


# Probe


class _Probe:
    def __init__(self, options: argparse.Namespace) -> None:
        self._socket = socket.create_connection((HOST, options.port), timeout=120)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._every_s = options.every
        self._reply(b"220")
        self._say(b"EHLO probe.acme.example\r\n", b"250")
        if options.tls:
            self._say(b"STARTTLS\r\n", b"220")
            self._socket = tls_context().wrap_socket(self._socket, server_hostname="localhost")
            self._say(b"EHLO probe.acme.example\r\n", b"250")
        if options.login:
            self._say(login_line(options.login), b"235")

    def run(self) -> list[float]:
        """Reply times in milliseconds."""
        times = []
        body = content(4096)
        while not select.select([sys.stdin], [], [], self._every_s)[0]:
            self._say(f"MAIL FROM:<{SENDER}>\r\n".encode(), b"250")
            self._say(f"RCPT TO:<{RECIPIENT.format('-probe')}>\r\n".encode(), b"250")
            self._say(b"DATA\r\n", b"354")
            self._socket.sendall(body)
            before = time.perf_counter()
            self._say(DOT, b"250")
            times.append((time.perf_counter() - before) * 1000)
        self._say(b"QUIT\r\n", b"221")
        return times

    def _say(self, line: bytes, want: bytes) -> None:
        self._socket.sendall(line)
        self._reply(want)

    def _reply(self, want: bytes) -> None:
        got = b""
        while not got.endswith(b"\n") or got[got.rfind(b"\n", 0, -1) + 4 :][:1] == b"-":
            data = self._socket.recv(4096)
            if not data:
                raise RefusedError(f"connection lost after {got!r}")
            got += data
        if not got.startswith(want):
            raise RefusedError(got.decode(errors="replace").strip())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["source", "probe"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--login", default="", help="USER:PASSWORD")
    parser.add_argument("--logins", type=int, default=1, help="user names to take turns with")
    parser.add_argument("--address", default="", help="local address to send from")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--every", type=float, default=0.02)
    parser.add_argument("--sessions", type=int, default=1)
    parser.add_argument("--messages", type=int, default=1)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--recipients", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.0, help="messages a second; 0 = as fast as it goes")
    parser.add_argument("--fresh", action="store_true", help="a new connection for each message")
    options = parser.parse_args()
    if options.kind == "probe":
        print(json.dumps({"milliseconds": _Probe(options).run()}))
    else:
        started, seconds = uvloop.run(_Source(options).run())
        print(json.dumps({"started": started, "seconds": seconds}))


if __name__ == "__main__":
    main()
