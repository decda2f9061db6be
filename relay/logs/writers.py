"""Where finished log lines go, without the mail flow ever waiting for it.

A full pipe, a dead collector, a full disk: `write` returns at once all the same, lines that find no room are counted,
and the count is itself logged once lines get through again. `QueuedWriter` is for processes that serve mail: a bounded
queue and one thread. `DirectWriter` is for the supervisor, which must have no threads because it forks.

An `Output` knows one kind of destination and may block; only writers call it.
"""

from __future__ import annotations

import ipaddress
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from relay.errors import ConfigError

Line = tuple[str, bytes]
"""Level and finished line with its LF."""

QUEUE_OCTETS = 4 * 1024 * 1024
"""What may wait: some 12,000 lines, seconds of full load."""

GATHER_S = 0.005
"""How long the thread lets lines gather before one write: 200 wake-ups a second at most, whatever the load."""

REPORT_EVERY_S = 10.0
DIRECT_OCTETS = select.PIPE_BUF
"""A pipe that polls writable takes this much without blocking."""

SYSLOG_OCTETS = 8000
"""Longer datagrams are cut by common collectors in the middle of a character; RFC 5424 §6.1 asks for 2048 at least."""

_SEVERITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_MAIL_FACILITY = 2 << 3


class Output(Protocol):
    def send(self, lines: Sequence[Line], *, wait: bool) -> None:
        """Pass on all lines. With `wait` false, raises BlockingIOError rather than wait.

        Raises:
            OSError: some lines did not get through.
        """
        ...

    def close(self) -> None: ...


class LineWriter(Protocol):
    """Takes lines on the hot path."""

    @property
    def dropped(self) -> int:
        """Lines lost so far."""
        ...

    def write(self, level: str, line: bytes) -> None:
        """Never blocks, never raises."""
        ...

    def close(self, timeout_s: float = 2.0) -> None:
        """Pass on what waits, for at most `timeout_s`."""
        ...


class StreamOutput:
    """Lines to a pipe, file or terminal.

    The descriptor is duplicated: whoever closes or reopens the original later cannot make log lines land in a
    database file that was given the same number.
    """

    def __init__(self, fd: int) -> None:
        self._fd = os.dup(fd)
        self._torn = False
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLOUT)

    def send(self, lines: Sequence[Line], *, wait: bool) -> None:
        data = b"".join([line for _, line in lines])
        if self._torn:
            data = b"\n" + data
        if not wait:
            if not self._poll.poll(0):
                raise BlockingIOError
            data = data if len(data) <= DIRECT_OCTETS else data[: DIRECT_OCTETS - 1] + b"\n"
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                # Somebody made the shared terminal or pipe non-blocking.
                if not wait:
                    self._torn = self._torn or len(view) < len(data)
                    raise
                self._poll.poll()
            except OSError:
                self._torn = self._torn or len(view) < len(data)
                raise
        self._torn = False

    def close(self) -> None:
        os.close(self._fd)


