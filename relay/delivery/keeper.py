"""Keeps the health of the nodes: takes them out, tests them, brings them back.

Delivery reports what attempts showed; `pools.health` decides; this shell writes the result to the shared state, tells
it, and runs the re-checks with the node's real transport. A re-check is claimed in the state, so that of many workers
one tests a node at a time and all see the result.

At a start every node is tested once. One that was never tested takes no mail before (`prepare`); the others go on as
they were known, and go out when the test fails. Nothing waits for these tests but the mail that has no other node.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Collection, Iterable

from relay.delivery.fleet import Fleet
from relay.delivery.verdict import Verdict, verdict_of
from relay.errors import StateUnavailable
from relay.events import Events
from relay.outcome import Outcome, Scope, Status
from relay.pools import health as machine
from relay.pools.health import HealthPolicy, NodeHealth, NodeStatus
from relay.router.disposition import COOL_DEFAULT_S, describe
from relay.router.router import Router
from relay.state import State
from relay.upstreams.base import Probe, Upstream

TICK_S = 0.25
"""How often other workers' changes are looked for; a deactivated node is out everywhere within this time."""

PROBE_S = 60.0
"""A test ends after this at the latest."""

CLAIM_S = 10.0
"""The claim of a test is renewed while it runs and ends soon after its worker was killed: mail may wait for it."""

CLAIMED_S = 5.0
"""Pause before asking again for a re-check that another worker has claimed; its result is seen earlier than that."""

FIRST_TESTS_S = 10.0
"""Longest wait of a client for first tests: most end within a second."""

AWAY_S = 1.0
"""Pause before asking again for a state that is away."""

TESTS_AT_ONCE = 32
"""Tests under way in one worker: a thousand nodes at a start are not a thousand connections at once."""

START_TTL_S = 3600.0
"""A worker that begins anew within this time of the relay's start does not test all nodes again."""

UNANSWERED = 5
"""Uncertain ends in a row, without a delivery between them, that take a node out."""


