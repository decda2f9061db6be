"""The connections of one node: how many, which one next, and when one has served its time.

The key of a connection is its node; two nodes on one host never share. Decisions are synchronous; the only awaits are
opening a connection and waiting for one.

Invariants
  - At most `limit` connections exist at once, those being opened and those in use included. One that says QUIT is no
    longer counted.
  - The last one used is the first one used again: the others age and close.
  - Until an opening has succeeded, and again after one has failed, a single opening is under way and the rest wait
    for its result: a dead node costs one timeout and a wrong password one failure, not one for each delivery.
  - When an opening fails and no other connection is alive, all who wait fail with the same outcome at once.
"""

from __future__ import annotations

import asyncio
from collections import deque

from relay.outcome import Outcome, Scope, Status
from relay.upstreams.smtp_connect import ConnectFailed, Connection, Connector
from relay.upstreams.smtp_wire import QUIT_WAIT_S, Wire

MAX_AGE_S = 900.0
"""A connection is not used longer than this: DNS changes and balancers behind the name get their say."""

WARM_S = 0.1
"""A connection that was in use so lately is not asked whether it still lives: should it not, nothing was taken, and
`replace` follows."""

_Waiter = asyncio.Future["Connection | Outcome | None"]
"""Resolved with a connection, with the outcome of a failed opening, or with None: look again."""


class ConnectionPool:
    """Connections of one node. All methods belong to one loop."""

    def __init__(self, connector: Connector, *, limit: int, messages_per_connection: int, idle_close_s: float) -> None:
        self._connector = connector
        self._limit = limit
        self._messages = messages_per_connection
        self._idle_close_s = idle_close_s
        self._idle: list[Connection] = []
        self._slots = 0
        self._alive = 0
        self._waiters: deque[_Waiter] = deque()
        self._proven = False
        self._trial: asyncio.Future[Outcome | None] | None = None
        self._ending: set[Wire] = set()
        self._reaper: asyncio.TimerHandle | None = None
        self._closed = False

    def idle(self) -> Connection | None:
        """A connection at once, or None. No await — hot path."""
        now = _now()
        while self._idle:
            connection = self._idle.pop()
            if self._fits(connection, now) and (
                now - connection.idle_since < WARM_S or not connection.wire.has_unread()
            ):
                return connection
            self._drop(connection)
        return None

    async def acquire(self, deadline: float) -> Connection:
        """A connection, to be given back with `release` or `replace`.

        Args:
            deadline: loop time.

        Raises:
            ConnectFailed: none could be opened, or none became free in time.
        """
        while True:
            connection = self.idle()
            if connection is not None:
                return connection
            if self._slots < self._limit:
                self._slots += 1
                return await self._open(deadline)
            connection = await self._wait(deadline)
            if connection is not None:
                return connection

    def release(self, connection: Connection, *, reusable: bool) -> None:
        """Give a connection back. One that is not reusable, or old, ends."""
        now = connection.idle_since = _now()
        connection.reused = True
        if not reusable:  # where it stands is unknown: a QUIT might be read as content
            connection.wire.abort()
        if not reusable or self._closed or not self._fits(connection, now):
            self._drop(connection)
            return
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self._idle.append(connection)
        if self._reaper is None:
            self._schedule_reaping()

    async def replace(self, connection: Connection, deadline: float) -> Connection:
        """A new connection in the place of a broken one. Raises as `acquire`."""
        self._alive -= 1
        connection.wire.abort()
        self._end(connection.wire)
        return await self._open(deadline)

    async def close(self) -> None:
        """End idle connections, politely; those in use end when they are released."""
        self._closed = True
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        while self._idle:
            self._drop(self._idle.pop())
        if self._ending:
            await asyncio.wait([wire.closed for wire in self._ending], timeout=QUIT_WAIT_S + 1.0)

    async def _open(self, deadline: float) -> Connection:
        """Open in a slot that is already counted; the slot is free again when this raises."""
        try:
            connection = await self._try(deadline)
        except BaseException as error:
            self._slots -= 1
            if isinstance(error, ConnectFailed) and not self._alive:
                while self._waiters:
                    self._tell(self._waiters.popleft(), error.outcome)
            else:
                self._wake_one()
            raise
        self._alive += 1
        return connection

    async def _try(self, deadline: float) -> Connection:
        loop = asyncio.get_running_loop()
        while not self._proven and self._trial is not None:
            trial = self._trial
            await asyncio.wait([trial], timeout=max(0.0, deadline - loop.time()))
            if not trial.done():
                raise ConnectFailed(_out_of_time())
            outcome = trial.result()
            if outcome is not None:
                raise ConnectFailed(outcome)
        if self._proven:
            try:
                return await self._connector.open(deadline)
            except ConnectFailed:
                self._proven = False
                raise
        trial = self._trial = loop.create_future()
        verdict: Outcome | None = None
        try:
            connection = await self._connector.open(deadline)
            self._proven = True
        except ConnectFailed as failed:
            verdict = failed.outcome
            raise
        finally:
            self._trial = None
            trial.set_result(verdict)
        return connection

    async def _wait(self, deadline: float) -> Connection | None:
        waiter: _Waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout_at(deadline):
                got = await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled():  # given in the same moment
                given = waiter.result()
                if isinstance(given, Connection):
                    self.release(given, reusable=True)
                elif given is None:
                    self._wake_one()
            elif waiter in self._waiters:
                self._waiters.remove(waiter)
            if isinstance(error, TimeoutError):
                raise ConnectFailed(_out_of_time()) from None
            raise
        if isinstance(got, Outcome):
            raise ConnectFailed(got)
        return got

    def _fits(self, connection: Connection, now: float) -> bool:
        return (
            connection.wire.usable
            and connection.messages < self._messages
            and now - connection.opened_at < MAX_AGE_S
            and now - connection.idle_since < self._idle_close_s
        )

    def _drop(self, connection: Connection) -> None:
        self._slots -= 1
        self._alive -= 1
        self._end(connection.wire)
        self._wake_one()

    def _end(self, wire: Wire) -> None:
        """QUIT if that can still be said; `close` waits for it."""
        if not wire.closed.done():
            self._ending.add(wire)
            wire.closed.add_done_callback(lambda _: self._ending.discard(wire))
        wire.retire()

    def _wake_one(self) -> None:
        while self._waiters:
            if self._tell(self._waiters.popleft(), None):
                return

    @staticmethod
    def _tell(waiter: _Waiter, what: Outcome | None) -> bool:
        if waiter.done():
            return False
        waiter.set_result(what)
        return True

    def _schedule_reaping(self) -> None:
        loop = asyncio.get_running_loop()
        self._reaper = loop.call_at(self._idle[0].idle_since + self._idle_close_s, self._reap)

    def _reap(self) -> None:
        self._reaper = None
        now = _now()
        old = [connection for connection in self._idle if not self._fits(connection, now)]
        self._idle = [connection for connection in self._idle if connection not in old]
        for connection in old:
            self._drop(connection)
        if self._idle:
            self._schedule_reaping()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _out_of_time() -> Outcome:
    """Our own waiting line was too long: says nothing about the node."""
    text = "no connection became free in time"
    return Outcome(status=Status.DEFERRED, scope=Scope.MESSAGE, text=text, phase="connect", attempted=False)
