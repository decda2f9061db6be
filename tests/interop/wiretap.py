"""A proxy between the relay and a server that keeps what each side said, in order."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from dataclasses import dataclass, field


@dataclass
class Session:
    """One connection. `said`: ("C" or "S", octets), one entry for each read."""

    said: list[tuple[str, bytes]] = field(default_factory=list)

    def side(self, side: str) -> bytes:
        return b"".join(octets for who, octets in self.said if who == side)

    def offers(self) -> set[str]:
        """Keywords of the answer to EHLO."""
        return {word.decode() for word in re.findall(rb"(?m)^250[- ]([A-Z0-9]+)", self.side("S"))}

    def transactions(self) -> list[Transaction]:
        """Those that reached the content and its end."""
        pattern = rb"(?s)(MAIL FROM:[^\r]*)\r\n((?:RCPT TO:[^\r]*\r\n)+)DATA\r\n(.*?\r\n)?\.\r\n"
        return [
            Transaction(mail.decode(), rcpt.decode().split("\r\n")[:-1], re.sub(rb"(?m)^\.", b"", content))
            for mail, rcpt, content in re.findall(pattern, self.side("C"))
        ]


@dataclass
class Transaction:
    """Lines as written by the relay, and the content without its dot-stuffing."""

    mail: str
    rcpt: list[str]
    content: bytes


class Wiretap:
    """Listens on a port of its own and passes everything on to `port`."""

    def __init__(self, port: int) -> None:
        self.sessions: list[Session] = []
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def transaction(self, recipient: str) -> Transaction:
        """The only transaction with this recipient."""
        found = [
            transaction
            for session in self.sessions
            for transaction in session.transactions()
            if any(f"<{recipient}>" in line for line in transaction.rcpt)
        ]
        assert len(found) == 1, found
        return found[0]

    def session(self, recipient: str) -> Session:
        """The session that named this recipient."""
        octets = f"RCPT TO:<{recipient}>".encode()
        return next(session for session in self.sessions if octets in session.side("C"))

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            session = Session()
            self.sessions.append(session)
            self._open |= {client, server}
            for who, source, target in (("C", client, server), ("S", server, client)):
                threading.Thread(target=self._pump, args=(session, who, source, target), daemon=True).start()

    def _pump(self, session: Session, who: str, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while octets := source.recv(65536):
                session.said.append((who, octets))
                target.sendall(octets)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._thread.join(5)