class SyslogOutput:
    """Lines as datagrams to a syslog daemon on this machine, facility `mail`.

    Args:
        target: path of a Unix socket (`/dev/log`), or a loopback address and port. Other addresses are refused: logs
            hold addresses of people and UDP has no privacy; a local daemon forwards them better.
    """

    def __init__(self, target: str | tuple[str, int], *, tag: str = "relay") -> None:
        self._target = target
        self._tag = f"{tag}[{os.getpid()}]:"
        self._sock: socket.socket | None = None
        if isinstance(target, str):
            self._family = socket.AF_UNIX
            return
        try:
            address = ipaddress.ip_address(target[0])
        except ValueError:
            raise ConfigError(f"syslog address {target[0]!r} is not an IP address") from None
        if not address.is_loopback:
            raise ConfigError(f"syslog address {address} is not on this machine; use a local syslog daemon to forward")
        self._family = socket.AF_INET if address.version == 4 else socket.AF_INET6

    def send(self, lines: Sequence[Line], *, wait: bool) -> None:
        flags = 0 if wait else socket.MSG_DONTWAIT
        fault: OSError | None = None
        for level, line in lines:
            try:
                self._connected().send(self._datagram(level, line), flags)
            except OSError as error:  # a restarted daemon has a new socket behind the old path
                fault = error
                if not isinstance(error, BlockingIOError):
                    self._disconnect()
        if fault is not None:
            raise fault

    def close(self) -> None:
        self._disconnect()

    def _connected(self) -> socket.socket:
        if self._sock is None:
            sock = socket.socket(self._family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            try:
                sock.connect(self._target)
            except OSError:
                sock.close()
                raise
            self._sock = sock
        return self._sock

    def _disconnect(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _datagram(self, level: str, line: bytes) -> bytes:
        """RFC 3164 without time stamp and host, which local daemons add; the line has its own time."""
        priority = _MAIL_FACILITY | _SEVERITY.get(level, 6)
        text = line.rstrip(b"\n")
        if len(text) > SYSLOG_OCTETS:
            text = text[:SYSLOG_OCTETS].decode("utf-8", "ignore").encode()
        return f"<{priority}>{self._tag} ".encode() + text


class QueuedWriter:
    """Lines through a bounded queue drained by one daemon thread. Make it after forking.

    Args:
        report: makes the line that tells how many lines were lost.
    """

    def __init__(
        self,
        output: Output,
        report: Callable[[int], bytes],
        *,
        bound: int = QUEUE_OCTETS,
        gather_s: float = GATHER_S,
        report_every_s: float = REPORT_EVERY_S,
    ) -> None:
        self._output = output
        self._report = report
        self._bound = bound
        self._gather_s = gather_s
        self._report_every_s = report_every_s
        # Re-entrant: a finalizer that logs may run while this thread is inside.
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._lines: list[Line] = []
        self._octets = 0
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        return self._dropped

    def write(self, level: str, line: bytes) -> None:
        with self._lock:
            if self._octets + len(line) > self._bound:
                self._dropped += 1
                return
            self._lines.append((level, line))
            self._octets += len(line)
            first = len(self._lines) == 1
        if first:
            self._wake.set()

    def close(self, timeout_s: float = 2.0) -> None:
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_s)
        # A thread still stuck in a full pipe keeps its descriptor; it ends with the process.
        if not self._thread.is_alive():
            self._output.close()

    def _run(self) -> None:
        told, next_report = 0, 0.0
        while True:
            self._wake.wait()
            self._closing.wait(self._gather_s)
            closing = self._closing.is_set()
            self._wake.clear()
            with self._lock:
                lines, self._lines = self._lines, []
                # The octets stay counted until they are out, so that the bound holds for the stuck batch as well.
                taken = self._octets
                lost = self._dropped
            count = len(lines)
            reporting = lost > told and (closing or time.monotonic() >= next_report)
            if reporting:
                lines.append(("warning", self._report(lost - told)))
            failed = False
            if lines:
                try:
                    self._output.send(lines, wait=True)
                except OSError:
                    failed = True
            with self._lock:
                self._octets -= taken
                if failed:
                    self._dropped += count
            if reporting and not failed:
                told, next_report = lost, time.monotonic() + self._report_every_s
            if closing:
                return


class DirectWriter:
    """Lines written at once where the output takes them without waiting. For processes without threads."""

    def __init__(self, output: Output, report: Callable[[int], bytes]) -> None:
        self._output = output
        self._report = report
        self._dropped = 0
        self._told = 0

    @property
    def dropped(self) -> int:
        return self._dropped

    def write(self, level: str, line: bytes) -> None:
        try:
            if self._dropped > self._told:
                self._output.send([("warning", self._report(self._dropped - self._told))], wait=False)
                self._told = self._dropped
            self._output.send([(level, line)], wait=False)
        except OSError:
            self._dropped += 1

    def close(self, timeout_s: float = 2.0) -> None:  # noqa: ARG002  nothing ever waits here
        self._output.close()
