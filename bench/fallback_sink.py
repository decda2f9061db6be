"""A small SMTP sink for machines without smtp-sink: takes everything, keeps nothing, prints the same running counter.

    python -m bench.fallback_sink PORT

Slower than smtp-sink by far, so it may be what bounds a figure; the report says when it was used.
"""

from __future__ import annotations

import asyncio
import os
import sys

import uvloop

DOT = b"\r\n.\r\n"


class _Counter:
    taken = 0

    def add(self) -> None:
        self.taken += 1
        os.write(1, b"sess=0 quit=0 mesg=%d\r" % self.taken)


class _Session(asyncio.Protocol):
    def __init__(self, counter: _Counter) -> None:
        self._counter = counter
        self._buffer = b""
        self._in_data = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.WriteTransport = transport  # type: ignore[assignment]
        self._transport.write(b"220 sink.example.com ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        if self._in_data and DOT not in self._buffer[-4:] + data:
            self._buffer = (self._buffer + data)[-4:]  # nothing is kept but what may be half an end mark
            return
        self._buffer += data
        replies = b""
        while True:
            if self._in_data:
                _, mark, rest = self._buffer.partition(DOT)
                if not mark:
                    break
                self._in_data, self._buffer = False, rest
                replies += b"250 2.0.0 Ok\r\n"
                self._counter.add()
                continue
            line, mark, rest = self._buffer.partition(b"\r\n")
            if not mark:
                break
            self._buffer = rest
            replies += self._answer(line[:4].upper())
        if replies:
            self._transport.write(replies)

    def _answer(self, verb: bytes) -> bytes:
        if verb == b"DATA":
            self._in_data, self._buffer = True, b"\r\n" + self._buffer
            return b"354 go\r\n"
        if verb == b"EHLO":
            return b"250-sink.example.com\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE\r\n"
        if verb == b"QUIT":
            return b"221 2.0.0 Bye\r\n"
        return b"250 2.0.0 Ok\r\n"


async def serve(port: int) -> None:
    counter = _Counter()
    server = await asyncio.get_running_loop().create_server(lambda: _Session(counter), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
