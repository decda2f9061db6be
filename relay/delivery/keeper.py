"""Keeps the health of the nodes: takes them out, tests them, brings them back.

Delivery reports what attempts showed; `pools.health` decides; this shell writes the result to the shared state, tells
it, and runs the re-checks with the node's real transport. A re-check is claimed in the state, so that of many workers
one tests a node at a time and all see the result.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Iterable

from relay.delivery.fleet import Fleet
from relay.errors import StateUnavailable
from relay.events import Events
from relay.outcome import Outcome, Scope, Status
from relay.pools import health as machine
from relay.pools.health import HealthPolicy, NodeHealth, NodeStatus
from relay.router.disposition import describe
from relay.router.router import Router
from relay.state import State
from relay.upstreams.base import Probe

TICK_S = 0.25
"""How often other workers' changes are looked for; a deactivated node is out everywhere within this time."""

CHECK_TTL_S = 120.0
"""A re-check that takes longer than this lost its claim: the worker that ran it is gone or stuck."""

CLAIMED_S = 5.0
"""Pause before asking again for a re-check that another worker has claimed; its result is seen earlier than that."""

AWAY_S = 1.0
"""Pause before asking again for a state that is away."""

UNANSWERED = 5
"""Uncertain ends in a row, without a delivery between them, that take a node out."""


class HealthKeeper:
    """One per worker.

    Args:
        on_change: called after the health of any node changed, here or elsewhere: held mail may go now.
        owner: name of this worker in claims.
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
    ) -> None:
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
        """Follow changes made elsewhere and re-check what is due, until cancelled."""
        try:
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
        if after != seen:
            self._router.learn_health(node, after)
            self._on_change()
        return seen, after

    def _start_due_checks(self) -> None:
        now = self._clock()
        for node in self._fleet.names():
            health = self._router.health_of(node)
            if machine.is_check_due(health, now) and node not in self._checks:
                task = asyncio.create_task(self._check(node), name=f"check-{node}")
                self._checks[node] = task
                task.add_done_callback(lambda _, name=node: self._checks.pop(name, None))  # type: ignore[misc]

    async def _check(self, node: str) -> None:
        claim = f"check:{node}"
        try:
            # Workers tick together; the spread keeps them from asking for the claim at the same moment.
            await asyncio.sleep(random.uniform(0, TICK_S))
            if not await self._state.claim(claim, owner=self._owner, ttl_s=CHECK_TTL_S, now=self._clock()):
                await asyncio.sleep(CLAIMED_S)
                return
            try:
                health = (await self._state.health()).get(node, NodeHealth())
                if machine.is_check_due(health, self._clock()):
                    await self._judge(node, await self._probe(node))
                elif health != self._router.health_of(node):
                    # A fault that was seen here while the state was away; the others never knew of it.
                    self._router.learn_health(node, health)
                    self._on_change()
            finally:
                await self._state.unclaim(claim, owner=self._owner)
        except StateUnavailable as error:
            self._tell_away(error)
            await asyncio.sleep(AWAY_S)

    async def _probe(self, node: str) -> Probe:
        try:
            with self._fleet.testing(node) as upstream:
                async with asyncio.timeout(CHECK_TTL_S / 2):
                    return await upstream.probe()
        except TimeoutError:
            return Probe(outcome=_probe_failed(f"the test did not end within {CHECK_TTL_S / 2:.0f} s"))
        except Exception as error:  # a bug of the driver: the node is no better for it, and the others are no worse
            self._events.fault(where=f"node {node}", error=f"its test failed: {type(error).__name__}: {error}")
            return Probe(outcome=_probe_failed(f"internal fault of the driver ({type(error).__name__})"))

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
        if probe.outcome.status is Status.DELIVERED:
            before, after = await self._change(node, lambda h: machine.check_passed(h, now, self._policy))
            if after.status is NodeStatus.ACTIVE and before.status is NodeStatus.INACTIVE:
                self._events.node_recovered(node=node, pool=pool, down_s=max(0.0, now - before.since))
            return
        error = describe(probe.outcome)
        before, after = await self._change(node, lambda h: machine.check_failed(h, now, error, self._policy))
        if after.status is NodeStatus.INACTIVE:
            if before.status is not NodeStatus.INACTIVE:
                self._events.node_deactivated(node=node, pool=pool, test_status=error, next_check=after.next_check)
            else:
                self._events.node_check_failed(node=node, pool=pool, test_status=error, next_check=after.next_check)


def _probe_failed(text: str) -> Outcome:
    return Outcome(status=Status.DEFERRED, scope=Scope.NODE, phase="connect", text=text, attempted=False)
