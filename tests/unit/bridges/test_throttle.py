"""Throttling of failed logins, with time as an argument."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.bridges.throttle import AuthThrottle, ThrottleLimits, address_key

LIMITS = ThrottleLimits(address_failures=10, name_failures=20, known_failures=100, window_s=600.0)
T = 50_000.0


@pytest.fixture
def throttle() -> AuthThrottle:
    return AuthThrottle(LIMITS, slots=1024)


def fail(throttle: AuthThrottle, peer: str, name: str, times: int, now: float = T) -> int:
    """Try `times` wrong logins; how many were let through to be checked."""
    through = 0
    for _ in range(times):
        if throttle.admits(peer, name, now):
            through += 1
            throttle.failed(peer, name, now)
    return through


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::1", True),
        ("not an address", "other", False),
        ("1:2", "1:2", True),
        ("a\0b", "a\0b", True),
    ],
)
def test_clients_count_by_address_or_by_ipv6_slash_64(one, other, same):
    assert (address_key(one) == address_key(other)) is same


def test_an_address_gets_its_failures_and_no_more_whatever_names_it_tries(throttle):
    through = sum(fail(throttle, "192.0.2.1", f"user{n}", 1) for n in range(50))
    assert through == 10
    assert throttle.admits("192.0.2.2", "user1", T)


def test_a_name_gets_its_failures_and_no_more_whatever_addresses_try_it(throttle):
    through = sum(fail(throttle, f"198.51.100.{n}", "shop", 1) for n in range(100))
    assert through == 20
    assert not throttle.admits("203.0.113.9", "shop", T)
    assert throttle.admits("203.0.113.9", "other", T)


def test_ten_thousand_guesses_an_hour_come_down_to_the_limits(throttle):
    through = 0
    for guess in range(10_000):
        through += fail(throttle, f"198.51.{guess % 200}.{guess % 7}", "shop", 1, T + guess * 0.36)
    # 20 at once, and 20 more in each of the six windows of the hour.
    assert through <= 20 + 6 * 20


def test_room_comes_back_bit_by_bit_not_all_at_once(throttle):
    fail(throttle, "192.0.2.1", "a", 10)
    assert not throttle.admits("192.0.2.1", "a", T + 59.9)
    assert fail(throttle, "192.0.2.1", "a", 10, T + 60.1) == 1
    assert fail(throttle, "192.0.2.1", "b", 20, T + 601) >= 9


def test_refused_attempts_do_not_prolong_the_refusal(throttle):
    fail(throttle, "192.0.2.1", "a", 10)
    for second in range(1, 60):
        assert not throttle.admits("192.0.2.1", "a", T + second)
    assert throttle.admits("192.0.2.1", "a", T + 60.1)


def test_answers_to_failures_get_slower(throttle):
    delays = [throttle.failed("192.0.2.1", "a", T) for _ in range(6)]
    assert delays == pytest.approx([1, 2, 4, 8, 8, 8], rel=1e-6)
    assert throttle.failed("192.0.2.9", "b", T) == pytest.approx(1)


def test_an_attack_on_a_name_does_not_lock_its_owner_out_from_a_known_address(throttle):
    throttle.succeeded("192.0.2.1", "shop", T)
    for n in range(200):
        fail(throttle, f"198.51.100.{n}", "shop", 1, T + 1)
    assert not throttle.admits("203.0.113.1", "shop", T + 2)
    assert throttle.admits("192.0.2.1", "shop", T + 2)


def test_an_attack_from_the_owners_own_address_does_not_lock_the_owner_out(throttle):
    throttle.succeeded("192.0.2.1", "shop", T)
    fail(throttle, "192.0.2.1", "admin", 50, T + 1)
    assert not throttle.admits("192.0.2.1", "admin", T + 2)
    assert throttle.admits("192.0.2.1", "shop", T + 2)


def test_even_from_a_known_address_guesses_are_bounded(throttle):
    throttle.succeeded("192.0.2.1", "shop", T)
    assert fail(throttle, "192.0.2.1", "shop", 500, T + 1) == 100
    assert throttle.admits("192.0.2.1", "other", T + 1)  # its own failures do not count against neighbours


def test_logging_in_does_not_wash_off_earlier_failures(throttle):
    fail(throttle, "192.0.2.1", "victim", 10)
    throttle.succeeded("192.0.2.1", "own-account", T)
    assert not throttle.admits("192.0.2.1", "victim", T)


def test_known_addresses_are_forgotten_after_a_month(throttle):
    throttle.succeeded("192.0.2.1", "shop", T)
    later = T + LIMITS.remember_s + 1
    for n in range(100):
        fail(throttle, f"198.51.100.{n}", "shop", 1, later)
    assert not throttle.admits("192.0.2.1", "shop", later)


def test_memory_stays_what_it_was_under_a_flood_of_names_and_addresses():
    throttle = AuthThrottle(LIMITS, slots=64)
    throttle._key = bytes(16)  # a fixed one: which entries share a set must not differ from run to run
    for n in range(5000):
        throttle.failed(f"10.0.{n >> 8}.{n & 255}", f"user{n}", T)
    assert len(throttle._buckets._memory) == 64 * 16
    # The fullest buckets survive the flood in their sets.
    fail(throttle, "192.0.2.1", "shop", 10)
    assert not throttle.admits("192.0.2.1", "shop", T)


def test_processes_forked_later_share_failures_and_known_addresses(throttle):
    pid = os.fork()
    if pid == 0:
        fail(throttle, "192.0.2.1", "a", 10)
        throttle.succeeded("192.0.2.7", "shop", T)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not throttle.admits("192.0.2.1", "a", T)
    for n in range(100):
        fail(throttle, f"198.51.100.{n}", "shop", 1)
    assert throttle.admits("192.0.2.7", "shop", T)


@pytest.mark.parametrize("slots", [0, 4, 100])
def test_odd_table_sizes_are_refused(slots):
    with pytest.raises(ValueError, match="power of two"):
        AuthThrottle(slots=slots)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.floats(0, 400)), max_size=60))
def test_no_window_lets_through_more_than_twice_an_address_limit(steps):
    limits = ThrottleLimits(address_failures=5, name_failures=1000, window_s=100.0)
    throttle, now = AuthThrottle(limits, slots=256), T
    let: dict[str, list[float]] = {}
    for address, name, wait in steps:
        now += wait / 40
        if throttle.admits(address, name, now):
            throttle.failed(address, name, now)
            let.setdefault(address, []).append(now)
    for times in let.values():
        for start in times:
            assert sum(start <= at < start + 100.0 for at in times) <= 10


@given(st.text(max_size=30), st.text(max_size=30), st.floats(1, 1e7))
def test_any_peer_and_name_count_like_any_other(peer, name, now):
    throttle = AuthThrottle(ThrottleLimits(address_failures=2), slots=64)
    assert fail(throttle, peer, name, 5, now) == 2
