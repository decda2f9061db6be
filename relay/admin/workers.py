"""The running workers, as the control process reaches them: over their control sockets, never by their files."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from relay.app.offline import all_shards
from relay.app.site import Site
from relay.control.client import RemoteShard, connect
from relay.control.protocol import ControlError, TryAgain

AT_ONCE = 64
"""Conversations with workers at the same time; more wait. A worker is never flooded by its own dashboard."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker said; `error` when it did not."""

    shard: str
    value: Any = None
    error: str = ""


class Workers:
    """Args:
    site: where they are; asked anew each time.
    """

    def __init__(self, site: Callable[[], Site]) -> None:
        self._site = site
        self._places = asyncio.Semaphore(AT_ONCE)
        self._turn = 0

    async def each(self, operation: str, **args: Any) -> list[Answer]:
        """What every running worker answers, by shard; one that cannot be reached says so. Empty: none runs."""
        site = self._site()
        names = await asyncio.to_thread(all_shards, site)
        answers = await asyncio.gather(*(self._one(site, name, operation, args) for name in names))
        return [answer for answer in answers if answer is not None]

    async def all(self, operation: str, **args: Any) -> list[Any]:
        """As `each`, where part of the answer would mislead. Raises ControlError when a worker fails or none runs."""
        answers = await self.each(operation, **args)
        if failed := next((answer for answer in answers if answer.error), None):
            raise TryAgain(failed.error)
        if not answers:
            raise TryAgain("no worker answers: the relay is starting, stopping or restarting; try again in a moment")
        return [answer.value for answer in answers]

    async def any(self, operation: str, **args: Any) -> Any:
        """What one worker answers, a different one each time. Raises ControlError."""
        site = self._site()
        names = await asyncio.to_thread(all_shards, site)
        self._turn += 1
        for number in range(len(names)):
            name = names[(self._turn + number) % len(names)]
            async with self._places:
                try:
                    worker = await connect(site.directory, name)
                except TryAgain:
                    continue
                if worker is not None:
                    return await _call(worker, operation, args)
        raise TryAgain("no worker answers: the relay is starting, stopping or restarting; try again in a moment")

    async def _one(self, site: Site, name: str, operation: str, args: dict[str, Any]) -> Answer | None:
        async with self._places:
            try:
                worker = await connect(site.directory, name)
                return None if worker is None else Answer(name, await _call(worker, operation, args))
            except ControlError as error:
                if error.kind in ("unknown-name", "invalid"):
                    raise
                return Answer(name, error=str(error))


async def _call(worker: RemoteShard, operation: str, args: dict[str, Any]) -> Any:
    try:
        return await worker.call(operation, **args)
    finally:
        worker.close()
