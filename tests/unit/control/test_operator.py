"""What operators see and do with a relay that has mail in memory, parked behind gates, with nodes, and on disk."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from relay.control.operator import Operator
from relay.control.protocol import UnknownName
from relay.envelope import Message
from relay.history import HistorySink
from relay.history.memory import MemoryHistory
from relay.ids import IdSource
from relay.outcome import Outcome, Scope, Status
from relay.router.words import missing_pool
from relay.schedule import RetryPolicy
from tests.unit.delivery.rig import GREYLISTED, TAKEN, Rig, hourly, node, pool

POLICY = RetryPolicy(max_age_s=86400.0)


def operator_of(rig: Rig, *, running: bool = True) -> Operator:
    history = MemoryHistory()
    rig.events._sinks = (*rig.events._sinks, HistorySink(history))
    return Operator(
        shard="0",
        spool=rig.spool,
        state=rig.state,
        history=history,
        pools={each.name: each for each in rig.pools},
        drivers=rig.nodes,
        events=rig.events,
        policy=POLICY,
        dispatcher=rig.dispatcher if running else None,
        keeper=rig.keeper if running else None,
        attempts=rig.fleet.running,
        busy=rig.fleet.full if running else lambda _: frozenset(),
        clock=rig.clock,
    )


async def row_of(operator: Operator, message: Message) -> dict[str, Any]:
    (row,) = await operator.entries(selection={"ids": [message.id]})
    return row


async def full(rig: Rig) -> None:
    """Use up a cap of one recipient an hour of node n1."""
    first = await rig.send()
    await rig.until(lambda: rig.copies(first))


def capped() -> Rig:
    return Rig(pools=(pool(node("n1", caps=hourly(1))),))


# Where a message stands


async def test_messages_parked_behind_a_gate_tell_until_when_and_why_though_never_asked() -> None:
    async with capped() as rig:
        operator = operator_of(rig)
        await full(rig)
        waiting = [await rig.send() for _ in range(200)]
        await rig.until(lambda: rig.dispatcher.waiting())
        await asyncio.sleep(3)
        asked = {event.message_id for event in rig.seen.named("route.held")}
        silent = [message for message in waiting if message.id not in asked]
        assert len(silent) > 100
        for message in (silent[0], silent[-1]):
            row = await row_of(operator, message)
            assert row["state"] == "waiting"
            assert row["due"] == pytest.approx(rig.clock() + 3600, abs=60)
            assert "n1: 1 of 1 recipients in 1h used" in row["reason"]


async def test_each_message_tells_the_reason_of_its_own_gate_and_not_that_of_its_pool() -> None:
    members = node("n1", caps=hourly(1), max_size=1000), node("n2")
    async with Rig(pools=(pool(*members),)) as rig:
        operator = operator_of(rig)
        await operator.node_pause(name="n2", reason="maintenance", by="ann")
        await full(rig)
        large = await rig.send(size=5000)
        small = await rig.send()
        await rig.until(lambda: len(rig.dispatcher.waiting()) == 2)
        assert "takes 1000 octets" in (await row_of(operator, large))["reason"]
        assert "takes 1000 octets" not in (await row_of(operator, small))["reason"]
        assert "1 of 1 recipients" in (await row_of(operator, small))["reason"]


async def test_a_message_with_a_node_is_being_delivered_and_one_in_line_for_a_place_is_not() -> None:
    async with Rig(pools=(pool(node("n1", connections=1)),)) as rig:
        operator = operator_of(rig)
        gate = asyncio.Event()
        rig.nodes["n1"].hangs = gate
        messages = [await rig.send() for _ in range(10)]
        await rig.until(lambda: rig.calls)
        rows = [await row_of(operator, message) for message in messages]
        assert rows[0]["state"] == "delivering"
        assert (rows[-1]["state"], rows[-1]["due"], rows[-1]["attempts"]) == ("waiting", None, 0)
        assert "all connections in use" in rows[-1]["reason"]
        gate.set()


async def test_a_deferred_message_waits_for_its_schedule_with_the_upstreams_words() -> None:
    async with Rig() as rig:
        operator = operator_of(rig)
        for scripted in rig.nodes.values():
            scripted.always = GREYLISTED
        message = await rig.send()
        await rig.until(lambda: rig.seen.named("attempt.deferred"))
        row = await row_of(operator, message)
        assert (row["state"], row["attempts"]) == ("waiting", 1)
        assert row["due"] > rig.clock()
        assert "450 4.7.1 later" in row["reason"]


async def test_a_stopped_relay_tells_what_the_router_would_decide() -> None:
    async with capped() as rig:
        operator = operator_of(rig, running=False)
        await full(rig)
        message = await rig.store()
        row = await row_of(operator, message)
        assert row["state"] == "waiting"
        assert row["due"] == pytest.approx(rig.clock() + 3600, abs=60)
        told = await operator.explain(message_id=message.id)
        assert told is not None
        assert told["now"]["outlook"]["chance"] == "waits"
        assert [line["verdict"] for line in told["now"]["outlook"]["nodes"]] == ["capped"]


async def test_explain_of_a_scheduled_message_looks_at_the_time_of_its_next_attempt() -> None:
    async with Rig(running=False) as rig:
        operator = operator_of(rig, running=False)
        await operator.node_pause(name="n1", reason="x", by="ann", until=rig.clock() + 600)
        await operator.node_pause(name="n2", reason="x", by="ann")
        message = await rig.store()
        (lease,) = [await rig.spool.lease(message.id)]
        assert lease is not None
        await rig.spool.release([lease], due=rig.clock() + 3600, reason="n1: later")
        told = await operator.explain(message_id=message.id)
        assert told is not None
        now = told["now"]
        assert (now["state"], now["reason"]) == ("waiting", "n1: later")
        assert now["due"] == now["outlook"]["at"] == rig.clock() + 3600
        assert {line["node"]: line["verdict"] for line in now["outlook"]["nodes"]} == {"n1": "eligible", "n2": "paused"}


async def test_mail_of_a_pool_that_is_no_longer_configured_says_so() -> None:
    async with Rig(running=False) as rig:
        message = await rig.store(pool="gone")
        row = await row_of(operator_of(rig, running=False), message)
        assert (row["state"], row["due"], row["reason"]) == ("waiting", None, missing_pool("gone"))


async def test_ten_thousand_rows_cost_a_fraction_of_a_second() -> None:
    async with capped() as rig:
        operator = operator_of(rig)
        await full(rig)
        for _ in range(10_000):
            await rig.store()
        await asyncio.sleep(5)
        begun = asyncio.get_running_loop().time()
        import time

        began = time.process_time()
        rows = await operator.entries(selection={}, limit=10_000)
        assert time.process_time() - began < 1.5
        assert asyncio.get_running_loop().time() == begun
        assert len(rows) == 10_000
        assert {row["state"] for row in rows} == {"waiting"}


# What operators do


async def test_held_mail_is_taken_from_memory_and_stays_held_when_the_node_is_well_again() -> None:
    async with capped() as rig:
        operator = operator_of(rig)
        await full(rig)
        messages = [await rig.send() for _ in range(100)]
        await rig.until(lambda: rig.dispatcher.waiting())
        assert await operator.hold(selection={"pool": "p"}, reason="look") == {"changed": 100, "delivering": 0}
        await asyncio.sleep(3700)
        assert not any(rig.copies(message) for message in messages)
        row = await row_of(operator, messages[50])
        assert (row["state"], row["reason"], row["due"]) == ("held", "look", None)
        assert await operator.retry(selection={"ids": [messages[50].id]}) == {"changed": 1, "delivering": 0}
        await rig.until(lambda: rig.copies(messages[50]))


async def test_dropped_mail_never_leaves_and_its_story_tells_who_dropped_it() -> None:
    async with capped() as rig:
        operator = operator_of(rig)
        await full(rig)
        gone, stays = await rig.send(sender="a@x.example"), await rig.send(sender="b@x.example")
        await rig.until(lambda: rig.dispatcher.waiting())
        assert await operator.drop(selection={"text": "A@X"}, by="ann") == {"changed": 1, "delivering": 0}
        await rig.until(lambda: rig.copies(stays), within_s=7200, step_s=1.0)
        assert not rig.copies(gone)
        told = await operator.explain(message_id=gone.id)
        assert told is not None
        assert told["now"] is None
        assert told["story"][-1] == {**told["story"][-1], "event": "message.dropped", "by": "ann"}


async def test_what_is_with_a_node_is_left_alone_and_counted() -> None:
    async with Rig() as rig:
        operator = operator_of(rig)
        gate = asyncio.Event()
        for scripted in rig.nodes.values():
            scripted.hangs = gate
        message = await rig.send()
        await rig.until(lambda: rig.calls)
        for answer in (
            await operator.drop(selection={"ids": [message.id]}, by="ann"),
            await operator.hold(selection={"bridge": "app"}, reason="x"),
            await operator.retry(selection={"pool": "p"}),
        ):
            assert answer == {"changed": 0, "delivering": 1}
        assert await operator.drop(selection={"pool": "other"}, by="ann") == {"changed": 0, "delivering": 0}
        gate.set()
        await rig.until(lambda: not rig.spool._kept)
        assert rig.copies(message) == 1


async def test_retry_of_mail_that_waits_for_its_schedule_tries_it_now() -> None:
    async with Rig() as rig:
        operator = operator_of(rig)
        for scripted in rig.nodes.values():
            scripted.always = GREYLISTED
        message = await rig.send()
        await rig.until(lambda: rig.seen.named("attempt.deferred"))
        for scripted in rig.nodes.values():
            scripted.always = TAKEN
        at = rig.clock()
        assert await operator.retry(selection={"ids": [message.id]}) == {"changed": 1, "delivering": 0}
        await rig.until(lambda: not rig.spool._kept)
        assert rig.clock() - at < 5


# Nodes


async def test_a_pause_tells_why_and_by_whom_ends_by_itself_and_is_an_event() -> None:
    async with Rig() as rig:
        operator = operator_of(rig)
        await operator.node_pause(name="n1", reason="new password", by="ann", until=rig.clock() + 600)
        (row, _) = await operator.nodes()
        assert row["status"] == "paused"
        assert "paused by ann until" in row["unavailable"]
        assert "new password" in row["unavailable"]
        assert rig.seen.named("node.paused")
        messages = [await rig.send() for _ in range(4)]
        await rig.until(lambda: not rig.spool._kept)
        assert all(call.node == "n2" for call in rig.calls), messages
        await asyncio.sleep(601)
        (row, _) = await operator.nodes()
        assert (row["status"], row["unavailable"]) == ("active", None)


async def test_resuming_a_node_that_is_active_changes_nothing_and_tells_nothing() -> None:
    async with Rig() as rig:
        operator = operator_of(rig)
        assert (await operator.node_resume(name="n1", by="ann"))["was"] is None
        assert not rig.seen.named("node.resumed")
        await operator.node_pause(name="n1", reason="x", by="ann")
        assert (await operator.node_resume(name="n1", by="ann"))["was"] == "paused by ann: x"
        assert rig.seen.named("node.resumed")


async def test_tests_of_all_nodes_run_side_by_side_and_decide_their_health() -> None:
    async with Rig() as rig:
        operator = operator_of(rig)
        rig.nodes["n2"].well = Outcome(
            status=Status.REFUSED, scope=Scope.ACCOUNT, code=535, text="bad password", phase="auth"
        )
        first, second = await operator.node_test()
        assert (first["name"], first["ok"]) == ("n1", True)
        assert (second["name"], second["ok"], second["answer"]) == ("n2", False, "auth: 535 bad password")
        assert [row["status"] for row in await operator.nodes()] == ["active", "inactive"]


@pytest.mark.parametrize("call", ["node_pause", "node_resume", "node_test"])
async def test_a_node_that_is_not_configured_is_named_beside_those_that_are(call: str) -> None:
    async with Rig() as rig:
        args: dict[str, Any] = {"node_test": {"names": ["n1", "n9"]}}.get(call, {"name": "n9", "by": "ann"})
        if call == "node_pause":
            args["reason"] = "x"
        with pytest.raises(UnknownName, match="no node is called 'n9'; there are: n1, n2"):
            await getattr(operator_of(rig), call)(**args)


# Status


async def test_status_of_a_running_and_of_a_stopped_relay() -> None:
    async with capped() as rig:
        await full(rig)
        await rig.send()
        await rig.until(lambda: rig.dispatcher.waiting())
        running, stopped = await operator_of(rig).status(), await operator_of(rig, running=False).status()
        assert (running["running"], running["phase"], len(running["waiting"])) == (True, "running", 1)
        assert (stopped["running"], stopped["phase"], stopped["pid"], stopped["waiting"]) == (
            False,
            "stopped",
            None,
            [],
        )
        for status in (running, stopped):
            assert [(row["pool"], row["bridge"], row["queued"]) for row in status["queues"]] == [("p", "app", 1)]


async def test_nothing_is_known_of_an_id_that_was_never_seen() -> None:
    async with Rig() as rig:
        operator = operator_of(rig)
        assert await operator.explain(message_id=IdSource(rig.clock).next()) is None
        assert await operator.explain(message_id="nonsense") is None
        assert await operator.show(message_id="nonsense") is None
