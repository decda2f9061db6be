"""A real listener on a port of the kernel's choice, with a recording acceptor behind it and raw clients in front.

async with listening(idle_timeout=0.2) as rig:
    async with rig.client() as client:
        await client.ehlo()
        assert await client.ask("NOOP") == "250 2.0.0 Ok"
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

import trustme

from relay.bridges.bridge import Bridge
from relay.events import Event, Events
from relay.listener.counters import ProcessCounter
from relay.listener.options import ListenerOptions
from relay.listener.server import Listener
from tests.fakes.acceptor import RecordingAcceptor

HOST = "127.0.0.1"
PASSWORD = "correct horse"
SHOP = Bridge(name="shop", pool="pool")
OPEN = Bridge(name="open", pool="pool", networks=(ip_network("127.0.0.0/8"),))


AUTHORITY = trustme.CA()


class Records:
    """An event sink that keeps what it was told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def named(self, name: str) -> list[dict[str, Any]]:
        return [event.data for event in self.events if event.name == name]


class Client:
    """A client that says exactly what it is told, octet for octet."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes | str) -> None:
        self.writer.write(data.encode() if isinstance(data, str) else data)

    async def reply(self) -> str:
        """One reply, its lines joined by LF; `""` at the end of the connection."""
        lines = []
        while True:
            line = (await asyncio.wait_for(self.reader.readline(), 10)).decode("ascii")
            if not line:
                return ""
            assert line.endswith("\r\n"), line
            assert len(line) <= 512
            lines.append(line[:-2])
            if line[3:4] != "-":
                return "\n".join(lines)

    async def ask(self, line: str | bytes) -> str:
        """Send one line and read one reply."""
        self.send(line.encode() + b"\r\n" if isinstance(line, str) else line + b"\r\n")
        return await self.reply()

    async def codes(self, *lines: str | bytes) -> list[str]:
        """The codes of the replies to lines that are sent one by one."""
        return [(await self.ask(line))[:3] for line in lines]

    async def rest(self) -> str:
        """Everything until the server closes; a reset counts as that."""
        try:
            return (await asyncio.wait_for(self.reader.read(), 10)).decode("ascii")
        except ConnectionError:
            return ""

    async def rest_octets(self) -> bytes:
        """As `rest`, where what comes is not SMTP."""
        try:
            return await asyncio.wait_for(self.reader.read(), 10)
        except ConnectionError:
            return b""

    async def greeting(self) -> str:
        return await self.reply()

    async def ehlo(self) -> str:
        assert (await self.greeting()).startswith("220 ")
        return await self.ask("EHLO client.example")

    async def login(self, username: str = "shop", password: str = PASSWORD) -> str:
        token = base64.b64encode(f"\0{username}\0{password}".encode()).decode()
        return await self.ask(f"AUTH PLAIN {token}")

    async def begin(self, sender: str = "a@b.example", *recipients: str) -> None:
        """MAIL, RCPT, DATA."""
        for line in (f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{r}>" for r in recipients or ("c@d.example",))):
            assert (await self.ask(line)).startswith("250 ")
        assert (await self.ask("DATA")).startswith("354 ")

    async def message(self, content: bytes = b"Subject: x\r\n\r\nhello\r\n", sender: str = "a@b.example") -> str:
        """A whole transaction; the reply to the final dot."""
        await self.begin(sender)
        self.send(content + b".\r\n")
        return await self.reply()

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """What follows a 220 to STARTTLS."""
        await self.writer.start_tls(context, server_hostname="localhost")

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """RST instead of FIN."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@dataclass
class Rig:
    listener: Listener
    acceptor: RecordingAcceptor
    records: Records
    counters: ProcessCounter
    port: int

    @contextlib.asynccontextmanager
    async def client(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[Client]:
        hostname = "localhost" if tls else None
        reader, writer = await asyncio.open_connection(HOST, self.port, ssl=tls, server_hostname=hostname)
        try:
            yield Client(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def idle(self) -> None:
        """Wait until no session is left."""
        async with asyncio.timeout(10):
            while self.listener.sessions:
                await asyncio.sleep(0.005)

    @property
    def faults(self) -> list[dict[str, Any]]:
        return self.records.named("relay.fault")


@contextlib.asynccontextmanager
async def listening(
    acceptor: RecordingAcceptor | None = None,
    *,
    bridge: Bridge | None = None,
    tls_context: ssl.SSLContext | None = None,
    counters: ProcessCounter | None = None,
    faults: bool = False,
    **options: Any,
) -> AsyncIterator[Rig]:
    """A listener for the time of the block. `bridge`: for clients without AUTH, default `OPEN`.

    Afterwards no session may be left, nothing may be counted, and, unless `faults`, no fault may have been told.
    """
    records = Records()
    options.setdefault("linger", 0.2)
    if acceptor is None:
        acceptor = RecordingAcceptor(logins={("shop", PASSWORD): SHOP}, bridges=[bridge or OPEN])
    counters = counters or ProcessCounter()
    events = Events([records], clock=lambda: 0.0)
    listener = Listener(ListenerOptions(hostname="relay.example", **options), acceptor, events, counters, tls_context)
    await listener.start()
    rig = Rig(listener, acceptor, records, counters, listener.sockets[0].getsockname()[1])
    try:
        yield rig
        if acceptor.gate is not None:
            acceptor.gate.set()
        await rig.idle()
        assert counters.open("total") == 0
        assert counters.open(f"peer {HOST}") == 0
        assert faults or not rig.faults, rig.faults
    finally:
        await listener.close()


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("localhost").configure_cert(context)
    return context


def client_context(**versions) -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    for name, value in versions.items():
        setattr(context, name, value)
    return context


def secure(tls: str = "starttls", *, network: bool = False, **options):
    acceptor = None if network else RecordingAcceptor(logins={("shop", PASSWORD): SHOP})
    return listening(acceptor, tls=tls, tls_context=server_context(), **options)
