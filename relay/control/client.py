"""Reaching the shards of a relay from the command line, whether it runs or not.

Each shard is either a control socket that answers, or files that nobody holds; both look the same from here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import orjson

from relay.control.operator import Operator
from relay.control.server import LINE_LIMIT
from relay.errors import RelayError


class ControlError(RelayError):
    """The relay refused or could not do what was asked; the message is for the operator."""


class Shard(Protocol):
    """One shard, remote or local."""

    running: bool

    async def call(self, operation: str, **args: Any) -> Any: ...


class RemoteShard:
    """A worker that listens on its control socket."""

    running = True

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def call(self, operation: str, **args: Any) -> Any:
        self._writer.write(orjson.dumps({"op": operation, "args": args}) + b"\n")
        await self._writer.drain()
        line = await self._reader.readline()
        if not line:
            raise ControlError("the relay closed its control socket; look at its log")
        reply = orjson.loads(line)
        if "error" in reply:
            raise ControlError(reply["error"])
        return reply["result"]

    def close(self) -> None:
        self._writer.close()


class LocalShard:
    """A shard of a stopped relay, opened in this process."""

    running = False

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    async def call(self, operation: str, **args: Any) -> Any:
        return await getattr(self._operator, operation)(**args)


def socket_path(directory: Path, shard: str) -> Path:
    """Where the worker of a shard listens."""
    return directory / f"control-{shard}.sock"


@asynccontextmanager
async def open_shards(
    directory: Path, shards: Sequence[str], open_local: Callable[[str], Any]
) -> AsyncIterator[list[Shard]]:
    """All shards of a relay.

    Args:
        open_local: shard name -> async context manager of an `Operator`.
    """
    async with AsyncExitStack() as stack:
        found: list[Shard] = []
        for shard in shards:
            try:
                reader, writer = await asyncio.open_unix_connection(
                    socket_path(directory, shard), limit=LINE_LIMIT * 16
                )
            except (FileNotFoundError, ConnectionRefusedError):
                found.append(LocalShard(await stack.enter_async_context(open_local(shard))))
            else:
                remote = RemoteShard(reader, writer)
                stack.callback(remote.close)
                found.append(remote)
        yield found
