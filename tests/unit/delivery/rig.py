"""A relay without sockets: the real parts of acceptance and delivery over memory stores, scripted nodes and one clock.

`Rig` wires the parts as `relay.app.worker` does. The wall clock runs with the loop's and can be set by tests.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from relay.acceptance import Acceptance, AcceptancePolicy
from relay.bridges.bridge import Bridge
from relay.bridges.credentials import PasswordChecker
from relay.bridges.registry import BridgeGate, Registry
from relay.bridges.throttle import AuthThrottle
from relay.delivery.attempt import Attempts
from relay.delivery.direct import Direct
from relay.delivery.dispatcher import Dispatcher
from relay.delivery.fleet import Fleet
from relay.delivery.keeper import HealthKeeper
from relay.delivery.render import Renderer
from relay.delivery.reports import ReportPolicy, Reports
from relay.delivery.tally import Tally
from relay.dsn import Reporter
from relay.envelope import Content, Facts, Lane, Message, Recipient, Reply
from relay.errors import SpoolError
from relay.events import Event, Events
from relay.ids import IdSource
from relay.listener.submission import SessionInfo, Submission
from relay.outcome import Outcome, RecipientOutcome, Scope, Status
from relay.pools.health import HealthPolicy
from relay.pools.pool import Cap, Node, Pool, Rotation
from relay.router.router import Router
from relay.schedule import RetryPolicy
from relay.spool import Lease, Selection, Standing
from relay.spool.memory import MemorySpool
from relay.state.memory import MemoryState
from relay.upstreams.base import Capabilities, Outbound, Probe

START = 1_800_000_000.0
HEAD = b"From: shop@acme.example\r\nTo: a@dest.example\r\nSubject: hello\r\n"
BODY = b"hello\r\n"

TAKEN = Outcome(status=Status.DELIVERED, scope=Scope.RECIPIENT, code=250, enhanced="2.0.0", text="ok", phase="dot")
GREYLISTED = Outcome(status=Status.DEFERRED, scope=Scope.RECIPIENT, code=450, enhanced="4.7.1", text="later")
UNKNOWN_USER = Outcome(status=Status.REFUSED, scope=Scope.RECIPIENT, code=550, enhanced="5.1.1", text="no such user")
SPAM = Outcome(status=Status.REFUSED, scope=Scope.MESSAGE, code=554, enhanced="5.7.1", text="spam", phase="dot")
DOWN = Outcome(status=Status.DEFERRED, scope=Scope.NODE, text="connection refused", phase="connect", attempted=False)
HUNG_UP = Outcome(status=Status.DEFERRED, scope=Scope.NODE, code=421, text="going away", phase="mail")
SUSPENDED = Outcome(status=Status.REFUSED, scope=Scope.ACCOUNT, code=535, enhanced="5.7.8", text="bad credentials")
SLOWER = Outcome(status=Status.DEFERRED, scope=Scope.QUOTA, code=429, text="slow down", retry_after_s=30.0)
LOST = Outcome(status=Status.UNCERTAIN, scope=Scope.MESSAGE, text="connection lost after the dot", phase="dot")

Answer = Outcome | Exception | Callable[[Outbound], Any]


@dataclass
class Call:
    """One hand-over as a node saw it. `at`: wall clock."""

    node: str
    id: str
    recipients: tuple[str, ...]
    at: float
    content: bytes


class ScriptedNode:
    """An upstream that answers from a script: the next of `answers`, then `always`.

    An answer is an outcome for all recipients, an exception to raise, or a function of the outbound message that gives
    either, or the list of recipient outcomes itself. While `hangs` is set, hand-overs wait for it.
    """

    def __init__(self, name: str, clock: Callable[[], float], calls: list[Call]) -> None:
        self.name = name
        self.answers: list[Answer] = []
        self.always: Answer = TAKEN
        self.well: Outcome = TAKEN
        self.calls: list[Call] = []
        self.took_s = self.probe_took_s = 0.0
        self.busy = 0
        self.most = 0
        self.probes = 0
        self.hangs: asyncio.Event | None = None
        self._clock = clock
        self._all = calls

    async def deliver(self, outbound: Outbound, *, deadline: float) -> list[RecipientOutcome]:
        content = await outbound.render(Capabilities(smtputf8=True))
        body = content.body if isinstance(content.body, bytes) else b"(file)"
        addresses = tuple(r.address for r in outbound.recipients)
        call = Call(self.name, outbound.id, addresses, self._clock(), content.head + b"\r\n" + body)
        self.calls.append(call)
        self._all.append(call)
        self.busy += 1
        self.most = max(self.most, self.busy)
        try:
            if self.hangs is not None:
                await self.hangs.wait()
            if self.took_s:
                await asyncio.sleep(self.took_s)
            else:
                await asyncio.sleep(0)
        finally:
            self.busy -= 1
        answer: Any = self.answers.pop(0) if self.answers else self.always
        if callable(answer):
            answer = answer(outbound)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, list):
            return answer
        return [RecipientOutcome(address, answer) for address in addresses]

    async def probe(self) -> Probe:
        self.probes += 1
        await asyncio.sleep(self.probe_took_s)
        if isinstance(self.well, Exception):
            raise self.well
        return Probe(outcome=self.well)

    async def close(self) -> None:
        pass


def each(**answers: Outcome) -> Callable[[Outbound], list[RecipientOutcome]]:
    """Answers by local part; recipients that are not named are taken."""

    def answer(outbound: Outbound) -> list[RecipientOutcome]:
        return [
            RecipientOutcome(r.address, answers.get(r.address.partition("@")[0], TAKEN)) for r in outbound.recipients
        ]

    return answer


class FaultySpool(MemorySpool):
    """A memory spool whose methods fail on request: `fail["settle"] = [error, error]` fails two calls, `fail_all` all
    until it is cleared. `log` tells every call."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.fail: dict[str, list[BaseException]] = {}
        self.fail_all: dict[str, BaseException] = {}
        self.log: list[str] = []

    async def _call(self, name: str) -> None:
        self.log.append(name)
        await asyncio.sleep(0)
        if name in self.fail_all:
            raise self.fail_all[name]
        if self.fail.get(name):
            raise self.fail[name].pop(0)

    async def store(self, *args: Any, **more: Any) -> Lease | None:
        await self._call("store")
        return await super().store(*args, **more)

    async def lease_due(self, *args: Any, **more: Any) -> list[Lease]:
        await self._call("lease_due")
        return await super().lease_due(*args, **more)

    async def begin(self, *args: Any, **more: Any) -> list[Lease]:
        await self._call("begin")
        return await super().begin(*args, **more)

    async def progress(self, *args: Any, **more: Any) -> Lease:
        await self._call("progress")
        return await super().progress(*args, **more)

    async def settle(self, *args: Any, **more: Any) -> None:
        await self._call("settle")
        await super().settle(*args, **more)

    async def release(self, leases: Sequence[Lease], *, due: float | None = None, reason: str = "") -> None:
        writes = due is not None or reason or any(self._kept[lease.message.id].begun for lease in leases)
        await self._call("release" if writes else "release unwritten")
        await super().release(leases, due=due, reason=reason)

    async def content(self, *args: Any, **more: Any) -> Content:
        await self._call("content")
        return await super().content(*args, **more)

    async def depths(self, *args: Any, **more: Any) -> Any:
        await self._call("depths")
        return await super().depths(*args, **more)

    async def drop(self, *args: Any, **more: Any) -> list[Message]:
        await self._call("drop")
        return await super().drop(*args, **more)


