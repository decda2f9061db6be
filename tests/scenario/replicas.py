"""Several relays of one configuration behind a front door, with one shared store."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.scenario.harness import Relay, base_config, free_port


class FrontDoor:
    """Passes each connection to the next replica that greets, as a load balancer with health checks does."""

    def __init__(self, backends: Sequence[int]) -> None:
        self._backends = list(backends)
        self._next = 0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        found = self._find()
        if found is None:
            client.close()
            return
        with client, found[0] as backend, contextlib.suppress(OSError):
            client.sendall(found[1])
            ends = {client: backend, backend: client}
            while True:
                for end in select.select(list(ends), [], [])[0]:
                    data = end.recv(65536)
                    if not data:
                        return
                    ends[end].sendall(data)

    def _find(self) -> tuple[socket.socket, bytes] | None:
        for _ in range(2 * len(self._backends)):
            with self._lock:
                port = self._backends[self._next % len(self._backends)]
                self._next += 1
            with contextlib.suppress(OSError):
                backend = socket.create_connection(("127.0.0.1", port), timeout=1.0)
                try:
                    greeting = backend.recv(4096)
                    if greeting.startswith(b"220"):
                        backend.settimeout(None)
                        return backend, greeting
                except OSError:
                    pass
                backend.close()
        return None


class Fleet:
    """Replicas in folders of their own; reads together what each of them logged, as `audit` wants it."""

    def __init__(self, directory: Path, count: int, nodes: list[dict[str, Any]], *, store: Any, **config: Any) -> None:
        self.relays = []
        for number in range(count):
            folder = directory / f"replica{number}"
            folder.mkdir()
            port = free_port()
            self.relays.append(Relay(folder, base_config(port, nodes, store=store, **config), port))
        self.door = FrontDoor([relay.port for relay in self.relays])

    def start(self) -> Fleet:
        for relay in self.relays:
            relay.launch()
        for relay in self.relays:
            relay.start_waiting()
        return self

    def close(self) -> None:
        self.door.close()
        for relay in self.relays:
            if relay.process is not None and relay.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(relay.process.pid, signal.SIGCONT)
            relay.close()

    def events(self, name: str = "") -> list[dict[str, Any]]:
        return [event for relay in self.relays for event in relay.events(name)]


def freeze(relay: Relay) -> None:
    """SIGSTOP to all its processes."""
    assert relay.process is not None
    os.killpg(relay.process.pid, signal.SIGSTOP)


def thaw(relay: Relay) -> None:
    assert relay.process is not None
    os.killpg(relay.process.pid, signal.SIGCONT)
