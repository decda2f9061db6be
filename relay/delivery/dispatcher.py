"""The loop that moves mail: take what is due in fair order, let it run (`runs`), and keep everything else waiting.

What it guarantees
- As many messages of a pool are on their way as its nodes have places, and no more are even looked at.
- A hold is not an attempt: the message stays as it was, and its whole class is parked behind a gate (`fair`) until the
  time it was told or until something changes.
- Nothing starts while results cannot be recorded.
- Nothing that goes wrong with one message stops the others.

What it leaves to others: which node (`router`), what a run comes to (`runs`), order (`fair`), how much is in memory
(`intake`), what the spool does not take back (`returns`), node health (`keeper`).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from relay.delivery.attempt import Attempts
from relay.delivery.fair import FairQueue
from relay.delivery.fleet import Fleet
from relay.delivery.intake import Intake
from relay.delivery.job import Gate, Job, queue_key
from relay.delivery.returns import AGAIN_S, Returns
from relay.delivery.runs import Runs, Unreadable, Wait
from relay.envelope import Content, Message
from relay.errors import SpoolError
from relay.events import Events
from relay.pools.pool import Pool
from relay.router.router import Router
from relay.router.selection import gate_key
from relay.schedule import ClockSteps
from relay.spool import Lease, LeaseLost, Selection, Spool, Standing

FRESH = 200
"""While fewer jobs than this could go in its pool, a new message is attempted at once without a detour over the disk.
Also the bound of how many untouched messages of a pool a crash may count as open attempts."""

RUNNING = 2_000
"""Attempts at once in one process, over all nodes."""

GUARANTEED = 20
"""Attempts a pool may have beyond that, so that pools whose nodes hang do not stop the others."""

LOOK_S = 1.0
"""How often the spool is asked what became due."""

SWEEP_S = 60.0
"""Pause between sweeps for messages that grew too old while they waited behind a gate."""

SWEPT = 500
"""Messages given up in one sweep; while there are more, the next comes after `LOOK_S`."""

SUSPECT_S = 2.0
"""How long others wait for one message that is tried alone. What kills a process mostly does so before the network is
reached (R32)."""

SUSPECTS_S = 10.0
"""How long they wait for all of those."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A class of messages that waits.

    Attributes:
        until: epoch seconds; inf when it goes as soon as a node has a free connection.
        why: one line for each node; empty when all that could take them are only busy.
        messages: how many of them are in memory; more may wait on disk.
    """

    pool: str
    until: float
    why: tuple[str, ...]
    messages: int = 0


@dataclass(slots=True, eq=False)
class _Line:
    """One pool's messages on their way.

    Attributes:
        why: of gates closed by a hold.
        busy: gates that were closed because no node had a place.
        undecided: jobs that were started and have no place with a node yet.
    """

    pool: str
    queue: FairQueue
    why: dict[Gate, tuple[str, ...]] = field(default_factory=dict)
    busy: set[Gate] = field(default_factory=set)
    running: int = 0
    undecided: int = 0
    alarm: asyncio.TimerHandle | None = None
    alarm_at: float = 0.0  # loop time


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
        self._fleet = fleet
        self._events = events
        self._share_of = share_of
        self._clock = clock
        self._steps = ClockSteps()
        self._steady = asyncio.get_running_loop().time
        self._runs = Runs(
            spool=spool,
            router=router,
            fleet=fleet,
            attempts=attempts,
            events=events,
            placed=self._placed,
            steps=self._steps,
            clock=clock,
            steady=self._steady,
            rng=rng,
        )
        self._intake = Intake(
            spool,
            queue_of=lambda pool: self._line(pool).queue,
            is_parked=lambda message: self._line(message.pool).queue.is_closed(self._gate(message)),
            is_mixed=self._is_mixed,
            add=lambda lease: self._push(self._job(lease)),
            added=lambda pool: self._pump(self._line(pool)),
        )
        self._returns = Returns(spool, noted=self._intake.note, events=events, clock=clock, steady=self._steady)
        self._shapes: dict[str, _Shape] = {}
        self._plain: dict[str, Gate | None] = {}
        self._learn_pools()
        self._lines: dict[str, _Line] = {}
        self._running: dict[Job, asyncio.Task[None]] = {}
        self._at_work: set[str] = set()  # ids of the messages that tasks work on
        self._held_up: dict[_Line, None] = {}  # lines that found `RUNNING` reached
        self._chores: set[asyncio.Future[None]] = set()
        self._alone = False
        self._stopping = False

    # For acceptance

    def takes_fresh(self, message: Message) -> bool:
        """May this new message be leased while it is stored, and attempted at once?

        No when its queue has older messages waiting on disk, when its class waits behind a gate, or when enough
        waits already: then it takes its turn from the spool. Older messages that are all parked, of other classes,
        keep nothing back.
        """
        key, queue = queue_key(message), self._line(message.pool).queue
        return (
            not self._stopping
            and not self._is_paused()
            and queue.ready < FRESH
            and (not self._intake.has(key) or queue.is_blocked(key))
            and not queue.is_closed(self._gate(message))
        )

    def offer(self, lease: Lease, content: Content | None) -> None:
        """Start on a message that was just stored with its first attempt begun; `content` spares a read."""
        job = self._job(lease)
        if self._stopping:
            self._later(self._spool.release([lease]))  # too late to be tried, and nothing was
            return
        job.begun, job.content = True, content
        self._push(job)
        self._pump(self._line(job.key.pool))

    def stored(self, message: Message) -> None:
        """A message was stored without a lease: its queue has something on disk."""
        self._intake.note(queue_key(message))

    async def hand_in(self, lease: Lease, message: Message, due: float, reason: str) -> None:
        """End the lease of a message that somebody else has worked on; it is looked at again at `due`."""
        job = self._job(lease)
        job.message = message
        await self._returns.give_back(job, reason, due=due)

    def unmake(self, lease: Lease) -> None:
        """Remove a message that was stored and never promised to anybody, now or as soon as the spool can."""
        job = self._job(lease)
        job.message = replace(lease.message, recipients=())
        self._later(self._returns.give_back(job, ""))

    # For the owner

    async def run(self) -> None:
        """Work until cancelled; `stop` first for an orderly end."""
        loop = asyncio.get_running_loop()
        survey_at = loop.time()
        sweep_at = loop.time() + SWEEP_S
        while True:
            if step_s := self._steps.look(self._clock(), loop.time()):
                self._later(self._clock_was_set(step_s))
            try:
                if loop.time() >= survey_at:
                    survey_at = loop.time() + LOOK_S
                    await self._returns.retry()
                    await self._intake.survey(self._clock())
                    await self._intake.look_behind(self._clock())
                await self._intake.refill(self._clock())
            except SpoolError as error:
                self._events.fault(where="spool", error=f"the queue cannot be read: {error}")
            if loop.time() >= sweep_at:
                sweep_at = loop.time() + (LOOK_S if self._sweep() else SWEEP_S)
            self._pump_all()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(survey_at):
                    await self._intake.wanted.wait()

    async def try_alone(self, suspects: Sequence[str]) -> None:
        """Before `run`: deliver these messages one after the other while nothing else runs here, and not for long.

        They were in delivery when the process died, more than once. Should it die again now, it is known which one of
        them is why (`suspects`).
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + SUSPECTS_S
        self._alone = True
        try:
            for message_id in suspects:
                if self._stopping or loop.time() >= end:
                    break  # enough: the rest goes with the others
                try:
                    lease = await self._spool.lease(message_id)
                except SpoolError as error:
                    self._events.fault(where="spool", error=f"{message_id}: {error}")
                    continue
                if lease is not None:
                    task = self._start(self._line(lease.message.pool), self._job(lease))
                    await asyncio.wait([task], timeout=SUSPECT_S)
        finally:
            self._alone = False

    async def stop(self, deadline: float) -> int:
        """Start nothing new, let running attempts end until `deadline` (loop time), give the rest back.

        Returns:
            How many attempts were cut off; they are open in the spool and will be logged as possible duplicates.
        """
        self._stopping = True
        for line in self._lines.values():
            if line.alarm is not None:
                line.alarm.cancel()
        if self._running:
            timeout = max(0.0, deadline - asyncio.get_running_loop().time())
            await asyncio.wait(self._running.values(), timeout=timeout)
        cut = tuple(self._running.values())
        for task in cut:
            task.cancel()
        await asyncio.gather(*cut, *self._chores, return_exceptions=True)
        await self._intake.close()
        for line in self._lines.values():
            await self._returns.put_back(line.queue.take(lambda job: job.begun or job.has_news))
        await self._returns.retry(at_once=True)
        return len(cut)

    def abandon(self) -> int:
        """Everything leased here is another owner's by now: drop it, and cut off what is on its way.

        Returns:
            How many attempts were cut off.
        """
        running = tuple(self._running.values())
        for task in running:
            task.cancel()
        for line in self._lines.values():
            line.queue.take(lambda _: True)
        self._intake.wanted.set()
        return len(running)

    def changed(self) -> None:
        """Something about nodes changed: whatever is parked is worth asking again."""
        for line in self._lines.values():
            for gate in line.queue.closed_gates():
                line.queue.open_gate(gate)
        self._intake.wanted.set()
        self._pump_all()

    def replaced(self) -> None:
        """The fleet is another one now. What waits here is sorted anew where its classes have changed."""
        shapes = self._shapes
        self._learn_pools()
        for line in self._lines.values():
            if shapes.get(line.pool) == self._shapes.get(line.pool):
                continue
            jobs = line.queue.take(lambda _: True)
            for gate in line.queue.closed_gates():
                line.queue.open_gate(gate)  # without jobs it is forgotten
            line.why.clear()
            line.busy.clear()
            for job in jobs:
                if not job.run.tried:
                    job.gate = self._gate(job.message)
                line.queue.push(job)
        self.changed()

    def freed(self, pool: str) -> None:
        """A full node of this pool has a free place again."""
        line = self._line(pool)
        busy, line.busy = line.busy, set()
        for gate in busy:
            line.queue.open_gate(gate)
        self._pump(line)

    @contextlib.asynccontextmanager
    async def set_aside(self, chosen: Callable[[Message], bool]) -> AsyncIterator[None]:
        """While an operator acts on these: those that only wait here go back to the spool, and nothing is leased until
        the operator is done. What is with a node stays there."""
        async with self._intake.lock:
            jobs = [job for line in self._lines.values() for job in line.queue.take(lambda job: chosen(job.message))]
            await self._returns.put_back(jobs)
            try:
                yield
            finally:
                self._intake.wanted.set()

    @property
    def at_work(self) -> AbstractSet[str]:
        """Ids of the messages that are with a node now, rather than waiting here for their turn."""
        return self._at_work

    def waits(self, message: Message) -> Waiting | None:
        """What keeps messages like this one back, whether it was asked for itself or not; None when nothing does."""
        line, gate = self._line(message.pool), self._gate(message)
        until = line.queue.closed_until(gate)
        return None if until is None else Waiting(pool=line.pool, until=until, why=line.why.get(gate, ()))

    def waiting(self) -> list[Waiting]:
        """What stands behind closed gates, and why."""
        return [
            Waiting(pool=line.pool, until=until, why=line.why[gate], messages=line.queue.jobs_behind(gate))
            for line in self._lines.values()
            for gate, until in line.queue.closed_gates().items()
            if gate in line.why
        ]

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def in_memory(self) -> int:
        return sum(len(line.queue) for line in self._lines.values())

    # Moving

    def _line(self, pool: str) -> _Line:
        line = self._lines.get(pool)
        if line is None:
            line = self._lines[pool] = _Line(pool, FairQueue(self._share_of))
        return line

    def _learn_pools(self) -> None:
        pools = self._fleet.pools
        self._shapes = {name: _shape(pool) for name, pool in pools.items()}
        self._plain = {name: _plain_gate(pool) for name, pool in pools.items()}

    def _gate(self, message: Message) -> Gate:
        """The class of a message. While it is bound to a node all others so bound are of its class."""
        bound = message.bound_node if message.bound_node and self._clock() < message.bound_until else ""
        plain = self._plain.get(message.pool)
        if plain is not None and not bound:
            return plain
        pool = self._fleet.pools.get(message.pool)
        return (gate_key(message, pool).fit, bound) if pool is not None else None

    def _is_mixed(self, pool: str) -> bool:
        """Where all nodes take any message, nearly all messages are of one class, and it is known to be parked."""
        plain = self._plain.get(pool)
        return plain is None or not self._line(pool).queue.is_closed(plain)

    def _job(self, lease: Lease) -> Job:
        return Job(queue_key(lease.message), self._gate(lease.message), lease)

    def _push(self, job: Job) -> None:
        self._line(job.key.pool).queue.push(job)

    def _is_paused(self) -> bool:
        return self._alone or self._returns.is_stuck()

    def _pump(self, line: _Line) -> None:
        """Start what can start now. Synchronous: called wherever something may have changed. Hot path."""
        queue = line.queue
        if self._stopping or not queue or self._is_paused():
            return
        now = self._clock()
        while line.undecided < self._fleet.free(line.pool):
            if len(self._running) >= RUNNING and line.running >= GUARANTEED:
                self._held_up[line] = None
                return
            job = queue.pop(now)
            if job is None:
                break
            self._intake.ask(job.key)
            job.undecided = True
            line.undecided += 1
            self._start(line, job)
        opening = queue.next_opening()
        if opening is not None:
            self._wake_at(line, opening)

    def _pump_all(self) -> None:
        for line in tuple(self._lines.values()):
            self._pump(line)

    def _wake_at(self, line: _Line, when: float) -> None:
        """Pump again at `when` (epoch seconds), or earlier when that is asked for already."""
        loop = asyncio.get_running_loop()
        at = loop.time() + max(0.0, when - self._clock())
        if line.alarm is not None:
            if loop.time() < line.alarm_at <= at:
                return
            line.alarm.cancel()
        line.alarm_at = at
        line.alarm = loop.call_at(at, self._pump, line)

    def _start(self, line: _Line, job: Job) -> asyncio.Task[None]:
        line.running += 1
        task = self._running[job] = asyncio.create_task(self._work(line, job))
        return task

    def _placed(self, job: Job) -> None:
        """A job has found its node."""
        if job.undecided:
            line = self._line(job.key.pool)
            job.undecided = False
            line.undecided -= 1
            line.why.pop(job.gate, None)
            line.queue.admit(job.gate)

    async def _work(self, line: _Line, job: Job) -> None:
        """One job from the queue until it has ended or waits again. Nothing may escape: this is the outermost loop."""
        message_id = job.message.id
        self._at_work.add(message_id)
        try:
            wait = await self._runs.carry(job)
            if wait is not None:
                await self._park(line, job, wait)
        except asyncio.CancelledError:
            if job.has_news:  # known here alone; without it what was sent is sent once more
                await self._returns.give_back(job, "the relay stopped")
            raise
        except LeaseLost:
            self._events.fault(where="delivery", error=f"{message_id}: another owner took it over")
        except Unreadable as error:
            self._events.fault(where="spool", error=f"{message_id}: {error}")
            await self._returns.put_back([job], due=self._clock() + AGAIN_S, reason=str(error))
        except SpoolError as error:
            self._returns.trouble(error)
            await self._returns.give_back(job, "its results could not be recorded")
        except Exception as error:  # a bug must cost one message a delay, not the relay its loop
            await self._returns.give_up(job, error)
        finally:
            self._at_work.discard(message_id)
            self._running.pop(job, None)
            line.running -= 1
            if job.undecided:
                job.undecided = False
                line.undecided -= 1
                line.queue.admit(job.gate, 1)
            self._pump(line)
            if self._held_up and len(self._running) < RUNNING:
                waiting = next(iter(self._held_up))
                del self._held_up[waiting]
                self._pump(waiting)

    async def _park(self, line: _Line, job: Job, wait: Wait) -> None:
        """Let a job wait here with its whole class, or alone when the answer was about what it has tried itself."""
        job.gate = (job.message.id,) if job.run.tried else self._gate(job.message)
        line.queue.push(job)
        line.queue.close_gate(job.gate, wait.until)
        if not wait.why:
            line.why.pop(job.gate, None)
            line.busy.add(job.gate)
            return
        line.why[job.gate] = wait.why
        line.busy.discard(job.gate)
        if line.queue.begun_behind(job.gate):
            # It may be long: were the process to die meanwhile, they would pass for possible duplicates.
            fresh = line.queue.take(lambda other: other.begun, gate=job.gate)
            await self._returns.put_back(fresh, reason=wait.reason)

    # Now and then

    def _sweep(self) -> bool:
        """End the life of messages that grew too old while waiting behind a gate; True when there may be more."""
        left = SWEPT
        for line in self._lines.values():
            old = line.queue.take(lambda job: self._runs.too_old(job.message) is not None)
            for job in old[:left]:
                self._intake.ask(job.key)
                self._start(line, job)
            for job in old[left:]:
                line.queue.push(job)
            left -= min(left, len(old))
        return left < SWEPT

    async def _clock_was_set(self, step_s: float) -> None:
        """Times at which messages and gates wait were written with the old clock."""
        self._events.fault(where="clock", error=f"the clock was set by {step_s:+.0f} s")
        self.changed()
        if step_s < 0:
            try:
                await self._spool.retry(Selection(standing=Standing.QUEUED), now=self._clock())
            except SpoolError as error:
                self._events.fault(where="spool", error=f"due times of before stay: {error}")

    def _later(self, work: Coroutine[None, None, None]) -> None:
        """Do something nobody waits for."""
        task = asyncio.ensure_future(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)


_Shape = tuple[tuple[object, ...], ...]


def _shape(pool: Pool) -> _Shape:
    """All of a pool that classes of messages depend on."""
    return tuple((n.name, n.weight < 1, n.sender_domains, n.max_size, n.smtputf8) for n in pool.nodes)


def _plain_gate(pool: Pool) -> Gate | None:
    """The class of every message of a pool whose nodes all take any message; None where they differ."""
    if any(node.sender_domains or node.max_size or not node.smtputf8 for node in pool.nodes):
        return None
    return ("any", "")
