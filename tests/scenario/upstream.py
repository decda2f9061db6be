"""The scripted SMTP server of `tests.fakes` behind a relay: it runs in a thread of its own, tests stay plain code."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from typing import Any

from tests.fakes.smtp_server import Do, SmtpServer


class Upstream:
    """A scripted server with the face of a `Sink`. `port` stays the same over `down` and `up`."""

    def __init__(self, name: str, **options: Any) -> None:
        self.name = name
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.server = self._run(_made(options))
        self.up()
        self.port = self.server.port

    def node(self, **more: Any) -> dict[str, Any]:
        return {"name": self.name, "type": "smtp", "host": "127.0.0.1", "port": self.port, "tls": "none", **more}

    def at(self, step: str, do: Do, **more: Any) -> None:
        """As `SmtpServer.at`."""
        self._loop.call_soon_threadsafe(lambda: self.server.at(step, do, **more))

    def forget(self) -> None:
        """Well again."""
        self._loop.call_soon_threadsafe(self.server.forget)

    def down(self) -> None:
        """Refuse connections."""
        self._run(self.server.stop())

    def up(self) -> None:
        self._run(self.server.start(self.server.port))

    def close(self) -> None:
        self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def transactions(self) -> list[dict[str, Any]]:
        """What was taken, as a `Sink` tells it."""
        found = []
        for message in list(self.server.messages):
            head, _, body = message.content.partition(b"\r\n\r\n")
            found.append(
                {
                    "from": message.sender,
                    "to": message.recipients,
                    "head": head.decode("utf-8", "surrogateescape"),
                    "body": hashlib.sha256(body).hexdigest(),
                    "size": len(message.content),
                    "content": message.content.decode("utf-8", "surrogateescape"),
                }
            )
        return found

    def wait(self, messages: int, seconds: float = 20.0) -> None:
        """Until so many messages were taken."""
        end = time.monotonic() + seconds
        while len(self.server.messages) < messages:
            assert time.monotonic() < end, f"{self.name} took {len(self.server.messages)} of {messages} messages"
            time.sleep(0.02)

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


async def _made(options: dict[str, Any]) -> SmtpServer:
    return SmtpServer(**options)
