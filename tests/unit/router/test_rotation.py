from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.pools.pool import Cap, Node, Rotation
from relay.router.rotation import order
from tests.unit.router.values import NOW, hourly, node, nodes


def names(
    mode: Rotation,
    eligible: Sequence[Node],
    turn: int = 0,
    *,
    members: Sequence[Node] | None = None,
    draw: float = 0.0,
    used: dict[str, float] | None = None,
    now: float = NOW,
    interval_s: float = 300.0,
) -> list[str]:
    return [
        n.name
        for n in order(
            mode,
            eligible,
            members=eligible if members is None else members,
            turn=turn,
            draw=draw,
            used=used or {},
            now=now,
            interval_s=interval_s,
        )
    ]


def firsts(mode: Rotation, eligible: Sequence[Node], turns: range) -> Counter[str]:
    return Counter(names(mode, eligible, turn)[0] for turn in turns)


def weighted(*weights: int) -> list[Node]:
    return [node(f"n{position}", weight=weight) for position, weight in enumerate(weights)]


# All modes


@given(
    mode=st.sampled_from(Rotation),
    shape=st.lists(st.tuples(st.integers(1, 50), st.integers(1, 3)), min_size=1, max_size=8),
    turn=st.integers(0, 10**15),
    draw=st.floats(0, 1, exclude_max=True),
    now=st.floats(0, 1e10),
)
@settings(deadline=None, max_examples=200)
def test_every_mode_yields_each_eligible_node_once(
    mode: Rotation, shape: list[tuple[int, int]], turn: int, draw: float, now: float
) -> None:
    eligible = [node(f"n{i}", weight=weight, priority=priority) for i, (weight, priority) in enumerate(shape)]
    ordered = names(mode, eligible, turn, draw=draw, now=now)
    assert sorted(ordered) == sorted(n.name for n in eligible)


@given(
    mode=st.sampled_from([Rotation.ROUND_ROBIN, Rotation.WEIGHTED, Rotation.LEAST_USED]),
    weights=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    start=st.integers(0, 10**9),
)
@settings(deadline=None, max_examples=100)
def test_no_node_starves(mode: Rotation, weights: list[int], start: int) -> None:
    """Within one cycle of turns, wherever it begins, every node is first at least once."""
    eligible = weighted(*weights)
    turns = range(start, start + sum(weights))
    assert set(firsts(mode, eligible, turns)) == {n.name for n in eligible}


# Round robin


def test_round_robin_goes_round() -> None:
    seen = [names(Rotation.ROUND_ROBIN, nodes(3), turn)[0] for turn in range(7)]
    assert seen == ["n0", "n1", "n2", "n0", "n1", "n2", "n0"]


def test_round_robin_over_all_orders_is_even_at_every_place() -> None:
    """4! turns go through all 24 orders: what falls to the second choice is spread as evenly as the first."""
    orders = {tuple(names(Rotation.ROUND_ROBIN, nodes(4), turn)) for turn in range(24)}
    assert len(orders) == 24


@pytest.mark.parametrize("count", [3, 5, 10])
def test_the_turns_of_a_full_node_are_spread_over_all_others(count: int) -> None:
    takers = Counter(
        ordered[1]
        for turn in range(count * (count - 1) * 4)
        if (ordered := names(Rotation.ROUND_ROBIN, nodes(count), turn))[0] == "n0"
    )
    assert takers == {f"n{position}": 4 for position in range(1, count)}


# Weighted


