"""The control socket of a worker; see `control.protocol` for what goes over it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path

import orjson

from relay.control.operator import Operator
from relay.control.protocol import LINE_LIMIT, OPERATIONS, ControlError, Invalid, reachable
from relay.errors import ConfigError, RelayError


class ControlServer:
    def __init__(self, operator: Operator, path: Path) -> None:
        self._operator = operator
        self._path = path
        self._server: asyncio.Server | None = None
        self._talks: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen. The caller holds the shard, so a socket that is left there is nobody's.

        Raises:
            RelayError: the socket cannot be made, in words for an operator.
        """
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        try:
            self._server = await asyncio.start_unix_server(self._serve, sock=_bound(self._path), limit=LINE_LIMIT)
        except OSError as error:
            raise RelayError(f"the control socket {self._path} cannot be made: {error}") from error

    async def close(self) -> None:
        """Stop listening and end what is open: who waits for an answer hears that there will be none."""
        if self._server is not None:
            self._server.close()
            for writer in tuple(self._talks):
                writer.close()
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._talks.add(writer)
        try:
            while line := await reader.readline():
                writer.write(orjson.dumps(await self._answer(line)) + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):
            pass  # the client left, or sent an over-long line: there is nobody to answer
        finally:
            self._talks.discard(writer)
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, object]:
        try:
            request = orjson.loads(line)
            name, args = request["op"], dict(request.get("args", {}))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            return _error(f"malformed request: {error}")
        if name not in OPERATIONS:
            return _error(f"the running relay does not know {name!r}: is it another version than this command?")
        try:
            return {"result": await getattr(self._operator, name)(**args)}
        except ConfigError as error:
            return _error(str(error), Invalid.kind)
        except ControlError as error:
            return _error(str(error), error.kind)
        except RelayError as error:
            return _error(str(error))
        except Exception as error:  # the operator gets an answer, whatever went wrong
            return _error(f"internal fault: {type(error).__name__}: {error}")


def _bound(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)  # nobody else may connect, not even between bind and chmod
    try:
        with reachable(path) as name:
            made.bind(name)
    except BaseException:
        made.close()
        raise
    finally:
        os.umask(before)
    return made


def _error(text: str, kind: str = ControlError.kind) -> dict[str, object]:
    return {"error": text, "kind": kind}