class HealthKeeper:
    """One per worker.

    Args:
        on_change: called after the health of any node changed, here or elsewhere: held mail may go now.
        owner: name of this worker in claims.
        start: mark of this start of the relay, the same for all its workers; empty: nodes are not tested at the start.
    """

    def __init__(
        self,
        *,
        state: State,
        router: Router,
        fleet: Fleet,
        policy: HealthPolicy,
        events: Events,
        clock: Callable[[], float],
        on_change: Callable[[], None],
        owner: str,
        start: str = "",
    ) -> None:
        self._start = start
        self._places = asyncio.Semaphore(TESTS_AT_ONCE)
        self._state = state
        self._router = router
        self._fleet = fleet
        self._policy = policy
        self._events = events
        self._clock = clock
        self._on_change = on_change
        self._owner = owner
        self._checks: dict[str, asyncio.Task[None]] = {}
        self._is_away = False
        self._unanswered: dict[str, int] = {}
        self._changed_at: dict[str, float] = {}
        self._untested: set[str] = set()

    async def prepare(self, nodes: Collection[str]) -> None:
        """Before these nodes are given any mail: those of which nothing is known are out until they are tested.

        Raises:
            StateUnavailable: what is known cannot be read.
        """
        if not self._start or not nodes:
            return
        now = self._clock()
        known = await self._state.health()
        for node in known.keys() & set(nodes):
            # What another worker wrote just now must be known here before the next message, not at the next tick.
            self._router.learn_health(node, known[node])
        new = [node for node in nodes if node not in known]
        await asyncio.gather(*(self._change(node, lambda h: machine.begin(h, now, self._policy)) for node in new))
        self._untested |= {node for node in nodes if machine.is_untested(self._router.health_of(node))}

    async def first_tests(self, pool: str) -> None:
        """Wait until a node of this pool has passed its first test, or all have their result, if no node of it can
        take mail before. At once at any time but the start."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + FIRST_TESTS_S
        while self._untested and loop.time() < give_up:
            self._untested = {n for n in self._untested if machine.is_untested(self._router.health_of(n))}
            nodes = self._fleet.pools[pool].nodes if pool in self._fleet.pools else ()
            now = self._clock()
            usable = any(machine.is_available(self._router.health_of(node.name), now) is None for node in nodes)
            if usable or self._untested.isdisjoint(node.name for node in nodes):
                return
            await asyncio.sleep(TICK_S / 5)

    async def fault(self, node: str, error: str, *, began_at: float) -> None:
        """A node or account fault: out of the rotation at once (unless the policy only records it).

        One of an attempt that began before the node was reconfigured says nothing about it as it is.
        """
        now = self._clock()
        if began_at < self._changed_at.get(node, 0.0) <= now:
            return
        before, after = await self._change(
            node, lambda h: machine.fault(h, now, error, self._policy, began_at=began_at)
        )
        if after.status is NodeStatus.INACTIVE and before.status is not NodeStatus.INACTIVE:
            self._events.node_deactivated(
                node=node, pool=self._fleet.pool_of(node).name, test_status=error, next_check=after.next_check
            )

    async def cool(self, node: str, until: float, reason: str) -> None:
        """A quota reply: nothing for this node before `until`; it stays active."""
        now = self._clock()
        before, after = await self._change(node, lambda h: machine.cool_down(h, until, reason, now=now))
        if after.cool_until != before.cool_until:
            self._events.node_cooled(
                node=node, pool=self._fleet.pool_of(node).name, until=after.cool_until, reason=reason
            )

    async def delivered(self, node: str) -> None:
        """A delivery succeeded: forget earlier failures. No write when there were none (hot path)."""
        if self._unanswered:
            self._unanswered.pop(node, None)
        known = self._router.health_of(node)
        if machine.delivered(known) is not known:
            await self._change(node, machine.delivered)

    async def uncertain(self, node: str, error: str, *, began_at: float) -> None:
        """An answer to a whole message was lost. Once says little about a node; several in a row say that it takes
        messages and never confirms them, and each of them is a copy more."""
        self._unanswered[node] = self._unanswered.get(node, 0) + 1
        if self._unanswered[node] >= UNANSWERED:
            del self._unanswered[node]
            await self.fault(
                node, f"{UNANSWERED} answers in a row were lost, the last one at {error}", began_at=began_at
            )

    def replaced(self, policy: HealthPolicy, changed: Collection[str]) -> None:
        """Nodes or rules are others now. Re-checks of nodes that changed or are gone are broken off: what they would
        find says nothing about the nodes as they are."""
        self._policy = policy
        for node in changed:
            self._unanswered.pop(node, None)
            self._changed_at[node] = self._clock()
            if (check := self._checks.get(node)) is not None:
                check.cancel()

    async def look_anew(self, nodes: Iterable[str]) -> None:
        """Test these nodes soon if they are out: what kept them out may just have been put right."""
        now = self._clock()
        for node in nodes:
            if machine.changed(known := self._router.health_of(node), now, self._policy) is not known:
                await self._change(node, lambda h: machine.changed(h, now, self._policy))

    async def test(self, node: str) -> Probe:
        """Test a node now and act on the result like a re-check."""
        probe = await self._probe(node)
        await self._judge(node, probe)
        return probe

    async def run(self) -> None:
        """Test what is to be tested at the start, follow changes made elsewhere and re-check what is due, until
        cancelled."""
        try:
            if self._start:
                for node in self._fleet.names():
                    self._begin_check(node, self._check_at_start)
            while True:
                try:
                    if await self._router.refresh_health():
                        self._on_change()
                    self._start_due_checks()
                    self._is_away = False
                except StateUnavailable as error:
                    self._tell_away(error)
                    await asyncio.sleep(AWAY_S)
                await asyncio.sleep(TICK_S)
        finally:
            for task in self._checks.values():
                task.cancel()
            await asyncio.gather(*self._checks.values(), return_exceptions=True)

    async def _change(self, node: str, change: Callable[[NodeHealth], NodeHealth]) -> tuple[NodeHealth, NodeHealth]:
        """Apply a transition; returns the health before and after it.

        While the state is away it is applied here only: this worker must not go on with a node it saw fail.
        """
        seen = NodeHealth()

        def remember(health: NodeHealth) -> NodeHealth:
            nonlocal seen
            seen = health
            return change(health)

        try:
            after = await self._state.update_health(node, remember)
        except StateUnavailable as error:
            self._events.fault(where="state", error=f"health of node {node} is kept in this worker only: {error}")
            seen = self._router.health_of(node)
            after = change(seen)
        if after != self._router.health_of(node):  # because of this change, or of another worker's before it
            self._router.learn_health(node, after)
            self._on_change()
        return seen, after

    def _start_due_checks(self) -> None:
        now = self._clock()
        for node in self._fleet.names():
            health = self._router.health_of(node)
            if machine.is_check_due(health, now) and node not in self._checks:
                self._begin_check(node, self._check)

    def _begin_check(self, node: str, check: Callable[[str], Awaitable[float]]) -> None:
        task = asyncio.create_task(self._in_place(node, check), name=f"check-{node}")
        self._checks[node] = task
        task.add_done_callback(lambda _: self._checks.pop(node, None))

    async def _in_place(self, node: str, check: Callable[[str], Awaitable[float]]) -> None:
        """`check` gives the pause before this worker may ask about the node again, in seconds."""
        # Workers tick together; the spread keeps them from asking for the claim at the same moment.
        await asyncio.sleep(random.uniform(0, TICK_S))
        try:
            async with self._places:
                pause_s = await check(node)
        except StateUnavailable as error:
            self._tell_away(error)
            pause_s = AWAY_S
        await asyncio.sleep(pause_s)

    async def _check_at_start(self, node: str) -> float:
        """Once in a start of the relay, by one of its workers, whatever was known of the node. A worker that comes
        late finds the result of a first test, and must not take it for something known from before."""
        claim = f"start:{self._start}:{node}"
        if not await self._state.claim(claim, owner=self._owner, ttl_s=START_TTL_S, now=self._clock()):
            return 0.0
        health, now = self._router.health_of(node), self._clock()
        if machine.is_check_due(health, now):
            return await self._check(node)
        if machine.is_start_test_due(health, now):
            await self._judge(node, await self._probe(node))
        return 0.0

    async def _check(self, node: str) -> float:
        claim = f"check:{node}"
        if not await self._claim(claim):
            return CLAIMED_S
        renewal = asyncio.create_task(self._renew(claim), name=f"claim-{node}")
        try:
            health = (await self._state.health()).get(node, NodeHealth())
            if machine.is_check_due(health, self._clock()):
                await self._judge(node, await self._probe(node))
            elif health != self._router.health_of(node):
                # A fault that was seen here while the state was away; the others never knew of it.
                self._router.learn_health(node, health)
                self._on_change()
        finally:
            renewal.cancel()
            await asyncio.wait([renewal])
            await self._state.unclaim(claim, owner=self._owner)
        return 0.0

    async def _claim(self, name: str) -> bool:
        return await self._state.claim(name, owner=self._owner, ttl_s=CLAIM_S, now=self._clock())

    async def _renew(self, claim: str) -> None:
        with contextlib.suppress(StateUnavailable):  # without it two workers may test one node; that harms nobody
            while True:
                await asyncio.sleep(CLAIM_S / 3)
                await self._claim(claim)

    async def _probe(self, node: str) -> Probe:
        try:
            with self._fleet.testing(node) as upstream:
                return await probed(upstream, node, self._events)
        except KeyError:
            return Probe(outcome=_probe_failed("the node has gone out of the configuration"))

    def _tell_away(self, error: StateUnavailable) -> None:
        """Once, until the state is back."""
        if not self._is_away:
            self._is_away = True
            self._events.fault(where="state", error=str(error))

    async def _judge(self, node: str, probe: Probe) -> None:
        if node not in self._fleet:
            return  # went out of the configuration meanwhile
        now = self._clock()
        pool = self._fleet.pool_of(node).name
        verdict = verdict_of(probe.outcome)
        error = describe(probe.outcome)
        if verdict in (Verdict.WELL, Verdict.SLOWER):
            before, after = await self._change(node, lambda h: machine.check_passed(h, now, self._policy))
            if after.status is NodeStatus.ACTIVE and before.status is NodeStatus.INACTIVE:
                if machine.is_untested(before):
                    self._events.node_ready(node=node, pool=pool)
                else:
                    self._events.node_recovered(node=node, pool=pool, down_s=max(0.0, now - before.since))
            if verdict is Verdict.SLOWER:
                await self.cool(node, now + (probe.outcome.retry_after_s or COOL_DEFAULT_S), error)
            return
        if verdict is Verdict.NOTHING and self._router.health_of(node).status is NodeStatus.ACTIVE:
            return
        before, after = await self._change(node, lambda h: machine.check_failed(h, now, error, self._policy))
        if after.status is NodeStatus.INACTIVE:
            if before.status is not NodeStatus.INACTIVE or machine.is_untested(before):
                self._events.node_deactivated(node=node, pool=pool, test_status=error, next_check=after.next_check)
            else:
                self._events.node_check_failed(node=node, pool=pool, test_status=error, next_check=after.next_check)


async def probed(upstream: Upstream, node: str, events: Events) -> Probe:
    """The test of a node, ended in time whatever its driver does."""
    try:
        async with asyncio.timeout(PROBE_S):
            return await upstream.probe()
    except TimeoutError:
        return Probe(outcome=_probe_failed(f"the test did not end within {PROBE_S:.0f} s"))
    except Exception as error:  # a bug of the driver: the node is no better for it, and the others are no worse
        events.fault(where=f"node {node}", error=f"its test failed: {type(error).__name__}: {error}")
        return Probe(outcome=_probe_failed(f"internal fault of the driver ({type(error).__name__})"))


def _probe_failed(text: str) -> Outcome:
    return Outcome(status=Status.DEFERRED, scope=Scope.NODE, phase="connect", text=text, attempted=False)
