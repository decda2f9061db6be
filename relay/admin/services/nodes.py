"""Nodes: seen with their state, tested, changed in the files, moved, paused, drained."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic import TypeAdapter

from relay.admin.context import Context
from relay.admin.refusals import Refused, not_found
from relay.admin.security.roles import Caller
from relay.admin.services.changes import difference, read, unmasked, written
from relay.admin.services.configuration import Configuration
from relay.admin.services.masking import shown
from relay.admin.services.overview import Overview
from relay.admin.services.places import find
from relay.config import Config, values
from relay.config.change import Draft
from relay.config.load import Loaded
from relay.config.models.traffic import AnyNode, NodeModel, node_options, node_type
from relay.errors import RelayError
from relay.outcome import Status
from relay.router.disposition import describe
from relay.upstreams import KINDS, make
from relay.upstreams.base import Probe, Setting

NODE: TypeAdapter[NodeModel] = TypeAdapter(AnyNode)

TEST_S = 60.0
"""Longest test of a node before it is saved."""

Row = dict[str, Any]


class Nodes:
    def __init__(self, context: Context, configuration: Configuration, overview: Overview) -> None:
        self._context = context
        self._configuration = configuration
        self._overview = overview

    # Seeing

    async def list(self, *, pool: str = "", type: str = "") -> list[Row]:
        """Every node of the files with its state; `state` is None for one that the running relay does not have."""
        config = (await self._context.current.look()).config
        running = {row["name"]: row for row in await self._overview.nodes()}
        rows = [_row(node, of, running.get(node.name)) for of, node in homes(config)]
        return [row for row in rows if pool in ("", row["pool"]) and type in ("", row["type"])]

    async def show(self, name: str) -> Row:
        for row in await self.list():
            if row["name"] == name:
                return row
        raise not_found("node", name)

    # Testing

    async def test(self, name: str) -> Row:
        """Test a node of the running relay; the result also decides its health."""
        (result,) = await self._context.workers.any("node_test", names=[name])
        return cast("Row", result)

    async def try_out(self, body: Mapping[str, Any]) -> Row:
        """Test what a body stands for with the real transport, without keeping anything."""
        current = None
        with contextlib.suppress(Refused):
            _, current = await self._known(str(body.get("name", "")))
        return await self._probe(read(NODE, unmasked(body, current)))

    async def _probe(self, node: Any) -> Row:
        """The test of a node that the running relay does not have. Whatever its options do to a driver: it failed."""
        config = self._context.current.config
        name = node.name
        try:
            driver = make(node_type(node), name, node_options(node), Setting(ehlo=values_hostname(config)))
            try:
                async with asyncio.timeout(TEST_S):
                    return _tested(name, await driver.probe())
            finally:
                await driver.close()
        except TimeoutError:
            answer = f"no result within {TEST_S:.0f} s"
        except (RelayError, OSError) as error:
            answer = str(error)
        except Exception as error:  # its text may hold what it could not use, a secret for example
            answer = f"the driver cannot use these options ({type(error).__name__})"
        return {"name": name, "ok": False, "answer": answer, "steps": []}

    # Changing

    async def create(
        self, caller: Caller, body: Mapping[str, Any], *, test: bool = True, force: bool = False, if_match: str = ""
    ) -> Row:
        """Add a node. One that fails its test is not saved, unless forced.

        Returns:
            `node` as it is now, `test` (None when it was not tested), and what `Configuration.change` answers.
        """
        config = (await self._context.current.look()).config
        node = read(NODE, unmasked(body, None))
        name = str(getattr(node, "name", ""))
        if any(other.name == name for _, other in homes(config)):
            raise Refused(409, f"a node is called {name!r} already")
        pool = _pool_for(config, body)
        result = await self._tested(node, test=test, force=force)
        item = {"name": name, "type": body["type"], **{k: v for k, v in body.items() if k != "pool"}}

        def work(draft: Draft) -> None:
            spot = find(draft, "pools", pool)
            spot.text.add("nodes", item, of=spot.item)

        def proof(after: Loaded) -> bool:
            return _names(after.config) == {**_names(config), name: pool}

        done = await self._configuration.change(
            caller, "node.add", name, work, proof=proof, after=lambda after: _shown(after.config, name),
            if_match=if_match,
        )  # fmt: skip
        return {"node": await self.show(name), "test": result, **done}

    async def update(
        self,
        caller: Caller,
        name: str,
        body: Mapping[str, Any],
        *,
        partial: bool,
        test: bool = True,
        force: bool = False,
        if_match: str = "",
    ) -> Row:
        """Change a node: as the body says and nothing else (`partial`: with what the body leaves out as it is)."""
        pool, current = await self._known(name)
        body = {"name": name, "type": node_type(current), **body}
        if body["name"] != name:
            raise Refused(
                409, "a node keeps its name, which its caps and health are kept under; add another one instead"
            )
        target = str(body.pop("pool", None) or pool)
        known = {p.name for p in self._context.current.config.pools}
        if target not in known:
            raise Refused(422, f"there is no pool {target[:100]!r}; there are: {', '.join(sorted(known))}")
        base = written(current) if partial else {}
        if body["type"] != node_type(current):
            base = {}
        base.pop("pool", None)
        clear = {**base, **unmasked(body, current)}
        wanted = read(NODE, {key: value for key, value in clear.items() if value is not None})
        changes = difference(
            {key: value for key, value in body.items() if value is not None}, wanted, current, partial=partial
        )
        gone = {key for key, value in body.items() if value is None} | set(changes.remove)
        result = await self._tested(wanted, test=test, force=force)
        before = _shown(self._context.current.config, name)

        def work(draft: Draft) -> None:
            spot = find(draft, "nodes", name)
            for key, value in changes.write.items():
                spot.text.set(key, value, of=spot.item)
            for key in sorted(gone - {"pool"}):
                spot.text.unset(key, of=spot.item)
            if target != pool:
                _move(draft, name, target)

        def proof(after: Loaded) -> bool:
            found = {node.name: (of, node) for of, node in homes(after.config)}.get(name)
            return found is not None and found[0] == target and _equal(found[1], wanted)

        done = await self._configuration.change(
            caller, "node.update", name, work, proof=proof, before=before,
            after=lambda after: _shown(after.config, name), if_match=if_match,
        )  # fmt: skip
        return {"node": await self.show(name), "test": result, **done}

    async def reassign(self, caller: Caller, name: str, pool: str, *, if_match: str = "") -> Row:
        """Move a node to another pool. Attempts that run are finished; queued mail stays in its own pool."""
        before, _ = await self._known(name)
        config = self._context.current.config
        if pool not in {p.name for p in config.pools}:
            raise not_found("pool", pool)
        if pool == before:
            raise Refused(409, f"{name} is in pool {pool} already")
        done = await self._configuration.change(
            caller, "node.reassign", name, lambda draft: _move(draft, name, pool),
            proof=lambda after: _names(after.config) == {**_names(config), name: pool},
            before={"pool": before}, after=lambda _: {"pool": pool}, if_match=if_match,
        )  # fmt: skip
        row = await self.show(name)
        return {"node": row, "in_flight": (row["state"] or {}).get("attempts", 0), **done}

    async def delete(self, caller: Caller, names: Sequence[str], *, if_match: str = "") -> Row:
        """Remove nodes, all or none. What they have under way is finished; queued mail goes through the others."""
        wanted = list(dict.fromkeys(names))
        before = {}
        for name in wanted:
            await self._known(name)
            before[name] = _shown(self._context.current.config, name)
        config = self._context.current.config
        left = {name: pool for name, pool in _names(config).items() if name not in wanted}
        for pool in sorted({pool for name, pool in _names(config).items() if name in wanted} - set(left.values())):
            if leading := bridges_of(config, pool):
                raise Refused(
                    409,
                    f"pool {pool} would have no node, and bridges lead to it: {', '.join(leading)}; add or move a node "
                    "first",
                    more={"move_first": {"bridges": leading}},
                )

        def work(draft: Draft) -> None:
            for name in wanted:
                find(draft, "nodes", name).remove()

        done = await self._configuration.change(
            caller, "node.delete", ",".join(wanted), work, proof=lambda after: _names(after.config) == left,
            before=before, if_match=if_match,
        )  # fmt: skip
        return {"deleted": wanted, **done}

    async def _tested(self, node: Any, *, test: bool, force: bool) -> Row | None:
        if not test:
            return None
        result = await self._probe(node)
        if not result["ok"] and not force:
            raise Refused(
                409,
                f"the test of the node failed, so it was not saved: {result['answer']}; repeat with force to save it "
                "all the same",
                more={"test": result},
            )
        return result

    # Acting

    async def pause(self, caller: Caller, name: str, reason: str, until: float = 0.0) -> Row:
        """Give it nothing from now on; what it has under way is finished (`in_flight` counts that)."""
        await self._known(name)
        row = await self._context.workers.any("node_pause", name=name, reason=reason, by=caller.name, until=until)
        await self._context.audit.note(caller, "node.pause", name, after={"reason": reason, "until": until})
        return await self._progress(name, row)

    async def drain(self, caller: Caller, name: str, reason: str = "") -> Row:
        """As `pause`, without an end: the state tells how much is still under way."""
        return await self.pause(caller, name, f"draining{': ' if reason else ''}{reason}")

    async def resume(self, caller: Caller, name: str) -> Row:
        await self._known(name)
        row = await self._context.workers.any("node_resume", name=name, by=caller.name)
        await self._context.audit.note(caller, "node.resume", name, before={"was": row.get("was")})
        return await self._progress(name, row)

    async def _progress(self, name: str, row: Mapping[str, Any]) -> Row:
        running = {node["name"]: node for node in await self._overview.nodes()}
        return {**row, "in_flight": running.get(name, {}).get("attempts", 0)}

    async def _known(self, name: str) -> tuple[str, NodeModel]:
        config = (await self._context.current.look()).config
        for pool, node in homes(config):
            if node.name == name:
                return pool, node
        raise not_found("node", name)


def homes(config: Config) -> list[tuple[str, NodeModel]]:
    """Every node with its pool."""
    default = values.default_pool(config)
    own = [(pool.name, node) for pool in config.pools for node in pool.nodes]
    return own + [(node.pool or default, node) for node in config.nodes]


def bridges_of(config: Config, pool: str) -> list[str]:
    """Names of the bridges that lead to a pool."""
    default = values.default_pool(config)
    return [bridge.name for bridge in config.bridges if (bridge.pool or default) == pool]


def values_hostname(config: Config) -> str:
    import socket

    return config.hostname or socket.getfqdn()


def _move(draft: Draft, name: str, pool: str) -> None:
    """Put a node's text into the list of another pool, `pool:` keys set right."""
    spot = find(draft, "nodes", name)
    if spot.holder is None:
        spot.text.set("pool", pool, of=spot.item)
        return
    with contextlib.suppress(ValueError):
        spot.text.unset("pool", of=spot.item)
    piece = spot.text.piece(spot.item)
    spot.remove(comments=len(piece.comments))
    target = find(draft, "pools", pool)
    target.text.put("nodes", piece, of=target.item)