@pytest.mark.parametrize(
    ("weights", "turns", "expected"),
    [
        pytest.param((5, 2, 3), 100, (50, 20, 30), id="5/2/3 over 100 is 50/20/30"),
        pytest.param((50, 20, 30), 100, (50, 20, 30), id="common factors change nothing"),
        pytest.param((1, 1), 100, (50, 50), id="equal"),
        pytest.param((99, 1), 100, (99, 1), id="lopsided"),
        pytest.param((7,), 20, (20,), id="alone"),
        pytest.param((9000, 1000), 10, (9, 1), id="large with a common factor"),
        pytest.param((9999, 1), 10_000, (9999, 1), id="longest exact cycle"),
    ],
)
@pytest.mark.parametrize("start", [0, 7, 12_345])
def test_weighted_shares_are_exact(weights: tuple[int, ...], turns: int, expected: tuple[int, ...], start: int) -> None:
    counted = firsts(Rotation.WEIGHTED, weighted(*weights), range(start, start + turns))
    assert tuple(counted[f"n{position}"] for position in range(len(weights))) == expected


def test_weights_beyond_the_longest_cycle_keep_their_shares_to_a_ten_thousandth() -> None:
    counted = firsts(Rotation.WEIGHTED, weighted(700_001, 299_999), range(20_000))
    assert counted["n0"] / 20_000 == pytest.approx(0.7, abs=2e-4)


@given(
    weights=st.lists(st.integers(1, 20), min_size=2, max_size=6),
    start=st.integers(0, 500),
    length=st.integers(1, 100),
)
@settings(deadline=None, max_examples=100)
def test_weighted_turns_are_spread_evenly(weights: list[int], start: int, length: int) -> None:
    """Over any stretch, nobody is more than a few turns away from the exact share."""
    counted = firsts(Rotation.WEIGHTED, weighted(*weights), range(start, start + length))
    for position, weight in enumerate(weights):
        assert abs(counted[f"n{position}"] - length * weight / sum(weights)) < 3


def test_the_weighted_turns_of_a_full_node_are_spread_by_the_weights_of_the_others() -> None:
    eligible = weighted(5, 2, 3, 10)
    takers: Counter[str] = Counter()
    for turn in range(20 * 3):
        ordered = names(Rotation.WEIGHTED, eligible, turn)
        if ordered[0] == "n0":
            takers[ordered[1]] += 1
    assert takers == {"n1": 2, "n2": 3, "n3": 10}


def test_without_a_node_the_others_keep_their_proportions() -> None:
    assert firsts(Rotation.WEIGHTED, weighted(5, 2, 3)[1:], range(100)) == {"n1": 40, "n2": 60}


# Priority


def test_standbys_come_after_all_better_ones() -> None:
    members = [node("standby", priority=2), node("a", priority=1), node("b", priority=1), node("last", priority=9)]
    for turn in range(6):
        ordered = names(Rotation.PRIORITY, members, turn)
        assert set(ordered[:2]) == {"a", "b"}
        assert ordered[2:] == ["standby", "last"]


def test_equal_priorities_take_turns() -> None:
    members = [*nodes(3, priority=1), node("standby", priority=2)]
    assert firsts(Rotation.PRIORITY, members, range(30)) == {"n0": 10, "n1": 10, "n2": 10}


def test_a_standby_serves_when_nobody_better_is_eligible() -> None:
    assert names(Rotation.PRIORITY, [node("standby", priority=5)], 3) == ["standby"]


# Random


def test_random_follows_the_draw_evenly() -> None:
    rng = random.Random(4)
    counted = Counter(names(Rotation.RANDOM, nodes(4), draw=rng.random())[0] for _ in range(4000))
    assert all(900 < count < 1100 for count in counted.values())
    assert len(counted) == 4


def test_random_spreads_the_second_choice_evenly() -> None:
    rng = random.Random(5)
    pairs = Counter(tuple(names(Rotation.RANDOM, nodes(4), draw=rng.random())[:2]) for _ in range(6000))
    assert len(pairs) == 12
    assert all(400 < count < 600 for count in pairs.values())


# Least used


