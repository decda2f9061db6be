"""The loop that moves mail: take what is due in fair order, ask the router, hand over, settle.

What it guarantees
- An attempt is begun durably before the network is touched, and its results are durable before anything follows from
  them: the next node, the report to the sender, the removal of the message.
- A hold is not an attempt: the message goes back as it was, with the reason and the time on record, and its whole
  class is parked behind a gate (`fair`) until that time or until something changes.
- A message goes through another node in the same run after a node fault; never after an uncertain end.
- When results cannot be recorded, deliveries stop: each further one would become a duplicate.

What it leaves to others: which node (`router`), what follows from an outcome (`router.disposition`), order
(`fair`), node health (`keeper`), wire protocols (`upstreams`).

Memory is bounded: at most `WINDOW` jobs wait here, everything else stays in the spool and is leased in portions.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from relay.delivery.attempt import Attempts
from relay.delivery.fair import FairQueue
from relay.delivery.fleet import Fleet
from relay.delivery.job import Gate, Job, queue_key
from relay.envelope import Content, Message, Recipient
from relay.errors import SpoolError
from relay.events import Events
from relay.router.disposition import Next, dispose, expire
from relay.router.router import Router
from relay.router.selection import Busy, Hold, Route, Unroutable, gate_key
from relay.spool import Lease, LeaseLost, QueueKey, Spool

WINDOW = 20_000
"""Jobs in memory (about 2 kB each), the size of Postfix's active queue."""

PORTION = 500
"""Jobs of one queue leased at a time: one query and no hot-path wait for some hundred milliseconds of work."""

PARKED = 50
"""Jobs kept in memory of a queue behind a closed gate; enough to go at once when it opens."""

FRESH = 200
"""While fewer jobs than this wait, a new message is attempted at once without a detour over the disk. Also the bound
of how many untouched messages a crash may count as open attempts."""

RUNNING = 2_000
"""Attempts at once in one process, over all nodes."""

LOOK_S = 1.0
"""How often the spool is asked what became due."""

TROUBLE_S = 5.0
"""Pause of all deliveries after the spool could not record a result."""

UNROUTABLE_S = 300.0
"""Pause before a message that no configured node could ever take is looked at again; a reload looks at once."""

LONG_AGO_S = 60.0
"""Pause between sweeps for messages that expire while they wait behind a gate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A class of messages that waits.

    Attributes:
        until: epoch seconds; inf when it goes as soon as a node has a free connection.
        why: one line for each node; empty when all that could take them are only busy.
    """

    pool: str
    until: float
    why: tuple[str, ...]


