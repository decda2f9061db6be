"""A whole relay in the test's own process: the real composition root over a real spool, listener and SMTP driver.

async with relaying(tmp_path, sink) as rig:
    async with rig.client() as client:
        await client.ehlo()
        await client.message(b"Subject: x\r\n\r\nhello\r\n")
    await rig.settled()
    sink.messages[0].content
    rig.told("attempt.delivered")

Everything is as `relay run` makes it but for the parent process, and for retries, which come quickly. Clients on
127.0.0.1 need no login (bridge `local`); `app` / `app-password` is the login of bridge `app`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relay.app.settings import Settings
from relay.app.shared import Shared
from relay.app.worker import Worker
from relay.config.load import load
from relay.logs.lines import Lines, Redactor
from relay.logs.log import Log
from relay.process.supervisor import WorkerContext
from relay.spool import Entry, Selection
from tests.fakes.listener_rig import HOST, Client
from tests.fakes.smtp_server import SmtpServer

HOSTNAME = "relay.example.com"
PASSWORD = "app-password-5d81"


Nodes = list[dict[str, Any]] | Callable[[int], list[dict[str, Any]]]


class Lined:
    """A `LineWriter` that keeps the lines of the log."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    @property
    def dropped(self) -> int:
        return 0

    def write(self, level: str, line: bytes) -> None:
        self.lines.append(line)

    def close(self, timeout_s: float = 2.0) -> None:
        pass


def node(server: SmtpServer, name: str = "", **more: Any) -> dict[str, Any]:
    """A node on a scripted server."""
    return {
        "name": name or f"node-{server.port}",
        "type": "smtp",
        "host": server.host,
        "port": server.port,
        "tls": "none",
        **more,
    }


def config_with(nodes: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A configuration with one pool `main` of these nodes; `more` replaces top-level keys."""
    return {
        "version": 1,
        "hostname": HOSTNAME,
        "workers": 1,
        "account": {"tag": "acme", "id": 42},
        "mtas": [{"id": "mta4", "zone": "us-1"}],
        "listeners": [{"bind": f"{HOST}:0", "tls": "none", "auth_without_tls": True}],
        "retry": {"schedule": ["1s", "2s"], "max_age": "1h"},
        "health": {"recheck_every": "1s", "recheck_for": "1h", "test_at_start": False},
        "uncertain": {"wait": "2s"},
        "drain": "5s",
        "limits": {"per_address": 500},
        "bridges": [
            {"name": "local", "pool": "main", "networks": [f"{HOST}/32"]},
            {"name": "app", "pool": "main", "credentials": [{"username": "app", "password": PASSWORD}]},
        ],
        "pools": [{"name": "main", "id": 7, "mta": "mta4", "feedtype": "transactional", "nodes": nodes}],
        **more,
    }


@dataclass
class RelayRig:
    worker: Worker
    port: int
    directory: Path
    log: Lined
    excused: list[str] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection(HOST, self.port)
        try:
            yield Client(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def send(self, content: bytes, sender: str = "a@b.example", *recipients: str) -> str:
        """One message over a connection of its own, dots stuffed; the reply to the final dot."""
        async with self.client() as client:
            await client.ehlo()
            await client.begin(sender, *recipients)
            stuffed = content.replace(b"\r\n.", b"\r\n..")
            client.send((b"." if stuffed.startswith(b".") else b"") + stuffed + b".\r\n")
            return await client.reply()

    async def entries(self) -> list[Entry]:
        """Messages that are not done."""
        return await self.worker.spool.entries(Selection(), limit=1000)

    async def settled(self, left: int = 0, *, within_s: float = 20.0) -> None:
        """Wait until only `left` messages are not done and nothing is on its way."""
        async with asyncio.timeout(within_s):
            while self.worker.dispatcher.running or len(await self.entries()) != left:
                await asyncio.sleep(0.005)

    def told(self, name: str = "") -> list[dict[str, Any]]:
        """Lines of the log, all or those of one event."""
        found = [json.loads(line) for line in self.log.lines]
        return [line for line in found if not name or line["event"] == name]

    def write(self, config: Mapping[str, Any] | str) -> None:
        """Replace the configuration file in one step; a reload reads it."""
        if not isinstance(config, str):
            config = json.dumps({**config, "store": f"sqlite:{self.directory / 'var'}"})  # JSON is YAML
        fresh = self.directory / "relay.yaml.new"
        fresh.write_text(config)
        fresh.replace(self.directory / "relay.yaml")

    @property
    def octets_written(self) -> bytes:
        """Every file the relay keeps and everything it logged, for searching."""
        files = [path.read_bytes() for path in self.directory.joinpath("var").rglob("*") if path.is_file()]
        return b"\n".join([*self.log.lines, *files])


@contextlib.asynccontextmanager
async def relaying(
    directory: Path, *servers: SmtpServer, nodes: Nodes | None = None, **config: Any
) -> AsyncIterator[RelayRig]:
    """A relay for the time of the block, with a node for each server.

    Args:
        nodes: instead of one plain node for each server; a function is given the relay's own port.
        config: replaces top-level keys of the configuration.

    Afterwards it has drained, no event loop callback has failed, and no fault of the relay's own was told unless it
    holds a text of `rig.excused`.
    """
    sock = socket.create_server((HOST, 0))
    sock.setblocking(False)
    port = sock.getsockname()[1]
    if nodes is None:
        nodes = [node(server) for server in servers]
    config = config_with(nodes(port) if callable(nodes) else nodes, **config)
    config["store"] = f"sqlite:{directory / 'var'}"
    path = directory / "relay.yaml"
    path.write_text(json.dumps(config))
    settings = Settings(path, load(path, base=directory))
    parent, ours = os.pipe()
    started = asyncio.Event()
    log = Lined()
    context = WorkerContext(index=0, sockets=[sock], ready=started.set, parent_fd=parent)
    worker = Worker(settings, context, Shared(1), Log(Lines(as_json=True, redactor=Redactor(None)), log, level="debug"))
    loop = asyncio.get_running_loop()
    unhandled: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, what: unhandled.append(what))
    run = asyncio.create_task(worker.run())
    waiting = asyncio.create_task(started.wait())
    try:
        await asyncio.wait([run, waiting], return_when=asyncio.FIRST_COMPLETED)
        if run.done():
            run.result()
            raise AssertionError("the relay ended at its start")
        rig = RelayRig(worker, port, directory, log)
        yield rig
        os.close(ours)
        ours = -1
        assert await asyncio.wait_for(run, 15) == 0
        assert not unhandled, unhandled
        faults = [e for e in rig.told("relay.fault") if not any(text in str(e) for text in rig.excused)]
        assert not faults, faults
    finally:
        waiting.cancel()
        if not run.done():
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)
        if ours >= 0:
            os.close(ours)
        loop.remove_reader(parent)
        os.close(parent)
        sock.close()
        loop.set_exception_handler(None)
