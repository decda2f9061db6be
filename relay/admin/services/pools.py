"""Pools: seen with their nodes, bridges and waiting mail; made, changed, and removed when nothing depends on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from relay.admin.context import Context
from relay.admin.refusals import Refused, not_found
from relay.admin.security.roles import Caller
from relay.admin.services.changes import difference, read, written
from relay.admin.services.configuration import Configuration
from relay.admin.services.masking import shown
from relay.admin.services.nodes import bridges_of, homes
from relay.admin.services.places import find, home_of
from relay.config import Config, values
from relay.config.change import Draft
from relay.config.models.traffic import PoolModel

POOL: TypeAdapter[PoolModel] = TypeAdapter(PoolModel)

Row = dict[str, Any]


class Pools:
    def __init__(self, context: Context, configuration: Configuration) -> None:
        self._context = context
        self._configuration = configuration

    async def list(self) -> list[Row]:
        config = (await self._context.current.look()).config
        waiting = await self._waiting()
        return [_row(config, pool, waiting.get(pool.name, {})) for pool in config.pools]

    async def show(self, name: str) -> Row:
        for row in await self.list():
            if row["name"] == name:
                return row
        raise not_found("pool", name)

    async def create(self, caller: Caller, body: Mapping[str, Any], *, if_match: str = "") -> Row:
        """Add a pool, with nodes or without; its `id` is the next free one when the body has none."""
        config = (await self._context.current.look()).config
        body = {"id": 1 + max((pool.id for pool in config.pools), default=0), **body}
        pool = read(POOL, body)
        name = str(getattr(pool, "name", ""))
        if any(other.name == name for other in config.pools):
            raise Refused(409, f"a pool is called {name!r} already")
        item = {"name": name, "id": body["id"], **body}
        done = await self._configuration.change(
            caller, "pool.add", name, lambda draft: home_of(draft, "pools").add("pools", item),
            proof=lambda after: any(p == pool for p in after.config.pools),
            after=lambda after: _shown(after.config, name), if_match=if_match,
        )  # fmt: skip
        return {"pool": await self.show(name), **done}

    async def update(
        self, caller: Caller, name: str, body: Mapping[str, Any], *, partial: bool, if_match: str = ""
    ) -> Row:
        """Change a pool. Name, id and mta stay, because mail and headers carry them; nodes have paths of their own."""
        current = await self._known(name)
        for key in ("name", "id", "mta"):
            if key in body and body[key] != getattr(current, key):
                raise Refused(409, f"{key} of a pool never changes; make another pool and move nodes and bridges")
        if "nodes" in body:
            raise Refused(422, "nodes are changed at /api/v1/nodes")
        fixed: Row = {key: getattr(current, key) for key in ("name", "id", "mta") if key in current.model_fields_set}
        body = {**fixed, **body}
        base = {k: v for k, v in written(current).items() if k != "nodes"} if partial else {}
        wanted = read(POOL, {k: v for k, v in {**base, **body}.items() if v is not None})
        changes = difference({k: v for k, v in body.items() if v is not None}, wanted, current, partial=partial)
        gone = ({k for k, v in body.items() if v is None} | set(changes.remove)) - {"nodes"}

        def work(draft: Draft) -> None:
            spot = find(draft, "pools", name)
            for key, value in changes.write.items():
                spot.text.set(key, value, of=spot.item)
            for key in sorted(gone):
                spot.text.unset(key, of=spot.item)

        done = await self._configuration.change(
            caller, "pool.update", name, work, before=_shown(self._context.current.config, name),
            proof=lambda after: any(
                p.name == name and p.model_copy(update={"nodes": ()}) == wanted for p in after.config.pools
            ),
            after=lambda after: _shown(after.config, name), if_match=if_match,
        )  # fmt: skip
        return {"pool": await self.show(name), **done}

    async def delete(self, caller: Caller, name: str, *, if_match: str = "") -> Row:
        """Remove a pool that nothing depends on.

        Raises:
            Refused: 409; `move_first` names the nodes, bridges and the count of messages that stand in the way.
        """
        row = await self.show(name)
        config = self._context.current.config
        first: Row = {}
        if row["nodes"]:
            first["nodes"] = row["nodes"]
        if row["bridges"]:
            first["bridges"] = row["bridges"]
        if row["messages"]:
            first["messages"] = row["messages"]
        if config.dsn.pool == name:
            first["dsn"] = "reports go through this pool (dsn.pool)"
        if first:
            words = [
                f"{len(first[key])} {key} ({', '.join(first[key][:5])})" for key in ("nodes", "bridges") if key in first
            ]
            words += [f"{first['messages']} messages wait for it"] if "messages" in first else []
            words += [first["dsn"]] if "dsn" in first else []
            raise Refused(
                409, f"pool {name} is in use: {'; '.join(words)}; move them first", more={"move_first": first}
            )
        done = await self._configuration.change(
            caller, "pool.delete", name, lambda draft: find(draft, "pools", name).remove(),
            proof=lambda after: all(pool.name != name for pool in after.config.pools)
            and len(after.config.pools) == len(config.pools) - 1,
            before=_shown(config, name), if_match=if_match,
        )  # fmt: skip
        return {"deleted": [name], **done}

    async def _known(self, name: str) -> PoolModel:
        config = (await self._context.current.look()).config
        for pool in config.pools:
            if pool.name == name:
                return pool
        raise not_found("pool", name)

    async def _waiting(self) -> dict[str, dict[str, int]]:
        """Messages by pool and standing, over all workers. Raises ControlError when one of them does not answer: a
        pool must not seem empty because somebody is silent."""
        found: dict[str, dict[str, int]] = {}
        for status in await self._context.workers.all("status"):
            for queue in status["queues"]:
                row = found.setdefault(queue["pool"], {})
                for standing in ("queued", "held", "quarantined"):
                    row[standing] = row.get(standing, 0) + queue[standing]
        return found


def _row(config: Config, pool: PoolModel, waiting: Mapping[str, int]) -> Row:
    made = next(each for each in values.pools(config) if each.name == pool.name)
    options = shown(pool)
    options.pop("nodes", None)
    return {
        "name": pool.name,
        "internal_name": made.internal_name,
        "zone": made.zone,
        "mta": made.mta,
        "options": options,
        "nodes": [node.name for of, node in homes(config) if of == pool.name],
        "bridges": bridges_of(config, pool.name),
        "messages": sum(waiting.values()),
        "waiting": dict(waiting),
    }


def _shown(config: Config, name: str) -> Row | None:
    return next((shown(pool) for pool in config.pools if pool.name == name), None)
