"""The control socket of a worker: one JSON object a line in, one out, over a Unix socket only its owner can open.

Request: `{"op": "status", "args": {…}}`. Reply: `{"result": …}` or `{"error": "…"}`. The operations are the public
methods of `control.operator.Operator`; a name outside `OPERATIONS` is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import orjson

from relay.control.operator import Operator, UnknownName
from relay.errors import ConfigError, RelayError

OPERATIONS = frozenset(
    {
        "status",
        "nodes",
        "entries",
        "show",
        "explain",
        "retry",
        "hold",
        "drop",
        "node_test",
        "node_pause",
        "node_resume",
        "reload",
    }
)

LINE_LIMIT = 4 * 1024 * 1024
"""A request with 100,000 ids is 2.8 MB."""


class ControlServer:
    def __init__(self, operator: Operator, path: Path) -> None:
        self._operator = operator
        self._path = path
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()  # left by a crash; the shard's lock file tells that nobody listens on it
        self._server = await asyncio.start_unix_server(self._serve, path=self._path, limit=LINE_LIMIT)
        self._path.chmod(0o600)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(orjson.dumps(await self._answer(line)) + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):
            pass  # the client left, or sent an over-long line: there is nobody to answer
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, object]:
        try:
            request = orjson.loads(line)
            name, args = request["op"], request.get("args", {})
            if name not in OPERATIONS:
                return {"error": f"unknown operation {name!r}"}
            return {"result": await getattr(self._operator, name)(**args)}
        except (RelayError, ConfigError, UnknownName) as error:
            return {"error": str(error)}
        except (KeyError, TypeError, ValueError) as error:
            return {"error": f"malformed request: {error}"}
