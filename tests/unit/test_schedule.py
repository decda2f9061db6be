from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.schedule import RetryPolicy, age_s, next_attempt

POLICY = RetryPolicy(intervals_s=(60.0, 300.0, 900.0), max_age_s=86400.0)


@pytest.mark.parametrize(
    ("attempts", "age", "jitter", "expected"),
    [
        pytest.param(1, 0.0, 0.5, 60.0, id="after the first attempt the first interval"),
        pytest.param(2, 100.0, 0.5, 300.0, id="after the second the second"),
        pytest.param(3, 100.0, 0.5, 900.0, id="after the third the third"),
        pytest.param(40, 100.0, 0.5, 900.0, id="the last interval repeats"),
        pytest.param(0, 0.0, 0.5, 60.0, id="no attempt counts as one"),
        pytest.param(-3, 0.0, 0.5, 60.0, id="a damaged count counts as one"),
        pytest.param(1, 0.0, 0.0, 48.0, id="jitter takes a fifth off"),
        pytest.param(1, 0.0, 1.0, 72.0, id="jitter adds a fifth"),
        pytest.param(1, 0.0, 7.0, 72.0, id="jitter above its range is its bound"),
        pytest.param(1, -1e9, 0.5, 60.0, id="a clock that went back makes no message younger than new"),
        pytest.param(3, 86400.0 - 10, 0.5, 10.0, id="never beyond the maximum age"),
        pytest.param(1, 86400.0, 0.5, None, id="over at the maximum age"),
        pytest.param(1, 1e12, 0.5, None, id="over long after it"),
    ],
)
def test_next_attempt(attempts: int, age: float, jitter: float, expected: float | None) -> None:
    assert next_attempt(POLICY, attempts, age, jitter) == (None if expected is None else pytest.approx(expected))


@given(
    attempts=st.integers(-5, 1000),
    age=st.floats(-1e10, 1e10),
    jitter=st.floats(0, 1),
)
def test_the_wait_is_positive_and_ends_within_the_maximum_age(attempts: int, age: float, jitter: float) -> None:
    wait = next_attempt(POLICY, attempts, age, jitter)
    if age >= POLICY.max_age_s:
        assert wait is None
    else:
        assert wait is not None
        assert 0 < wait <= 900.0 * 1.2001
        assert max(age, 0) + wait <= POLICY.max_age_s * (1 + 1e-12)


def test_repeated_waits_end_exactly_at_the_maximum_age() -> None:
    age, attempts = 0.0, 1
    while (wait := next_attempt(POLICY, attempts, age, 0.5)) is not None:
        age += wait
        attempts += 1
    assert age == POLICY.max_age_s
    assert attempts > 90


def test_age_is_never_negative() -> None:
    assert age_s(100.0, 40.0) == 0.0
    assert age_s(40.0, 100.0) == 60.0


@pytest.mark.parametrize("intervals", [(), (60.0, 0.0), (-1.0,)])
def test_a_schedule_without_pauses_is_refused(intervals: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="interval"):
        RetryPolicy(intervals_s=intervals)
