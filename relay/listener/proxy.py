"""The PROXY header of a trusted load balancer, read from the socket before anything else is (haproxy, PROXY protocol).

The header is taken octet for octet, never more: what follows it is the client's greeting or its TLS handshake, and
belongs to the transport that is made afterwards. aiosmtpd's parser reads it; this module gives it a reader and judges
what it found.
"""

from __future__ import annotations

import asyncio
import socket

from aiosmtpd.proxy_protocol import V2_CMD, V2_SIGNATURE, ProxyData, get_proxy

from relay.listener.service import canonical_address

PROXY_V2_SIGNATURE = bytes(V2_SIGNATURE)

MAX_V1 = 107
"""Longest version 1 line, with CRLF."""

MAX_V2 = 4096
"""Header with its type-length-values; those of real balancers take some hundred octets."""


class ProxyError(Exception):
    """There is no acceptable header; the text says why, for the log."""


class SocketReader:
    """aiosmtpd's `AsyncReader` over a non-blocking socket, reading not one octet too many."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._taken = 0

    async def read(self, n: int = -1) -> bytes:
        if n < 0 or self._taken + n > MAX_V2:
            raise ProxyError("header too long")
        data = await self._loop.sock_recv(self._socket, n)
        self._taken += len(data)
        return data

    async def readexactly(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            piece = await self.read(n - len(data))
            if not piece:
                raise ProxyError("connection closed in the header")
            data += piece
        return data

    async def readuntil(self, separator: bytes = b"\n") -> bytes:
        line = b""
        while not line.endswith(separator):
            if len(line) >= MAX_V1:
                raise ProxyError("header too long")
            line += await self.readexactly(1)
        return line


async def read_header(sock: socket.socket, *, within_s: float) -> tuple[str, int] | None:
    """Read one PROXY header.

    Returns:
        The client's address and port; None when the balancer speaks for itself (LOCAL, UNKNOWN).

    Raises:
        ProxyError: no header in time, or not one that tells an IP address over TCP.
    """
    try:
        async with asyncio.timeout(within_s):
            data = await get_proxy(SocketReader(sock))
    except TimeoutError:
        raise ProxyError("no header in time") from None
    except OSError as error:
        raise ProxyError(type(error).__name__) from error
    return _judge(data)


def _judge(data: ProxyData) -> tuple[str, int] | None:
    if not data.valid:
        raise ProxyError("malformed header")
    if data.command == V2_CMD.LOCAL or (data.version == 1 and data.src_addr is None):
        return None
    address = canonical_address(str(data.src_addr)) if not isinstance(data.src_addr, bytes) else ""
    if not address:
        raise ProxyError("not an IP address")
    return address, data.src_port or 0
