"""An SMTP server in a process of its own that takes everything and keeps a durable list of what it took.

Run as `python -m tests.scenario.sink PORT LEDGER [--lean] [--delay S]`; each accepted transaction is one JSON line in
LEDGER, written before the 250:

    at, opened      epoch seconds of the final dot and of the MAIL command
    from, to        envelope
    head            header section
    body, size      SHA-256 of the body, octets of the content without dot-stuffing
    content         the whole content (not with --lean)

`--delay` waits between keeping a message and saying so. A process of its own so that tests can SIGSTOP and SIGKILL it;
no model of a strict server, but quick: whole bodies are taken in one read.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.scenario.harness import ROOT, free_port, wait_for

DOT = b"\r\n.\r\n"
GREETING = b"220 sink.example.com ESMTP\r\n"
EHLO = b"250-sink.example.com\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-SIZE 104857600\r\n250 DSN\r\n"


class _Keeper:
    def __init__(self, ledger: Path, *, lean: bool, delay_s: float) -> None:
        self._file = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._lean = lean
        self._delay_s = delay_s

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self._dialogue(reader, writer)
        writer.close()

    async def _dialogue(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sender, recipients, opened = "", [], 0.0
        writer.write(GREETING)
        while line := (await reader.readline()).decode("utf-8", "surrogateescape"):
            match line[:4].upper():
                case "EHLO" | "HELO":
                    writer.write(EHLO)
                case "MAIL":
                    sender, recipients, opened = _path(line), [], time.time()
                    writer.write(b"250 2.1.0 Ok\r\n")
                case "RCPT":
                    recipients.append(_path(line))
                    writer.write(b"250 2.1.5 Ok\r\n")
                case "DATA":
                    writer.write(b"354 go\r\n")
                    self._keep(sender, recipients, opened, await _content(reader))
                    if self._delay_s:
                        await asyncio.sleep(self._delay_s)
                    writer.write(b"250 2.0.0 Ok\r\n")
                case "QUIT":
                    writer.write(b"221 2.0.0 Bye\r\n")
                    return
                case _:
                    writer.write(b"250 2.0.0 Ok\r\n")
            await writer.drain()

    def _keep(self, sender: str, recipients: list[str], opened: float, content: bytes) -> None:
        head, _, body = content.partition(b"\r\n\r\n")
        entry: dict[str, Any] = {
            "at": time.time(),
            "opened": opened,
            "from": sender,
            "to": recipients,
            "head": head.decode("utf-8", "surrogateescape"),
            "body": hashlib.sha256(body).hexdigest(),
            "size": len(content),
        }
        if not self._lean:
            entry["content"] = content.decode("utf-8", "surrogateescape")
        os.write(self._file, json.dumps(entry).encode() + b"\n")


async def _content(reader: asyncio.StreamReader) -> bytes:
    """Content after 354, without the final dot and dot-stuffing."""
    first = await reader.readexactly(3)
    if first == DOT[2:]:
        return b""
    raw = first + await reader.readuntil(DOT)
    return re.sub(rb"(?m)^\.", b"", raw[:-3])


def _path(line: str) -> str:
    found = re.search(r"<(.*?)>", line)
    return found[1] if found else ""


async def _serve(port: int, keeper: _Keeper) -> None:
    server = await asyncio.start_server(keeper.serve, "127.0.0.1", port, limit=2**27, backlog=512)
    async with server:
        await server.serve_forever()


class Sink:
    """The sink as seen by a test."""

    def __init__(self, directory: Path, name: str, *, lean: bool = False, delay_s: float = 0.0) -> None:
        self.port = free_port()
        self.name = name
        self.ledger = directory / f"{name}.jsonl"
        self.process: subprocess.Popen[bytes] | None = None
        self._options = [*(["--lean"] if lean else []), "--delay", str(delay_s)]

    def node(self, **more: Any) -> dict[str, Any]:
        return {"name": self.name, "type": "smtp", "host": "127.0.0.1", "port": self.port, "tls": "none", **more}

    def start(self) -> Sink:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.scenario.sink", str(self.port), str(self.ledger), *self._options], cwd=ROOT
        )
        wait_for(self._listens, what=f"sink {self.name}")
        return self

    def _listens(self) -> bool:
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
        # A line without its end is being written now.
        return [json.loads(line) for line in self.ledger.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def names(self) -> list[str]:
        """X-Test-Name of every message taken, one entry for each copy."""
        return [name for transaction in self.transactions() if (name := name_of(transaction["head"]))]


def name_of(head: str) -> str:
    """X-Test-Name of a header section; empty when there is none."""
    found = re.search(r"(?mi)^x-test-name:[ \t]*(\S+)", head)
    return found[1] if found else ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("ledger", type=Path)
    parser.add_argument("--lean", action="store_true")
    parser.add_argument("--delay", type=float, default=0.0)
    args = parser.parse_args()
    asyncio.run(_serve(args.port, _Keeper(args.ledger, lean=args.lean, delay_s=args.delay)))
