"""Stands between a client and a server of the shared stores, and loses answers."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Self


class LossyProxy:
    """Attributes:
    lose: so many of the next answers are swallowed, and their connections cut, after the server has done its work.
    """

    def __init__(self, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self._to = port
        self._tls = tls
        self.lose = 0
        self.lost = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError):
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._to)
            there = asyncio.create_task(self._pump(reader, up_writer, answers=False))
            back = asyncio.create_task(self._pump(up_reader, writer, answers=True))
            try:
                await asyncio.wait([there, back], return_when=asyncio.FIRST_COMPLETED)
            finally:
                there.cancel()
                back.cancel()
                await asyncio.gather(there, back, return_exceptions=True)
                writer.close()
                up_writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if answers and self.lose > 0:
                    self.lose -= 1
                    self.lost += 1
                    return
                writer.write(data)
                await writer.drain()
