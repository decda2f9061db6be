"""An SMTP server in a process of its own that takes everything and keeps a durable list of what it took.

Run as `python -m tests.scenario.sink PORT LEDGER [--die-after N]`; each accepted transaction is one JSON line in
LEDGER, written before the 250. A process of its own so that tests can SIGSTOP and SIGKILL it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP

from tests.scenario.harness import ROOT, free_port, wait_for


class _Keep:
    def __init__(self, ledger: Path) -> None:
        self._file = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        line = json.dumps(
            {
                "at": time.time(),
                "from": envelope.mail_from,
                "to": envelope.rcpt_tos,
                "content": envelope.content.decode("utf-8", "surrogateescape"),
            }
        )
        os.write(self._file, line.encode() + b"\n")
        return "250 2.0.0 Ok"


class _Server(SMTP):
    line_length_limit = 1024 * 1024  # real servers take long lines; aiosmtpd's own limit would refuse them


async def _serve(port: int, ledger: Path) -> None:
    loop = asyncio.get_running_loop()
    handler = _Keep(ledger)
    server = await loop.create_server(
        lambda: _Server(handler, hostname="sink.example.com", enable_SMTPUTF8=True), "127.0.0.1", port
    )
    async with server:
        await server.serve_forever()


class Sink:
    """The sink as seen by a test."""

    def __init__(self, directory: Path, name: str) -> None:
        self.port = free_port()
        self.name = name
        self.ledger = directory / f"{name}.jsonl"
        self.process: subprocess.Popen[bytes] | None = None

    def node(self, **more: Any) -> dict[str, Any]:
        return {"name": self.name, "type": "smtp", "host": "127.0.0.1", "port": self.port, "tls": "none", **more}

    def start(self) -> Sink:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.scenario.sink", str(self.port), str(self.ledger)], cwd=ROOT
        )
        wait_for(self._listens, what=f"sink {self.name}")
        return self

    def _listens(self) -> bool:
        import socket

        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def freeze(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(10)

    def transactions(self) -> list[dict[str, Any]]:
        if not self.ledger.exists():
            return []
        return [json.loads(line) for line in self.ledger.read_text().splitlines()]

    def names(self) -> list[str]:
        """X-Test-Name of every message taken, one entry for each copy."""
        return [
            line.partition(":")[2].strip()
            for transaction in self.transactions()
            for line in transaction["content"].split("\r\n\r\n", 1)[0].split("\r\n")
            if line.lower().startswith("x-test-name:")
        ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("ledger", type=Path)
    args = parser.parse_args()
    asyncio.run(_serve(args.port, args.ledger))
