"""What the tests know of a mail server: its doors, and what it stored."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.interop.gateway import Certificates
from tests.scenario.harness import free_port, wait_for

USER = "relay"
PASSWORD = "upstream password ü"
"""Blanks and octets above 0x7f: what mechanisms have been found to damage."""

DOMAIN = "customer.example"
"""Where the servers have every mailbox but those called `unknown…`; so they do in acme.example."""

SMALL = 100_000
"""Octets that the door `small` takes."""


class Server:
    """A server of others on loopback ports, run from a folder of its own.

    Doors (each a port): `plain` takes mail for the server's own domains; `submission` wants STARTTLS and a login,
    `submissions` TLS at once and a login; `small` is `plain` with a bound on SIZE.
    """

    DOORS: tuple[str, ...] = ("plain", "submission", "submissions", "small")
    OFFERS: frozenset[str] = frozenset()
    """Extensions that `plain` offers and the relay can use."""
    MECHANISMS: tuple[str, ...] = ("plain", "login")
    DELIVERED = "Delivered-To"
    """Header with the recipient that the server puts on top of what it stores."""

    def __init__(self, certificates: Certificates) -> None:
        self.certificates = certificates
        self.ports = {door: free_port() for door in self.DOORS}
        # Not below pytest's folders: those are closed to the users that these servers run as.
        self.folder = Path(tempfile.mkdtemp(prefix="relay-interop-"))
        self.folder.chmod(0o711)
        self.process: subprocess.Popen[bytes] | None = None
        self._read: dict[str, bytes] = {}

    def start(self) -> None:
        raise NotImplementedError

    def stored(self, recipient: str) -> list[bytes]:
        """Every message delivered to this mailbox, trace and content as the server keeps them (LF line ends)."""
        for path in (self.folder / "mailbox" / "new").glob("*"):
            if path.name not in self._read:
                self._read[path.name] = path.read_bytes()
        line = f"{self.DELIVERED}: {recipient}\n".encode()
        return [message for message in self._read.values() if line in message.partition(b"Received:")[0]]

    def wait_stored(self, recipient: str, count: int = 1, *, seconds: float = 30) -> list[bytes]:
        """The messages of a mailbox when there are `count`; more are a fault."""
        wait_for(
            lambda: len(self.stored(recipient)) >= count, seconds=seconds, what=f"mail to {recipient}\n{self.log()}"
        )
        found = self.stored(recipient)
        assert len(found) == count, [message[:1000] for message in found]
        return found

    def log(self) -> str:
        """The last lines the server wrote."""
        lines = [
            line for path in sorted(self.folder.glob("*log")) for line in path.read_text(errors="replace").split("\n")
        ]
        return "\n".join(lines[-40:])

    def launch(self, command: Sequence[str | Path], **environment: str) -> None:
        """Start the server in a process group of its own and wait until every door is open."""
        with (self.folder / "output.log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                cwd=self.folder,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        for port in self.ports.values():
            wait_for(lambda port=port: self._listens(port), what=f"{type(self).__name__} on {port}\n{self.log()}")

    def _listens(self, port: int) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            return True
        return False

    def close(self) -> None:
        """End the server with all its children and remove its folder."""
        if self.process is not None:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(5)
        shutil.rmtree(self.folder, ignore_errors=True)
