"""Ends work that does not come back by itself, with one timer for all that runs.

`asyncio.timeout` sets and cancels a timer for each use; the deadlines here are only there for what should never
happen, so one look every few seconds is early enough.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

LOOK_S = 5.0
"""How much later than its deadline something may be ended."""


class Watchdog:
    """One for each event loop: `with watchdog.until(loop_time): await …`."""

    def __init__(self) -> None:
        self._watched: set[Watch] = set()
        self._timer: asyncio.TimerHandle | None = None

    def until(self, deadline: float) -> Watch:
        """A block that is ended with TimeoutError some time after `deadline` (loop time)."""
        return Watch(self, deadline)

    def add(self, watch: Watch) -> None:
        self._watched.add(watch)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def remove(self, watch: Watch) -> None:
        self._watched.discard(watch)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for watch in [watch for watch in self._watched if watch.deadline <= now]:
            watch.bite()
        self._timer = loop.call_later(LOOK_S, self._look) if self._watched else None


class Watch:
    """One block; use once."""

    __slots__ = ("_bitten", "_cancelling", "_dog", "_task", "deadline")

    def __init__(self, dog: Watchdog, deadline: float) -> None:
        self._dog = dog
        self._bitten = False
        self.deadline = deadline

    def bite(self) -> None:
        self._bitten = True
        self._dog.remove(self)
        self._task.cancel()

    def __enter__(self) -> None:
        task: asyncio.Task[Any] | None = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._dog.add(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._dog.remove(self)
        # As asyncio.timeout does it: somebody else's cancellation in the same moment goes on.
        if self._bitten and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error
