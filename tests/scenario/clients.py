"""Clients that keep a ledger of what was promised, and one that speaks raw SMTP so that it can misbehave."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

SENDER = "app@acme.example"
RECIPIENT = "someone@example.net"


@dataclass
class Ledger:
    """What was promised: message name -> the reply that promised it, and SHA-256 of each body that was sent."""

    promised: dict[str, str] = field(default_factory=dict)
    unclear: set[str] = field(default_factory=set)  # the connection broke before an answer
    refused: dict[str, str] = field(default_factory=dict)
    bodies: dict[str, str] = field(default_factory=dict)
    recipients: dict[str, tuple[str, ...]] = field(default_factory=dict)
    answered_at: dict[str, float] = field(default_factory=dict)  # epoch seconds
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def sends(self, name: str, content: bytes, recipients: Sequence[str]) -> None:
        digest = hashlib.sha256(content.partition(b"\r\n\r\n")[2]).hexdigest()
        with self._lock:
            self.bodies[name] = digest
            self.recipients[name] = tuple(recipients)

    def answered(self, name: str, code: int, said: str) -> None:
        with self._lock:
            (self.promised if code == 250 else self.refused)[name] = f"{code} {said}"
            self.answered_at[name] = time.time()

    def broke(self, name: str) -> None:
        with self._lock:
            self.unclear.add(name)

    def id_of(self, name: str) -> str:
        """Spool id of a promised message."""
        return self.promised[name].rpartition(" ")[2]


class Client:
    """One SMTP session over a plain socket. Raises ConnectionError when it ends."""

    def __init__(
        self, port: int, *, user: str = "app", password: str = "app-password", timeout: float = 60.0, greet: bool = True
    ) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = self.socket.makefile("rb")
        if greet:
            try:
                self._log_in(user, password)
            except BaseException:
                self.drop()
                raise

    def _log_in(self, user: str, password: str) -> None:
        self.expect(220)
        self.command("EHLO client.example.com", 250)
        if user:
            token = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
            self.command(f"AUTH PLAIN {token}", 235)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def reply(self) -> tuple[int, str]:
        """Code and the text of the last line."""
        while True:
            line = self._reader.readline()
            if not line.endswith(b"\n"):
                raise ConnectionError("the server ended the session")
            if line[3:4] != b"-":
                return int(line[:3]), line[4:].decode().strip()

    def expect(self, *codes: int) -> tuple[int, str]:
        code, said = self.reply()
        if code not in codes:
            raise Refused(code, said)
        return code, said

    def write(self, data: bytes) -> None:
        self.socket.sendall(data)

    def command(self, line: str, *codes: int) -> tuple[int, str]:
        """Say one command; its reply, which must be one of `codes` when given."""
        self.write(line.encode() + b"\r\n")
        return self.expect(*codes) if codes else self.reply()

    def send(
        self, content: bytes, *, sender: str = SENDER, recipients: Sequence[str] = (RECIPIENT,)
    ) -> tuple[int, str]:
        """One transaction; the reply that decided it."""
        self.write(envelope(sender, recipients))
        self.expect(250)
        for _ in recipients:
            self.expect(250)
        self.expect(354)
        self.write(dotted(content))
        return self.reply()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.write(b"QUIT\r\n")
        self.drop()

    def drop(self) -> None:
        """End without a word."""
        self._reader.close()
        self.socket.close()

    def reset(self) -> None:
        """End with RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.drop()


class Refused(Exception):
    """A step of a transaction was refused."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(f"{code} {said}")
        self.code = code
        self.said = said


def envelope(sender: str, recipients: Sequence[str]) -> bytes:
    """MAIL, RCPT and DATA as one pipelined group."""
    lines = [f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{address}>" for address in recipients), "DATA"]
    return "".join(f"{line}\r\n" for line in lines).encode()


def dotted(content: bytes) -> bytes:
    """Content as it goes over the wire, with the final dot; a line end is added where the last one has none."""
    end = b".\r\n" if content.endswith(b"\r\n") or not content else b"\r\n.\r\n"
    return re.sub(rb"(?m)^\.", b"..", content) + end


def message_bytes(name: str, *, size: int = 500, sender: str = SENDER, to: str = RECIPIENT) -> bytes:
    """A message of about `size` octets that carries its name."""
    line = f"{name} .................................................... the quick brown fox\r\n"
    return (
        f"From: {sender}\r\nTo: {to}\r\nSubject: message {name}\r\nX-Test-Name: {name}\r\n\r\n"
        + line * max(1, size // len(line))
    ).encode()


def submit(
    port: int,
    names: Iterable[str],
    *,
    ledger: Ledger,
    user: str = "app",
    password: str = "app-password",
    sender: str = SENDER,
    recipients: Sequence[str] = (RECIPIENT,),
    size: int | Callable[[str], int] = 500,
    until: Callable[[], bool] = lambda: False,
    pause_s: float = 0.0,
) -> None:
    """Submit messages over one session, each of them once, reconnecting when it breaks; every answer goes into the
    ledger. Ends early when `until` says so."""
    client: Client | None = None
    for name in names:
        while client is None and not until():
            try:
                client = Client(port, user=user, password=password)
            except (OSError, Refused):
                time.sleep(0.05)
        if client is None or until():
            break
        octets = size if isinstance(size, int) else size(name)
        content = message_bytes(name, size=octets, sender=sender, to=recipients[0])
        ledger.sends(name, content, recipients)
        try:
            ledger.answered(name, *client.send(content, sender=sender, recipients=recipients))
        except Refused as refused:
            ledger.answered(name, refused.code, refused.said)
            client.close()
            client = None
        except OSError:
            ledger.broke(name)
            client.drop()
            client = None
        if pause_s:
            time.sleep(pause_s)
    if client is not None:
        client.close()


class Load:
    """Messages submitted by `sessions` threads from a common supply of names; use as a context that waits for them.

    Args:
        names: each is sent once, by whichever session is free.
        options: of `submit`.
    """

    def __init__(self, port: int, names: Iterable[str], *, ledger: Ledger, sessions: int, **options: object) -> None:
        self._names = iter(names)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._errors: list[BaseException] = []

        def run() -> None:
            try:
                submit(port, self._supply(), ledger=ledger, until=self._stop.is_set, **options)  # type: ignore[arg-type]
            except BaseException as error:
                self._errors.append(error)

        self._threads = [threading.Thread(target=run, daemon=True) for _ in range(sessions)]

    def _supply(self) -> Iterable[str]:
        while True:
            with self._lock:
                name = next(self._names, None)
            if name is None:
                return
            yield name

    def start(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    @property
    def running(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def wait(self, seconds: float = 60.0) -> None:
        """Until all names are used up."""
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        self.stop()

    def stop(self) -> None:
        """No further message."""
        self._stop.set()
        for thread in self._threads:
            thread.join(65)
        assert not self.running, "a client hangs"
        if self._errors:
            raise self._errors[0]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def send_all(port: int, names: Iterable[str], *, ledger: Ledger, sessions: int = 1, **options: object) -> None:
    """Submit everything and wait for the last answer."""
    load = Load(port, names, ledger=ledger, sessions=sessions, **options).start()
    load.wait()
