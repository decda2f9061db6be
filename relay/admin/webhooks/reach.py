"""Where a webhook may be sent to, and the connection that goes nowhere else.

A name is resolved at the moment of connecting, every address is judged, and the connection is made to the very address
that was judged, so an answer of the DNS that changes between check and use changes nothing. TLS is verified by name as
ever. No proxy, no login and no certificate store out of the environment; redirects are not followed by this client.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import httpcore

_TRANSLATED = (ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48"))
"""IPv6 that carries an IPv4 address in its last 32 bits (RFC 6052, RFC 8215)."""


class Forbidden(Exception):
    """The address is not to be called; the text says why."""


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is anybody's on the Internet. One that carries another inside is judged by both."""
    inner: IPv4Address | None = None
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and any(address in network for network in _TRANSLATED):
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if address.teredo is not None:
            return False
    if inner is not None:
        return is_public(inner)
    return address.is_global and not address.is_multicast


def judged(host: str, addresses: Iterable[str], *, allow_private: bool) -> list[str]:
    """The addresses of `host` that may be called, in their order.

    Raises:
        Forbidden: it has none, or one of them is private: who mixes both is up to something.
    """
    found = [ip_address(address.partition("%")[0]) for address in addresses]
    if not found:
        raise Forbidden(f"{host} has no address")
    if not allow_private and (private := [str(address) for address in found if not is_public(address)]):
        raise Forbidden(
            f"{host} is {private[0]}, an address of a private network or of this machine; allow_private lets it"
        )
    return [str(address) for address in found]


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects to judged addresses only."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore calls it so
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        loop = asyncio.get_running_loop()
        try:
            answers = await loop.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} cannot be resolved: {error}") from error
        addresses = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
        last: Exception | None = None
        for address in judged(host, addresses, allow_private=self._allow_private):
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                last = error
        assert last is not None
        raise last

    async def connect_unix_socket(self, path: str, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        raise Forbidden(f"{path}: sockets of this machine are not called")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
