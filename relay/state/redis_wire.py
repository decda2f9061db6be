"""Permit requests and their answers as the scripts in `lua/` read and write them: rows of little-endian doubles.

Doubles, because every number here is one in Python too: times come back to the last bit, which `until` being the very
first moment at which the answer changes depends on.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from relay.pools.caps import Ledger, slot_width
from relay.pools.pool import Cap
from relay.state import Advance, Candidate, CapBlock, Denied, Permit, PermitRequest, Usage
from relay.state.granting import ADVANCE_S

SERVER_CLOCK = -1.0


@dataclass(frozen=True, slots=True)
class Question:
    """Requests, ready to be sent. `candidates`: each one once, in the order in which the script numbers them."""

    numbers: bytes
    candidates: tuple[Candidate, ...]
    requests: tuple[PermitRequest, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(candidate.key for candidate in self.candidates)


def ask(requests: Sequence[PermitRequest], now: float) -> Question:
    places: dict[Candidate, int] = {}
    tail: list[float] = [len(requests)]
    for request in requests:
        tail += (request.cost, request.least, request.ahead, len(request.candidates))
        tail += [places.setdefault(candidate, len(places)) for candidate in request.candidates]
    candidates = tuple(places)
    return Question(doubles([now, *shapes(candidates), *tail]), candidates, tuple(requests))


def shapes(candidates: Sequence[Candidate]) -> list[float]:
    """Candidates with the windows of their caps and how those are cut into slots."""
    numbers: list[float] = [len(candidates)]
    for candidate in candidates:
        numbers.append(len(candidate.caps))
        for cap in candidate.caps:
            numbers += (cap.window_s, cap.limit, cap.spread, *_slots(cap))
    return numbers


@dataclass(frozen=True, slots=True)
class Answer:
    """`rebuilding_s`: how long nothing is granted, because the state was lost and replicas tell what they know.
    `used`: of each cap of each candidate, in their order."""

    given: list[Permit | Denied]
    rebuilding_s: float
    used: list[tuple[Candidate, tuple[int, ...]]]


def read_answer(question: Question, data: bytes) -> Answer:
    numbers = iter(_array(data))
    rebuilding_s = next(numbers)
    next(numbers)
    given = [_given(request, numbers) for request in question.requests]
    used = [(candidate, tuple(int(next(numbers)) for _ in candidate.caps)) for candidate in question.candidates]
    return Answer(given, rebuilding_s, used)


def read_usage(
    candidates: Sequence[Candidate], data: bytes, *, asked: float | None = None
) -> Mapping[str, tuple[Usage, ...]]:
    """The fill of each cap by candidate key.

    Args:
        asked: the caller's time, where the times in `data` are of the server's clock: what fits now fits then.
    """
    numbers = iter(_array(data))
    now = next(numbers)
    return {
        candidate.key: tuple(_usage(cap, numbers, now, asked) for cap in candidate.caps) for candidate in candidates
    }


def _usage(cap: Cap, numbers: Iterator[float], now: float, asked: float | None) -> Usage:
    used, free_at = int(next(numbers)), next(numbers)
    if asked is not None and free_at <= now:
        free_at = min(asked, free_at)
    return Usage(window_s=cap.window_s, limit=cap.limit, used=used, free_at=free_at)


def doubles(numbers: Sequence[float]) -> bytes:
    row = array("d", numbers)
    if sys.byteorder == "big":
        row.byteswap()
    return row.tobytes()


def _array(data: bytes) -> array[float]:
    row = array("d")
    row.frombytes(data)
    if sys.byteorder == "big":
        row.byteswap()
    return row


def _slots(cap: Cap) -> tuple[float, int]:
    return slot_width(cap.window_s), Ledger(cap.window_s).span


def _given(request: PermitRequest, numbers: Iterator[float]) -> Permit | Denied:
    if not next(numbers):
        until = next(numbers)
        return Denied(until=until, blocks=_blocks(request, numbers))
    index, granted, at = int(next(numbers)), int(next(numbers)), next(numbers)
    candidate = request.candidates[index]
    blocks = _blocks(request, numbers)
    ahead, until = int(next(numbers)), next(numbers)
    return Permit(
        index=index,
        key=candidate.key,
        granted=granted,
        at=at,
        blocks=blocks,
        windows=tuple(cap.window_s for cap in candidate.caps),
        advance=Advance(ahead, until, ADVANCE_S) if ahead else None,
    )


def _blocks(request: PermitRequest, numbers: Iterator[float]) -> tuple[CapBlock, ...]:
    return tuple(
        CapBlock(
            key=request.candidates[int(next(numbers))].key,
            window_s=next(numbers),
            limit=int(next(numbers)),
            used=int(next(numbers)),
            free_at=next(numbers),
        )
        for _ in range(int(next(numbers)))
    )
