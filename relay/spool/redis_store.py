"""The spool on a Redis or Valkey server, shared by replicas that take over each other's messages.

Not on Streams: a stream hands out messages in the order of their coming, and mail is due at times of its own, in queues
that take turns, held and retried by operators. A sorted set by due time for each queue, and a hash for each message,
say that directly; what consumer groups would give (who has what, and whose time is up) is here a set of ids for each
process and one clock for all processes.

What it guarantees
- A message is there, whole and counted, or not at all: one script stores it. The 250 follows the server's answer; what
  that is worth is for `relay.redisdb.promises` to say.
- A lease has a *token* that names its process and a number that only grows. Each write shows the token; with a lost one
  it changes nothing and raises `LeaseLost`. Before a message is handed over, `confirm` looks whether the lease is good
  (`redis_tenure`).
- A process that is silent for `lease_s` is taken for dead by the others, once and for good: its messages go back to
  their queues, those with an open attempt as possible duplicates. Who asks must itself have been in touch without a
  break for as long, so that a server that was away for a while makes nobody look dead.
- A call without an answer is repeated for some seconds and changes nothing twice. When a message could not be stored
  for certain, it is unmade as soon as the server is back.

Due times are those of the callers' clocks; leases are counted by the server's. The keys are listed in `lua/common.lua`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

from relay.envelope import BodyFile, Content, Message
from relay.errors import SpoolError, SpoolFull, SpoolUnhealthy
from relay.ids import is_id
from relay.redisdb.address import Address
from relay.redisdb.link import Link, LinkError, LinkFull, LinkRefused, Word
from relay.redisdb.script import Needs, Script, load_script
from relay.spool import Depth, Entry, Lease, LeaseLost, QueueKey, Selection, Standing
from relay.spool.ledger import Ledger
from relay.spool.memory import matches
from relay.spool.redis_bodies import RedisBodies
from relay.spool.redis_rows import Damaged, Row, encode, queue_name, queue_of, row_sum, standing_code
from relay.spool.redis_tenure import Tenure, steady

T = TypeVar("T")

DAY_S: Final = 86400.0

STORE_S: Final = 10.0
"""How long storing is tried again while the server is away: a restart of it, with clients waiting."""

WORK_S: Final = 5.0
"""The same for everything else."""

SHORT_S: Final = 2.0
"""An absence shorter than this is no reason to refuse mail: storing waits for the server to come back."""

PAGE: Final = 200
"""Messages looked at in one script: a few milliseconds of the server's time."""

BEATS: Final = 6
"""Signs of life in the length of a lease: several can be missed."""

_LUA = Path(__file__).parent / "lua"


def _script(name: str, needs: Needs = Needs.NO_ROOM, *, keep: bool = True) -> Script:
    return load_script(_LUA, name, common="common", keep=keep, needs=needs)


STORE = _script("store", Needs.ROOM)
UNSTORE = _script("unstore")
LEASE_DUE = _script("lease_due", keep=False)
LEASE_ONE = _script("lease_one", keep=False)
BEGIN = _script("begin")
PROGRESS = _script("progress")
SETTLE = _script("settle")
RELEASE = _script("release", keep=False)
FENCE = _script("fence", keep=False)
BEAT = _script("beat", keep=False)
REAP = _script("reap")
OWNERS = _script("owners", Needs.READS, keep=False)
UNHEARD = _script("unheard", keep=False)
DEPTHS = _script("depths", Needs.READS, keep=False)
ROWS = _script("rows", Needs.READS, keep=False)
OPERATE = _script("operate")
QUARANTINE = _script("quarantine")
CLAMP = _script("clamp", keep=False)
SCRIPTS = (
    *(STORE, UNSTORE, LEASE_DUE, LEASE_ONE, BEGIN, PROGRESS, SETTLE, RELEASE, FENCE, BEAT, REAP, OWNERS, UNHEARD),
    *(DEPTHS, ROWS, OPERATE, QUARANTINE, CLAMP),
)


