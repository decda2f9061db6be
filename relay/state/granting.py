"""Who may send now: the answer to one permit request over the books of its candidates. Pure; shared by the stores."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from relay.pools.caps import Book
from relay.pools.pool import Cap
from relay.state import Advance, Candidate, CapBlock, Denied, Permit, PermitRequest, Usage

ADVANCE_S = 0.1
"""How long an advance may be used."""

SPARE = 64
SPARE_LEAST = 1024
"""An advance leaves so many times itself, and at least so many recipients, to everybody else: more than all others can
take before what is left of it has come back. Near its limit a cap gives none, so none is ever left unused there."""


def check(requests: Iterable[PermitRequest]) -> None:
    """Raises ValueError for a request that no store can answer."""
    for request in requests:
        if request.cost < 1 or request.least < 1:
            raise ValueError("a permit is for at least one recipient")
        if not request.candidates:
            raise ValueError("a permit needs a candidate")


def answer(request: PermitRequest, book_of: Callable[[str], Book], now: float) -> Permit | Denied:
    """Grant and count, or say from when on something could be granted.

    The first candidate with room for all of the request takes it; else the one with the most room, the earlier of
    equals, takes as much as it has if that is at least `least`. A `least` above a cap's whole limit can never be
    served there; its `until` is the time at which all of the cap is free.

    Args:
        request: has passed `check`.
        book_of: the book of a candidate key; changed in place.
        now: the caller's time.
    """
    rooms: list[int] = []
    for index, candidate in enumerate(request.candidates):
        book = book_of(candidate.key)
        at = book.arrive(now)
        room = book.room(candidate.caps, request.cost, at)
        if room >= request.cost:
            return _grant(request, index, room, book, at, _blocks(request, index, request.cost, book_of, now))
        rooms.append(room)
    most = max(rooms, default=0)
    if most and most >= request.least:
        index = rooms.index(most)
        book = book_of(request.candidates[index].key)
        blocks = _blocks(request, index, request.cost, book_of, now)
        return _grant(request, index, most, book, book.arrive(now), blocks)
    least = min(request.least, request.cost)
    until = [_free_at(candidate, least, book_of, now) for candidate in request.candidates]
    blocks = _blocks(request, len(request.candidates), least, book_of, now)
    return Denied(until=min(until), blocks=blocks)


def usage(candidate: Candidate, book: Book, now: float, *, asked: float | None = None) -> tuple[Usage, ...]:
    """Fill of each cap of a candidate.

    Args:
        asked: the caller's time, where the store has a clock of its own and `now` is from that.
    """
    at = book.arrive(now)
    asked = now if asked is None else asked
    fill = []
    for cap in candidate.caps:
        ledger = book.ledger(cap.window_s)
        ledger.expire(at)
        free_at = ledger.free_at(1, cap.limit, at, spread=cap.spread)
        # The book's time may be ahead of the caller's; what fits at the book's time fits now.
        free_at = min(asked, free_at) if free_at <= at else free_at
        fill.append(Usage(window_s=cap.window_s, limit=cap.limit, used=ledger.used, free_at=free_at))
    return tuple(fill)


def _grant(
    request: PermitRequest, index: int, count: int, book: Book, at: float, blocks: tuple[CapBlock, ...]
) -> Permit:
    candidate = request.candidates[index]
    book.take(candidate.caps, count, at)
    windows = tuple([cap.window_s for cap in candidate.caps])
    advance = _advance(candidate.caps, request.ahead, book, at) if request.ahead else None
    return Permit(index, candidate.key, count, at, blocks, windows, advance)


def _advance(caps: tuple[Cap, ...], wanted: int, book: Book, at: float) -> Advance | None:
    if any(cap.spread for cap in caps):
        return None
    room = book.room(caps, wanted * (SPARE + 1) + SPARE_LEAST, at)
    count = min(wanted, room // (SPARE + 1), room - SPARE_LEAST)
    if count <= 0:
        return None
    until = at + ADVANCE_S
    book.lend(caps, count, until)
    return Advance(count, until, ADVANCE_S)


def _free_at(candidate: Candidate, cost: int, book_of: Callable[[str], Book], now: float) -> float:
    book = book_of(candidate.key)
    return book.free_at(candidate.caps, cost, book.arrive(now))


def _blocks(
    request: PermitRequest, before: int, cost: int, book_of: Callable[[str], Book], now: float
) -> tuple[CapBlock, ...]:
    """The caps of the candidates before that index which have no room for `cost`, and when they will."""
    if not before:
        return ()
    blocks = []
    for candidate in request.candidates[:before]:
        book = book_of(candidate.key)
        at = book.arrive(now)
        for cap in candidate.caps:
            ledger = book.ledger(cap.window_s)
            if ledger.room(cap.limit, at, spread=cap.spread) < cost:
                free_at = ledger.free_at(cost, cap.limit, at, spread=cap.spread)
                blocks.append(CapBlock(candidate.key, cap.window_s, cap.limit, ledger.used, free_at))
    return tuple(blocks)
