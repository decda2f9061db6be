"""Reaching the shards of a relay from the command line, whether it runs or not.

Each shard is either a control socket that answers, or files that nobody holds; both look the same from here. What is
neither (a worker that starts, stops or is stuck) is waited for a moment and then reported; nothing hangs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from relay.control.protocol import (
    KINDS,
    OPERATIONS,
    REPLY_LIMIT,
    ControlError,
    NotPermitted,
    TryAgain,
    reachable,
    socket_path,
)
from relay.errors import RelayError

if TYPE_CHECKING:  # it brings half of the relay along, which a command that talks to a running one does not need
    from relay.control.operator import Operator

CONNECT_S = 3.0
"""A worker whose queue of waiting connections is full does not answer this one either."""

PATIENCE_S = 5.0
"""How long a shard is waited for that somebody holds and nobody answers for: the start and the end of a worker take
less, another command on a stopped relay too."""

LOOK_AGAIN_S = 0.1

OwnerOf = Callable[[str], int | None]
"""Shard -> process id of who holds its files, 0 when that cannot be told, None when nobody does."""

OpenLocal = Callable[[str], Any]
"""Shard -> async context manager of an `Operator` over its files."""


class Shard(Protocol):
    """One shard, remote or local."""

    name: str
    running: bool

    async def call(self, operation: str, **args: Any) -> Any:
        """Raises ControlError when it cannot be done, with the reason in an operator's words."""
        ...


class RemoteShard:
    """A worker that listens on its control socket in `directory`. One call at a time."""

    running = True

    def __init__(self, directory: Path, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.directory = directory
        self.name = name
        self._reader = reader
        self._writer = writer

    async def call(self, operation: str, **args: Any) -> Any:
        limit_s = OPERATIONS[operation]
        try:
            async with asyncio.timeout(limit_s):
                self._writer.write(orjson.dumps({"op": operation, "args": args}) + b"\n")
                await self._writer.drain()
                line = await self._reader.readline()
        except TimeoutError:
            raise TryAgain(
                f"worker {self.name} did not answer within {limit_s:.0f} s: it is overloaded or stuck; see its log"
            ) from None
        except (OSError, ValueError) as error:
            raise TryAgain(f"worker {self.name} broke the conversation off: {error}") from error
        if not line:
            raise TryAgain(f"worker {self.name} closed its control socket: it is stopping; see its log")
        reply = orjson.loads(line)
        if "error" in reply:
            raise KINDS.get(reply.get("kind", ""), ControlError)(reply["error"])
        return reply["result"]

    def close(self) -> None:
        self._writer.close()


class LocalShard:
    """A shard of a stopped relay, opened in this process."""

    running = False

    def __init__(self, name: str, operator: Operator) -> None:
        self.name = name
        self._operator = operator

    async def call(self, operation: str, **args: Any) -> Any:
        return await getattr(self._operator, operation)(**args)


@asynccontextmanager
async def open_shards(
    directory: Path,
    shards: Sequence[str],
    open_local: OpenLocal,
    owner_of: OwnerOf,
    *,
    patience_s: float | None = None,
) -> AsyncIterator[list[Shard]]:
    """All these shards of a relay.

    Args:
        patience_s: how long to wait for one that somebody holds; PATIENCE_S when left out.

    Raises:
        TryAgain: somebody holds one and does not answer.
        NotPermitted: it belongs to another user.
    """
    async with AsyncExitStack() as stack:
        give_up_at = time.monotonic() + (PATIENCE_S if patience_s is None else patience_s)
        yield [await _open(directory, shard, open_local, owner_of, give_up_at, stack) for shard in shards]


async def _open(
    directory: Path, shard: str, open_local: OpenLocal, owner_of: OwnerOf, give_up_at: float, stack: AsyncExitStack
) -> Shard:
    while True:
        remote = await connect(directory, shard)
        if remote is not None:
            stack.callback(remote.close)
            return remote
        owner = await asyncio.to_thread(owner_of, shard)
        if owner is None:
            try:
                return LocalShard(shard, await stack.enter_async_context(open_local(shard)))
            except RelayError:
                owner = await asyncio.to_thread(owner_of, shard)
                if owner is None:  # nobody came between, so this is no matter of waiting
                    raise
        if time.monotonic() >= give_up_at:
            who = f"process {owner}" if owner else "another process"
            raise TryAgain(
                f"worker {shard} does not listen, and {who} holds {directory}: the relay is starting, stopping or "
                "restarting after a crash, or another command is at work; try again, and see its log"
            )
        await asyncio.sleep(LOOK_AGAIN_S)


async def connect(directory: Path, shard: str) -> RemoteShard | None:
    """The worker of the shard, or None when nobody listens."""
    path = socket_path(directory, shard)
    try:
        with reachable(path) as name:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await asyncio.open_unix_connection(name, limit=REPLY_LIMIT)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise NotPermitted(
            f"the relay's folder {directory} belongs to another user; run the command as that user, or as root"
        ) from error
    except TimeoutError:
        raise TryAgain(f"worker {shard} does not answer on {path}: it is overloaded or stuck; see its log") from None
    return RemoteShard(directory, shard, reader, writer)
