from __future__ import annotations

import pytest

from relay.router.usage import HALF_LIFE_S, Usage


def test_own_messages_count_at_once() -> None:
    usage = Usage()
    usage.took("a", 3)
    usage.took("a", 2)
    assert usage.used == {"a": 5.0}


def test_the_totals_of_a_whole_life_say_nothing_about_lately() -> None:
    usage = Usage()
    usage.merge({"a": 1_000_000}, 100.0)
    assert usage.used == {}


def test_what_others_sent_is_added() -> None:
    usage = Usage()
    usage.merge({"a": 10}, 100.0)
    usage.merge({"a": 17, "b": 4}, 100.0)
    assert usage.used == {"a": 7.0, "b": 4.0}


def test_own_messages_are_not_counted_twice_however_late_the_totals_are() -> None:
    usage = Usage()
    usage.merge({}, 100.0)
    usage.took("a", 6)
    usage.merge({"a": 2}, 100.0)
    usage.merge({"a": 6}, 100.0)
    assert usage.used == {"a": 6.0}
    usage.merge({"a": 9}, 100.0)
    assert usage.used == {"a": 9.0}


def test_use_fades_by_half_in_its_half_life() -> None:
    usage = Usage()
    usage.merge({}, 100.0)
    usage.took("a", 8)
    usage.merge({"a": 8}, 100.0 + HALF_LIFE_S)
    assert usage.used == {"a": pytest.approx(4.0)}


def test_a_clock_that_goes_back_fades_nothing() -> None:
    usage = Usage()
    usage.merge({}, 1e9)
    usage.took("a", 8)
    usage.merge({"a": 8}, 5.0)
    assert usage.used == {"a": 8.0}


def test_totals_that_shrink_take_nothing_away() -> None:
    usage = Usage()
    usage.merge({"a": 100}, 100.0)
    usage.took("a", 1)
    usage.merge({"a": 0}, 100.0)
    assert usage.used == {"a": 1.0}


def test_nodes_that_are_gone_are_forgotten() -> None:
    usage = Usage()
    usage.took("a", 1)
    usage.took("b", 1)
    usage.keep({"b"})
    assert usage.used == {"b": 1.0}
