"""Listening sockets for worker processes: bound by the parent, or handed over by the service manager."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass

from relay.errors import ConfigError

BACKLOG = 1024
"""Connections that may wait for a worker: a restart lasts a second or so; the kernel cuts it to net.core.somaxconn."""

_FIRST_FD = 3  # sd_listen_fds(3)


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """`host`: IP address or name, without brackets; `port` 0 lets the kernel choose one, the same for all workers."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def bind_all(
    addresses: Sequence[ListenAddress], workers: int, *, inherited: Sequence[socket.socket] = ()
) -> list[list[socket.socket]]:
    """Listening, non-blocking sockets by worker, in the order of `addresses`.

    An inherited socket serves the address it is bound to, shared by all workers.

    Raises:
        ConfigError: an address cannot be bound (the text says why and what helps), or an inherited socket belongs to
            none. Nothing stays bound.
    """
    sockets: list[list[socket.socket]] = [[] for _ in range(workers)]
    left = list(inherited)
    try:
        for address in addresses:
            given = next((sock for sock in left if _serves(sock, address)), None)
            if given is not None:
                left.remove(given)
                for own in sockets:
                    own.append(given)
                continue
            for own, sock in zip(sockets, _bind(address, workers), strict=True):
                own.append(sock)
        if left:
            bound = ", ".join(str(sock.getsockname()) for sock in left)
            raise ConfigError(f"sockets were handed over for {bound}, but no listener has that address")
    except BaseException:
        close_all([*sockets, left])
        raise
    return sockets


def bind_one(address: ListenAddress, *, probe: bool) -> socket.socket:
    """A socket of one worker for an address that was not there at the start; bound and not listening yet.

    Args:
        probe: refuse an address that somebody has already, be it another worker of this relay. For the first worker.

    Raises:
        ConfigError: as `bind_all`.
    """
    return _bind(address, 1, probe=probe, listen=False)[0]


def is_own(sock: socket.socket) -> bool:
    """Whether no other worker shares this socket: not so for one that a service manager handed over."""
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))


def shut(sock: socket.socket) -> None:
    """End a listening socket in all processes that hold it. Clients are refused from now on instead of waiting for
    nobody; `listen` opens it again."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


def inherited_sockets(environ: MutableMapping[str, str] = os.environ) -> list[socket.socket]:
    """Sockets of LISTEN_FDS meant for this process; none when it was started without. Clears the variables, so that
    no child takes them for its own.

    Raises:
        ConfigError: a descriptor is not a listening stream socket.
    """
    count, pid = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    sockets = []
    for fd in range(_FIRST_FD, _FIRST_FD + int(count)):
        try:
            sock = socket.socket(fileno=fd)
            accepts = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise ConfigError(f"LISTEN_FDS: descriptor {fd}: {error.strerror}") from error
        if not accepts:
            raise ConfigError(f"LISTEN_FDS: descriptor {fd} is not a listening stream socket")
        os.set_inheritable(fd, False)
        sock.setblocking(False)
        sockets.append(sock)
    return sockets


def close_all(sockets: Iterable[Iterable[socket.socket]]) -> None:
    for own in sockets:
        for sock in own:
            sock.close()


def _serves(sock: socket.socket, address: ListenAddress) -> bool:
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    host, port = sock.getsockname()[:2]
    # A service manager's `ListenStream=25` is one wildcard socket for both IP versions.
    wildcards = ("0.0.0.0", "::")
    return port == address.port and (host == address.host or (host in wildcards and address.host in wildcards))


def _bind(address: ListenAddress, count: int, *, probe: bool = True, listen: bool = True) -> list[socket.socket]:
    try:
        family, kind, proto, _, sockaddr = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"cannot listen on {address}: no such address ({error})") from error
    bound: list[socket.socket] = []
    try:
        if address.port and probe:
            # SO_REUSEPORT would let a second relay of the same user share the port unnoticed; without it bind tells.
            with _new(family, kind, proto) as trial:
                trial.bind(sockaddr)
        for _ in range(count):
            sock = _new(family, kind, proto)
            bound.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(sockaddr)
            if listen:
                sock.listen(BACKLOG)
            sock.setblocking(False)
            sockaddr = sock.getsockname()  # with the port the kernel chose
    except OSError as error:
        close_all([bound])
        raise ConfigError(_why_not(error, address)) from error
    return bound


def _new(family: int, kind: int, proto: int) -> socket.socket:
    sock = socket.socket(family, kind, proto)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # so that 0.0.0.0 and [::] can both be configured
    return sock


def _why_not(error: OSError, address: ListenAddress) -> str:
    match error.errno:
        case errno.EACCES | errno.EPERM if 0 < address.port < 1024:
            why = (
                "ports below 1024 need a privilege; use a higher port, give the process CAP_NET_BIND_SERVICE, "
                "or let the service manager hand over the socket"
            )
        case errno.EACCES | errno.EPERM:
            why = "the system does not permit it"
        case errno.EADDRINUSE:
            why = "another process listens there already"
        case errno.EADDRNOTAVAIL:
            why = "this machine does not have that address"
        case _:
            why = error.strerror or str(error)
    return f"cannot listen on {address}: {why}"