class OwnerIsDead(SpoolError):
    """Our messages were taken over; we go on under another name."""


class RedisSpool:
    """`relay.spool.Spool` for one process of a replica. Call `start` before all else, then `recover`.

    Args:
        folder: for large bodies on their way out; ours alone.
        place: name of this process that a restart of it keeps, unlike that of any other.
        max_messages, max_bytes: bounds on what is queued, for all replicas together; 0 for none.
        on_quarantine: told the id and the reason when damage was found.
        on_change: told when the server went away, with the reason, and when it is back, with an empty one.
        on_unpromised: told the id of a message that was refused for want of an answer, and is on its way.
        on_lost: told when everything that is leased was lost, because we were taken for dead or slept for too long.
    """

    def __init__(
        self,
        address: Address,
        folder: Path,
        *,
        place: str = "0",
        max_messages: int = 0,
        max_bytes: int = 0,
        on_quarantine: Callable[[str, str], None] | None = None,
        on_change: Callable[[str], None] | None = None,
        on_unpromised: Callable[[str], None] | None = None,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        self._on_unpromised = on_unpromised
        self.address = address
        self._link = Link(address, SCRIPTS, on_change=on_change)
        self._bulk = Link(address, ())
        self._bodies = RedisBodies(self._bulk, folder, WORK_S)
        self._tenure = Tenure(place, address.lease_s)
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._on_quarantine = on_quarantine
        self._on_lost = on_lost
        self._messages = 0
        self._bytes = 0
        self._ours: dict[str, Lease] = {}  # by id, each lease we know of
        self.ledger = Ledger()
        """What became of recipients while we held them. *Found* is what came from the shared queue, less what went back
        to it; *pending* is what is held."""
        self._fresh: set[str] = set()  # of those, the ones that never waited for anybody
        self._doubtful: dict[str, tuple[str, str]] = {}  # id → nonce and owner of what may have been stored unpromised
        self._left: set[str] = set()  # names we had, that others may take over from
        self._steady_since: float | None = None  # in touch without a break
        self._failures = 0
        self._taking_back = 0
        self._closed = False
        self._loop: asyncio.AbstractEventLoop
        self._chores: set[asyncio.Future[Any]] = set()
        self._beating: asyncio.Task[None] | None = None

    # Life

    async def start(self) -> None:
        """Connect.

        Raises:
            SpoolError: the server is away, or refuses.
        """
        self._loop = asyncio.get_running_loop()
        self._bodies.prepare()
        await self._link.start()
        await self._bulk.start()
        try:
            await self._beat()
            await self.depths()
        except BaseException:
            await self.close()
            raise
        self._beating = asyncio.create_task(self._beat_on(), name="lease")

    async def close(self) -> None:
        """Finish what was asked for, and leave what we hold to others at once. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        if self._chores:
            await asyncio.wait(tuple(self._chores), timeout=WORK_S)
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
        with contextlib.suppress(LinkError):
            await self._undo_doubtful()
            for owner in (*self._left, self._tenure.owner):
                await self._link.call(BEAT, owner, 0)
        await self._link.close()
        await self._bulk.close()
        self._bodies.close()

    async def recover(self, now: float) -> list[Message]:
        """See `Spool.recover`: what an earlier start of this process held, and what processes that have left did."""
        owners = await self._call(OWNERS)
        mine = [o.decode() for o in owners if o.decode().rpartition(".")[0] == self._tenure.place]
        left_open = await self._reap(now, [*mine, self._tenure.owner], overdue=False)
        self._all_went_back()
        await self._call(CLAMP, repr(now), repr(now + DAY_S))
        return left_open

    async def take_over(self, now: float) -> list[Message]:
        """Messages whose attempt was open when their process was taken for dead; all that it held is back in the
        queues. Call it every second or so."""
        since = self._steady_since
        overdue = since is not None and steady() - since >= self.address.lease_s
        return await self._reap(now, sorted(self._left), overdue=overdue)

    async def _reap(self, now: float, owners: Sequence[str], *, overdue: bool) -> list[Message]:
        left_open: list[Message] = []
        while True:
            answer = await self._call(
                REAP, repr(now), PAGE, self._tenure.owner, 1 if overdue else 0, *owners, patience_s=WORK_S
            )
            for values in answer[2:]:
                row = Row.of(values)
                try:
                    left_open.append(row.message())
                except Damaged as error:
                    await self._quarantine(row.id, str(error))
            if not answer[0]:
                self._left.difference_update(owners)
                return left_open

    # The life of a message

    async def store(self, message: Message, content: Content, *, lease: bool) -> Lease | None:
        if not is_id(message.id):
            raise SpoolError(f"{message.id!r} is not an id this spool can keep")
        if self._closed:
            raise SpoolUnhealthy("closed")
        if message.sender and (reason := self.full_reason(message.size)):
            raise SpoolFull(reason)
        return await self._finish(self._store(message, content, lease), self._unlease)

    async def _store(self, message: Message, content: Content, lease: bool) -> Lease | None:
        if lease:
            message = replace(message, attempts=1)
        nonce = secrets.token_hex(8)
        for _ in range(3):
            owner = self._tenure.owner
            try:
                return await self._store_once(message, content, lease, nonce, owner)
            except OwnerIsDead:
                self._begin_anew(owner)
        raise SpoolUnhealthy("this process is taken for dead again and again")

    async def _store_once(
        self, message: Message, content: Content, lease: bool, nonce: str, owner: str
    ) -> Lease | None:
        count = 0
        try:
            body, size, total, count = await self._bodies.upload(message.id, nonce, content)
            data = encode(message)
            answer = await self._link.call(
                STORE,
                message.id,
                nonce,
                owner if lease else "",
                self._max_messages if message.sender else 0,
                self._max_bytes if message.sender else 0,
                queue_name(QueueKey(message.pool, message.lane, message.bridge)),
                repr(message.received_at),
                message.size,
                repr(message.received_at),
                message.attempts,
                message.crashes,
                row_sum(message.id, data),
                data,
                content.head,
                body,
                size,
                total,
                count,
                patience_s=STORE_S,
            )
        except LinkError as error:
            if error.unsure:
                self._doubtful[message.id] = (nonce, owner)
            elif count:
                self._later(self._bodies.forget_upload(message.id, nonce, count))
            raise _store_error(error, message.id) from error
        except OSError as error:
            raise SpoolError(f"the body of {message.id} cannot be read: {error.strerror or error}") from error
        token, messages, octets = answer
        self._messages, self._bytes = int(messages), int(octets)
        if token == b"full":
            self._later(self._bodies.forget_upload(message.id, nonce, count))
            raise SpoolFull(self.full_reason(message.size) or "the shared queue is full")
        if isinstance(content.body, BodyFile):
            with contextlib.suppress(OSError):
                await asyncio.to_thread(content.body.path.unlink, missing_ok=True)
        self.ledger.stored(message.recipients)
        if not lease:
            self.ledger.took_over(-len(message.pending))
            return None
        self._fresh.add(message.id)
        return self._keep(Lease(message, token.decode()))

    async def lease_due(self, key: QueueKey, *, now: float, limit: int, skip: int = 0) -> list[Lease]:
        if limit <= 0:
            return []
        return await self._finish(self._lease_due(key, now, limit, skip), self._unlease_all)

    async def _lease_due(self, key: QueueKey, now: float, limit: int, skip: int) -> list[Lease]:
        leases: list[Lease] = []
        while len(leases) < limit:
            want, owner = min(PAGE, limit - len(leases)), self._tenure.owner
            try:
                token, *rows = await self._call(LEASE_DUE, owner, queue_name(key), repr(now), want, skip)
            except OwnerIsDead:
                self._begin_anew(owner)
                break
            for values in rows:
                lease = await self._lease_of(Row.of(values), token)
                if lease is not None:
                    leases.append(lease)
            if len(rows) < want:
                break
        return leases

    async def lease(self, message_id: str) -> Lease | None:
        if not is_id(message_id):
            return None
        return await self._finish(self._lease_one(message_id), self._unlease)

    async def _lease_one(self, message_id: str) -> Lease | None:
        owner = self._tenure.owner
        try:
            answer = await self._call(LEASE_ONE, owner, message_id)
        except OwnerIsDead:
            self._begin_anew(owner)
            return None
        return await self._lease_of(Row.of(answer[1]), answer[0]) if answer else None

    async def _lease_of(self, row: Row, token: bytes) -> Lease | None:
        try:
            lease = Lease(row.message(), token.decode())
        except Damaged as error:
            await self._quarantine(row.id, str(error))
            return None
        self.ledger.took_over(len(lease.message.pending))
        return self._keep(lease)

    def _keep(self, lease: Lease) -> Lease:
        self._ours[lease.message.id] = lease
        return lease

    async def begin(self, leases: Sequence[Lease]) -> list[Lease]:
        if not leases:
            return []
        return await self._finish(self._begin(leases))

    async def _begin(self, leases: Sequence[Lease]) -> list[Lease]:
        self._check_held(*leases)
        words = [word for lease in leases for word in (lease.message.id, lease.token)]
        answer = await self._call(BEGIN, *words, patience_s=WORK_S)
        if isinstance(answer, bytes):
            raise self._lost(answer.decode())
        return [
            self._keep(Lease(replace(lease.message, attempts=int(attempts)), lease.token))
            for lease, attempts in zip(leases, answer, strict=True)
        ]

    async def confirm(self, lease: Lease) -> None:
        """See `Spool.confirm`. No I/O while we are sure of ourselves."""
        self._check_held(lease)
        if self._tenure.is_sure(steady()):
            return
        asked_at = steady()
        if not await self._call(FENCE, lease.message.id, lease.token, self.address.lease_s):
            raise self._lost(lease.message.id)
        self._tenure.beaten(asked_at)

    async def progress(self, lease: Lease, message: Message) -> Lease:
        return await self._finish(self._progress(lease, message))

    async def _progress(self, lease: Lease, message: Message) -> Lease:
        self._check_held(lease)
        data = encode(message)
        kept = await self._call(
            PROGRESS,
            message.id,
            lease.token,
            message.attempts,
            message.crashes,
            row_sum(message.id, data),
            data,
            patience_s=WORK_S,
        )
        if not kept:
            raise self._lost(message.id)
        self._book(lease, message)
        return self._keep(Lease(message, lease.token))

    async def settle(
        self, lease: Lease, message: Message, *, due: float, standing: Standing = Standing.QUEUED, reason: str = ""
    ) -> None:
        if message.pending and not math.isfinite(due):
            raise ValueError(f"{due} is no time to try again")
        await self._finish(self._settle(lease, message, due, standing, reason))

    async def _settle(self, lease: Lease, message: Message, due: float, standing: Standing, reason: str) -> None:
        self._check_held(lease)
        data = encode(message) if message.pending else b""
        answer = await self._call(
            SETTLE,
            message.id,
            lease.token,
            repr(due) if message.pending else "",
            standing_code(standing),
            reason.encode("utf-8", "replace"),
            message.attempts,
            message.crashes,
            row_sum(message.id, data),
            data,
            1 if message.id in self._fresh else 0,
            patience_s=WORK_S,
        )
        if isinstance(answer, int):
            raise self._lost(message.id)
        self._messages, self._bytes = int(answer[0] or 0), int(answer[1] or 0)
        self._book(lease, message)
        self._forget(message.id, lease.token, message)

    async def release(self, leases: Sequence[Lease], *, due: float | None = None, reason: str = "") -> None:
        if due is not None and not math.isfinite(due):
            raise ValueError(f"{due} is no time to try again")
        if leases:
            await self._finish(self._release(leases, due, reason))

    async def _release(self, leases: Sequence[Lease], due: float | None, reason: str) -> None:
        at = "" if due is None else repr(due)
        for start in range(0, len(leases), PAGE):
            portion = leases[start : start + PAGE]
            words = [word for lease in portion for word in (lease.message.id, lease.token)]
            await self._call(RELEASE, at, reason.encode("utf-8", "replace"), *words, patience_s=WORK_S)
            for lease in portion:
                self._forget(lease.message.id, lease.token)

    def _book(self, lease: Lease, message: Message) -> None:
        """Results are kept."""
        known = self._ours.get(message.id)
        if known is not None and known.token == lease.token:
            self.ledger.settled(known.message, message)

    async def content(self, message_id: str) -> Content:
        if not is_id(message_id):
            raise SpoolError(f"{message_id!r} is no id of a message")
        try:
            content = await self._bodies.fetch(message_id)
            if content is None:
                if await self._row(message_id) is None:
                    raise SpoolError(f"message {message_id} is not in the spool")
                raise Damaged("its content is missing")
        except Damaged as error:
            await self._quarantine(message_id, str(error))
            raise SpoolError(f"message {message_id} is damaged and was quarantined: {error}") from error
        except LinkError as error:
            raise _spool_error(error) from error
        except (OSError, ValueError, TypeError) as error:
            raise SpoolError(f"the content of {message_id} cannot be read: {error}") from error
        return content

    # Seeing

    async def depths(self) -> list[Depth]:
        messages, octets, *queues = await self._call(DEPTHS)
        self._messages, self._bytes = int(messages), int(octets)
        depths = []
        for name, queued, held, quarantined, size, next_due, oldest in queues:
            with contextlib.suppress(Damaged):
                depths.append(
                    Depth(
                        key=queue_of(name),
                        queued=int(queued),
                        held=int(held),
                        quarantined=int(quarantined),
                        size=int(size),
                        next_due=float(next_due) if next_due else None,
                        oldest=float(oldest) if oldest else None,
                    )
                )
        return depths

    async def find(self, message_id: str) -> Entry | None:
        row = await self._row(message_id) if is_id(message_id) else None
        return row.entry() if row else None

    async def entries(self, selection: Selection, *, limit: int, after: str = "") -> list[Entry]:
        found: list[Entry] = []
        if limit <= 0:
            return found
        async for page in self._pages(selection, after):
            found += page
            if len(found) >= limit:
                break
        return found[:limit]

    async def _row(self, message_id: str) -> Row | None:
        rows = await self._call(ROWS, "", 0, message_id)
        return Row.of(rows[0]) if rows else None

    async def _pages(self, selection: Selection, after: str = "") -> Any:
        """The selected entries by id, page by page."""
        if selection.ids:
            ids = sorted({each for each in selection.ids if is_id(each) and each > after})
            for start in range(0, len(ids), PAGE):
                rows = [Row.of(values) for values in await self._call(ROWS, "", 0, *ids[start : start + PAGE])]
                yield _selected(rows, selection)
            return
        while True:
            rows = [Row.of(values) for values in await self._call(ROWS, after, PAGE)]
            if rows:
                yield _selected(rows, selection)
            if len(rows) < PAGE:
                return
            after = rows[-1].id

    # Operators

    async def retry(self, selection: Selection, *, now: float) -> int:
        return len(await self._operate("retry", selection, due=now))

    async def hold(self, selection: Selection, *, reason: str, standing: Standing = Standing.HELD) -> int:
        return len(await self._operate("hold", selection, standing=standing, reason=reason))

    async def drop(self, selection: Selection) -> list[Message]:
        dropped = [Row.of(values).entry().message for values in await self._operate("drop", selection)]
        for message in dropped:
            self.ledger.took_over(len(message.pending))
            self.ledger.removed(message)
        return dropped

    async def _operate(
        self,
        verb: str,
        selection: Selection,
        *,
        due: float = 0.0,
        standing: Standing = Standing.QUEUED,
        reason: str = "",
    ) -> list[Any]:
        done: list[Any] = []
        async for page in self._pages(selection):
            ids = [entry.message.id for entry in page if self._taking_back or not entry.leased]
            if ids:
                text, steal = reason.encode("utf-8", "replace"), int(self._taking_back > 0)
                done += await self._call(OPERATE, verb, repr(due), standing_code(standing), text, steal, *ids)
        return done

    @contextlib.contextmanager
    def taking_back(self) -> Iterator[None]:
        self._taking_back += 1
        try:
            yield
        finally:
            self._taking_back -= 1

    def unhealthy_reason(self) -> str:
        if self._closed:
            return "closed"
        return self._link.reason if self._link.away_s() > SHORT_S else ""

    def full_reason(self, size: int = 0) -> str:
        if self._max_messages and self._messages >= self._max_messages:
            return f"the queue holds {self._messages} messages, its bound"
        if self._max_bytes and self._bytes + size > self._max_bytes:
            return f"the queue holds {self._bytes} octets, with this message more than its bound of {self._max_bytes}"
        return ""

    def set_bounds(self, *, min_free: int, max_messages: int, max_bytes: int) -> None:  # noqa: ARG002
        """Bounds of what may wait, from now on. The room on a disk is not ours to watch."""
        self._max_messages, self._max_bytes = max_messages, max_bytes

    def broken_reason(self) -> str:
        """Nothing here is mended by a fresh process."""
        return ""

    async def relieve(self) -> bool:
        """There is no reserve to give up."""
        return False

    async def adopt(self, shard: str, *, now: float) -> Any:  # noqa: ARG002
        """Raises SpoolError: mail in files is not moved here."""
        raise SpoolError(
            f"shard {shard} is of a time when the store was sqlite; run `relay -c FILE run` once with that store to "
            "deliver what is in it"
        )

    @property
    def link(self) -> Link:
        return self._link

    # Signs of life

    async def _beat_on(self) -> None:
        pause_s = min(1.0, self.address.lease_s / BEATS)
        while True:
            await asyncio.sleep(pause_s)
            self.look_at_clock()
            try:
                await self._beat()
                await self._tidy()
            except SpoolError:
                self._steady_since = None

    async def _beat(self) -> None:
        asked_at = steady()
        if not await self._call(BEAT, self._tenure.owner, self.address.lease_s):
            self._begin_anew(self._tenure.owner)
            return
        if self._failures != self._link.failures:
            self._steady_since = None
        if self._steady_since is None:
            self._steady_since = asked_at
        self._tenure.beaten(asked_at)

    def look_at_clock(self) -> None:
        """Whether we were stopped for longer than our leases last: then they are lost. Call it also when the process
        is woken (SIGCONT); it may be called by a signal's handler in the middle of anything."""
        if self._tenure.slept(steady()):
            self._left.add(self._tenure.renew())  # from here on nothing of before is confirmed
            with contextlib.suppress(RuntimeError):  # closed
                self._loop.call_soon_threadsafe(self._lose_everything)

    def _begin_anew(self, owner: str) -> None:
        """The server says that this owner was taken for dead; it may be known here already."""
        if owner == self._tenure.owner:
            self._left.add(self._tenure.renew())
            self._lose_everything()

    def _lose_everything(self) -> None:
        self._all_went_back()
        self._fresh.clear()
        self._steady_since = None
        if self._on_lost is not None:
            self._on_lost()

    async def _tidy(self) -> None:
        """After a break: what was leased and stored by calls whose answers never came."""
        await self._undo_doubtful_now()
        failures = self._link.failures
        if failures == self._failures:
            return
        number = await self._command("GET", self._link.key("fence"))
        await asyncio.sleep(0.1)  # leases of before this number are known by now
        await self._call(UNHEARD, int(number or 0), self._tenure.owner, *self._ours)
        self._failures = failures

    async def _undo_doubtful_now(self) -> None:
        try:
            await self._undo_doubtful()
        except LinkError as error:
            raise _spool_error(error) from error

    async def _undo_doubtful(self) -> None:
        for message_id, (nonce, owner) in list(self._doubtful.items()):
            unmade = await self._link.call(UNSTORE, message_id, nonce, owner)
            self._doubtful.pop(message_id, None)
            if not unmade and self._on_unpromised is not None:
                self._on_unpromised(message_id)

    # Helpers

    def _check_held(self, *leases: Lease) -> None:
        for lease in leases:
            if not self._tenure.is_ours(lease.token):
                raise self._lost(lease.message.id)

    def _lost(self, message_id: str) -> LeaseLost:
        self._went_back(self._ours.pop(message_id, None))
        self._fresh.discard(message_id)
        self._bodies.drop_file(message_id)
        return LeaseLost(f"message {message_id} is not leased by this lease any more")

    def _went_back(self, lease: Lease | None) -> None:
        if lease is not None:
            self.ledger.took_over(-len(lease.message.pending))

    def _all_went_back(self) -> None:
        for lease in self._ours.values():
            self._went_back(lease)
        self._ours.clear()

    def _forget(self, message_id: str, token: str, message: Message | None = None) -> None:
        """The lease has ended; `message` as it is now, if that has changed."""
        known = self._ours.get(message_id)
        if known is not None and known.token == token:
            del self._ours[message_id]
            self.ledger.took_over(-len((message or known.message).pending))
        self._fresh.discard(message_id)
        self._bodies.drop_file(message_id)

    async def _quarantine(self, message_id: str, why: str) -> None:
        self._went_back(self._ours.pop(message_id, None))
        if await self._call(QUARANTINE, message_id, f"damaged: {why}", patience_s=WORK_S) and self._on_quarantine:
            self._on_quarantine(message_id, why)

    async def _unlease(self, lease: Lease | None) -> None:
        if lease is not None:
            await self._release([lease], None, "")

    async def _unlease_all(self, leases: Sequence[Lease]) -> None:
        if leases:
            await self._release(leases, None, "")

    async def _finish(self, work: Coroutine[Any, Any, T], unwanted: Callable[[T], Awaitable[None]] | None = None) -> T:
        """Do something to its end even when the caller is cancelled; `unwanted` then takes the result back."""
        task = asyncio.ensure_future(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():
                self._later(_undo(task, unwanted))
            raise

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    async def _call(self, script: Script, *args: Word, patience_s: float = 0.0) -> Any:
        try:
            return await self._link.call(script, *args, patience_s=patience_s)
        except LinkError as error:
            raise _spool_error(error) from error

    async def _command(self, *words: Word) -> Any:
        try:
            return await self._link.command(*words)
        except LinkError as error:
            raise _spool_error(error) from error


async def _undo(task: asyncio.Future[T], unwanted: Callable[[T], Awaitable[None]] | None) -> None:
    with contextlib.suppress(SpoolError):
        result = await task
        if unwanted is not None:
            await unwanted(result)


def _selected(rows: Iterable[Row], selection: Selection) -> list[Entry]:
    entries = [row.entry() for row in rows]
    return [
        entry
        for entry in entries
        if selection.pool in ("", entry.message.pool)
        and selection.bridge in ("", entry.message.bridge)
        and selection.standing in (None, entry.standing)
        and (not selection.text or matches(entry.message, selection.text))
    ]


def _store_error(error: LinkError, message_id: str) -> SpoolError:
    if isinstance(error, LinkRefused) and "EXISTS" in str(error):
        return SpoolError(f"a message {message_id} is in the spool already")
    return _spool_error(error)


def _spool_error(error: LinkError) -> SpoolError:
    match error:
        case LinkFull():
            return SpoolFull(str(error))
        case LinkRefused() if "DEADOWNER" in str(error):
            return OwnerIsDead(str(error))
        case LinkRefused():
            return SpoolError(f"the shared spool refuses: {error}")
        case _:
            return SpoolUnhealthy(f"the shared spool is away: {error}")