@pytest.mark.parametrize(
    ("members", "used", "expected"),
    [
        pytest.param(weighted(1, 1), {"n0": 5.0, "n1": 4.0}, "n1", id="lowest count"),
        pytest.param(weighted(10, 1), {"n0": 50.0, "n1": 6.0}, "n0", id="relative to weight"),
        pytest.param(weighted(1, 1), {"n0": 1.0}, "n1", id="never used"),
        pytest.param(
            [node("n0", caps=hourly(1000)), node("n1", caps=hourly(10))],
            {"n0": 100.0, "n1": 2.0},
            "n0",
            id="relative to caps where all have them",
        ),
        pytest.param(
            [
                node("n0", caps=(Cap(window_s=1, limit=100), Cap(window_s=86400, limit=864))),
                node("n1", caps=hourly(72)),
            ],
            {"n0": 10.0, "n1": 10.0},
            "n1",
            id="the tightest cap is the size",
        ),
        pytest.param(
            [node("n0", caps=hourly(1000)), node("n1")], {"n0": 3.0, "n1": 2.0}, "n1", id="by weight where one has none"
        ),
        pytest.param(
            [node("n0", caps=(Cap(window_s=60, limit=0),)), node("n1", caps=hourly(1))], {}, "n1", id="a cap of nothing"
        ),
    ],
)
def test_least_used_first(members: list[Node], used: dict[str, float], expected: str) -> None:
    assert names(Rotation.LEAST_USED, members, used=used)[0] == expected


def test_equally_used_nodes_take_turns() -> None:
    assert firsts(Rotation.LEAST_USED, nodes(3), range(9)) == {"n0": 3, "n1": 3, "n2": 3}


def test_least_used_evens_out() -> None:
    used: dict[str, float] = {"n0": 40.0}
    for turn in range(110):
        first = names(Rotation.LEAST_USED, nodes(3), turn, used=used)[0]
        used[first] = used.get(first, 0) + 1
    assert used == {"n0": 50, "n1": 50, "n2": 50}


# Interval


def test_one_node_for_each_slice_of_time() -> None:
    begin = 300.0 * 3_000_000
    seen = [names(Rotation.INTERVAL, nodes(3), now=begin + 100.0 * step)[0] for step in range(12)]
    assert seen[0:3] == [seen[0]] * 3
    assert seen[3:6] == [seen[3]] * 3
    assert sorted({seen[0], seen[3], seen[6]}) == ["n0", "n1", "n2"]
    assert seen[9] == seen[0]


def test_a_node_that_is_away_does_not_move_the_slices_of_others() -> None:
    members = nodes(4)
    for slice_number in range(40):
        now = 300.0 * slice_number + 1
        current = names(Rotation.INTERVAL, members, now=now)[0]
        for away in members:
            rest = [n for n in members if n is not away]
            first = names(Rotation.INTERVAL, rest, members=members, now=now)[0]
            if away.name != current:
                assert first == current


def test_the_slices_of_a_node_that_is_away_are_spread_over_the_others() -> None:
    members = nodes(4)
    takers: Counter[str] = Counter()
    for slice_number in range(4 * 3 * 5):
        now = 300.0 * slice_number
        if names(Rotation.INTERVAL, members, now=now)[0] == "n0":
            takers[names(Rotation.INTERVAL, members[1:], members=members, now=now)[0]] += 1
    assert takers == {"n1": 5, "n2": 5, "n3": 5}


def test_a_drained_member_has_no_slice() -> None:
    members = [node("drained", weight=0), *nodes(2)]
    seen = [names(Rotation.INTERVAL, members[1:], members=members, now=300.0 * number)[0] for number in range(6)]
    assert seen == ["n0", "n1"] * 3


@pytest.mark.parametrize(("now", "interval_s"), [(-5.0, 300.0), (NOW, 0.0)])
def test_absurd_times_still_give_an_order(now: float, interval_s: float) -> None:
    assert sorted(names(Rotation.INTERVAL, nodes(3), now=now, interval_s=interval_s)) == ["n0", "n1", "n2"]
