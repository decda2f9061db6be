"""Calls made while the file is busy, answered together by one operation of the group commit."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from relay.errors import StateUnavailable
from relay.group_commit import GroupCommit, StoreBusy, StoreFailed, StoreFull

C = TypeVar("C")
R = TypeVar("R")

TROUBLE = (StoreBusy, StoreFailed, StoreFull, sqlite3.Error)
"""What means that the state is away. Anything else is the caller's own fault or a bug."""

GROUP_BYTES = 8192
"""What a group adds to the log beside its bookkeeping: about one busy book."""


class _Group(Generic[C, R]):
    __slots__ = ("calls", "waiting")

    def __init__(self) -> None:
        self.calls: list[C] = []
        self.waiting: list[asyncio.Future[R]] = []


class Gathered(Generic[C, R]):
    """Answers calls in groups: what one call costs alone, all that arrive before the writer gets to it share.

    Args:
        answer: gives one answer for each call, in order; runs in the writer thread inside the transaction.
    """

    def __init__(self, commit: GroupCommit, answer: Callable[[sqlite3.Connection, list[C]], list[R]]) -> None:
        self._commit = commit
        self._answer = answer
        self._open: _Group[C, R] | None = None
        self._lock = threading.Lock()  # the loop adds to a group while the writer thread may be closing it
        self._running: set[asyncio.Task[None]] = set()

    async def __call__(self, call: C) -> R:
        """The answer, once it is durable.

        A cancelled caller does not undo what was done for it.

        Raises:
            StateUnavailable: nothing was done, or when a commit failed it cannot be known.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[R] = loop.create_future()
        begun: _Group[C, R] | None = None
        with self._lock:
            group = self._open
            if group is None:
                group = self._open = begun = _Group()
            group.calls.append(call)
            group.waiting.append(waiter)
        if begun is not None:
            task = loop.create_task(self._run(begun))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return await waiter

    async def _run(self, group: _Group[C, R]) -> None:
        def operation(connection: sqlite3.Connection) -> list[R]:
            self._close(group)
            return self._answer(connection, group.calls)

        try:
            answers = await self._commit.run(operation, size=GROUP_BYTES)
        except BaseException as error:
            self._close(group)  # when the operation never ran
            for waiter in group.waiting:
                if not waiter.done():
                    waiter.set_exception(_another(error))
            if not isinstance(error, Exception):
                raise
        else:
            for waiter, answer in zip(group.waiting, answers, strict=True):
                if not waiter.done():
                    waiter.set_result(answer)

    def _close(self, group: _Group[C, R]) -> None:
        with self._lock:
            if self._open is group:
                self._open = None


def _another(error: BaseException) -> Exception:
    """An exception for each waiter: one object raised in many tasks would gather all their tracebacks."""
    if not isinstance(error, TROUBLE):
        return error if isinstance(error, Exception) else StateUnavailable("the state is closing")
    twin = StateUnavailable(str(error))
    twin.__cause__ = error
    return twin
