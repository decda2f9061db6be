"""Node health: each transition from each status, and what operators are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.pools import health as machine
from relay.pools.health import (
    AWAITS_OPERATOR,
    LOOK_AGAIN_S,
    MAX_COOL_S,
    MAX_ERROR,
    OK,
    HealthPolicy,
    NodeHealth,
    NodeStatus,
    begin,
    check_failed,
    check_passed,
    cool_down,
    delivered,
    fault,
    free_at,
    is_available,
    is_check_due,
    is_start_test_due,
    is_untested,
    pause,
    resume,
    settled,
)

NOW = 1_800_000_000.0
POLICY = HealthPolicy()
RECORD_ONLY = HealthPolicy(auto_deactivate=False)
BY_HAND = HealthPolicy(auto_recover=False)
ERROR = "auth: 535 5.7.8 credentials refused"

WELL = NodeHealth()
DOWN = fault(WELL, NOW, ERROR, POLICY)
HALTED = pause(WELL, NOW, by="ann", reason="maintenance")
HALTED_DOWN = pause(DOWN, NOW, by="ann", reason="maintenance")


def test_a_fault_takes_the_node_out_at_once_with_the_exact_error() -> None:
    assert (
        NodeHealth(
            status=NodeStatus.INACTIVE,
            test_status=ERROR,
            since=NOW,
            next_check=NOW + 900,
            give_up_at=NOW + 86400,
            failures=1,
        )
        == DOWN
    )


def test_a_fault_is_only_recorded_when_auto_deactivate_is_off() -> None:
    assert fault(WELL, NOW, ERROR, RECORD_ONLY) == NodeHealth(test_status=ERROR, failures=1)


def test_a_long_error_is_cut() -> None:
    assert fault(WELL, NOW, "x" * 9999, POLICY).test_status == "x" * MAX_ERROR


def test_attempts_in_flight_when_the_node_went_down_do_not_count_again() -> None:
    assert fault(DOWN, NOW + 5, "late", POLICY, began_at=NOW - 1) is DOWN


def test_attempts_from_before_the_recovery_do_not_take_the_node_out_again() -> None:
    back = check_passed(DOWN, NOW + 900, POLICY)
    assert fault(back, NOW + 901, "late", POLICY, began_at=NOW + 899) is back
    assert fault(back, NOW + 902, "new", POLICY, began_at=NOW + 901).status is NodeStatus.INACTIVE


def test_faults_count_although_the_clock_was_set_back_behind_the_recovery() -> None:
    back = check_passed(DOWN, NOW, POLICY)
    assert fault(back, NOW - 3600, "new", POLICY, began_at=NOW - 3601).status is NodeStatus.INACTIVE


def test_checks_follow_the_policy_and_end_when_it_says_so() -> None:
    health, at, checks = DOWN, NOW, 0
    while health.next_check:
        assert health.next_check == at + 900
        at = health.next_check
        assert is_check_due(health, at)
        assert not is_check_due(health, at - 0.001)
        health = check_failed(health, at, f"still down {checks}", POLICY)
        checks += 1
    assert checks == 96  # 24 h in quarters of an hour
    assert (health.status, health.since, health.failures) == (NodeStatus.INACTIVE, NOW, 97)
    assert health.test_status == "still down 95"
    assert not is_check_due(health, at + 1e9)
    assert free_at(health, at) is None


def test_an_operators_test_after_giving_up_can_still_bring_the_node_back() -> None:
    given_up = replace(DOWN, next_check=0.0)
    assert check_passed(given_up, NOW + 2 * 86400, POLICY).status is NodeStatus.ACTIVE


def test_a_passed_check_brings_the_node_back() -> None:
    assert check_passed(DOWN, NOW + 900, POLICY) == NodeHealth(test_status=OK, since=NOW + 900)


def test_a_passed_check_without_auto_recover_only_says_so_and_goes_on_checking() -> None:
    health = check_passed(DOWN, NOW + 900, BY_HAND)
    assert (health.status, health.test_status) == (NodeStatus.INACTIVE, AWAITS_OPERATOR)
    assert health.next_check == NOW + 1800
    assert AWAITS_OPERATOR in str(is_available(health, NOW + 900))
    assert delivered(resume(health, NOW + 1000)) == NodeHealth(test_status=OK, since=NOW + 1000)


def test_a_failed_test_takes_an_active_node_out() -> None:
    assert check_failed(WELL, NOW, ERROR, POLICY) == DOWN
    assert check_failed(WELL, NOW, ERROR, RECORD_ONLY).status is NodeStatus.ACTIVE


def test_a_delivery_clears_failures_and_costs_no_write_when_there_are_none() -> None:
    assert delivered(WELL) is WELL
    shaky = fault(WELL, NOW, ERROR, RECORD_ONLY)
    well = delivered(shaky)
    assert well == NodeHealth(test_status=OK)
    assert delivered(well) is well


@pytest.mark.parametrize("health", [DOWN, HALTED_DOWN], ids=["inactive", "inactive under a pause"])
def test_a_late_delivery_does_not_bring_a_node_back(health: NodeHealth) -> None:
    assert delivered(health) is health


def test_a_quota_reply_cools_the_node_down_and_leaves_it_active() -> None:
    health = cool_down(WELL, NOW + 60, "429 slower", now=NOW)
    assert health == NodeHealth(cool_until=NOW + 60, cool_reason="429 slower")
    assert is_available(health, NOW + 59.9) == "cooling down until 2027-01-15 08:01:00 UTC: 429 slower"
    assert free_at(health, NOW) == NOW + 60
    assert is_available(health, NOW + 60) is None


def test_the_longest_cool_down_wins_up_to_an_hour() -> None:
    health = cool_down(WELL, NOW + 60, "long", now=NOW)
    assert cool_down(health, NOW + 30, "short", now=NOW) is health
    assert cool_down(health, NOW + 1e9, "absurd", now=NOW).cool_until == NOW + MAX_COOL_S


def test_a_cool_down_that_is_over_already_changes_nothing() -> None:
    assert cool_down(WELL, NOW, "late", now=NOW) is WELL


def test_a_pause_ends_by_itself_and_returns_to_what_was_before() -> None:
    for before, after in ((WELL, NodeStatus.ACTIVE), (DOWN, NodeStatus.INACTIVE)):
        paused = pause(before, NOW + 1, by="ann", reason="maintenance", until=NOW + 60)
        assert settled(paused, NOW + 59.9) is paused
        ended = settled(paused, NOW + 60)
        assert (ended.status, ended.since) == (after, NOW + 60)
        assert (ended.paused_by, ended.pause_reason, ended.paused_until) == ("", "", 0.0)
        assert (ended.next_check, ended.give_up_at) == (before.next_check, before.give_up_at)


@pytest.mark.parametrize(
    "change",
    [
        lambda h: fault(h, NOW + 5, ERROR, POLICY, began_at=NOW - 5),
        lambda h: check_failed(h, NOW + 5, ERROR, POLICY),
        lambda h: check_passed(h, NOW + 5, POLICY),
        lambda h: cool_down(h, NOW + 5, "slower", now=NOW),
        delivered,
    ],
    ids=["fault", "check failed", "check passed", "cool-down", "delivered"],
)
@pytest.mark.parametrize("health", [HALTED, HALTED_DOWN], ids=["active before", "inactive before"])
def test_a_pause_survives_everything_but_operators(
    health: NodeHealth, change: Callable[[NodeHealth], NodeHealth]
) -> None:
    after = change(health)
    assert (after.status, after.since, after.paused_by) == (NodeStatus.PAUSED, NOW, "ann")
    assert free_at(after, NOW) is None


def test_what_happens_under_a_pause_shows_when_it_ends() -> None:
    paused = pause(WELL, NOW, by="ann", reason="", until=NOW + 60)
    assert settled(fault(paused, NOW + 5, ERROR, POLICY), NOW + 60).status is NodeStatus.INACTIVE
    paused_down = pause(DOWN, NOW, by="ann", reason="", until=NOW + 60)
    assert settled(check_passed(paused_down, NOW + 5, POLICY), NOW + 60).status is NodeStatus.ACTIVE


def test_a_paused_node_is_not_checked_until_the_pause_is_over() -> None:
    paused = pause(DOWN, NOW, by="ann", reason="", until=NOW + 3600)
    assert not is_check_due(paused, NOW + 3599)
    assert is_check_due(paused, NOW + 3600)


def test_pausing_again_replaces_words_and_time_but_not_the_beginning() -> None:
    again = pause(HALTED, NOW + 9, by="bob", reason="longer", until=NOW + 99)
    assert (again.since, again.paused_by, again.pause_reason, again.paused_until) == (NOW, "bob", "longer", NOW + 99)


@pytest.mark.parametrize("health", [DOWN, HALTED, HALTED_DOWN, cool_down(DOWN, NOW + 99, "slower", now=NOW)])
def test_resume_makes_any_node_active_and_free(health: NodeHealth) -> None:
    health = resume(health, NOW + 10)
    assert (health.status, health.since, health.failures) == (NodeStatus.ACTIVE, NOW + 10, 0)
    assert is_available(health, NOW + 10) is None
    assert free_at(health, NOW + 10) == NOW + 10


def test_resuming_a_node_that_is_well_changes_nothing() -> None:
    assert resume(WELL, NOW) is WELL


@pytest.mark.parametrize(
    ("health", "words", "back_at"),
    [
        pytest.param(WELL, None, NOW, id="active"),
        pytest.param(HALTED, "paused by ann: maintenance", None, id="paused for good"),
        pytest.param(
            pause(WELL, NOW, by="ann", reason="", until=NOW + 60),
            "paused by ann until 2027-01-15 08:01:00 UTC",
            NOW + 60,
            id="paused for a while",
        ),
        pytest.param(
            DOWN,
            f"inactive since 2027-01-15 08:00:00 UTC, next check 2027-01-15 08:15:00 UTC: {ERROR}",
            NOW + 900,
            id="inactive",
        ),
        pytest.param(
            replace(DOWN, next_check=0.0),
            f"inactive since 2027-01-15 08:00:00 UTC, no more checks, resume by hand: {ERROR}",
            None,
            id="given up",
        ),
        pytest.param(
            pause(DOWN, NOW, by="ann", reason="", until=NOW + 60),
            "paused by ann until 2027-01-15 08:01:00 UTC",
            NOW + 900,
            id="paused for a while, inactive below",
        ),
        pytest.param(
            replace(DOWN, next_check=NOW - 5),
            f"inactive since 2027-01-15 08:00:00 UTC, next check 2027-01-15 07:59:55 UTC: {ERROR}",
            NOW + LOOK_AGAIN_S,
            id="check overdue",
        ),
    ],
)
def test_the_reason_is_told_in_an_operators_words(health: NodeHealth, words: str | None, back_at: float | None) -> None:
    assert is_available(health, NOW) == words
    assert free_at(health, NOW) == back_at


def test_times_no_calendar_knows_are_still_told() -> None:
    assert "@1000000000000000000" in str(is_available(replace(DOWN, since=1e18), NOW))


def test_a_clock_set_back_by_years_does_not_postpone_the_check_by_years() -> None:
    then = NOW - 3e8
    assert is_check_due(DOWN, then)
    checked = check_failed(DOWN, then, ERROR, POLICY)
    assert (checked.since, checked.next_check, checked.give_up_at) == (then, then + 900, then + 86400)
    assert not is_check_due(checked, then + 1)


EVENTS: list[Callable[[NodeHealth, float], NodeHealth]] = [
    lambda h, t: fault(h, t, "e", POLICY),
    lambda h, t: fault(h, t, "e", RECORD_ONLY, began_at=t - 3),
    lambda h, t: check_failed(h, t, "c", POLICY),
    lambda h, t: check_passed(h, t, POLICY),
    lambda h, t: check_passed(h, t, BY_HAND),
    lambda h, t: cool_down(h, t + 40, "q", now=t),
    lambda h, t: pause(h, t, by="o", reason="r"),
    lambda h, t: pause(h, t, by="o", reason="r", until=t + 25),
    lambda h, t: resume(h, t),
    lambda h, t: delivered(h),
]


@given(st.lists(st.tuples(st.sampled_from(range(len(EVENTS))), st.floats(0, 2000)), max_size=30))
def test_in_any_history_record_and_answers_agree(history: list[tuple[int, float]]) -> None:
    health, now = NodeHealth(), NOW
    for number, step in history:
        now += step
        before = health
        health = EVENTS[number](health, now)
        assert health is before or health != before, "an unchanged health is the same object"
        seen = settled(health, now)
        if seen.status is not NodeStatus.PAUSED:
            assert (seen.status is NodeStatus.INACTIVE) == (seen.give_up_at != 0)
            assert (seen.paused_until, seen.paused_by, seen.pause_reason) == (0.0, "", "")
        if seen.status is NodeStatus.ACTIVE:
            assert seen.next_check == 0
        back_at = free_at(health, now)
        if is_available(health, now) is None:
            assert back_at == now
        elif back_at is not None:
            assert back_at > now


UNUSED = begin(WELL, NOW, POLICY)


def test_a_node_of_which_nothing_is_known_waits_for_its_first_test() -> None:
    assert is_untested(UNUSED)
    assert is_available(UNUSED, NOW) == "waits for its first test"
    assert is_check_due(UNUSED, NOW)
    assert free_at(UNUSED, NOW) == NOW + LOOK_AGAIN_S


@pytest.mark.parametrize(
    "health",
    [
        DOWN,
        HALTED,
        HALTED_DOWN,
        check_passed(UNUSED, NOW, POLICY),
        cool_down(WELL, NOW + 60, "slower", now=NOW),
        UNUSED,
    ],
    ids=["down", "paused", "paused and down", "tested", "cooling", "waits already"],
)
def test_what_is_known_of_a_node_goes_on_over_a_start(health: NodeHealth) -> None:
    assert begin(health, NOW + 5, POLICY) is health


def test_nothing_is_held_back_where_tests_take_no_node_out() -> None:
    assert begin(WELL, NOW, RECORD_ONLY) is WELL


@pytest.mark.parametrize("policy", [POLICY, BY_HAND], ids=["auto", "by hand"])
def test_a_first_test_that_passes_makes_the_node_active(policy: HealthPolicy) -> None:
    well = check_passed(UNUSED, NOW + 1, policy)
    assert (well.status, well.test_status, well.give_up_at) == (NodeStatus.ACTIVE, OK, 0.0)


def test_a_first_test_that_fails_leaves_it_out_with_the_error() -> None:
    out = check_failed(UNUSED, NOW + 1, ERROR, POLICY)
    assert (out.status, out.test_status, out.next_check) == (NodeStatus.INACTIVE, ERROR, NOW + 901)
    assert not is_untested(out)


def test_an_operator_may_use_an_untested_node() -> None:
    used = resume(UNUSED, NOW + 1)
    assert is_available(used, NOW + 1) is None
    assert not is_untested(used)


@pytest.mark.parametrize(
    ("health", "due"),
    [(WELL, True), (DOWN, True), (HALTED, False), (HALTED_DOWN, False), (UNUSED, False)],
    ids=["well", "down", "paused", "paused and down", "untested"],
)
def test_who_is_tested_once_at_a_start(health: NodeHealth, due: bool) -> None:
    assert is_start_test_due(health, NOW) is due


def test_a_node_that_is_out_is_tested_at_once_when_it_is_configured_otherwise():
    out = machine.fault(NodeHealth(), 1000.0, "535 bad credentials", HealthPolicy())
    given_up = replace(out, next_check=0.0)
    for health in (out, given_up):
        after = machine.changed(health, 2000.0, HealthPolicy())
        assert machine.is_check_due(after, 2000.0)
        assert (after.give_up_at, after.test_status) == (2000.0 + 86400.0, "535 bad credentials")
    well = NodeHealth()
    assert machine.changed(well, 2000.0, HealthPolicy()) is well