def _pool_for(config: Config, body: Mapping[str, Any]) -> str:
    pool = body.get("pool") or values.default_pool(config)
    known = [p.name for p in config.pools]
    if not pool:
        raise Refused(422, f"say which pool; there are: {', '.join(known) or 'none'}")
    if pool not in known:
        raise Refused(422, f"there is no pool {str(pool)[:100]!r}; there are: {', '.join(known) or 'none'}")
    return str(pool)


def _names(config: Config) -> dict[str, str]:
    return {node.name: pool for pool, node in homes(config)}


def _shown(config: Config, name: str) -> Row | None:
    return next(({**shown(node), "pool": pool} for pool, node in homes(config) if node.name == name), None)


def _row(node: NodeModel, pool: str, running: Mapping[str, Any] | None) -> Row:
    options = shown(node)
    options.pop("pool", None)
    return {
        "name": node.name,
        "pool": pool,
        "type": node_type(node),
        "options": options,
        "state": dict(running) if running is not None else None,
    }


def _equal(one: NodeModel, other: Any) -> bool:
    """The same node, wherever its pool is said."""
    return bool(one.model_copy(update={"pool": None}) == other.model_copy(update={"pool": None}))


def _tested(name: str, probe: Probe) -> Row:
    return {
        "name": name,
        "ok": probe.outcome.status is Status.DELIVERED,
        "answer": describe(probe.outcome),
        "steps": list(probe.steps),
    }


TYPES = tuple(KINDS)
