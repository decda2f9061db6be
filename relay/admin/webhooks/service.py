"""Webhooks at work: events into the queue, calls out of it.

At least once, in the order of events per receiver as long as it takes them. A receiver that fails is left alone for a
while that grows with each failure, and then asked with one call before the others follow; what it does not take within
`keep_trying` is given up and can be replayed. What a crash of a worker keeps out of its history (a fifth of a second)
is the one thing that is not told.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpcore
import orjson
from standardwebhooks.webhooks import Webhook

import relay
from relay.admin.feed import PAGE, Feed, Told
from relay.admin.webhooks.reach import CheckedBackend, Forbidden
from relay.admin.webhooks.store import Call, Entering, State, Store
from relay.config import Config
from relay.config.models.admin import WebhookModel

LOOK_EVERY_S = 0.5
IDLE_S = 2.0
"""How often a relay without receivers looks whether it has got some."""

AT_ONCE = 4
"""Calls to one receiver at the same time."""

DEADLINE_S = 15.0
ANSWER_OCTETS = 64 * 1024
"""Read of an answer at most."""

BACK_OFF_S = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0, 3 * 3600.0, 6 * 3600.0)
"""Waits after the first, second, … failure; the last one repeats: within three days that is some twenty tries."""

GONE = 410

RELOADED = "relay.reloaded"

Tell = Callable[[str, str, Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """One receiver."""

    name: str
    url: str
    secret: str = field(repr=False)
    events: tuple[str, ...]
    allow_private: bool
    keep_trying_s: float

    def wants(self, event: str) -> bool:
        return any(wanted in ("*", event, event.partition(".")[0]) for wanted in self.events)


def hook_of(model: WebhookModel) -> Hook:
    return Hook(
        name=model.name or name_for(model.url),
        url=model.url,
        secret=model.secret.get_secret_value(),
        events=tuple(model.events),
        allow_private=model.allow_private,
        keep_trying_s=model.keep_trying,
    )


def name_for(url: str) -> str:
    """A name for a receiver that has none: its host and some digits of the URL's digest."""
    host = re.sub(r"[^a-z0-9-]", "-", (urlsplit(url).hostname or "").lower())[:40].strip("-")
    return f"{host or 'hook'}-{hashlib.sha256(url.encode()).hexdigest()[:6]}"


def wait_s(tries: int) -> float:
    """Pause after so many failures in a row."""
    return BACK_OFF_S[min(max(tries, 1), len(BACK_OFF_S)) - 1]


