"""The test of every node at the start: what waits for it, what does not, and who runs it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from relay.delivery import keeper as module
from relay.delivery.verdict import Verdict, verdict_of
from relay.outcome import Outcome, Scope, Status
from relay.pools import health as machine
from relay.pools.health import HealthPolicy, NodeHealth, NodeStatus
from tests.unit.delivery.rig import DOWN, SLOWER, SUSPENDED, TAKEN, FaultyState, Rig, node, pool

ONE = (pool(node("n1")),)
TWO = (pool(node("n1"), node("n2")),)
OWN_TROUBLE = Outcome(status=Status.DEFERRED, scope=Scope.MESSAGE, text="too many open files", phase="connect")


def health(rig: Rig, name: str = "n1") -> NodeHealth:
    return rig.router.health_of(name)


def story(rig: Rig) -> list[str]:
    return [event.name for event in rig.seen.events if event.name.startswith("node.")]


async def known(state: FaultyState, *names: str) -> None:
    """These nodes passed a test before."""
    for name in names:
        await state.update_health(name, lambda h: machine.check_passed(h, 1.0, HealthPolicy()))


async def test_a_new_node_takes_mail_only_after_its_test():
    async with Rig(pools=ONE, start_mark="s1") as rig:
        rig.nodes["n1"].probe_took_s = 2.0
        message = await rig.send()
        await asyncio.sleep(1.5)
        assert rig.nodes["n1"].probes == 1
        assert rig.nodes["n1"].calls == []
        assert machine.is_available(health(rig), rig.clock()) == "waits for its first test"
        await asyncio.sleep(1.5)
        assert rig.copies(message) == 1
        assert story(rig) == ["node.ready"]
        assert health(rig).test_status == "ok"


async def test_a_new_node_that_fails_is_inactive_from_the_start_with_the_exact_error():
    async with Rig(pools=TWO, start_mark="s1") as rig:
        rig.nodes["n1"].well = SUSPENDED
        messages = [await rig.send() for _ in range(6)]
        await asyncio.sleep(3)
        assert rig.nodes["n1"].calls == []
        assert [rig.copies(message) for message in messages] == [1] * 6
        assert (health(rig).status, health(rig).failures) == (NodeStatus.INACTIVE, 1)
        assert "bad credentials" in health(rig).test_status
        (event,) = rig.seen.named("node.deactivated")
        assert event.data["node"] == "n1"
        assert event.data["next_check"] == pytest.approx(rig.clock() + 900, abs=5)
        rig.nodes["n1"].well = TAKEN
        await asyncio.sleep(905)
        assert story(rig)[-1] == "node.recovered"


async def test_known_nodes_carry_mail_while_they_are_tested():
    state = FaultyState()
    await known(state, "n1")
    async with Rig(pools=TWO, state=state, start_mark="s1") as rig:
        for one in rig.nodes.values():
            one.probe_took_s = 30.0
        messages = [await rig.send() for _ in range(5)]
        await asyncio.sleep(1)
        assert [call.node for call in rig.calls] == ["n1"] * 5
        assert [rig.copies(message) for message in messages] == [1] * 5


async def test_a_known_node_that_fails_its_test_goes_out():
    state = FaultyState()
    await known(state, "n1")
    async with Rig(pools=ONE, state=state, start_mark="s1") as rig:
        rig.nodes["n1"].well = DOWN
        await asyncio.sleep(1)
        assert health(rig).status is NodeStatus.INACTIVE
        assert story(rig) == ["node.deactivated"]


async def test_a_restart_tests_a_node_that_was_out_at_once():
    state = FaultyState()
    await state.update_health("n1", lambda h: machine.fault(h, 1_800_000_000.0, "535 no", HealthPolicy()))
    async with Rig(pools=ONE, state=state, start_mark="s2") as rig:
        await asyncio.sleep(1)
        assert health(rig).status is NodeStatus.ACTIVE
        assert story(rig) == ["node.recovered"]


async def test_a_paused_node_is_left_alone():
    state = FaultyState()
    await state.update_health("n1", lambda h: machine.pause(h, 1.0, by="ann", reason="move"))
    async with Rig(pools=ONE, state=state, start_mark="s1") as rig:
        await asyncio.sleep(5)
        assert rig.nodes["n1"].probes == 0


@pytest.mark.parametrize("before", ["new", "known"])
async def test_a_worker_that_comes_late_does_not_test_again(before):
    state = FaultyState()
    if before == "known":
        await known(state, "n1")
    early = Rig(pools=ONE, state=state, owner="w1", start_mark="s1")
    async with early:
        early.nodes["n1"].well = DOWN
        await asyncio.sleep(2)
        assert early.nodes["n1"].probes == 1
        late = Rig(pools=ONE, state=state, owner="w2", start_mark="s1")
        async with late:
            await asyncio.sleep(2)
            assert late.nodes["n1"].probes == 0
            assert health(late).status is NodeStatus.INACTIVE


@pytest.mark.parametrize("others", ["wrote before", "write meanwhile"])
async def test_what_another_worker_found_out_is_known_before_the_first_message(others):
    state = FaultyState()
    rig = Rig(pools=ONE, state=state, start_mark="s1", running=False)
    if others == "wrote before":
        await state.update_health("n1", lambda h: machine.begin(h, 1.0, HealthPolicy()))
    else:
        read = state.health

        async def overtaken() -> Any:
            seen = dict(await read())
            await state.update_health("n1", lambda h: machine.begin(h, 1.0, HealthPolicy()))
            return seen

        state.health = overtaken
    await rig.keeper.prepare(["n1"])
    assert machine.is_available(health(rig), rig.clock()) == "waits for its first test"


@pytest.mark.parametrize("before", ["new", "known"])
async def test_of_three_workers_one_tests_a_node_and_all_see_it(before):
    state = FaultyState()
    if before == "known":
        await known(state, "n1")
    workers = [Rig(pools=ONE, state=state, owner=f"w{n}", start_mark="s1") for n in range(3)]
    async with workers[0], workers[1], workers[2]:
        for rig in workers:
            rig.nodes["n1"].well = DOWN
        await asyncio.sleep(4)
        assert sum(rig.nodes["n1"].probes for rig in workers) == 1
        assert [health(rig).status for rig in workers] == [NodeStatus.INACTIVE] * 3
        assert sum(len(rig.seen.named("node.deactivated")) for rig in workers) == 1


async def test_a_worker_that_begins_anew_does_not_test_again_and_a_new_start_does():
    state = FaultyState()
    await known(state, "n1")
    for number, (mark, probes) in enumerate((("s1", 1), ("s1", 0), ("s2", 1))):
        async with Rig(pools=ONE, state=state, start_mark=mark, owner=f"w{number}") as rig:
            await asyncio.sleep(1)
            assert rig.nodes["n1"].probes == probes


async def test_a_thousand_nodes_are_not_a_thousand_connections(monkeypatch):
    monkeypatch.setattr(module, "TESTS_AT_ONCE", 8)
    pools = (pool(*(node(f"n{i}") for i in range(100))),)
    at_once = most = 0

    async with Rig(pools=pools, start_mark="s1", running=False) as rig:

        def slow(one: Any) -> Any:
            async def probe() -> Any:
                nonlocal at_once, most
                at_once += 1
                most = max(most, at_once)
                await asyncio.sleep(1)
                at_once -= 1
                return module.Probe(outcome=TAKEN)

            return probe

        for one in rig.nodes.values():
            one.probe = slow(one)
        rig.start()
        await asyncio.sleep(14)
        assert most == 8
        assert len(rig.seen.named("node.ready")) == 100


async def test_a_test_that_hangs_ends_and_the_node_stays_out():
    async with Rig(pools=ONE, start_mark="s1") as rig:
        rig.nodes["n1"].probe_took_s = 10_000.0
        await asyncio.sleep(module.PROBE_S + 2)
        assert "did not end within" in health(rig).test_status
        assert story(rig) == ["node.deactivated"]


async def test_the_claim_of_a_worker_that_was_killed_in_a_test_ends_soon():
    state = FaultyState()
    killed = Rig(pools=ONE, state=state, owner="w0", start_mark="s1")
    killed.nodes["n1"].probe_took_s = 10_000.0
    await killed.keeper.prepare(killed.fleet.names())
    await state.claim("check:n1", owner="w0", ttl_s=module.CLAIM_S, now=killed.clock())
    async with Rig(pools=ONE, state=state, owner="w1", start_mark="s2") as rig:
        await rig.until(lambda: health(rig).status is NodeStatus.ACTIVE, within_s=16)


async def test_a_long_test_keeps_its_claim():
    state = FaultyState()
    one, two = (Rig(pools=ONE, state=state, owner=f"w{n}", start_mark="s1") for n in range(2))
    for rig in (one, two):
        rig.nodes["n1"].probe_took_s = 45.0
    async with one, two:
        await asyncio.sleep(44)
        assert one.nodes["n1"].probes + two.nodes["n1"].probes == 1
        await asyncio.sleep(4)
        assert health(one).status is health(two).status is NodeStatus.ACTIVE


@pytest.mark.parametrize(("took_s", "waits_s"), [(2.0, 2.0), (60.0, 10.0)], ids=["soon", "late"])
async def test_a_direct_delivery_waits_a_while_for_first_tests(took_s, waits_s):
    async with Rig(pools=ONE, start_mark="s1") as rig:
        rig.nodes["n1"].probe_took_s = took_s
        began = rig.clock()
        await rig.keeper.first_tests("p")
        assert rig.clock() - began == pytest.approx(waits_s, abs=0.6)
        began = rig.clock()
        await rig.keeper.first_tests("p")
        assert rig.clock() - began <= (0.0 if took_s == 2.0 else 10.1)


async def test_a_direct_delivery_does_not_wait_where_a_node_is_known():
    state = FaultyState()
    await known(state, "n2")
    async with Rig(pools=TWO, state=state, start_mark="s1") as rig:
        rig.nodes["n1"].probe_took_s = 60.0
        began = rig.clock()
        await rig.keeper.first_tests("p")
        assert rig.clock() == began


async def test_where_nothing_is_taken_out_nothing_is_held_back():
    async with Rig(pools=ONE, start_mark="s1", health=HealthPolicy(auto_deactivate=False)) as rig:
        rig.nodes["n1"].well = DOWN
        rig.nodes["n1"].probe_took_s = 5.0
        message = await rig.send()
        await asyncio.sleep(1)
        assert rig.copies(message) == 1
        await asyncio.sleep(6)
        assert health(rig).status is NodeStatus.ACTIVE
        assert "connection refused" in health(rig).test_status


async def test_a_first_test_needs_no_operator_where_recoveries_do():
    async with Rig(pools=ONE, start_mark="s1", health=HealthPolicy(auto_recover=False)) as rig:
        await asyncio.sleep(1)
        assert health(rig).status is NodeStatus.ACTIVE


async def test_switched_off_nothing_is_tested():
    async with Rig(pools=ONE) as rig:
        message = await rig.send()
        await asyncio.sleep(5)
        assert rig.copies(message) == 1
        assert rig.nodes["n1"].probes == 0


async def test_a_node_that_asks_for_a_slower_pace_is_well_and_cools():
    async with Rig(pools=ONE, start_mark="s1") as rig:
        rig.nodes["n1"].well = SLOWER
        await asyncio.sleep(1)
        assert health(rig).status is NodeStatus.ACTIVE
        assert health(rig).cool_until == pytest.approx(rig.clock() + 30, abs=2)


async def test_our_own_trouble_takes_no_node_out():
    state = FaultyState()
    await known(state, "n1")
    async with Rig(pools=ONE, state=state, start_mark="s1") as rig:
        rig.nodes["n1"].well = OWN_TROUBLE
        await asyncio.sleep(1)
        assert rig.nodes["n1"].probes == 1
        assert health(rig).status is NodeStatus.ACTIVE


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [
        (TAKEN, Verdict.WELL),
        (SLOWER, Verdict.SLOWER),
        (DOWN, Verdict.FAILED),
        (SUSPENDED, Verdict.FAILED),
        (OWN_TROUBLE, Verdict.NOTHING),
    ],
    ids=["well", "slower", "down", "suspended", "own trouble"],
)
def test_verdicts(outcome: Outcome, verdict: Verdict) -> None:
    assert verdict_of(outcome) is verdict
