"""State in memory: for tests, simulations and a relay that may forget its caps when it ends."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from relay.pools.caps import MAX_SKEW_S, Book
from relay.pools.health import NodeHealth
from relay.state import Candidate, CountKey, Denied, Permit, PermitRequest, Usage
from relay.state.granting import answer, check, usage


class MemoryState:
    """One event loop's truth. Nothing here waits, so every method is one atomic step."""

    def __init__(self) -> None:
        self._books: defaultdict[str, Book] = defaultdict(Book)
        self._turns: defaultdict[str, int] = defaultdict(int)
        self._health: dict[str, NodeHealth] = {}
        self._health_version = 0
        self._claims: dict[str, tuple[str, float, float]] = {}
        self._counts: defaultdict[CountKey, int] = defaultdict(int)

    async def reserve(self, requests: Sequence[PermitRequest], *, now: float) -> list[Permit | Denied]:
        check(requests)
        return [answer(request, self._books.__getitem__, now) for request in requests]

    async def refund(self, permits: Sequence[tuple[Permit, int]]) -> None:
        for permit, count in permits:
            self._books[permit.key].give_back(permit.windows, min(count, permit.granted), permit.granted, permit.at)

    async def usage(self, candidates: Sequence[Candidate], *, now: float) -> Mapping[str, tuple[Usage, ...]]:
        return {candidate.key: usage(candidate, self._books[candidate.key], now) for candidate in candidates}

    async def turns(self, cursor: str, count: int) -> int:
        first = self._turns[cursor]
        self._turns[cursor] = first + count
        return first

    async def health(self) -> Mapping[str, NodeHealth]:
        return dict(self._health)

    async def update_health(self, node: str, change: Callable[[NodeHealth], NodeHealth]) -> NodeHealth:
        before = self._health.get(node, NodeHealth())
        after = change(before)
        if after != before:
            self._health[node] = after
            self._health_version += 1
        return after

    async def health_version(self) -> int:
        return self._health_version

    async def claim(self, name: str, *, owner: str, ttl_s: float, now: float) -> bool:
        holder, until, length_s = self._claims.get(name, (owner, now, ttl_s))
        # A lease that ends later than its length from now was taken before the clock was set back.
        if holder != owner and now < until <= now + length_s + MAX_SKEW_S:
            return False
        self._claims[name] = (owner, now + ttl_s, ttl_s)
        return True

    async def unclaim(self, name: str, *, owner: str) -> None:
        holder, _, _ = self._claims.get(name, ("", 0.0, 0.0))
        if holder == owner:
            del self._claims[name]

    async def count(self, deltas: Mapping[CountKey, int]) -> None:
        for key, delta in deltas.items():
            self._counts[key] += delta

    async def counts(self, *, pool: str = "") -> Mapping[CountKey, int]:
        return {key: count for key, count in self._counts.items() if not pool or key.pool == pool}

    async def close(self) -> None:
        """Nothing to end."""
