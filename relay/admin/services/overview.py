"""The relay at a glance, its health, and the figures of a scrape."""

from __future__ import annotations

from typing import Any

import relay
from relay.admin.context import Context
from relay.control.protocol import ControlError


class Overview:
    def __init__(self, context: Context) -> None:
        self._context = context

    async def status(self) -> dict[str, Any]:
        """Workers, queues and nodes, as `relay status --json` shows them."""
        answers = await self._context.workers.each("status")
        rows = [
            answer.value
            if not answer.error
            else {"shard": answer.shard, "running": True, "error": answer.error, "queues": [], "waiting": []}
            for answer in answers
        ]
        return {"version": relay.__version__, "workers": rows, "nodes": await self.nodes(rows)}

    async def nodes(self, statuses: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
        """Nodes as the running relay knows them, with the attempts that are under way."""
        if statuses is None:
            statuses = [answer.value for answer in await self._context.workers.each("status") if not answer.error]
        try:
            rows: list[dict[str, Any]] = await self._context.workers.any("nodes")
        except ControlError:
            return []
        for row in rows:
            row["attempts"] = sum(status.get("attempts_by_node", {}).get(row["name"], 0) for status in statuses)
        return rows

    async def troubles(self) -> list[str]:
        """Why the relay as a whole cannot take mail now; empty when it can. As `relay healthcheck` sees it."""
        answers = await self._context.workers.each("status")
        if not answers:
            return ["no worker runs"]
        troubles, count = [], 0
        for answer in answers:
            if answer.error:
                troubles.append(answer.error)
                continue
            count = max(count, answer.value["workers"])
            if answer.value["phase"] != "running":
                troubles.append(f"worker {answer.shard} is {answer.value['phase']}")
            elif answer.value["unhealthy"]:
                troubles.append(f"worker {answer.shard} takes no mail: {answer.value['unhealthy']}")
        missing = {str(number) for number in range(count)} - {answer.shard for answer in answers}
        return troubles + [f"worker {name} does not run" for name in sorted(missing)]

    async def figures(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, int]]:
        """For `relay.metrics`: what each worker counts, the nodes, and the webhooks' own counts."""
        answers = await self._context.workers.each("metrics")
        workers = [answer.value for answer in answers if not answer.error]
        silent = sum(1 for answer in answers if answer.error)
        control = {**await self._context.webhooks.figures(), **await self._context.alerts.figures()}
        return workers, await self.nodes([]), {**control, "workers_silent": silent}
