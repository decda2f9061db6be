"""Notices out: each is tried until it is taken, with growing pauses, for a day."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from relay.admin.alerts.store import Notice, NoticeState, Store
from relay.admin.alerts.targets import Targets, Told
from relay.config import Config

LOOK_EVERY_S = 2.0
BACK_OFF_S = (10.0, 60.0, 300.0, 900.0, 1800.0, 3600.0)
"""Waits after the first, second, … failure; the last one repeats."""

KEEP_TRYING_S = 86400.0

Tell = Callable[[str, str, Mapping[str, Any]], None]


class Notifier:
    """One per control process."""

    def __init__(
        self,
        store: Store,
        targets: Targets,
        config: Callable[[], Config],
        tell: Tell,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._targets = targets
        self._config = config
        self._tell = tell
        self._clock = clock
        self.wake = asyncio.Event()
        self.results: Counter[str] = Counter()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                pause = 0.0 if await self._round() else LOOK_EVERY_S
            except Exception as error:  # a full or damaged disk: told, and tried again
                self._tell("error", "relay.fault", {"where": "alerts", "error": f"{type(error).__name__}: {error}"})
                pause = 5.0
            self.wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self.wake.wait()

    async def _round(self) -> bool:
        """Tell what is due; whether there was anything."""
        config = self._config()
        if not config.alerts.targets and not self._store.database.path.exists():
            return False
        due = await asyncio.to_thread(self._store.due, self._clock())
        by_target: dict[str, list[Notice]] = {}
        for notice in due:
            by_target.setdefault(notice.target, []).append(notice)
        # One after another at each target: what began first is heard first.
        await asyncio.gather(*(self._tell_target(name, notices, config) for name, notices in by_target.items()))
        return bool(due)

    async def _tell_target(self, name: str, notices: list[Notice], config: Config) -> None:
        target = next((each for each in config.alerts.targets if each.name == name), None)
        for notice in notices:
            if target is None:
                await self._settle(notice, NoticeState.NEEDLESS, "the target is configured no more")
                continue
            pools = {issue.pool for issue in await asyncio.to_thread(self._store.open_issues) if issue.pool}
            told = await self._targets.tell(target, config, notice.issue, notice.what, pools)
            await self._after(notice, told)

    async def _after(self, notice: Notice, told: Told) -> None:
        fields = {"target": notice.target, "issue": notice.issue.number, "what": notice.what, "answer": told.answer}
        now = self._clock()
        if told.taken:
            self.results["taken"] += 1
            self._tell("info", "alert.told", fields)
            await self._settle(notice, NoticeState.TAKEN, told.answer)
        elif now - notice.since >= KEEP_TRYING_S:
            self.results["given_up"] += 1
            self._tell("error", "alert.given_up", fields)
            await self._settle(notice, NoticeState.GIVEN_UP, told.answer)
        else:
            self.results["failed"] += 1
            if not notice.tries:
                self._tell("warning", "alert.failed", fields)
            pause = BACK_OFF_S[min(notice.tries, len(BACK_OFF_S) - 1)]
            await self._settle(notice, NoticeState.WAITING, told.answer, due=now + pause)

    async def _settle(self, notice: Notice, state: NoticeState, answer: str, *, due: float = 0.0) -> None:
        await asyncio.to_thread(self._store.settle, notice, state, now=self._clock(), answer=answer, due=due)