@dataclass(slots=True)
class _Standing:
    """How a receiver does in this process."""

    failures: int = 0
    paused_until: float = 0.0
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class Webhooks:
    """One per control process. `run` works until cancelled."""

    def __init__(
        self, store: Store, feed: Feed, config: Config, *, tell: Tell, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._feed = feed
        self._tell = tell
        self._clock = clock
        self._hooks = {hook.name: hook for hook in map(hook_of, config.webhooks)}
        self._standing: dict[str, _Standing] = {}
        self._tasks: dict[str, tuple[Hook, asyncio.Task[None]]] = {}
        self._results: Counter[str] = Counter()
        self._changed = asyncio.Event()
        self.on_reload: Callable[[], Awaitable[None]] | None = None
        """Looks for changed files; called when the relay has taken some over, and now and then while none listens."""

    # Seeing and doing

    async def figures(self) -> dict[str, int]:
        """For metrics."""
        counts = await asyncio.to_thread(self._store.counts) if self._hooks else {}
        waiting = sum(own.get(State.WAITING, 0) for own in counts.values())
        results = {f"webhook_{what}": self._results[what] for what in ("taken", "failed", "given_up", "missed")}
        return {**results, "webhook_waiting": waiting}

    async def rows(self) -> list[dict[str, Any]]:
        if not self._hooks:
            return []
        counts = await asyncio.to_thread(self._store.counts)
        silenced = await asyncio.to_thread(self._store.silenced)
        rows = []
        for hook in self._hooks.values():
            standing = self._standing.get(hook.name, _Standing())
            own = counts.get(hook.name, {})
            silent = silenced.get(hook.name)
            rows.append(
                {
                    "name": hook.name,
                    "url": hook.url,
                    "events": list(hook.events),
                    "waiting": own.get(State.WAITING, 0),
                    "taken": own.get(State.TAKEN, 0),
                    "given_up": own.get(State.GIVEN_UP, 0),
                    "failures": standing.failures,
                    "paused_until": standing.paused_until or None,
                    "silenced": silent[1] if silent and silent[0] == hook.url else "",
                }
            )
        return rows

    def knows(self, name: str) -> bool:
        return name in self._hooks

    async def calls(
        self, name: str, *, state: State | None = None, before: int = 0, limit: int = 100
    ) -> list[dict[str, Any]]:
        found = await asyncio.to_thread(self._store.calls, name, state=state, before=before, limit=limit)
        return [call_row(call) for call in found]

    async def replay(
        self, name: str, *, ids: Sequence[str] = (), state: State | None = None, since: float = 0.0
    ) -> int:
        """Call again; returns how many calls."""
        count = await asyncio.to_thread(
            lambda: self._store.replay(name, self._clock(), ids=ids, state=state, since=since)
        )
        standing = self._standing.get(name)
        if standing is not None:
            standing.failures, standing.paused_until = 0, 0.0
            standing.wake.set()
        return count

    async def post(self, name: str, event: str, event_id: str, data: Mapping[str, Any]) -> bool:
        """Give one receiver an event of the control process itself; False when there is no such receiver. Durable on
        return, and only once for an id."""
        if name not in self._hooks:
            return False
        now = self._clock()
        entering = Entering(event_id, event, now, _body(event, now, data), (name,))
        await asyncio.to_thread(self._store.enter, (entering,), {}, now)
        if (standing := self._standing.get(name)) is not None:
            standing.wake.set()
        return True

    async def take_over(self, config: Config) -> None:
        """The configuration has changed."""
        hooks = {hook.name: hook for hook in map(hook_of, config.webhooks)}
        if hooks != self._hooks:
            self._hooks = hooks
            self._changed.set()

    # Working

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._gather())
                while True:
                    await self._man(tasks)
                    await self._changed.wait()
                    self._changed.clear()
        finally:
            self._store.database.close()

    async def _man(self, tasks: asyncio.TaskGroup) -> None:
        """One task for each receiver."""
        for name, (hook, task) in list(self._tasks.items()):
            if self._hooks.get(name) != hook:
                task.cancel()
                del self._tasks[name]
        for name, hook in self._hooks.items():
            if name not in self._tasks:
                self._standing[name] = _Standing()
                self._tasks[name] = (hook, tasks.create_task(self._serve(hook)))
        if self._hooks or self._store.is_used:
            await asyncio.to_thread(self._store.forget, list(self._hooks))

    async def _gather(self) -> None:
        """Histories into the queue; as long as there are no receivers, nothing is read."""
        position: dict[str, int] | None = None
        while True:
            pause = LOOK_EVERY_S
            try:
                if not self._hooks:
                    position, pause = None, IDLE_S
                    if self._store.is_used:
                        await asyncio.to_thread(self._store.forget_position)
                    await self._look_for_reload()
                else:
                    position, is_behind = await self._read_on(position)
                    pause = 0.0 if is_behind else LOOK_EVERY_S
            except Exception as error:  # a full or damaged disk: told, and tried again
                self._tell("error", "relay.fault", {"where": "webhooks", "error": f"{type(error).__name__}: {error}"})
                position, pause = None, 5.0
            await asyncio.sleep(pause)

    async def _look_for_reload(self) -> None:
        if self.on_reload is not None:
            await self.on_reload()

    async def _read_on(self, position: dict[str, int] | None) -> tuple[dict[str, int], bool]:
        """One page of events. Returns the position behind it, and whether there may be more."""
        if position is None:
            position = await asyncio.to_thread(self._store.position)
        if position is None:
            position = await asyncio.to_thread(self._feed.end)
            await asyncio.to_thread(self._store.enter, (), position, self._clock())
        told, after, missed = await asyncio.to_thread(self._feed.read, position)
        if any(each.event.name == RELOADED for each in told):
            await self._look_for_reload()
        if not told and after == position:
            return position, False
        entering = [event for each in told if (event := self._entering(each)) is not None]
        lost = await asyncio.to_thread(self._store.enter, entering, after, self._clock())
        if missed + lost:
            self._results["missed"] += missed + lost
            self._tell("error", "webhook.missed", {"events": missed + lost})
        for name in {name for event in entering for name in event.hooks}:
            if name in self._standing:
                self._standing[name].wake.set()
        return after, len(told) >= PAGE

    def _entering(self, told: Told) -> Entering | None:
        event = told.event
        hooks = tuple(name for name, hook in self._hooks.items() if hook.wants(event.name))
        if not hooks:
            return None
        data = {"id": event.message_id, **event.data} if event.message_id else event.data
        return Entering(f"evt_{told.id}", event.name, event.at, _body(event.name, event.at, data), hooks)

    async def _serve(self, hook: Hook) -> None:
        """Call one receiver as long as it is configured."""
        standing = self._standing[hook.name]
        pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl.create_default_context(),
            max_connections=AT_ONCE,
            keepalive_expiry=30.0,
            network_backend=CheckedBackend(allow_private=hook.allow_private),
        )
        async with pool:
            while True:
                try:
                    pause = await self._round(hook, standing, pool)
                except Exception as error:  # the store's trouble; the receiver has its own in `_call`
                    fields = {"where": f"webhook {hook.name}", "error": f"{type(error).__name__}: {error}"}
                    self._tell("error", "relay.fault", fields)
                    pause = 5.0
                standing.wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await standing.wake.wait()

    async def _round(self, hook: Hook, standing: _Standing, pool: httpcore.AsyncConnectionPool) -> float:
        """Make the calls that are due. Returns how long to wait."""
        silenced = (await asyncio.to_thread(self._store.silenced)).get(hook.name)
        if silenced is not None and silenced[0] == hook.url:
            return 60.0
        now = self._clock()
        if now < standing.paused_until:
            return min(standing.paused_until - now, 60.0)
        limit = 1 if standing.failures else AT_ONCE
        calls = await asyncio.to_thread(self._store.due, hook.name, now, limit)
        if not calls:
            due = await asyncio.to_thread(self._store.next_due, hook.name)
            return 1.0 if due is None else min(max(due - now, 0.05), 1.0)
        answers = await asyncio.gather(*(self._call(hook, call, pool) for call in calls))
        for call, (taken, answer) in zip(calls, answers, strict=True):
            await self._settle(hook, standing, call, taken, answer)
        return 0.0 if not standing.failures else 0.05

    async def _settle(self, hook: Hook, standing: _Standing, call: Call, taken: bool, answer: str) -> None:
        now = self._clock()
        if taken:
            standing.failures, standing.paused_until = 0, 0.0
            self._results["taken"] += 1
            await asyncio.to_thread(self._store.settle, call, State.TAKEN, answer=answer)
            return
        self._results["failed"] += 1
        gone = answer.startswith(f"{GONE} ")
        if gone:
            await asyncio.to_thread(self._store.silence, hook.name, hook.url, f"it answered {answer}")
            self._tell("error", "webhook.gone", {"webhook": hook.name, "answer": answer})
        if now - call.since >= hook.keep_trying_s:
            self._results["given_up"] += 1
            self._tell("error", "webhook.given_up", {"webhook": hook.name, "event": call.id, "answer": answer})
            await asyncio.to_thread(self._store.settle, call, State.GIVEN_UP, answer=answer)
            return
        standing.failures += 1
        standing.paused_until = now + wait_s(standing.failures)
        if standing.failures == 1:
            self._tell("warning", "webhook.failed", {"webhook": hook.name, "event": call.id, "answer": answer})
        due = min(now + wait_s(call.tries + 1), call.since + hook.keep_trying_s)
        await asyncio.to_thread(self._store.settle, call, State.WAITING, answer=answer, due=due)

    async def _call(self, hook: Hook, call: Call, pool: httpcore.AsyncConnectionPool) -> tuple[bool, str]:
        """One try: whether it was taken, and the answer in words."""
        moment = datetime.fromtimestamp(int(self._clock()), UTC)
        headers: dict[bytes | str, bytes | str] = {
            "Host": urlsplit(hook.url).netloc,
            "Content-Type": "application/json",
            "User-Agent": f"relay/{relay.__version__}",
            "webhook-id": call.id,
            "webhook-timestamp": str(int(moment.timestamp())),
            "webhook-signature": Webhook(hook.secret).sign(call.id, moment, call.body.decode()),
            "Content-Length": str(len(call.body)),
        }
        try:
            async with (
                asyncio.timeout(DEADLINE_S),
                pool.stream("POST", hook.url, headers=headers, content=call.body) as response,
            ):
                read = 0
                async for piece in response.aiter_stream():
                    read += len(piece)
                    if read > ANSWER_OCTETS:
                        break
                return 200 <= response.status < 300, f"{response.status} {_reason(response)}".strip()
        except Forbidden as error:
            return False, str(error)
        except TimeoutError:
            return False, f"no answer within {DEADLINE_S:.0f} s"
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError, ValueError) as error:
            return False, f"{type(error).__name__}: {error}"[:300]


def _body(name: str, at: float, data: Mapping[str, Any]) -> bytes:
    moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return orjson.dumps({"type": name, "timestamp": moment.replace("+00:00", "Z"), "data": data})


def call_row(call: Call) -> dict[str, Any]:
    return {
        "id": call.id,
        "number": call.number,
        "event": call.name,
        "at": call.at,
        "state": call.state,
        "tries": call.tries,
        "due": call.due if call.state is State.WAITING else None,
        "answer": call.answer,
    }


def _reason(response: httpcore.Response) -> str:
    reason = response.extensions.get("reason_phrase", b"")
    text = reason.decode("ascii", "replace") if isinstance(reason, bytes) else ""
    return "".join(char for char in text if char.isprintable())[:100]
