"""Calls made while the file is busy, answered together by one operation of the group commit."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from relay.errors import StateUnavailable
from relay.group_commit import GroupCommit, StoreBusy, StoreFailed, StoreFull

C = TypeVar("C")
R = TypeVar("R")

TROUBLE = (StoreBusy, StoreFailed, StoreFull, sqlite3.Error)
"""What means that the state is away. Anything else is the caller's own fault or a bug."""

GROUP_BYTES = 8192
"""What a group adds to the log beside its bookkeeping: about one busy book."""


class _Group(Generic[C, R]):
    __slots__ = ("answers", "calls")

    def __init__(self) -> None:
        self.calls: list[C] = []
        self.answers: asyncio.Task[list[R]]


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

    async def __call__(self, call: C) -> R:
        """The answer, once it is durable.

        A cancelled caller does not undo what was done for it.

        Raises:
            StateUnavailable: nothing was done, or when a commit failed it cannot be known.
        """
        with self._lock:
            group = self._open
            begins = group is None
            if group is None:
                group = self._open = _Group()
            place = len(group.calls)
            group.calls.append(call)
        if begins:
            group.answers = asyncio.get_running_loop().create_task(self._run(group))
            group.answers.add_done_callback(_retrieve)
        try:
            return (await asyncio.shield(group.answers))[place]
        except TROUBLE as error:
            raise StateUnavailable(str(error)) from error

    async def _run(self, group: _Group[C, R]) -> list[R]:
        def operation(connection: sqlite3.Connection) -> list[R]:
            self._close(group)
            return self._answer(connection, group.calls)

        try:
            return await self._commit.run(operation, size=GROUP_BYTES)
        finally:
            self._close(group)  # when the operation never ran

    def _close(self, group: _Group[C, R]) -> None:
        with self._lock:
            if self._open is group:
                self._open = None


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Nobody may be left to hear of the failure."""
    if not task.cancelled():
        task.exception()
