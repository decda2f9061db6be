"""Events and standings in, issues out.

Events of nodes and reloads are read on from the histories, from where they were read last, so that nothing is missed
while the control process was away. Every few seconds the nodes, queues and workers are looked at over the control
sockets, and now and then the files that expire. What cannot be looked at leaves its issues as they are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from relay.admin.alerts import rules
from relay.admin.alerts.expiry import expiring
from relay.admin.alerts.notify import Notifier
from relay.admin.alerts.rules import Oldest, Over, Rule, Thresholds, Trouble
from relay.admin.alerts.store import Issue, Listener, Store
from relay.admin.alerts.words import title
from relay.admin.audit import Audit
from relay.admin.feed import PAGE, Feed
from relay.admin.security.roles import Caller, Role
from relay.admin.workers import Workers
from relay.app.site import Site
from relay.config import Config
from relay.config.models.alerts import AlertsModel
from relay.control.protocol import ControlError

READ_EVERY_S = 0.5
LOOK_EVERY_S = 5.0
EXPIRY_EVERY_S = 600.0

ITSELF = Caller(name="relay", token="", role=Role.ADMIN, peer="")
"""Who opens and closes issues, in the audit trail."""

Tell = Callable[[str, str, Mapping[str, Any]], None]


class Alerts:
    """One per control process. `run` works until cancelled.

    Args:
        look: reads the files again if they were touched.
        site: where the relay keeps its files.
    """

    def __init__(
        self,
        store: Store,
        feed: Feed,
        workers: Workers,
        audit: Audit,
        notifier: Notifier,
        *,
        look: Callable[[], Awaitable[Config]],
        site: Callable[[], Site],
        tell: Tell,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.notifier = notifier
        self._feed = feed
        self._workers = workers
        self._audit = audit
        self._look_at_files = look
        self._site = site
        self._tell = tell
        self._clock = clock
        self._position: dict[str, int] | None = None
        self._reloaded = False

    async def figures(self) -> dict[str, int]:
        """For metrics."""
        counts = await asyncio.to_thread(self.store.counts)
        results = self.notifier.results
        return {
            **{f"issues_{rule}": counts.get(rule, 0) for rule in Rule},
            **{f"alert_{result}": results[result] for result in ("taken", "failed", "given_up")},
        }

    async def run(self) -> None:
        looked = looked_at_expiry = float("-inf")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.notifier.run())
                while True:
                    pause = READ_EVERY_S
                    try:
                        is_behind = await self._read_on()
                        pause = 0.0 if is_behind else READ_EVERY_S
                        if not is_behind and loop.time() - looked >= LOOK_EVERY_S:
                            looked = loop.time()
                            with_expiry = self._reloaded or looked - looked_at_expiry >= EXPIRY_EVERY_S
                            looked_at_expiry = looked if with_expiry else looked_at_expiry
                            self._reloaded = False
                            await self._look(with_expiry=with_expiry)
                    except Exception as error:  # a full or damaged disk: told, and tried again
                        fields = {"where": "alerts", "error": f"{type(error).__name__}: {error}"}
                        self._tell("error", "relay.fault", fields)
                        self._position, pause = None, 5.0
                    await asyncio.sleep(pause)
        finally:
            self.store.database.close()

    async def _read_on(self) -> bool:
        """One page of events; whether there may be more."""
        position = self._position
        if position is None:
            position = await asyncio.to_thread(self.store.position)
        if position is None:
            position = await asyncio.to_thread(self._feed.end)
        told, after, _ = await asyncio.to_thread(self._feed.read, position, of_messages=False)
        if told or self._position is None:
            config = await self._look_at_files()
            thresholds = thresholds_of(config.alerts)
            found = [each for one in told for each in rules.of_event(one.event, thresholds)]
            self._reloaded |= any(one.event.name == "relay.reloaded" for one in told)
            await self._enter(found, config, position=after)
        self._position = after
        return len(told) >= PAGE

    async def _look(self, *, with_expiry: bool) -> None:
        config = await self._look_at_files()
        watched = thresholds_of(config.alerts)
        now = self._clock()
        open_keys = [issue.key for issue in await asyncio.to_thread(self.store.open_issues)]
        found: list[Trouble | Over] = []
        try:
            rows: list[dict[str, Any]] = await self._workers.any("nodes")
        except ControlError:
            pass
        else:
            node_keys = open_keys if watched.nodes else ()
            found += rules.of_nodes(rows, node_keys, now) if watched.nodes else []
            found += rules.of_caps(rows, watched.cap, open_keys, now)
        answers = [answer for answer in await self._workers.each("metrics") if not answer.error]
        if answers:
            unhealthy = {answer.shard: answer.value["unhealthy"] or "" for answer in answers}
            found += rules.of_workers(unhealthy, watched.spool, open_keys, now)
            queues = [queue for answer in answers for queue in answer.value["queues"]]
            found += rules.of_queues(await self._oldest(queues, watched, now), watched.queue_age_s, open_keys, now)
        if with_expiry:
            things = await expiring(config, self._site())
            found += rules.of_expiries(things, watched.expiry_s, open_keys, now)
        if found:
            await self._enter(found, config)

    async def _oldest(self, queues: Sequence[Mapping[str, Any]], watched: Thresholds, now: float) -> list[Oldest]:
        """The oldest message that waits, of each pool where one may be too old: the tallies of the workers count held
        mail too, so the message itself is asked for."""
        pools = {
            queue["pool"]
            for queue in queues
            if watched.queue_age_s
            and queue["queued"]
            and queue["oldest"]
            and now - queue["oldest"] > watched.queue_age_s
        }
        found = []
        for pool in sorted(pools):
            answers = await self._workers.each("entries", selection={"pool": pool, "standing": "queued"}, limit=1)
            rows = [row for answer in answers if not answer.error for row in answer.value]
            if rows:
                row = min(rows, key=lambda each: float(each["received_at"]))
                found.append(Oldest(pool, row["received_at"], row["reason"]))
        return found

    async def _enter(
        self, found: Sequence[Trouble | Over], config: Config, *, position: Mapping[str, int] | None = None
    ) -> None:
        alerts = config.alerts
        listeners = [Listener(each.name, frozenset(each.rules), each.recovery) for each in alerts.targets]
        changes = await asyncio.to_thread(
            self.store.enter, found, now=self._clock(), listeners=listeners, quiet_s=alerts.quiet, position=position
        )
        for what, issue in changes:
            await self._note(what, issue)
        if changes:
            self.notifier.wake.set()

    async def _note(self, what: str, issue: Issue) -> None:
        fields = {"issue": issue.number, "rule": issue.rule.value, "node": issue.node, "pool": issue.pool}
        if what == "opened":
            fields |= {"error": issue.error}
            self._tell("warning", "alert.opened", {**fields, "title": title(issue)})
        else:
            fields |= {"how": issue.how}
            self._tell("info", "alert.closed", {**fields, "title": title(issue)})
        target = issue.node or issue.pool or issue.key
        await self._audit.note(ITSELF, f"issue.{what}", target, after=fields)


def thresholds_of(model: AlertsModel) -> Thresholds:
    return Thresholds(
        nodes=model.nodes,
        cap=model.cap or 0,
        queue_age_s=model.queue_age or 0.0,
        reload=model.reload,
        expiry_s=model.expiry or 0.0,
        spool=model.spool,
    )
