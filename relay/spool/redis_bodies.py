"""Contents in the shared spool. A small body lies beside its head; a large one in pieces of `PIECE_BYTES`, so that
neither side ever holds it whole in one buffer and no single command keeps the server busy for long.

Pieces are written first, with a time to live, and made lasting in the step that stores the message: what a crash leaves
of an upload vanishes by itself. On its way out a large body is a file in a folder of this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

from relay.envelope import BodyFile, Content
from relay.redisdb.link import Link
from relay.spool.sqlite_bodies import Damaged, checksum, seed

INLINE_BYTES = 128 * 1024
PIECE_BYTES = 256 * 1024

UPLOAD_MS = 3_600_000
"""How long pieces wait for their message."""


class RedisBodies:
    """Args:
    folder: for large bodies on their way out; emptied at the start.
    patience_s: how long a call is repeated while the server is away.
    """

    def __init__(self, link: Link, folder: Path, patience_s: float) -> None:
        self._link = link
        self._folder = folder
        self._patience_s = patience_s
        self._files: dict[str, Path] = {}

    def prepare(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    async def upload(self, message_id: str, nonce: str, content: Content) -> tuple[bytes, int, int, int]:
        """What is stored beside the head: the body or nothing, its size, the sum of the content, number of pieces.

        Raises:
            LinkError; OSError: the body's file cannot be read.
        """
        body = content.body
        if isinstance(body, bytes) and len(body) <= INLINE_BYTES:
            return body, len(body), checksum(message_id, content.head, [body]), 0
        value, size, count = seed(message_id, content.head), 0, 0
        pieces = _pieces(body)
        while piece := await asyncio.to_thread(next, pieces, b""):
            value, size, count = zlib.crc32(piece, value), size + len(piece), count + 1
            key = self._link.key("b", message_id, nonce, str(count))
            await self._link.command("SET", key, piece, "PX", UPLOAD_MS, patience_s=self._patience_s)
        return b"", size, value, count

    async def forget_upload(self, message_id: str, nonce: str, count: int) -> None:
        """The message was not stored. What cannot be removed now goes by itself."""
        with contextlib.suppress(Exception):
            for number in range(1, count + 1):
                await self._link.command("DEL", self._link.key("b", message_id, nonce, str(number)))

    async def fetch(self, message_id: str) -> Content | None:
        """The content; None when there is none.

        Raises:
            Damaged, LinkError, OSError.
        """
        head, body, size, expected, pieces, nonce = await self._link.command(
            "HMGET",
            self._link.key("c", message_id),
            *("head", "body", "size", "sum", "pieces", "nc"),
            patience_s=self._patience_s,
        )
        if head is None:
            return None
        if not int(pieces or 0):
            if len(body or b"") != int(size) or checksum(message_id, head, [body]) != int(expected):
                raise Damaged("the content was changed where it is kept")
            return Content(head, body)
        path = await self._download(message_id, nonce.decode(), int(pieces), head, int(size), int(expected))
        return Content(head, BodyFile(path, int(size)))

    async def _download(self, message_id: str, nonce: str, count: int, head: bytes, size: int, expected: int) -> Path:
        path, part = self._folder / message_id, self._folder / f"{message_id}.{secrets.token_hex(4)}"
        value, seen = seed(message_id, head), 0
        with part.open("wb") as file:
            for number in range(1, count + 1):
                key = self._link.key("b", message_id, nonce, str(number))
                piece = await self._link.command("GET", key, patience_s=self._patience_s)
                if piece is None:
                    raise Damaged(f"piece {number} of {count} of the body is missing")
                value, seen = zlib.crc32(piece, value), seen + len(piece)
                await asyncio.to_thread(file.write, piece)
        if seen != size or value != expected:
            raise Damaged("the body was changed where it is kept")
        part.replace(path)  # an operator may be reading the same one
        self._files[message_id] = path
        return path

    def drop_file(self, message_id: str) -> None:
        """The message has left our hands."""
        path = self._files.pop(message_id, None)
        if path is not None:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._files.clear()


def _pieces(body: bytes | BodyFile) -> Iterator[bytes]:
    if isinstance(body, BodyFile):
        yield from body.chunks()  # of the same size
        return
    for start in range(0, len(body), PIECE_BYTES):
        yield body[start : start + PIECE_BYTES]