class FaultyState(MemoryState):
    """A memory state that is away while `away` is set, and counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.away: Exception | None = None
        self.log: list[str] = []

    async def _call(self, name: str) -> None:
        self.log.append(name)
        await asyncio.sleep(0)
        if self.away is not None:
            raise self.away

    async def reserve(self, *args: Any, **more: Any) -> Any:
        await self._call("reserve")
        return await super().reserve(*args, **more)

    async def refund(self, *args: Any, **more: Any) -> None:
        await self._call("refund")
        await super().refund(*args, **more)

    async def turns(self, *args: Any, **more: Any) -> int:
        await self._call("turns")
        return await super().turns(*args, **more)

    async def health(self) -> Any:
        await self._call("health")
        return await super().health()

    async def update_health(self, *args: Any, **more: Any) -> Any:
        await self._call("update_health")
        return await super().update_health(*args, **more)

    async def health_version(self) -> int:
        await self._call("health_version")
        return await super().health_version()

    async def claim(self, *args: Any, **more: Any) -> bool:
        await self._call("claim")
        return await super().claim(*args, **more)

    async def unclaim(self, *args: Any, **more: Any) -> None:
        await self._call("unclaim")
        await super().unclaim(*args, **more)

    async def count(self, *args: Any, **more: Any) -> None:
        await self._call("count")
        await super().count(*args, **more)


class Recorder:
    """A sink that keeps every event."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def named(self, name: str) -> list[Event]:
        return [event for event in self.events if event.name == name]

    def names(self, message_id: str = "") -> list[str]:
        return [event.name for event in self.events if not message_id or event.message_id == message_id]


