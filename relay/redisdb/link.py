"""The connection to a shared store, as the stores see it: scripts in, replies out, and plain words when it is away.

What it guarantees
- Calls of one moment travel together, in the order in which they were made, and cost one round trip.
- A caller that is cancelled leaves its call to end by itself: no reply is ever read by somebody else (CVE-2023-28859),
  because only the link's own task reads, and a connection on which anything was amiss is closed.
- Nobody waits longer than its patience. While the server is away, calls fail at once and cost nothing (`circuit`); one
  probe at a time looks whether it is back.
- An error says whether the call may have been carried out (`unsure`). Within its patience a call is repeated, with its
  first argument telling the script so.

What it leaves to others: what an absent store means for mail and caps.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis import exceptions as lib

from relay.redisdb.address import Address, Form
from relay.redisdb.circuit import Circuit
from relay.redisdb.client import Client, make_client
from relay.redisdb.keys import key
from relay.redisdb.script import Script

BATCH: Final = 64
"""Calls in one round trip: some milliseconds of the server's time, so that other replicas are not kept waiting."""

BATCH_BYTES: Final = 2**20
"""Octets after which a round trip is full: a tenth of a second on a slow network."""

TOGETHER_BYTES: Final = 12 * 1024
"""A larger batch travels as one transaction. A server reads 16 kB at a time and, with `appendfsync always`, waits for
the disk after each such piece whose commands were carried out; those of a transaction are carried out at its end."""

PAUSE_S: Final = 0.05
"""Pause before a call is repeated that the server refused for the moment (loading, failing over)."""

Word = bytes | str | int | float

_PASSING = (
    "LOADING",
    "READONLY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "BUSY",
    "UNBLOCKED",
    "NOREPLICAS",
    "MISCONF",
)
_CREDENTIALS = ("NOAUTH", "WRONGPASS")


class LinkError(Exception):
    """The call did not succeed. `unsure`: it may have been carried out all the same."""

    unsure = False


class LinkDown(LinkError):
    """The server is away, or says that it cannot work at the moment."""

    def __init__(self, text: str, *, unsure: bool = False) -> None:
        super().__init__(text)
        self.unsure = unsure


class LinkFull(LinkError):
    """The server's memory is used up (`maxmemory` with `noeviction`); nothing was changed."""


class LinkRefused(LinkError):
    """The server will not do it, now or later: rights, or an error of a script."""


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """`reason`: why it is away, empty while it is there. `since`: steady seconds at which that began. `took_s`: how
    long round trips take, smoothed. `trips`, `calls`: since the start."""

    reason: str
    since: float
    took_s: float
    trips: int
    calls: int


@dataclass(slots=True, eq=False)
class _Call:
    command: tuple[Word, ...]
    size: int
    script: Script | None
    repeated: bool
    answer: asyncio.Future[Any]