class Dispatcher:
    """One per worker. All methods belong to its event loop.

    Args:
        share_of: weight of a bridge by name.
        clock: epoch seconds.
    """

    def __init__(
        self,
        *,
        spool: Spool,
        router: Router,
        fleet: Fleet,
        attempts: Attempts,
        events: Events,
        share_of: Callable[[str], int],
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._spool = spool
        self._router = router
        self._fleet = fleet
        self._attempts = attempts
        self._events = events
        self._clock = clock
        self._rng = rng
        self._queue = FairQueue(share_of)
        self._why: dict[Gate, tuple[str, ...]] = {}
        self._backlog: set[QueueKey] = set()  # queues with due messages that are not in memory
        self._low: set[QueueKey] = set()  # of those, the ones that memory runs out of
        self._running: set[asyncio.Task[None]] = set()
        self._at_work: set[str] = set()  # ids of the messages that tasks work on
        self._leasing = asyncio.Lock()  # held while messages move from the spool into memory, or are kept from it
        self._look = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0  # loop time
        self._paused_until = 0.0
        self._stopping = False

    # For acceptance

    def takes_fresh(self, message: Message) -> bool:
        """May this new message be leased while it is stored, and attempted at once?

        No when its queue has older messages waiting on disk, when its class waits behind a gate, or when enough
        waits already: then it takes its turn from the spool.
        """
        key = queue_key(message)
        return (
            not self._stopping
            and len(self._queue) < FRESH
            and key not in self._backlog
            and not self._queue.is_closed(self._gate(message))
        )

    def offer(self, lease: Lease, content: Content | None) -> None:
        """Start on a message that was just stored with its first attempt begun; `content` spares a read."""
        message = lease.message
        self._queue.push(Job(queue_key(message), self._gate(message), lease, begun=True, content=content))
        self._pump()

    def stored(self, message: Message) -> None:
        """A message was stored without a lease: its queue has something on disk."""
        key = queue_key(message)
        self._backlog.add(key)
        self._ask_for_more(key)

    # For the owner

    async def run(self) -> None:
        """Work until cancelled; `stop` first for an orderly end."""
        loop = asyncio.get_running_loop()
        survey_at = loop.time()
        sweep_at = loop.time() + LONG_AGO_S
        while True:
            self._look.clear()
            try:
                if loop.time() >= survey_at:
                    survey_at = loop.time() + LOOK_S
                    await self._survey()
                await self._refill()
                if loop.time() >= sweep_at:
                    sweep_at = loop.time() + LONG_AGO_S
                    self._expire_parked()
            except SpoolError as error:
                self._trouble(error)
            self._pump()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(survey_at):
                    await self._look.wait()

    async def try_alone(self, message_id: str, seconds: float) -> None:
        """Deliver one message while nothing else runs here, for at most `seconds`; then it goes on beside others.

        For what was in delivery when the process died: should it die again, this message is known to be why.
        """
        lease = await self._spool.lease(message_id)
        if lease is not None:
            message = lease.message
            work = asyncio.create_task(self._work(Job(queue_key(message), self._gate(message), lease)))
            self._running.add(work)
            work.add_done_callback(self._running.discard)
            await asyncio.wait([work], timeout=seconds)

    async def stop(self, deadline: float) -> int:
        """Start nothing new, let running attempts end until `deadline` (loop time), give the rest back.

        Returns:
            How many attempts were cut off; they are open in the spool and will be logged as possible duplicates.
        """
        self._stopping = True
        if self._alarm is not None:
            self._alarm.cancel()
        if self._running:
            timeout = max(0.0, deadline - asyncio.get_running_loop().time())
            await asyncio.wait(self._running, timeout=timeout)
        cut = len(self._running)
        for task in tuple(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        begun = [job.lease for job in self._queue.take(lambda _: True) if job.begun]
        if begun:
            await self._spool.release(begun)
        return cut

    def changed(self) -> None:
        """Something about nodes changed: whatever is parked is worth asking again."""
        self._why.clear()
        self._queue.open_gates()
        self._look.set()
        self._pump()

    def freed(self, pool: str) -> None:
        """A full node of this pool has a free place again."""
        self._queue.open_gates(lambda gate: gate[0] == pool and gate not in self._why)  # type: ignore[index]
        self._pump()

    @contextlib.asynccontextmanager
    async def set_aside(self, chosen: Callable[[Message], bool]) -> AsyncIterator[None]:
        """While an operator acts on these: those that only wait here go back to the spool, and nothing is leased until
        the operator is done. What is with a node stays there."""
        async with self._leasing:
            jobs = self._queue.take(lambda job: chosen(job.message))
            if jobs:
                await self._spool.release([job.lease for job in jobs])
                self._backlog.update(job.key for job in jobs)
            try:
                yield
            finally:
                self._look.set()

    @property
    def at_work(self) -> AbstractSet[str]:
        """Ids of the messages that are with a node now, rather than waiting here for their turn."""
        return self._at_work

    def waits(self, message: Message) -> Waiting | None:
        """What keeps messages like this one back, whether it was asked for itself or not; None when nothing does."""
        gate = self._gate(message)
        until = self._queue.closed_until(gate)
        if until is None:
            return None
        return Waiting(pool=message.pool, until=until, why=self._why.get(gate, ()))

    def waiting(self) -> list[Waiting]:
        """What stands behind closed gates, and why."""
        gates = self._queue.closed_gates()
        return [
            Waiting(pool=str(gate[0]), until=until, why=self._why[gate])  # type: ignore[index]
            for gate, until in gates.items()
            if gate in self._why
        ]

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def in_memory(self) -> int:
        return len(self._queue)

    # Moving

    def _gate(self, message: Message) -> Gate:
        pool = self._fleet.pools.get(message.pool)
        return (message.pool, gate_key(message, pool) if pool is not None else None)

    def _pump(self) -> None:
        """Start whatever can start now. Synchronous: called wherever something may have changed."""
        if self._stopping:
            return
        now = self._clock()
        if now < self._paused_until:
            self._wake_at(self._paused_until)
            return
        while len(self._running) < RUNNING and (job := self._queue.pop(now)) is not None:
            self._ask_for_more(job.key)
            if job.key.pool in self._fleet.pools and self._fleet.is_full(job.key.pool):
                self._wait_for_place(job, float("inf"))
                continue
            task = asyncio.create_task(self._work(job))
            self._running.add(task)
            task.add_done_callback(self._ended)
        opening = self._queue.next_opening()
        if opening is not None:
            self._wake_at(opening)

    def _wait_for_place(self, job: Job, until: float) -> None:
        """Park the job's class until a node has a free connection. An earlier reason for parking it is over: `freed`
        opens only gates without one."""
        self._why.pop(job.gate, None)
        self._queue.push(job, front=True)
        self._queue.close_gate(job.gate, until)

    def _ask_for_more(self, key: QueueKey) -> None:
        if key in self._backlog and self._queue.waiting(key) < PARKED:
            self._low.add(key)
            self._look.set()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._pump()

    def _wake_at(self, when: float) -> None:
        """Pump again at `when` (epoch seconds), or earlier when that is asked for already."""
        loop = asyncio.get_running_loop()
        at = loop.time() + max(0.0, when - self._clock())
        if self._alarm is not None:
            if loop.time() < self._alarm_at <= at:
                return
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = loop.call_at(at, self._pump)

    async def _work(self, job: Job) -> None:
        """One job from the queue to its settlement. Nothing may escape: this is the outermost loop."""
        self._at_work.add(job.message.id)
        try:
            await self._deliver(job)
        except LeaseLost:
            self._events.fault(where="delivery", error=f"{job.message.id}: another owner took it over")
        except SpoolError as error:
            self._trouble(error)
            await self._give_back(job, "its results could not be recorded")
        except Exception as error:  # a bug must cost one message a delay, not the relay its loop
            self._events.fault(where="delivery", error=f"{job.message.id}: {type(error).__name__}: {error}")
            await self._give_back(job, f"internal fault: {type(error).__name__}")
        finally:
            self._at_work.discard(job.message.id)

    async def _deliver(self, job: Job) -> None:
        """One run over a message: nodes in turn until it is done, or must wait."""
        while True:
            message = job.message
            if (expired := expire(message, self._clock(), self._attempts.policy)) is not None:
                await self._attempts.close(job, expired)
                return
            recipients = job.run.open(message)
            decision = await self._router.route(
                message,
                tried=job.run.tried,
                busy=self._fleet.full(message.pool),
                now=self._clock(),
                recipients=len(recipients),
            )
            match decision:
                case Route():
                    if not await self._attempt(job, decision, recipients[: decision.granted]):
                        return
                case Hold():
                    await self._hold(job, decision)
                    return
                case Busy():
                    self._wait_for_place(job, decision.until)
                    return
                case Unroutable():
                    until = self._clock() + UNROUTABLE_S
                    self._events.message_held(message.id, until=until, why=[decision.reason])
                    await self._put_off(job, until, decision.reason)
                    return

    async def _attempt(self, job: Job, route: Route, recipients: Sequence[Recipient]) -> bool:
        """Run one attempt; False when the job has ended with it."""
        node = route.node
        upstream = self._fleet.enter(node.name)
        try:
            if not job.begun:
                job.lease = (await self._spool.begin([job.lease]))[0]
                job.begun = True
            if job.content is None:
                job.content = await self._spool.content(job.message.id)
            attempted = await self._attempts.call(job.message, job.content, route, upstream, recipients)
        finally:
            self._fleet.leave(node.name)
        before = job.message
        result = dispose(
            before,
            node,
            attempted.outcomes,
            run=job.run,
            pool=self._fleet.pools[before.pool],
            policy=self._attempts.policy,
            now=self._clock(),
            jitter=self._rng.random(),
        )
        await self._attempts.tell(before, route, attempted, result)
        job.run, job.due = result.run, result.due
        match result.next:
            case Next.CONTINUE | Next.ANOTHER_NODE:
                if result.message != before:
                    job.lease = await self._spool.progress(job.lease, result.message)
                return True
            case Next.HOLD:
                await self._put_off(job, result.due, result.reason)
            case Next.DONE | Next.LATER:
                if result.message.pending:
                    self._backlog.add(job.key)
                await self._attempts.close(job, result)
        return False

    async def _hold(self, job: Job, hold: Hold) -> None:
        """Give the message back with the reason on record, and park its class when the answer is about the class."""
        why = tuple(f"{considered.node}: {considered.reason}" for considered in hold.trace)
        run = job.run
        if run.attempted:
            # What the attempts of this run found out stays; those that wait for the schedule must not go earlier.
            due = max(hold.until, job.due) if run.waiting else hold.until
            self._events.message_held(job.message.id, until=due, why=why)
            self._backlog.add(job.key)
            await self._spool.settle(job.lease, job.message, due=due, reason=hold.reason)
            return
        self._events.message_held(job.message.id, until=hold.until, why=why)
        if hold.gate is None:
            await self._put_off(job, hold.until, hold.reason)
            return
        self._queue.close_gate(job.gate, hold.until)
        self._why[job.gate] = why
        surplus = self._queue.trim(job.gate, PARKED)
        self._backlog.add(job.key)
        self._backlog.update(other.key for other in surplus)
        await self._spool.release([job.lease, *(other.lease for other in surplus)], reason=hold.reason)

    async def _put_off(self, job: Job, due: float, reason: str) -> None:
        self._backlog.add(job.key)
        await self._spool.release([job.lease], due=due, reason=reason)

    async def _give_back(self, job: Job, reason: str) -> None:
        """Return a job whose end is unclear; what was sent is open in the spool when this fails too."""
        try:
            self._backlog.add(job.key)
            await self._spool.settle(job.lease, job.message, due=self._clock() + 60.0, reason=reason)
        except SpoolError as error:
            self._trouble(error)

    def _trouble(self, error: SpoolError) -> None:
        self._events.fault(where="spool", error=f"{error}; deliveries pause for {TROUBLE_S:.0f} s")
        self._paused_until = self._clock() + TROUBLE_S

    # Portions from the spool

    async def _survey(self) -> None:
        """Ask the spool which queues have something due."""
        now = self._clock()
        due = [d for d in await self._spool.depths() if d.next_due is not None and d.next_due <= now]
        self._backlog = {depth.key for depth in due}
        for key in self._backlog:
            self._ask_for_more(key)

    async def _refill(self) -> None:
        """Lease a portion for each queue that memory runs out of."""
        now = self._clock()
        while self._low and not self._stopping and len(self._queue) < WINDOW:
            async with self._leasing:
                key = self._low.pop()
                limit = min(PORTION, WINDOW - len(self._queue))
                leases = await self._spool.lease_due(key, now=now, limit=limit)
                if len(leases) < limit:
                    self._backlog.discard(key)
                for lease in leases:
                    self._queue.push(Job(key, self._gate(lease.message), lease))
            self._pump()

    def _expire_parked(self) -> None:
        """End the life of messages that grew too old while waiting behind a gate."""
        now = self._clock()
        old = self._queue.take(lambda job: expire(job.message, now, self._attempts.policy) is not None)
        for job in old:
            task = asyncio.create_task(self._work(job))
            self._running.add(task)
            task.add_done_callback(self._ended)
