"""The async shell of routing: brings health, turns, permits and use to the pure decisions.

What it guarantees
- A message that needs no permit costs no I/O, but for one block of turns in many messages.
- Permits asked for in the same tick of the loop are asked for together (`permits`).
- No decision for a node that was known to be out when the decision was made, even if its permit was awaited meanwhile.
- Without the state no node with caps is used; nodes without caps go on.

What it leaves to others: which nodes may (`selection`), in which order (`rotation`), connection slots and attempts
(`delivery`). One per worker; all methods belong to its event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet

from relay.envelope import Message
from relay.errors import StateUnavailable
from relay.pools.health import NodeHealth, is_available
from relay.pools.pool import Node, Pool, Rotation
from relay.router import rotation
from relay.router.cursors import ALL_FIT, CursorKey, Cursors
from relay.router.permits import OnePermit, Permits
from relay.router.selection import (
    NOTHING_FULL,
    STRICT,
    Decision,
    Full,
    Hold,
    Route,
    Screening,
    Unroutable,
    chosen,
    dead_end,
    gate_key,
    keep_back,
    put_last,
    screen,
)
from relay.router.usage import Usage
from relay.router.words import clock_words, missing_pool, span_words
from relay.state import Candidate, CapBlock, Permit, PermitRequest, State

STATE_RETRY_S = 5.0
"""Hold while the state store is away."""

_NOBODY: frozenset[str] = frozenset()
_TURNLESS = frozenset({Rotation.RANDOM, Rotation.INTERVAL})
_MODES = {mode.value: mode for mode in Rotation}
_WELL = NodeHealth()


class Router:
    """Decides where messages go.

    Args:
        clock: epoch seconds.
        rng: a number in [0, 1) at each call.
        at_once: the state answers without waiting for anything, so there is nothing to gain by asking for several
            permits together.
    """

    def __init__(
        self,
        pools: Iterable[Pool],
        state: State,
        *,
        clock: Callable[[], float],
        rng: Callable[[], float],
        at_once: bool = False,
    ) -> None:
        self._pools: dict[str, Pool] = {}
        self._nodes: dict[str, Node] = {}
        self._candidates: dict[str, Candidate] = {}
        self._state = state
        self._clock = clock
        self._rng = rng
        self._health: dict[str, NodeHealth] = {}
        self._ailing: dict[str, NodeHealth] = {}  # those that are not plainly well; all that decisions look at
        self._health_version: int | None = None
        self._generation = 0  # grows with everything that may make a decision stale
        self._cursors = Cursors(state)
        self._failovers: dict[str, int] = {}
        self._permits = OnePermit(state) if at_once else Permits(state)
        self._usage = Usage()
        self.replace_pools(pools)

    # Decisions

    async def route(
        self,
        message: Message,
        *,
        tried: AbstractSet[str] = _NOBODY,
        busy: AbstractSet[str] = _NOBODY,
        now: float,
        recipients: int = 0,
    ) -> Decision:
        """Where the message goes now, or how long it waits.

        Args:
            tried: names of the nodes that failed it in this run.
            busy: names of the nodes without a free connection slot.
            now: epoch seconds.
            recipients: how many to route; 0 means all that are pending.
        """
        while True:
            pool = self._pools.get(message.pool)
            if pool is None:
                return Unroutable((), missing_pool(message.pool))
            screening = screen(pool, message, health=self._ailing, tried=tried, busy=busy, now=now)
            if not screening.eligible:
                return dead_end(screening, message, now=now)
            generation = self._generation
            decision = await self._decide(screening, message, tried, now, recipients or max(1, len(message.pending)))
            if generation == self._generation or not isinstance(decision, Route) or self._stands(decision.node, now):
                return decision
            # The node went down, or out of the configuration, while we waited for its permit.
            if decision.permit is not None:
                self._permits.refund(decision.permit, decision.granted)

    async def refund(self, permit: Permit, recipients: int) -> None:
        """Give back a permit for recipients for whom no attempt was made. It is done soon after, together with
        others; should it fail, the cap is only stricter."""
        if recipients > 0:
            self._permits.refund(permit, recipients)

    # Knowledge

    @property
    def generation(self) -> int:
        """Grows with everything but time that may make a decision stale."""
        return self._generation

    async def refresh_health(self) -> bool:
        """Take over what others wrote. For a ticker: one cheap read while nothing changes.

        Returns:
            True when health was read anew.

        Raises:
            StateUnavailable: what was known stays in use.
        """
        if await self._state.health_version() == self._health_version:
            return False
        while True:
            generation = self._generation
            version = await self._state.health_version()
            health = dict(await self._state.health())
            if generation == self._generation:  # else we learnt something that `health` may not have
                break
        self._health, self._health_version = health, version
        self._ailing = {node: record for node, record in health.items() if _is_ailing(record)}
        self._generation += 1
        return True

    def learn_health(self, node: str, health: NodeHealth) -> None:
        """Use the result of an update of our own at once."""
        self._health[node] = health
        self._ailing.pop(node, None)
        if _is_ailing(health):
            self._ailing[node] = health
        self._generation += 1

    def health_of(self, node: str) -> NodeHealth:
        """What is known here. No I/O: hot path."""
        return self._health.get(node, _WELL)

    async def refresh_usage(self) -> None:
        """Take over what others sent, for `least-used`. For a ticker: every few seconds is plenty.

        Raises:
            StateUnavailable: what was known stays in use.
        """
        totals: dict[str, int] = {}
        for key, value in (await self._state.counts()).items():
            if key.what == "sent" and key.node in self._nodes:
                totals[key.node] = totals.get(key.node, 0) + value
        self._usage.merge(totals, self._clock())

    def replace_pools(self, pools: Iterable[Pool]) -> None:
        """Use these pools from the next decision on. Turns, health and use of what stays are kept."""
        self._pools = {pool.name: pool for pool in pools}
        self._nodes = {node.name: node for pool in self._pools.values() for node in pool.nodes}
        self._candidates = {name: _candidate(node) for name, node in self._nodes.items()}
        self._failovers = {name: self._failovers.get(name, 0) for name in self._pools}
        self._usage.keep(self._nodes)
        self._generation += 1

    async def close(self) -> None:
        """Wait until no permit is under way."""
        await self._permits.close()

    # Parts of a decision

    async def _decide(
        self, screening: Screening, message: Message, tried: AbstractSet[str], now: float, wanted: int
    ) -> Decision:
        """For a screening with eligible nodes."""
        pool = screening.pool
        mode = _MODES.get(message.rotation, pool.rotation) if message.rotation else pool.rotation
        nodes = screening.eligible
        kept_for = _NOBODY
        if screening.busy and mode in STRICT:
            kept_for = frozenset(node.name for node in screening.busy)
            able = {node.name for node in nodes} | kept_for
            nodes = [node for node in pool.nodes if node.name in able]
        turn = 0
        if len(nodes) > 1 and mode not in _TURNLESS:
            turn = await self._turn(screening, message) if not tried else self._failover(pool.name)
        ordered = rotation.order(
            mode,
            nodes,
            members=pool.nodes,
            turn=turn,
            draw=self._rng() if mode is Rotation.RANDOM else 0.0,
            used=self._usage.used,
            now=now,
            interval_s=pool.interval_s,
        )
        if kept_for:
            ordered = iter(keep_back(ordered, kept_for, mode))
        if message.bound_node:
            ordered = put_last(ordered, message.bound_node)
        first = next(ordered, None)
        if first is None:
            return dead_end(screening, message, now=now)
        if first.caps:
            return await self._with_permit(screening, message, first, ordered, mode, turn, now, wanted)
        return self._route(screening, first, None, wanted, f"{mode} turn {turn}")

    async def _turn(self, screening: Screening, message: Message) -> int:
        pool = screening.pool
        fit = ALL_FIT if screening.fit == len(pool.nodes) else gate_key(message, pool).fit
        key = CursorKey(pool.name, message.campaign, fit)
        turn = self._cursors.take(key)
        return await self._cursors.fetch(key) if turn is None else turn

    def _failover(self, pool: str) -> int:
        """Turns of second choices are their own: were they taken from the common cursor, two nodes of which one
        fails would leave every first choice to the failing one."""
        turn = self._failovers.get(pool, 0)
        self._failovers[pool] = turn + 1
        return turn

    async def _with_permit(
        self,
        screening: Screening,
        message: Message,
        first: Node,
        ordered: Iterator[Node],
        mode: Rotation,
        turn: int,
        now: float,
        wanted: int,
    ) -> Decision:
        """Ask for room at the nodes in their order, up to the first that needs none."""
        cost = min(wanted, max(1, first.max_recipients))
        candidate = self._candidates.get(first.name) or _candidate(first)
        ready = self._permits.at_once(candidate, cost)
        if ready is not None:
            return self._route(screening, first, ready, cost, f"{mode} turn {turn}")
        asked = [first]
        spare: Node | None = None
        for node in ordered:
            if not node.caps:
                spare = node
                break
            asked.append(node)
        request = PermitRequest(
            tuple([self._candidates.get(node.name) or _candidate(node) for node in asked]),
            cost,
            least=1 if spare is None else cost,  # no need to split what the spare takes whole
        )
        try:
            answer = await self._permits.ask(request, now)
        except StateUnavailable as error:
            if spare is not None:
                return self._route(screening, spare, None, wanted, f"{mode} turn {turn}, caps unknown: {error}")
            gate = None if screening.tried else gate_key(message, screening.pool)
            reason = f"state store unavailable, so caps are unknown: {error}"
            return Hold(now + STATE_RETRY_S, reason, tuple(screening.trace), gate)
        if isinstance(answer, Permit):
            full = _full(answer.blocks, asked[: answer.index], float("inf"))
            node = asked[answer.index]
            granted = min(answer.granted, max(1, node.max_recipients))
            if granted < answer.granted:
                self._permits.refund(answer, answer.granted - granted)
            return self._route(screening, node, answer, granted, f"{mode} turn {turn}", full)
        full = _full(answer.blocks, asked, answer.until)
        if spare is not None:
            return self._route(screening, spare, None, wanted, f"{mode} turn {turn}", full)
        return dead_end(screening, message, now=now, full=full)

    def _route(
        self,
        screening: Screening,
        node: Node,
        permit: Permit | None,
        recipients: int,
        reason: str,
        full: Full = NOTHING_FULL,
    ) -> Route:
        granted = min(recipients, max(1, node.max_recipients))
        self._usage.took(node.name, granted)
        return Route(node, permit, granted, chosen(screening, node, reason=reason, full=full))

    def _stands(self, node: Node, now: float) -> bool:
        """The node is still configured as it was, and still available."""
        return self._nodes.get(node.name) is node and is_available(self.health_of(node.name), now) is None


def _candidate(node: Node) -> Candidate:
    return Candidate(f"node:{node.name}", node.caps)


def _is_ailing(health: NodeHealth) -> bool:
    """Not available at some time or other. Who was available at the epoch is so until the next record says else."""
    return is_available(health, 0.0) is not None


def _full(blocks: Sequence[CapBlock], nodes: Sequence[Node], free_at: float) -> Full:
    """Caps that stood in the way of these nodes, in words; of several, the one that opens last."""
    reasons = {node.name: "no room under its caps" for node in nodes}
    for block in sorted(blocks, key=lambda block: block.free_at):
        name = block.key.removeprefix("node:")
        if name in reasons:
            reasons[name] = (
                f"{block.used} of {block.limit} recipients in {span_words(block.window_s)} used, "
                f"room again {clock_words(block.free_at)}"
            )
    return Full(reasons, free_at)