class Link:
    """One door to the server. All methods belong to one event loop.

    Args:
        scripts: loaded together whenever the server does not know one.
        on_change: told when the server went away (with the reason) and when it is back (with an empty one).
    """

    def __init__(
        self, address: Address, scripts: Iterable[Script], *, on_change: Callable[[str], None] | None = None
    ) -> None:
        self.address = address
        self._scripts = tuple(scripts)
        self._on_change = on_change
        self._client: Client | None = None
        self._helpers: list[Any] = []
        self._queue: deque[_Call] = deque()
        self._wanted = asyncio.Event()
        self._back = asyncio.Event()
        self._back.set()
        self._circuit = Circuit()
        self._reason = ""
        self._since = 0.0
        self._took_s = 0.0
        self._trips = 0
        self.failures = 0
        """Round trips that went wrong: after one, a call may have been carried out without anybody knowing."""
        self._calls = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._probing: asyncio.Task[None] | None = None
        self._closed = False

    async def start(self) -> None:
        """Begin; the server may be away. The first call connects."""
        self._since = asyncio.get_running_loop().time()
        self._client, self._helpers = make_client(self.address)
        self._tasks.append(asyncio.create_task(self._work(), name=f"link {self.address}"))

    async def close(self) -> None:
        """Let what was asked for end, within one timeout, then disconnect. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._wanted.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2 * self.address.timeout_s)
        for task in [*self._tasks, *([self._probing] if self._probing else [])]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._fail_waiting(LinkDown("closed"))
        self._back.set()
        for client in [self._client, *self._helpers]:
            if client is not None:
                with contextlib.suppress(Exception):
                    await client.aclose()

    @property
    def reason(self) -> str:
        """Why the server is away, or empty. No I/O: hot path."""
        return "closed" if self._closed else self._reason

    def away_s(self) -> float:
        """How long the server has been away; 0 when it is there. No I/O: hot path."""
        return asyncio.get_running_loop().time() - self._since if self._reason else 0.0

    def status(self) -> LinkStatus:
        return LinkStatus(self.reason, self._since, self._took_s, self._trips, self._calls)

    def key(self, *parts: str) -> str:
        """The name of a key of this relay."""
        return key(self.address.name, *parts)

    # Calls

    async def call(self, script: Script, *args: Word, patience_s: float = 0.0, repeated: bool = False) -> Any:
        """Run a script; all its keys begin with `KEYS[1]`.

        Args:
            repeated: the same call may have been carried out before.
            patience_s: how long it may be repeated while the server is away. 0: once, and once more when all that was
                wrong is that the connection had gone stale.

        Raises:
            LinkDown, LinkFull, LinkRefused.
        """
        prefix = self.key()

        def command(repeated: bool) -> tuple[Word, ...]:
            return ("EVALSHA", script.sha, 1, prefix, 1 if repeated else 0, *args)

        return await self._repeat(command, script, patience_s, unsure=repeated)

    async def command(self, *words: Word, patience_s: float = 0.0) -> Any:
        """Run one command that does no harm when it is run twice."""
        return await self._repeat(lambda _: words, None, patience_s)

    async def _repeat(
        self,
        command: Callable[[bool], tuple[Word, ...]],
        script: Script | None,
        patience_s: float,
        *,
        unsure: bool = False,
    ) -> Any:
        loop = asyncio.get_running_loop()
        until = loop.time() + patience_s
        stale = True
        while True:
            try:
                return await self._ask(command(unsure), script, unsure)
            except LinkDown as error:
                unsure = unsure or error.unsure
                left = until - loop.time()
                again = stale and error.unsure and not self._circuit.is_open
                stale = False
                if self._closed or (left <= 0 and not again):
                    raise LinkDown(str(error), unsure=unsure) from error
                if left > 0:
                    await self._wait(left)

    async def _wait(self, left: float) -> None:
        """Until the server is back, or may be."""
        if not self._circuit.is_open:
            await asyncio.sleep(min(left, PAUSE_S))
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left):
                await self._back.wait()

    async def _ask(self, command: tuple[Word, ...], script: Script | None, repeated: bool) -> Any:
        if self._closed or self._circuit.is_open:
            raise LinkDown(self.reason)
        size = sum(len(word) if isinstance(word, (bytes, str)) else 8 for word in command)
        call = _Call(command, size, script, repeated, asyncio.get_running_loop().create_future())
        self._queue.append(call)
        self._wanted.set()
        return await call.answer

    # The link's own task

    async def _work(self) -> None:
        while True:
            if not self._queue:
                if self._closed:
                    return
                self._wanted.clear()
                await self._wanted.wait()
                continue
            batch = self._next_batch()
            if self._circuit.is_open:
                _fail(batch, LinkDown(self._reason))
                continue
            try:
                await self._travel(batch)
            except asyncio.CancelledError:
                _fail(batch, LinkDown("closed", unsure=True))
                raise

    def _next_batch(self) -> list[_Call]:
        batch: list[_Call] = []
        size = 0
        while self._queue and len(batch) < BATCH and (not batch or size + self._queue[0].size <= BATCH_BYTES):
            call = self._queue.popleft()
            size += call.size
            batch.append(call)
        return batch

    async def _travel(self, batch: list[_Call]) -> None:
        """One round trip, or two when the server did not know a script."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            replies = await self._exchange(self._commands(batch), together=_is_large(batch))
            if any(isinstance(reply, lib.NoScriptError) for reply in replies):
                await self._load()
                strangers = [n for n, reply in enumerate(replies) if isinstance(reply, lib.NoScriptError)]
                again = await self._exchange([batch[n].command for n in strangers])
                for n, reply in zip(strangers, again, strict=True):
                    replies[n] = reply
        except LinkDown as error:
            _fail(batch, error)
            return
        took_s = loop.time() - began
        self._took_s = took_s if not self._trips else 0.9 * self._took_s + 0.1 * took_s
        self._trips += 1
        self._calls += len(batch)
        self._worked()
        copies = self._copies(batch, replies)
        for call, reply in zip(batch, replies, strict=False):
            self._answer(call, reply, copies)

    def _commands(self, batch: Sequence[_Call]) -> list[tuple[Word, ...]]:
        commands = [call.command for call in batch]
        if self._wants_copies(batch):
            if any(call.repeated for call in batch):
                # WAIT is about this connection's own writes; a repeated call may have found all of its done before.
                commands.append(("SET", self.key("mark"), 1))
            commands.append(("WAIT", self.address.min_replicas, int(self.address.timeout_s * 500)))
        return commands

    def _wants_copies(self, batch: Iterable[_Call]) -> bool:
        return self.address.min_replicas > 0 and any(call.script is not None and call.script.keep for call in batch)

    def _copies(self, batch: Sequence[_Call], replies: Sequence[Any]) -> int | None:
        """How many copies have what was written; None when nobody asked."""
        if not self._wants_copies(batch):
            return None
        last = replies[-1]
        return last if isinstance(last, int) else 0

    def _answer(self, call: _Call, reply: Any, copies: int | None) -> None:
        if call.answer.done():
            return
        if isinstance(reply, Exception):
            error = self._understood(reply)
            if isinstance(error, LinkDown):
                self._failed(str(error), refused=True)  # it says itself that it cannot work now
            call.answer.set_exception(error)
        elif copies is not None and copies < self.address.min_replicas and call.script and call.script.keep:
            text = f"{copies} of the {self.address.min_replicas} copies that are asked for have it"
            call.answer.set_exception(LinkDown(text, unsure=True))
        else:
            call.answer.set_result(reply)

    def _understood(self, error: Exception) -> LinkError:
        text = str(error)
        if isinstance(error, lib.OutOfMemoryError) or text.startswith("OOM") or "OOM command not allowed" in text:
            return LinkFull("the shared store's memory is full")
        if isinstance(error, (lib.ReadOnlyError, lib.ClusterDownError, lib.TryAgainError, lib.BusyLoadingError)):
            return LinkDown(text[:200])
        if text.startswith(_PASSING) or any(f" {word} " in f" {text} " for word in _PASSING):
            return LinkDown(text[:200])
        return LinkRefused(text[:500])

    async def _exchange(self, commands: Sequence[tuple[Word, ...]], *, together: bool = False) -> list[Any]:
        """Send and read.

        Args:
            together: as one transaction, which is refused as a whole when the server has no room for one of them.

        Raises:
            LinkDown: the connection failed; it is closed.
        """
        client = self._client
        assert client is not None
        try:
            async with asyncio.timeout(3 * self.address.timeout_s + 0.01 * len(commands)):
                if self.address.form is Form.CLUSTER:
                    return await _through_cluster(client, commands)
                if together:
                    replies = await self._through_connection(client, [("MULTI",), *commands, ("EXEC",)])
                    if isinstance(replies[-1], list):
                        return replies[-1]
                    if not isinstance(replies[-1], lib.ExecAbortError):
                        return [replies[-1]] * len(commands)
                return await self._through_connection(client, commands)
        except LinkDown as error:
            self._failed(str(error), refused=not error.unsure)
            raise
        except Exception as error:  # whatever the library raises: a call that is never answered would be worse
            text = _words(error, self.address)
            self._failed(text, refused=False)
            raise LinkDown(text, unsure=True) from error

    async def _through_connection(self, client: Any, commands: Sequence[tuple[Word, ...]]) -> list[Any]:
        pool = client.connection_pool
        try:
            connection = await pool.get_connection()
        except Exception as error:
            raise LinkDown(_words(error, self.address)) from error
        replies: list[Any] = []
        try:
            await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            for _ in commands:
                try:
                    replies.append(await connection.read_response())
                except lib.ResponseError as error:
                    replies.append(error)
            if any(isinstance(reply, lib.ReadOnlyError) for reply in replies):
                await connection.disconnect(nowait=True)  # a failover: the next one asks anew who is master
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        finally:
            await pool.release(connection)
        return replies

    async def _load(self) -> None:
        client = self._client
        assert client is not None
        if self.address.form is Form.CLUSTER:
            for script in self._scripts:
                await client.script_load(script.source)
        else:
            await self._exchange([("SCRIPT", "LOAD", script.source) for script in self._scripts])

    # Away and back

    def _failed(self, text: str, *, refused: bool) -> None:
        now = asyncio.get_running_loop().time()
        self.failures += 1
        if not self._circuit.failed(now, refused=refused):
            return
        self._reason, self._since = text, now
        self._back.clear()
        if self._on_change is not None:
            self._on_change(text)
        if self._probing is None and not self._closed:
            self._probing = asyncio.create_task(self._probe(), name="probe")

    def _worked(self) -> None:
        if self._circuit.worked():
            self._reason, self._since = "", asyncio.get_running_loop().time()
            self._back.set()
            if self._on_change is not None:
                self._on_change("")

    async def _probe(self) -> None:
        """Look again until it answers like a server that can work."""
        try:
            while self._circuit.is_open and not self._closed:
                await asyncio.sleep(self._circuit.next_probe_s(random.random()))
                try:
                    (reply,) = await self._exchange([("SET", self.key("probe"), 1)])
                except LinkDown as error:
                    self._reason = str(error)
                    continue
                refusal = self._understood(reply) if isinstance(reply, Exception) else None
                if isinstance(refusal, LinkDown):
                    self._reason = str(refusal)
                else:  # also when it is full or refuses: that is for callers to hear
                    self._worked()
        finally:
            self._probing = None

    def _fail_waiting(self, error: LinkDown) -> None:
        waiting, self._queue = list(self._queue), deque()
        _fail(waiting, error)


def _is_large(batch: Sequence[_Call]) -> bool:
    return len(batch) > 1 and sum(call.size for call in batch) > TOGETHER_BYTES


def _fail(batch: Iterable[_Call], error: LinkDown) -> None:
    for call in batch:
        if not call.answer.done():
            call.answer.set_exception(LinkDown(str(error), unsure=error.unsure))


async def _through_cluster(client: Any, commands: Sequence[tuple[Word, ...]]) -> list[Any]:
    pipeline = client.pipeline()
    for words in commands:
        pipeline.execute_command(*words)
    replies: list[Any] = await pipeline.execute(raise_on_error=False)
    return replies


def _words(error: Exception, address: Address) -> str:
    """What is wrong, for an operator; never with a password in it."""
    text = str(error)
    if isinstance(error, (lib.AuthenticationError, lib.AuthorizationError)) or any(w in text for w in _CREDENTIALS):
        return f"{address} refuses the login"
    if isinstance(error, (TimeoutError, lib.TimeoutError)):
        return f"{address} does not answer in {address.timeout_s:g} s"
    return f"{address}: {text[:200] or type(error).__name__}"
