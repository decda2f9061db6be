"""Permits under caps: many askers, few calls to the shared state.

Requests of one tick of the loop, and those that come while a call is under way, go to the state together. A permit
whose asker was cancelled is given back.
"""

from __future__ import annotations

import asyncio
import contextlib

from relay.errors import StateUnavailable
from relay.state import Denied, Permit, PermitRequest, State

BATCH = 500
"""Requests in one call: some ten milliseconds of work for a store, so that no asker waits much longer than that."""


class Permits:
    """Asks for permits on behalf of one worker."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._waiting: list[tuple[PermitRequest, float, asyncio.Future[Permit | Denied]]] = []
        self._unwanted: list[tuple[Permit, int]] = []
        self._worker: asyncio.Task[None] | None = None

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
        """Wait until nothing is under way."""
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
        try:
            answers = await self._state.reserve(
                [request for request, _, _ in batch], now=max(now for _, now, _ in batch)
            )
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
        for (_, _, future), answer in zip(batch, answers, strict=True):
            if future.done():
                self._give_back(answer)
            else:
                future.set_result(answer)

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
