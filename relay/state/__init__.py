"""The state: what must be one truth for all workers and replicas, other than the mail itself.

Permits under caps, rotation cursors, node health, leases for re-checks, and counts. This module holds the protocol
and its values; `sqlite`, `memory` and `redis_store` implement it, and one contract suite
(`tests/contract/test_state.py`) runs over all of them.

Losing the state loses no mail. When it cannot be read or written, methods raise `StateUnavailable` and callers hold:
a cap is never exceeded because its ledger is away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from relay.pools.health import NodeHealth
from relay.pools.pool import Cap
from relay.values import thawed


@thawed
@dataclass(frozen=True, slots=True)
class Candidate:
    """Something with caps that could carry a message: `key` is `node:<name>` or `bridge:<name>`."""

    key: str
    caps: tuple[Cap, ...]


@thawed
@dataclass(frozen=True, slots=True)
class PermitRequest:
    """Room for `cost` recipients at the first candidate that has it.

    When none has room for all, and `least` < `cost`, the candidate with the most room gives as much as it has, at
    least `least`. `ahead`: so many more are welcome as an advance, see `Advance`; a store may ignore it.
    """

    candidates: tuple[Candidate, ...]
    cost: int
    least: int = 1
    ahead: int = 0


@thawed
@dataclass(frozen=True, slots=True)
class CapBlock:
    """A cap that stood in the way: `used` of `limit` in the window, room again at `free_at` (epoch seconds)."""

    key: str
    window_s: float
    limit: int
    used: int
    free_at: float


@thawed
@dataclass(frozen=True, slots=True)
class Advance:
    """Recipients counted already, for whom no message is there yet: `granted` more may go through the permit's
    candidate within `lasts_s` of the moment they were asked for. What is left goes back with `refund`.

    They count as taken at the end of that time, so the rule of the caps holds for every moment at which they may be
    used. Given only where so much room is left that nobody goes without because of them.
    """

    granted: int
    at: float
    lasts_s: float


@thawed
@dataclass(frozen=True, slots=True)
class Permit:
    """`granted` recipients may go through candidate number `index` now. `blocks`: caps that ruled out earlier ones.

    `windows`: the windows it was counted in, for `refund`.
    """

    index: int
    key: str
    granted: int
    at: float
    blocks: tuple[CapBlock, ...] = ()
    windows: tuple[float, ...] = ()
    advance: Advance | None = None


@dataclass(frozen=True, slots=True)
class Denied:
    """No candidate has room before `until` (epoch seconds)."""

    until: float
    blocks: tuple[CapBlock, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """Fill of one cap now; `free_at`: when one more recipient fits (≤ now when it fits already)."""

    window_s: float
    limit: int
    used: int
    free_at: float


@dataclass(frozen=True, slots=True)
class CountKey:
    """What a counter counts: `what` is `sent`, `delivered`, `deferred`, `refused`, `uncertain` or `bounced`."""

    pool: str
    campaign: str
    node: str
    what: str


class State(Protocol):
    """Shared truth. Time is the caller's epoch seconds, except where a store has a better common clock."""

    async def reserve(self, requests: Sequence[PermitRequest], *, now: float) -> list[Permit | Denied]:
        """Answer the requests in order in one atomic step.

        Each permit is taken in all windows of its candidate or in none. Never more than a cap's limit is granted in
        any window of its length, over all callers, restarts and crashes. Durable on return.
        """
        ...

    async def refund(self, permits: Sequence[tuple[Permit, int]]) -> None:
        """Give back that many recipients of a permit, because no attempt was made for them."""
        ...

    async def usage(self, candidates: Sequence[Candidate], *, now: float) -> Mapping[str, tuple[Usage, ...]]:
        """Fill of each cap by candidate key, in the order of `Candidate.caps`."""
        ...

    async def turns(self, cursor: str, count: int) -> int:
        """Take `count` consecutive turns of a rotation cursor; returns the first. Turns may be skipped by a crash,
        never handed out twice."""
        ...

    async def health(self) -> Mapping[str, NodeHealth]:
        """Health by node name; nodes never written are absent (and active)."""
        ...

    async def update_health(self, node: str, change: Callable[[NodeHealth], NodeHealth]) -> NodeHealth:
        """Apply a pure function to a node's health atomically; it may be called more than once. Returns the result.
        An unchanged value is not written. Durable on return."""
        ...

    async def health_version(self) -> int:
        """Grows with every change of any health, by whomever. Cheap: polled several times a second."""
        ...

    async def claim(self, name: str, *, owner: str, ttl_s: float, now: float) -> bool:
        """Take or extend the named lease for `owner`; False while someone else holds it."""
        ...

    async def unclaim(self, name: str, *, owner: str) -> None: ...

    async def count(self, deltas: Mapping[CountKey, int]) -> None:
        """Add to counters. May be lost by a power cut, not by a crash of the process.

        Clients invent campaigns without end: a store tells a bounded number of them apart, those used last, and adds
        what older ones counted to the counters without a campaign.
        """
        ...

    async def counts(self, *, pool: str = "") -> Mapping[CountKey, int]: ...

    async def close(self) -> None: ...
