"""A relay with one listener for each TLS mode, as real clients meet it, and the certificates they check it by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme

from tests.scenario.harness import Relay, base_config, free_port, wait_for
from tests.scenario.sink import Sink

MODES = ("none", "starttls", "implicit")
USER = "app"
PASSWORD = "app-password"


@dataclass(frozen=True)
class Certificates:
    """PEM files of an authority and of a server called `localhost`."""

    ca: Path
    chain: Path
    key: Path

    @classmethod
    def make(cls, folder: Path) -> Certificates:
        authority = trustme.CA()
        server = authority.issue_cert("localhost", "127.0.0.1")
        made = cls(folder / "ca.pem", folder / "chain.pem", folder / "key.pem")
        authority.cert_pem.write_to_path(made.ca)
        for blob in server.cert_chain_pems:
            blob.write_to_path(made.chain, append=True)
        server.private_key_pem.write_to_path(made.key)
        made.key.chmod(0o600)
        return made


@dataclass(frozen=True)
class Door:
    """Where a client connects and how: one listener of the relay."""

    port: int
    tls: str
    ca: Path
    user: str = USER
    password: str = PASSWORD
    host: str = "localhost"


class Gateway:
    """The relay and its doors."""

    def __init__(self, folder: Path, certificates: Certificates, nodes: list[dict[str, Any]], **more: Any) -> None:
        ports = {mode: free_port() for mode in MODES}
        self.doors = {mode: Door(port, mode, certificates.ca) for mode, port in ports.items()}
        listeners: list[dict[str, Any]] = [
            {"bind": f"127.0.0.1:{ports['none']}", "tls": "none", "auth_without_tls": True}
        ]
        for mode in ("starttls", "implicit"):
            listeners.append(
                {
                    "bind": f"127.0.0.1:{ports[mode]}",
                    "tls": mode,
                    "cert": str(certificates.chain),
                    "key": str(certificates.key),
                }
            )
        config = base_config(ports["none"], nodes, listeners=listeners, **more)
        self.relay = Relay(folder, config, ports["none"])

    def start(self) -> Gateway:
        self.relay.start()
        return self

    def close(self) -> None:
        self.relay.close()


@dataclass(frozen=True)
class Arrived:
    """One transaction as a server took it."""

    sender: str
    recipients: list[str]
    content: bytes


@dataclass(frozen=True)
class Passage:
    """The relay that clients send to, and the server behind it."""

    gateway: Gateway
    sink: Sink

    def arrived(self, recipient: str, seconds: float = 20) -> Arrived:
        """The transaction with this recipient, waited for; it must be the only one."""
        return self.all_arrived(recipient, 1, seconds)[0]

    def all_arrived(self, recipient: str, count: int, seconds: float = 20) -> list[Arrived]:
        """All transactions with this recipient, when there are `count`; more of them are a fault."""
        wait_for(lambda: len(self._find(recipient)) >= count, seconds=seconds, what=f"arrival at {recipient}")
        found = self._find(recipient)
        assert len(found) == count, found
        return found

    def _find(self, recipient: str) -> list[Arrived]:
        return [_arrived(line) for line in self.sink.transactions() if recipient in line["to"]]


def _arrived(line: dict[str, Any]) -> Arrived:
    return Arrived(line["from"], line["to"], line["content"].encode("utf-8", "surrogateescape"))
