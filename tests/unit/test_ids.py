"""Ids are unique and growing whatever the clock does, and carry their row key."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.ids import ALPHABET, IdSource, is_id, key_of, parse, time_of


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_an_id_is_26_characters_of_crockford_base32_and_tells_its_time() -> None:
    made = IdSource(Clock(1_700_000_000.123)).next()
    assert len(made) == 26
    assert set(made) <= set(ALPHABET)
    assert is_id(made)
    assert time_of(made) == 1_700_000_000.123
    assert key_of(made) >> 15 == 1_700_000_000_123


def test_the_specifications_own_example_parses() -> None:
    assert time_of("01ARZ3NDEKTSV4RRFFQ69G5FAV") == 1469922850.259


@given(st.lists(st.one_of(st.just(0.0), st.floats(-1e6, 1e6), st.floats(-0.01, 0.01)), max_size=60), st.integers())
def test_ids_and_keys_grow_whatever_the_clock_does(steps: list[float], seed: int) -> None:
    clock = Clock(1_700_000_000.0)
    ids = IdSource(clock, bits=random.Random(seed).getrandbits)
    made = []
    for step in steps:
        clock.now += step
        made.append(ids.next())
    assert made == sorted(set(made))
    keys = [key_of(each) for each in made]
    assert keys == sorted(set(keys))


def test_a_frozen_clock_yields_more_ids_than_the_counter_holds() -> None:
    ids = IdSource(Clock(1_700_000_000.0))
    made = [ids.next() for _ in range(70_000)]
    assert made == sorted(set(made))
    assert len({key_of(each) for each in made}) == 70_000
    assert max(time_of(each) for each in made) < 1_700_000_000.01


def test_clocks_before_1970_and_after_the_format_ends_still_give_valid_ids() -> None:
    for now in (-1e12, 0.0, 1e15) * 50:
        ids = IdSource(Clock(now))
        first, second = ids.next(), ids.next()
        assert is_id(first)
        assert first < second


def test_shards_differ_in_their_tag() -> None:
    zeros = [IdSource(Clock(1.0), shard, bits=lambda n: 0).next() for shard in ("0", "1", "blue", "green")]
    assert len(set(zeros)) == 4


def test_typed_ids_are_forgiven_their_case_and_look_alikes() -> None:
    assert parse(" 01arz3ndektsv4rrffq69g5fav\n") == "01ARZ3NDEKTSV4RRFFQ69G5FAV"
    assert parse("OIARZ3NDEKTSV4RRFFQ69G5FAV") == "01ARZ3NDEKTSV4RRFFQ69G5FAV"


@pytest.mark.parametrize(
    "text", ["", "01ARZ3NDEKTSV4RRFFQ69G5FA", "81ARZ3NDEKTSV4RRFFQ69G5FAV", "01ARZ3NDEKTSV4RRFFQ69G5FAU", "../../x" * 4]
)
def test_what_is_no_id_is_refused(text: str) -> None:
    assert not is_id(text)
    with pytest.raises(ValueError, match="not a message id"):
        parse(text)


def test_an_id_costs_a_few_microseconds() -> None:
    ids = IdSource(time.time)
    best = min(_seconds(ids) for _ in range(5))
    assert best / 2000 < 30e-6  # about 2 us on an idle machine


def _seconds(ids: IdSource) -> float:
    begin = time.perf_counter()
    for _ in range(2000):
        ids.next()
    return time.perf_counter() - begin
