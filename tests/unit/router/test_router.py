from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from relay.envelope import Facts, Message
from relay.errors import StateUnavailable
from relay.pools.health import NodeHealth, NodeStatus
from relay.pools.pool import Cap, Node, Pool, Rotation
from relay.router.cursors import BLOCK, OWN_TURNS, CursorKey, Cursors
from relay.router.router import STATE_RETRY_S, Router
from relay.router.selection import Busy, Hold, Route, Unroutable, Verdict
from relay.router.words import missing_pool
from relay.state import Candidate, CountKey, Denied, Permit, PermitRequest
from relay.state.memory import MemoryState
from tests.unit.router.values import NOW, hourly, message, node, nodes, pool

DOWN = NodeHealth(status=NodeStatus.INACTIVE, since=NOW, next_check=NOW + 900, give_up_at=NOW + 9000, test_status="x")


class WatchedState(MemoryState):
    """The state in memory, with a log of the calls, a switch to take it away, and a door to make it wait."""

    def __init__(self) -> None:
        super().__init__()
        self.reserved: list[int] = []
        self.turned: list[str] = []
        self.away = False
        self.door = asyncio.Event()
        self.door.set()
        self.asked = asyncio.Event()

    async def reserve(self, requests: Sequence[PermitRequest], *, now: float) -> list[Permit | Denied]:
        self.reserved.append(len(requests))
        self.asked.set()
        await self.door.wait()
        self._check()
        return await super().reserve(requests, now=now)

    async def turns(self, cursor: str, count: int) -> int:
        self.turned.append(cursor)
        await asyncio.sleep(0)
        self._check()
        return await super().turns(cursor, count)

    async def health_version(self) -> int:
        self._check()
        return await super().health_version()

    async def refund(self, permits: Sequence[tuple[Permit, int]]) -> None:
        self._check()
        await super().refund(permits)

    async def used(self, of: Node) -> int:
        candidate = Candidate(f"node:{of.name}", of.caps)
        return (await self.usage([candidate], now=NOW))[candidate.key][0].used

    def _check(self) -> None:
        if self.away:
            raise StateUnavailable("redis is away")


@pytest.fixture
def state() -> WatchedState:
    return WatchedState()


def router(state: MemoryState, *pools: Pool) -> Router:
    return Router(pools, state, clock=lambda: NOW, rng=random.Random(1).random)


async def routed(to: Router, subject: Message | None = None, **changes: Any) -> Route:
    decision = await to.route(subject or message(), now=NOW, **changes)
    assert isinstance(decision, Route), decision
    return decision


async def shares(to: Router, count: int, subject: Message | None = None) -> Counter[str]:
    return Counter([(await routed(to, subject)).node.name for _ in range(count)])


# Turns


async def test_weights_over_a_hundred_messages(state: WatchedState) -> None:
    members = [node("a", weight=5), node("b", weight=2), node("c", weight=3), node("drained", weight=0)]
    assert await shares(router(state, pool(*members, rotation=Rotation.WEIGHTED)), 100) == {"a": 50, "b": 20, "c": 30}


async def test_a_node_that_lost_the_answer_comes_last_once_the_binding_is_over(state: WatchedState) -> None:
    to = router(state, pool(*nodes(3)))
    subject = message(bound_node="n1", bound_until=NOW - 1)
    assert set(await shares(to, 30, subject)) == {"n0", "n2"}
    assert (await routed(to, subject, busy={"n0", "n2"})).node.name == "n1"


async def test_workers_share_one_rotation(state: WatchedState) -> None:
    members = pool(*nodes(4))
    workers = [router(state, members), router(state, members)]
    counted: Counter[str] = Counter()
    for _ in range(2 * BLOCK):
        for worker in workers:
            counted[(await routed(worker)).node.name] += 1
    assert set(counted.values()) == {BLOCK}


async def test_turns_are_taken_in_blocks_and_nothing_else_is_asked(state: WatchedState) -> None:
    await shares(router(state, pool(*nodes(3))), 3 * BLOCK)
    assert state.turned == ["pool:p"] * 3
    assert state.reserved == []


async def test_a_pool_of_one_node_costs_no_turns(state: WatchedState) -> None:
    await shares(router(state, pool(*nodes(1))), 5)
    assert state.turned == []


