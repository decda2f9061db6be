"""The queue and the stories of messages, over all workers."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from relay import ids
from relay.admin.context import Context
from relay.admin.refusals import Refused, not_found
from relay.admin.security.roles import Caller

PAGE = 500
"""Messages of one answer at most."""

TOLD = 50
"""Ids that an audit entry names at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Which messages are meant; empty fields do not restrict."""

    ids: tuple[str, ...] = field(default_factory=tuple)
    pool: str = ""
    bridge: str = ""
    standing: str = ""
    text: str = ""

    def raw(self) -> dict[str, Any]:
        return {
            "ids": self.ids,
            "pool": self.pool,
            "bridge": self.bridge,
            "standing": self.standing or None,
            "text": self.text,
        }

    @property
    def is_everything(self) -> bool:
        return not (self.ids or self.pool or self.bridge or self.standing or self.text)


class Queue:
    def __init__(self, context: Context) -> None:
        self._context = context

    async def page(self, chosen: Chosen, *, limit: int, after: str = "") -> dict[str, Any]:
        """Messages that are not done, oldest first. `next`: id to go on after; empty at the end."""
        limit = min(limit, PAGE)
        lists = await self._context.workers.all("entries", selection=chosen.raw(), limit=limit + 1, after=after)
        rows = list(heapq.merge(*lists, key=lambda row: str(row["id"])))
        more = len(rows) > limit
        return {"items": rows[:limit], "next": rows[limit - 1]["id"] if more else ""}

    async def show(self, message_id: str) -> dict[str, Any]:
        """One message of the queue with its header section."""
        wanted = _id(message_id)
        for row in await self._context.workers.all("show", message_id=wanted):
            if row:
                return dict(row)
        raise not_found("message in the queue", wanted)

    async def story(self, message_id: str) -> dict[str, Any]:
        """What happened to a message, and where it stands."""
        wanted = _id(message_id)
        told = [row for row in await self._context.workers.all("explain", message_id=wanted) if row]
        if not told:
            raise Refused(404, f"nothing is known of {wanted}: it was never taken here, or history.keep_for is over")
        # Every worker reads the histories of all: what several tell is one event.
        events = {(e["at"], e["event"], e.get("node", "")): e for row in told for e in row["story"]}
        return {
            "id": wanted,
            "now": next((row["now"] for row in told if row["now"]), None),
            "story": sorted(events.values(), key=lambda event: event["at"]),
        }

    async def retry(self, caller: Caller, chosen: Chosen) -> dict[str, int]:
        return await self._act(caller, "retry", chosen)

    async def hold(self, caller: Caller, chosen: Chosen, reason: str) -> dict[str, int]:
        return await self._act(caller, "hold", chosen, reason=f"held by {caller.name}: {reason}")

    async def drop(self, caller: Caller, chosen: Chosen) -> dict[str, int]:
        return await self._act(caller, "drop", chosen, by=caller.name)

    async def _act(self, caller: Caller, operation: str, chosen: Chosen, **args: Any) -> dict[str, int]:
        if chosen.is_everything:
            raise Refused(422, "say which messages: by ids, pool, bridge, standing or text")
        answers: list[Mapping[str, int]] = await self._context.workers.all(operation, selection=chosen.raw(), **args)
        result = {key: sum(answer[key] for answer in answers) for key in ("changed", "delivering")}
        told = {**{key: value for key, value in chosen.raw().items() if value}, **args, **result}
        if len(chosen.ids) > TOLD:
            told["ids"] = [*chosen.ids[:TOLD], f"and {len(chosen.ids) - TOLD} more"]
        if result["changed"]:
            target = chosen.ids[0] if chosen.ids else ""
            await self._context.audit.note(caller, f"queue.{operation}", target, after=told)
        if chosen.ids and len(chosen.ids) == 1 and not result["changed"]:
            if result["delivering"]:
                raise Refused(409, "a node has the message now; try again when it has answered")
            raise not_found("message in the queue", chosen.ids[0])
        return result


def _id(text: str) -> str:
    try:
        return ids.parse(text)
    except ValueError as error:
        raise Refused(404, str(error)) from None