class Clock:
    """The wall clock: runs with the loop, and can be set."""

    def __init__(self) -> None:
        self.offset_s = START

    def __call__(self) -> float:
        return asyncio.get_running_loop().time() + self.offset_s

    def set_by(self, seconds: float) -> None:
        self.offset_s += seconds


def node(name: str, pool: str = "p", **changes: Any) -> Node:
    return Node(name=name, pool=pool, type="sandbox", **changes)


def pool(*members: Node, name: str = "p", rotation: Rotation = Rotation.ROUND_ROBIN, **changes: Any) -> Pool:
    return Pool(
        name=name,
        id=1,
        internal_name=f"acme-42-mta4-pool-{name}",
        mta="mta4",
        zone="us-1",
        feedtype="transactional",
        rotation=rotation,
        nodes=tuple(replace(member, pool=name) for member in members),
        **changes,
    )


def hourly(limit: int) -> tuple[Cap, ...]:
    return (Cap(window_s=3600.0, limit=limit),)


@dataclass
class Rig:
    """See the module. Start with `async with Rig(...) as rig:`; `running=False` leaves the loops to the test."""

    pools: Sequence[Pool] = field(default_factory=lambda: (pool(node("n1"), node("n2")),))
    bridges: Sequence[Bridge] = ()
    shares: dict[str, int] = field(default_factory=dict)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    health: HealthPolicy = field(default_factory=HealthPolicy)
    reports_enabled: bool = True
    spool: FaultySpool = field(default_factory=FaultySpool)
    state: FaultyState = field(default_factory=FaultyState)
    owner: str = "worker-0"
    start_mark: str = ""
    running: bool = True
    scratch: Path = Path("/nonexistent")

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.seen = Recorder()
        self.events = Events([self.seen], self.clock)
        self.calls: list[Call] = []
        names = [member.name for each_pool in self.pools for member in each_pool.nodes]
        self.nodes = {name: ScriptedNode(name, self.clock, self.calls) for name in names}
        self.ids = IdSource(self.clock)
        self.rng = random.Random(7)
        by_name = {each_pool.name: each_pool for each_pool in self.pools}
        self.router = Router(self.pools, self.state, clock=self.clock, rng=self.rng.random)
        self.fleet = Fleet(self.pools, self.nodes, on_free=lambda name: self.dispatcher.freed(name))
        self.keeper = HealthKeeper(
            state=self.state,
            router=self.router,
            fleet=self.fleet,
            policy=self.health,
            events=self.events,
            clock=self.clock,
            on_change=lambda: self.dispatcher.changed(),
            owner=self.owner,
            start=self.start_mark,
        )
        self.tally = Tally(self.state)
        self.reports = Reports(
            spool=self.spool,
            pools=by_name,
            ids=self.ids,
            events=self.events,
            policy=ReportPolicy(
                enabled=self.reports_enabled,
                reporter=Reporter(hostname="relay.example", address="MAILER-DAEMON@relay.example"),
            ),
            clock=self.clock,
            stored=lambda message: self.dispatcher.stored(message),
        )
        self.attempts = Attempts(
            spool=self.spool,
            router=self.router,
            fleet=self.fleet,
            keeper=self.keeper,
            renderer=Renderer(headers=(), signer=None, scratch=self.scratch, clock=self.clock),
            reports=self.reports,
            tally=self.tally,
            events=self.events,
            policy=self.retry,
            clock=self.clock,
        )
        self.dispatcher = Dispatcher(
            spool=self.spool,
            router=self.router,
            fleet=self.fleet,
            attempts=self.attempts,
            events=self.events,
            share_of=lambda name: self.shares.get(name, 1),
            clock=self.clock,
            rng=self.rng,
        )
        self.direct = Direct(
            spool=self.spool,
            router=self.router,
            fleet=self.fleet,
            attempts=self.attempts,
            reports=self.reports,
            events=self.events,
            clock=self.clock,
            rng=self.rng,
            hand_in=self.dispatcher.hand_in,
            ready=self.keeper.first_tests,
        )
        self.gate = BridgeGate(Registry(self.bridges), PasswordChecker(), AuthThrottle(slots=8))
        self.acceptance = Acceptance(
            gate=self.gate,
            pools=by_name,
            spool=self.spool,
            state=self.state,
            dispatcher=self.dispatcher,
            direct=self.direct,
            ids=self.ids,
            events=self.events,
            policy=AcceptancePolicy(hostname="relay.example"),
            clock=self.clock,
        )
        self._tasks: list[asyncio.Task[Any]] = []

    async def __aenter__(self) -> Self:
        await self.router.refresh_health()
        await self.keeper.prepare(self.fleet.names())
        if self.running:
            self.start()
            await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        for result in ended:
            if isinstance(result, Exception):
                raise result
        await self.dispatcher.stop(asyncio.get_running_loop().time())
        await self.router.close()

    def start(self, *loops: Callable[[], Awaitable[None]]) -> None:
        for loop in loops or (self.dispatcher.run, self.keeper.run):
            self._tasks.append(asyncio.ensure_future(loop()))

    # Mail

    def message(self, *addresses: str, **changes: Any) -> Message:
        fields: dict[str, Any] = {
            "id": self.ids.next(),
            "bridge": "app",
            "pool": self.pools[0].name,
            "lane": Lane.TRANSACTIONAL,
            "sender": "shop@acme.example",
            "recipients": tuple(Recipient(address=address) for address in addresses or ("a@dest.example",)),
            "received_at": self.clock(),
            "size": len(HEAD) + len(BODY) + 2,
            "facts": Facts(from_domain="acme.example", message_id="<1@acme.example>"),
        }
        return Message(**{**fields, **changes})

    async def store(self, *addresses: str, **changes: Any) -> Message:
        """A message that lies in the spool, as after a restart."""
        message = self.message(*addresses, **changes)
        await self.spool.store(message, Content(HEAD, BODY), lease=False)
        return message

    async def stored(self, *addresses: str, **changes: Any) -> Message:
        """One whose storing delivery was told of."""
        message = await self.store(*addresses, **changes)
        self.dispatcher.stored(message)
        return message

    async def send(self, *addresses: str, **changes: Any) -> Message:
        """As acceptance does it: fresh where delivery takes it so."""
        message = self.message(*addresses, **changes)
        content = Content(HEAD, BODY)
        lease = await self.spool.store(message, content, lease=self.dispatcher.takes_fresh(message))
        if lease is not None:
            self.dispatcher.offer(lease, content)
        else:
            self.dispatcher.stored(message)
        return message

    async def submit(self, bridge: Bridge, *addresses: str, within_s: float = 60.0, **changes: Any) -> Reply:
        """A finished transaction of a client."""
        fields: dict[str, Any] = {
            "bridge": bridge,
            "session": SessionInfo(session="s", peer="192.0.2.1", port=4242, helo="client", protocol="ESMTPA"),
            "sender": "shop@acme.example",
            "recipients": tuple(Recipient(address=address) for address in addresses or ("a@dest.example",)),
            "content": Content(HEAD, BODY),
        }
        deadline = asyncio.get_running_loop().time() + within_s
        return await self.acceptance.submit(Submission(**{**fields, **changes}), deadline=deadline)

    # Watching

    async def until(self, condition: Callable[[], Any], *, within_s: float = 60.0, step_s: float = 0.01) -> Any:
        """The first true value of `condition`, looked at every `step_s` of virtual time."""
        end = asyncio.get_running_loop().time() + within_s
        while not (value := condition()):
            assert asyncio.get_running_loop().time() < end, f"it did not happen within {within_s:.0f} s"
            await asyncio.sleep(step_s)
        return value

    async def turn(self, times: int = 50) -> None:
        """Let everything run that can run without time passing."""
        for _ in range(times):
            await asyncio.sleep(0)

    async def standing(self, message: Message) -> tuple[Standing, float, str] | None:
        """Standing, due and reason in the spool; None when it is gone."""
        entry = await self.spool.find(message.id)
        return (entry.standing, entry.due, entry.reason) if entry else None

    async def kept(self, message: Message) -> Message | None:
        entry = await self.spool.find(message.id)
        return entry.message if entry else None

    async def in_spool(self) -> list[Message]:
        return [entry.message for entry in await self.spool.entries(Selection(), limit=10**9)]

    def copies(self, message: Message, address: str = "a@dest.example") -> int:
        """How often an upstream was handed this message for this recipient."""
        return sum(call.id == message.id and address in call.recipients for call in self.calls)

    def events_of(self, message: Message) -> list[str]:
        return self.seen.names(message.id)


def ids(messages: Iterable[Message | Call]) -> list[str]:
    return [message.id for message in messages]


NO_ROOM = SpoolError("the disk is full")