async def test_askers_at_once_get_a_turn_each_out_of_few_blocks(state: WatchedState) -> None:
    to = router(state, pool(*nodes(4)))
    routes = await asyncio.gather(*(routed(to) for _ in range(2 * BLOCK)))
    assert Counter(route.node.name for route in routes) == {f"n{i}": BLOCK // 2 for i in range(4)}
    assert len(state.turned) == 2


async def test_without_the_state_the_rotation_goes_on(state: WatchedState) -> None:
    state.away = True
    assert await shares(router(state, pool(*nodes(4))), 4 * BLOCK) == {f"n{i}": BLOCK for i in range(4)}


async def test_failovers_do_not_move_the_rotation(state: WatchedState) -> None:
    """Else, with every message tried twice, every other node would never be the first."""
    to = router(state, pool(*nodes(4)))
    firsts: Counter[str] = Counter()
    for _ in range(20):
        first = await routed(to)
        firsts[first.node.name] += 1
        await routed(to, tried={first.node.name})
    assert firsts == {f"n{i}": 5 for i in range(4)}


async def test_failovers_are_spread_over_the_others(state: WatchedState) -> None:
    to = router(state, pool(*nodes(4)))
    seconds = Counter([(await routed(to, tried={"n0"})).node.name for _ in range(30)])
    assert seconds == {"n1": 10, "n2": 10, "n3": 10}


async def test_kinds_of_mail_that_alternate_do_not_starve_a_node(state: WatchedState) -> None:
    members = pool(
        node("a", sender_domains=frozenset({"x.example"})),
        node("b"),
        node("c", sender_domains=frozenset({"y.example"})),
    )
    to = router(state, members)
    counted: Counter[str] = Counter()
    for _ in range(20):
        for domain in ("x.example", "y.example"):
            counted[(await routed(to, message(facts=Facts(from_domain=domain)))).node.name] += 1
    assert counted == {"a": 10, "b": 20, "c": 10}


# Campaigns


async def test_campaigns_rotate_on_their_own(state: WatchedState) -> None:
    to = router(state, pool(*nodes(2)))
    spring, autumn = message(campaign="spring"), message(campaign="autumn")
    counted = {"spring": Counter[str](), "autumn": Counter[str]()}
    for _ in range(20):
        for subject in (spring, autumn):
            counted[subject.campaign][(await routed(to, subject)).node.name] += 1
    assert counted == {"spring": {"n0": 10, "n1": 10}, "autumn": {"n0": 10, "n1": 10}}


async def test_a_campaign_keeps_exact_shares_over_own_turns_and_blocks(state: WatchedState) -> None:
    to = router(state, pool(node("a", weight=5), node("b", weight=2), node("c", weight=3), rotation=Rotation.WEIGHTED))
    assert await shares(to, 100, message(campaign="spring")) == {"a": 50, "b": 20, "c": 30}


async def test_campaigns_of_one_message_are_spread_and_cost_nothing(state: WatchedState) -> None:
    to = router(state, pool(*nodes(4)))
    counted: Counter[str] = Counter()
    for number in range(400):
        counted[(await routed(to, message(campaign=f"order-{number}"))).node.name] += 1
    assert all(60 < count < 140 for count in counted.values())
    assert len(counted) == 4
    assert state.turned == []


async def test_cursors_in_memory_are_bounded(state: WatchedState) -> None:
    cursors = Cursors(state, limit=10)
    for number in range(100):
        cursors.take(CursorKey("p", f"c{number}", -1))
    assert len(cursors) == 10
    oldest = CursorKey("p", "c90", -1)
    turn = cursors.take(oldest)
    assert turn is not None
    cursors.take(CursorKey("p", "new", -1))
    assert cursors.take(oldest) == turn + 1  # used lately, so another one was forgotten


async def test_a_campaign_goes_on_with_shared_turns_after_its_own(state: WatchedState) -> None:
    cursors = Cursors(state)
    key = CursorKey("p", "spring", -1)
    seen = []
    for _ in range(OWN_TURNS + 3):
        turn = cursors.take(key)
        seen.append(await cursors.fetch(key) if turn is None else turn)
    assert seen == list(range(seen[0], seen[0] + OWN_TURNS + 3))
    assert state.turned == ["pool:p/campaign:spring"]


# Modes


@pytest.mark.parametrize(
    ("override", "expected"),
    [("priority", {"n0": 6}), ("", {"n0": 3, "n1": 3}), ("sideways", {"n0": 3, "n1": 3})],
)
async def test_a_message_may_ask_for_another_rotation(
    state: WatchedState, override: str, expected: dict[str, int]
) -> None:
    members = pool(node("n0", priority=1), node("n1", priority=2))
    assert await shares(router(state, members), 6, message(rotation=override)) == expected


async def test_a_standby_sleeps_while_the_primary_is_only_busy(state: WatchedState) -> None:
    members = pool(node("primary"), node("standby", priority=2), rotation=Rotation.PRIORITY)
    to = router(state, members)
    decision = await to.route(message(), busy={"primary"}, now=NOW)
    assert isinstance(decision, Busy)
    assert [line.verdict for line in decision.trace] == [Verdict.BUSY, Verdict.STANDBY]
    to.learn_health("primary", DOWN)
    assert (await routed(to)).node.name == "standby"


async def test_a_busy_turn_goes_to_the_others_in_round_robin(state: WatchedState) -> None:
    to = router(state, pool(*nodes(3)))
    counted = Counter([(await routed(to, busy={"n0"})).node.name for _ in range(10)])
    assert counted == {"n1": 5, "n2": 5}


async def test_least_used_counts_what_other_workers_sent(state: WatchedState) -> None:
    to = router(state, pool(*nodes(2), rotation=Rotation.LEAST_USED))
    await to.refresh_usage()
    await state.count({CountKey("p", "", "n0", "sent"): 30, CountKey("p", "", "n1", "bounced"): 99})
    await to.refresh_usage()
    assert await shares(to, 50) == {"n1": 40, "n0": 10}


async def test_random_uses_the_given_numbers(state: WatchedState) -> None:
    members = pool(*nodes(4), rotation=Rotation.RANDOM)
    to = Router([members], state, clock=lambda: NOW, rng=lambda: 0.0)
    assert await shares(to, 5) == {"n0": 5}
    assert state.turned == []


# Caps


async def test_a_full_node_is_passed_over_and_named(state: WatchedState) -> None:
    to = router(state, pool(node("a", caps=hourly(1), priority=1), node("b", priority=2), rotation=Rotation.PRIORITY))
    first, second = await routed(to), await routed(to)
    assert (first.node.name, second.node.name) == ("a", "b")
    assert first.permit is not None
    assert second.permit is None
    assert second.trace[0].verdict is Verdict.CAPPED
    assert second.trace[0].reason.startswith("1 of 1 recipients in 1h used, room again 2027-01-15 09:00:0")


async def test_hold_until_a_cap_has_room(state: WatchedState) -> None:
    to = router(state, pool(node("a", caps=hourly(1)), node("b", caps=(Cap(window_s=60.0, limit=1),))))
    for _ in range(2):
        await routed(to)
    decision = await to.route(message(), now=NOW)
    assert isinstance(decision, Hold)
    assert NOW + 60 <= decision.until < NOW + 61
    assert [line.verdict for line in decision.trace] == [Verdict.CAPPED, Verdict.CAPPED]
    assert decision.gate is not None
    again = await to.route(message(), now=decision.until)
    assert isinstance(again, Route)
    assert again.node.name == "b"


async def test_a_cap_is_never_exceeded_by_many_askers(state: WatchedState) -> None:
    members = pool(*nodes(3, caps=hourly(40)))
    workers = [router(state, members) for _ in range(2)]
    decisions = await asyncio.gather(*(workers[i % 2].route(message(), now=NOW) for i in range(300)))
    counted = Counter(decision.node.name for decision in decisions if isinstance(decision, Route))
    assert counted == {"n0": 40, "n1": 40, "n2": 40}
    assert sum(isinstance(decision, Hold) for decision in decisions) == 180


async def test_permits_of_one_tick_are_asked_for_together(state: WatchedState) -> None:
    to = router(state, pool(*nodes(3, caps=hourly(1000)), rotation=Rotation.RANDOM))
    await asyncio.gather(*(routed(to) for _ in range(50)))
    assert state.reserved == [50]


async def test_askers_during_a_request_are_asked_for_together_after_it(state: WatchedState) -> None:
    to = router(state, pool(*nodes(1, caps=hourly(1000))))
    state.door.clear()
    first = asyncio.create_task(routed(to))
    await state.asked.wait()
    rest = [asyncio.create_task(routed(to)) for _ in range(20)]
    await asyncio.sleep(0)
    state.door.set()
    await asyncio.gather(first, *rest)
    assert state.reserved == [1, 20]


async def test_a_partial_grant_routes_that_many(state: WatchedState) -> None:
    to = router(state, pool(node("a", caps=hourly(3))))
    route = await routed(to, message(*(f"r{i}@dest.example" for i in range(5))))
    assert route.granted == 3


async def test_a_node_without_caps_takes_whole_what_others_would_split(state: WatchedState) -> None:
    members = pool(node("a", caps=hourly(3)), node("b", priority=2), rotation=Rotation.PRIORITY)
    route = await routed(router(state, members), message(*(f"r{i}@dest.example" for i in range(5))))
    assert (route.node.name, route.granted) == ("b", 5)
    assert await state.used(members.nodes[0]) == 0


@pytest.mark.parametrize(("limit", "wanted", "granted"), [(2, 5, 2), (100, 5, 5), (100, 0, 7), (0, 5, 1)])
async def test_no_more_recipients_than_the_node_takes(
    state: WatchedState, limit: int, wanted: int, granted: int
) -> None:
    to = router(state, pool(node("a", max_recipients=limit)))
    route = await routed(to, message(*(f"r{i}@dest.example" for i in range(7))), recipients=wanted)
    assert route.granted == granted


async def test_what_a_smaller_node_cannot_take_of_a_permit_is_given_back(state: WatchedState) -> None:
    small = node("small", caps=hourly(100), max_recipients=2, priority=2)
    to = router(state, pool(node("big", caps=hourly(1)), small, rotation=Rotation.PRIORITY))
    route = await routed(to, message(*(f"r{i}@dest.example" for i in range(5))))
    await to.close()
    assert (route.node.name, route.granted) == ("small", 2)
    assert await state.used(small) == 2


async def test_refunds_make_room_again(state: WatchedState) -> None:
    to = router(state, pool(node("a", caps=hourly(1))))
    route = await routed(to)
    assert route.permit is not None
    assert isinstance(await to.route(message(), now=NOW), Hold)
    await to.refund(route.permit, route.granted)
    assert isinstance(await to.route(message(), now=NOW), Route)


# Trouble with the state


async def test_without_the_state_capped_nodes_hold(state: WatchedState) -> None:
    state.away = True
    decision = await router(state, pool(*nodes(2, caps=hourly(9)))).route(message(), now=NOW)
    assert isinstance(decision, Hold)
    assert decision.until == NOW + STATE_RETRY_S
    assert "state store unavailable" in decision.reason
    assert [line.node for line in decision.trace] == ["n0", "n1"]


async def test_without_the_state_uncapped_nodes_send(state: WatchedState) -> None:
    state.away = True
    to = router(state, pool(node("a", caps=hourly(9)), node("b", priority=2), rotation=Rotation.PRIORITY))
    assert (await routed(to)).node.name == "b"


async def test_a_refund_that_cannot_be_written_is_not_fatal(state: WatchedState) -> None:
    to = router(state, pool(*nodes(1, caps=hourly(9))))
    route = await routed(to)
    assert route.permit is not None
    state.away = True
    await to.refund(route.permit, 1)
    await to.close()
    state.away = False
    assert await state.used(route.node) == 1


async def test_a_fault_in_one_request_reaches_its_askers_and_nobody_else(state: WatchedState) -> None:
    class Faulty(WatchedState):
        async def reserve(self, requests: Sequence[PermitRequest], *, now: float) -> list[Permit | Denied]:
            if not self.reserved:
                self.reserved.append(0)
                raise ZeroDivisionError
            return await super().reserve(requests, now=now)

    to = router(Faulty(), pool(*nodes(1, caps=hourly(9))))
    with pytest.raises(ZeroDivisionError):
        await to.route(message(), now=NOW)
    await routed(to)


# Cancellation


async def test_a_permit_for_a_cancelled_asker_is_given_back(state: WatchedState) -> None:
    members = pool(*nodes(1, caps=hourly(9)))
    to = router(state, members)
    state.door.clear()
    asker = asyncio.create_task(to.route(message(), now=NOW))
    await state.asked.wait()
    asker.cancel()
    await asyncio.gather(asker, return_exceptions=True)
    state.door.set()
    await to.close()
    assert asker.cancelled()
    assert state.reserved == [1]
    assert await state.used(members.nodes[0]) == 0


async def test_whenever_an_asker_is_cancelled_its_permit_is_used_or_given_back(state: WatchedState) -> None:
    members = pool(*nodes(1, caps=hourly(1000)))
    to = router(state, members)
    used = 0
    for ticks in range(12):
        asker = asyncio.create_task(to.route(message(), now=NOW))
        for _ in range(ticks):
            await asyncio.sleep(0)
        asker.cancel()
        (result,) = await asyncio.gather(asker, return_exceptions=True)
        used += isinstance(result, Route)
    await to.close()
    assert 0 < used < 12  # some were cancelled in time, some were not
    assert await state.used(members.nodes[0]) == used


# Health


async def test_own_knowledge_counts_at_once(state: WatchedState) -> None:
    to = router(state, pool(*nodes(2)))
    to.learn_health("n0", DOWN)
    assert await shares(to, 4) == {"n1": 4}
    assert to.health_of("n0") == DOWN
    assert to.health_of("n1") == NodeHealth()
    to.learn_health("n0", NodeHealth(since=NOW, test_status="ok"))
    assert (await shares(to, 4))["n0"] == 2


async def test_what_other_workers_learnt_comes_with_the_refresh(state: WatchedState) -> None:
    to = router(state, pool(*nodes(2)))
    assert await to.refresh_health()
    assert not await to.refresh_health()
    await state.update_health("n0", lambda _: DOWN)
    assert await to.refresh_health()
    assert await shares(to, 4) == {"n1": 4}


async def test_a_refresh_never_brings_back_what_we_know_better(state: WatchedState) -> None:
    to = router(state, pool(*nodes(2)))
    real_health = state.health

    async def slow_health() -> Any:
        old = await real_health()
        if to.health_of("n0") != DOWN:  # our own update lands while the answer is on its way
            to.learn_health("n0", await state.update_health("n0", lambda _: DOWN))
        return old

    state.health = slow_health  # type: ignore[method-assign]
    await to.refresh_health()
    assert to.health_of("n0") == DOWN


async def test_health_stays_known_while_the_state_is_away(state: WatchedState) -> None:
    to = router(state, pool(*nodes(2)))
    await state.update_health("n0", lambda _: DOWN)
    await to.refresh_health()
    state.away = True
    with pytest.raises(StateUnavailable):
        await to.refresh_health()
    assert to.health_of("n0") == DOWN


async def test_a_node_that_goes_down_while_its_permit_is_awaited_is_not_used(state: WatchedState) -> None:
    members = pool(node("a", caps=hourly(9)), node("b", caps=hourly(9), priority=2), rotation=Rotation.PRIORITY)
    to = router(state, members)
    state.door.clear()
    asker = asyncio.create_task(routed(to))
    await state.asked.wait()
    to.learn_health("a", DOWN)
    state.door.set()
    assert (await asker).node.name == "b"
    await to.close()
    assert await state.used(members.nodes[0]) == 0


async def test_a_cool_down_ends_by_itself(state: WatchedState) -> None:
    to = router(state, pool(*nodes(1)))
    to.learn_health("n0", NodeHealth(cool_until=NOW + 5, cool_reason="421"))
    held = await to.route(message(), now=NOW)
    assert isinstance(held, Hold)
    assert held.until == NOW + 5
    assert isinstance(await to.route(message(), now=held.until), Route)


# Pools


async def test_an_unknown_pool_is_unroutable(state: WatchedState) -> None:
    decision = await router(state).route(message(), now=NOW)
    assert decision == Unroutable((), missing_pool("p"))


async def test_pools_are_swapped_between_decisions(state: WatchedState) -> None:
    to = router(state, pool(*nodes(2)))
    await shares(to, 3)
    to.replace_pools([pool(*nodes(3)), pool(name="other")])
    assert await shares(to, 6) == {"n0": 2, "n1": 2, "n2": 2}
    to.replace_pools([])
    assert isinstance(await to.route(message(), now=NOW), Unroutable)


async def test_a_node_that_leaves_while_its_permit_is_awaited_is_not_used(state: WatchedState) -> None:
    old = pool(node("a", caps=hourly(9)))
    to = router(state, old)
    state.door.clear()
    asker = asyncio.create_task(routed(to))
    await state.asked.wait()
    to.replace_pools([replace(old, nodes=(node("new"),))])
    state.door.set()
    assert (await asker).node.name == "new"


async def test_the_trace_of_a_route_says_why(state: WatchedState) -> None:
    to = router(state, pool(node("a"), node("b"), node("c", weight=0)))
    route = await routed(to, busy={"b"})
    assert route.trace == (
        ("a", Verdict.CHOSEN, "round-robin turn 0"),
        ("b", Verdict.BUSY, "no free connection"),
        ("c", Verdict.DRAINED, "weight 0"),
    )
