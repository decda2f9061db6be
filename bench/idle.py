"""What an idle connection holds in memory: thousands of them, each from an address of its own.

Memory is PSS of the relay's processes before and after; what the kernel holds for a socket is not in it.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.client import HOST, tls_context
from bench.load import Sink
from bench.measure import memory
from bench.peers import STAMPS, Door, Keys, Kind, Relay, Shape
from bench.study import Figures, Study
from bench.targets import Target
from bench.turn import running
from tests.scenario.harness import free_port

CONNECTIONS, CONNECTIONS_QUICKLY = 5_000, 1_000
DESCRIPTORS = CONNECTIONS + 1_000
SETTLE_S = 1.0

PLAIN, TLS = "after EHLO", "after STARTTLS and EHLO"
EACH = "kB a connection"
COLUMNS = ("connections", "MB before", "MB with them", EACH)


def measure(folder: Path, keys: Keys, quick: bool) -> Iterator[tuple[str, Figures]]:
    _allow_descriptors()
    many = CONNECTIONS_QUICKLY if quick else CONNECTIONS
    kind = Kind("relay", Relay, STAMPS, shape=Shape(connections=2 * CONNECTIONS))
    for row, tls in ((PLAIN, False), (TLS, True)):
        door = Door(tls=tls)
        with Sink(free_port()) as sink, running(folder, keys, door, kind, sink.port) as system:
            sink.wait_ready()
            yield row, _hold(system.port, many, lambda: memory(system.roots), tls_context() if tls else None)


def _hold(port: int, many: int, memory_now: Callable[[], int], context: ssl.SSLContext | None) -> Figures:
    with contextlib.ExitStack() as held:
        # What the first connections bring along (imports, tables) is no cost of a connection.
        for number in range(20):
            _open(port, number, context, held)
        time.sleep(SETTLE_S)
        before = memory_now()
        for number in range(many):
            _open(port, 20 + number, context, held)
        time.sleep(SETTLE_S)
        after = memory_now()
    return dict(zip(COLUMNS, (many, before / 1e6, after / 1e6, (after - before) / many / 1e3), strict=True))


def _open(port: int, number: int, context: ssl.SSLContext | None, held: contextlib.ExitStack) -> None:
    link = socket.create_connection((HOST, port), timeout=30, source_address=(address(number), 0))
    held.callback(link.close)
    _expect(link, b"220")
    _say(link, b"EHLO client.acme.example\r\n", b"250")
    if context is not None:
        _say(link, b"STARTTLS\r\n", b"220")
        link = held.enter_context(context.wrap_socket(link, server_hostname="localhost"))
        _say(link, b"EHLO client.acme.example\r\n", b"250")


def address(number: int) -> str:
    """A loopback address for each client."""
    return f"127.1.{number // 250}.{number % 250 + 1}"


def _say(link: socket.socket, line: bytes, want: bytes) -> None:
    link.sendall(line)
    _expect(link, want)


def _expect(link: socket.socket, want: bytes) -> None:
    got = link.recv(4096)  # each reply leaves in one segment
    if not got.startswith(want):
        raise RuntimeError(f"the relay answered {got!r} instead of {want!r}")


def _allow_descriptors() -> None:
    """For this process and, since they inherit it, for the relay's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < DESCRIPTORS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(DESCRIPTORS, hard), hard))


STUDY = Study(
    name="idle",
    title=f"{CONNECTIONS:,} idle connections",
    note=f"--quick: {CONNECTIONS_QUICKLY:,}; from as many addresses of 127.0.0.0/8; PSS of all processes of the relay",
    rows=(PLAIN, TLS),
    columns=COLUMNS,
    measure=measure,
    targets=(Target(of=PLAIN, column=EACH, most=60), Target(of=TLS, column=EACH, most=60)),
)
