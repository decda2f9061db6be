"""Permits under caps: many askers, few calls to the shared state.

Requests of one tick of the loop, and those that come while a call is under way, go to the state together. A permit
whose asker was cancelled is given back.

Under load the state is asked for an advance on what will be needed in the next moment (`state.Advance`). Askers are
served from it without a call; what is left of it when it ends goes back.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from relay.errors import StateUnavailable
from relay.state import Advance, Candidate, Denied, Permit, PermitRequest, State
from relay.values import evolve

BATCH = 500
"""Requests in one call: some ten milliseconds of work for a store, so that no asker waits much longer than that."""


MOST_AHEAD = 256
"""Recipients asked for in advance at most: what a crash may leave counted without having been sent."""

BUSY_S = 0.2
"""Somebody who asks again within this time is likely to go on asking."""


@dataclass(slots=True, eq=False)
class _Demand:
    """What was asked of one candidate lately, and what is there for it.

    Attributes:
        candidate: with the caps it has; one of other caps under the same key begins anew.
        asked_at: loop time of the last call to the state.
        used: recipients since then.
        permit: what the advance belongs to; None when there is none.
        left: recipients of it that are not handed out.
        ends_at: loop time until which they may be.
    """

    candidate: Candidate
    asked_at: float
    used: int = 0
    permit: Permit | None = None
    left: int = 0
    ends_at: float = 0.0


class Permits:
    """Asks for permits on behalf of one worker."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._demands: dict[str, _Demand] = {}
        self._waiting: list[tuple[PermitRequest, float, asyncio.Future[Permit | Denied]]] = []
        self._unwanted: list[tuple[Permit, int]] = []
        self._worker: asyncio.Task[None] | None = None

    def at_once(self, candidate: Candidate, cost: int) -> Permit | None:
        """A permit for the first candidate of a request out of an advance. No I/O: hot path."""
        demand = self._demands.get(candidate.key)
        if demand is None or demand.candidate is not candidate:
            return None
        demand.used += cost
        if demand.left < cost or demand.permit is None or asyncio.get_running_loop().time() >= demand.ends_at:
            return None
        demand.left -= cost
        return evolve(demand.permit, granted=cost)

    async def ask(self, request: PermitRequest, now: float) -> Permit | Denied:
        """The state's answer to one request.

        Raises:
            StateUnavailable: nothing may be sent on the strength of this request.
        """
        future: asyncio.Future[Permit | Denied] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, now, future))
        self._start()
        try:
            return await future
        except asyncio.CancelledError:
            # Answered and cancelled in the same tick: `_settle` saw nothing amiss.
            if future.done() and not future.cancelled() and future.exception() is None:
                self._give_back(future.result())
                self._start()
            raise

    def refund(self, permit: Permit, recipients: int) -> None:
        """Give back part of a permit or all of it, soon. While the state is away it stays used: stricter."""
        self._unwanted.append((permit, recipients))
        self._start()

    async def close(self) -> None:
        """Give back what was in advance, and wait until nothing is under way."""
        for demand in self._demands.values():
            self._end(demand)
        while self._worker is not None:
            await asyncio.shield(self._worker)

    def _start(self) -> None:
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name="permits")

    async def _work(self) -> None:
        """One call after the other until nobody waits."""
        try:
            while self._waiting or self._unwanted:
                if self._unwanted:
                    refunds, self._unwanted = self._unwanted, []
                    with contextlib.suppress(StateUnavailable):
                        await self._state.refund(refunds)
                if self._waiting:
                    batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
                    await self._settle([entry for entry in batch if not entry[2].cancelled()])
        except asyncio.CancelledError:
            for _, _, future in self._waiting:
                future.cancel()
            self._waiting.clear()
            raise
        finally:
            self._worker = None
            if self._waiting:  # a fault in one call is no reason to leave the others without an answer
                self._start()

    async def _settle(self, batch: list[tuple[PermitRequest, float, asyncio.Future[Permit | Denied]]]) -> None:
        if not batch:
            return
        asked_at = asyncio.get_running_loop().time()
        requests = self._with_advance([request for request, _, _ in batch], asked_at)
        try:
            answers = await self._state.reserve(requests, now=max(now for _, now, _ in batch))
        except BaseException as error:
            # Each asker decides for itself what a missing answer means; none may wait for ever.
            for _, _, future in batch:
                if not future.done():
                    if isinstance(error, Exception):
                        future.set_exception(error)
                    else:
                        future.cancel()
            if not isinstance(error, Exception):
                raise
            return
        for (request, _, future), answer in zip(batch, answers, strict=True):
            if isinstance(answer, Permit) and answer.advance is not None:
                self._keep(request.candidates[answer.index], answer, answer.advance, asked_at)
            if future.done():
                self._give_back(answer)
            else:
                future.set_result(answer)

    def _with_advance(self, requests: list[PermitRequest], now: float) -> list[PermitRequest]:
        """The same requests, the last one for each busy candidate with a wish for more."""
        last = {request.candidates[0].key: position for position, request in enumerate(requests)}
        for position in last.values():
            demand = self._demand(requests[position].candidates[0], now)
            if now < demand.asked_at + BUSY_S and demand.left == 0:
                requests[position] = evolve(requests[position], ahead=min(MOST_AHEAD, 2 * demand.used))
            demand.asked_at, demand.used = now, 0
        return requests

    def _keep(self, candidate: Candidate, permit: Permit, advance: Advance, asked_at: float) -> None:
        demand = self._demand(candidate, asked_at)
        self._end(demand)
        demand.permit = evolve(permit, index=0, granted=advance.granted, at=advance.at, blocks=(), advance=None)
        demand.left = advance.granted
        demand.ends_at = asked_at + advance.lasts_s
        asyncio.get_running_loop().call_at(demand.ends_at, self._end, demand, demand.permit)

    def _demand(self, candidate: Candidate, now: float) -> _Demand:
        demand = self._demands.get(candidate.key)
        if demand is None or demand.candidate is not candidate:
            if demand is not None:
                self._end(demand)
            demand = self._demands[candidate.key] = _Demand(candidate, now - BUSY_S)
        return demand

    def _end(self, demand: _Demand, permit: Permit | None = None) -> None:
        """Give back what is left of an advance; of `permit`, when it is still that one."""
        if demand.permit is not None and permit in (None, demand.permit):
            if demand.left:
                self.refund(demand.permit, demand.left)
            demand.permit, demand.left = None, 0

    def _give_back(self, answer: Permit | Denied) -> None:
        if isinstance(answer, Permit):
            self._unwanted.append((answer, answer.granted))


class OnePermit(Permits):
    """Asks for one permit at a time, for a state that answers at once."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self._at_once = state

    async def ask(self, request: PermitRequest, now: float) -> Permit | Denied:
        """As `Permits.ask`."""
        return (await self._at_once.reserve([request], now=now))[0]
