"""A real HTTP/1.1 server on loopback whose answers are scripted: a function of the request, or a misdeed.

It reads requests with h11 and keeps them; it can hang, reset before or after the request was read, break off in the
middle of an answer, and answer early without reading the body.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

import h11


@dataclass
class Request:
    """One request as it arrived. `headers`: names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int = 0

    @cached_property
    def json(self) -> Any:
        return json.loads(self.body)

    @cached_property
    def form(self) -> list[tuple[str, str, str, bytes]]:
        """Parts of multipart/form-data: name, file name, content type, octets."""
        found = re.fullmatch(r"multipart/form-data; boundary=(\S+)", self.headers["content-type"])
        assert found, self.headers["content-type"]
        mark = b"--" + found[1].encode()
        assert self.body.startswith(mark + b"\r\n")
        assert self.body.endswith(b"\r\n" + mark + b"--\r\n")
        parts = []
        for piece in self.body[len(mark) + 2 : -len(mark) - 6].split(b"\r\n" + mark + b"\r\n"):
            head, _, octets = piece.partition(b"\r\n\r\n")
            text = head.decode()
            name = re.search(r'(?i)^content-disposition: form-data; name="([^"]*)"(?:; filename="([^"]*)")?', text)
            assert name, text
            kind = re.search(r"(?im)^content-type: (.*?)\r?$", text)
            parts.append((name[1], name[2] or "", kind[1] if kind else "", octets))
        return parts


@dataclass
class Reply:
    status: int = 200
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)

    def octets(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


class Do(StrEnum):
    """Misdeeds."""

    HANG = "hang"  # reads everything and says nothing
    RESET = "reset"  # reads everything, then RST
    CLOSE = "close"  # reads everything, then closes without a word
    RESET_EARLY = "reset-early"  # RST after the head of the request
    BREAK_OFF = "break-off"  # a success whose body never ends
    BREAK_OFF_REFUSAL = "break-off-refusal"
    GARBAGE = "garbage"  # no HTTP


Handler = Callable[[Request], "Reply | Do"]


class VendorServer:
    """Serves `handler` until stopped; what it raises is kept in `faults` and answered 500."""

    def __init__(self, handler: Handler, *, early: Callable[[Request], Do | None] = lambda _: None) -> None:
        self.handler = handler
        self.early = early
        self.requests: list[Request] = []
        self.faults: list[BaseException] = []
        self.connections = 0
        self.answered: Counter[int] = Counter()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self, port: int = 0) -> VendorServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        number = self.connections
        try:
            parser = h11.Connection(h11.SERVER)
            while await self._one(parser, reader, writer, number):
                parser.start_next_cycle()
        except (ConnectionError, h11.RemoteProtocolError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _one(
        self, parser: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> bool:
        request: Request | None = None
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                parser.receive_data(await reader.read(65536))
            elif isinstance(event, h11.Request):
                headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
                request = Request(event.method.decode(), event.target.decode(), headers, b"", number)
                if (misdeed := self.early(request)) is not None:
                    self.requests.append(request)
                    return await self._misbehave(misdeed, writer)
            elif isinstance(event, h11.Data):
                assert request is not None
                request.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            else:  # the client left
                return False
        assert request is not None
        self.requests.append(request)
        try:
            reply = self.handler(request)
        except BaseException as error:
            self.faults.append(error)
            reply = Reply(500, {"message": f"{type(error).__name__}: {error}"})
        if isinstance(reply, Do):
            return await self._misbehave(reply, writer)
        self.answered[reply.status] += 1
        body = reply.octets()
        headers = {"content-length": str(len(body)), "content-type": "application/json", **reply.headers}
        writer.write(parser.send(h11.Response(status_code=reply.status, headers=list(headers.items()))) or b"")
        if request.method != "HEAD":
            writer.write(parser.send(h11.Data(data=body)) or b"")
        writer.write(parser.send(h11.EndOfMessage()) or b"")
        await writer.drain()
        return parser.our_state is h11.DONE and parser.their_state is h11.DONE

    async def _misbehave(self, what: Do, writer: asyncio.StreamWriter) -> bool:
        match what:
            case Do.HANG:
                await asyncio.sleep(3600)
            case Do.RESET | Do.RESET_EARLY:
                raw: socket.socket = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            case Do.BREAK_OFF:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{")
                await writer.drain()
            case Do.BREAK_OFF_REFUSAL:
                writer.write(b"HTTP/1.1 401 No\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{")
                await writer.drain()
            case Do.GARBAGE:
                writer.write(b"220 mx.example ESMTP\r\n")
                await writer.drain()
            case Do.CLOSE:
                pass
        return False


@asynccontextmanager
async def vendor_server(handler: Handler, **more: Any) -> AsyncIterator[VendorServer]:
    server = await VendorServer(handler, **more).start()
    try:
        yield server
    finally:
        await server.stop()
