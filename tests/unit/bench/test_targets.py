"""Whether a target was reached is told from medians, and never when there is nothing to tell it from."""

from __future__ import annotations

import math

import pytest

from bench.measure import Spread
from bench.targets import Target, verdicts

FIGURES = {
    "relay": {"rate": Spread(300, 100, 900), "cost": Spread(40, 30, 50)},
    "peer": {"rate": Spread(100, 90, 110), "cost": Spread(0, 0, 0)},
}


@pytest.mark.parametrize(
    ("target", "said"),
    [
        pytest.param(
            Target(of="relay", column="rate", over="peer", least=3.0),
            "target reached      rate of relay: at least 3 x peer, is 3 x",
            id="a bound is itself enough",
        ),
        pytest.param(
            Target(of="relay", column="rate", over="peer", least=3.5),
            "target NOT REACHED  rate of relay: at least 3.5 x peer, is 3 x",
            id="too little",
        ),
        pytest.param(
            Target(of="relay", column="cost", most=39),
            "target NOT REACHED  cost of relay: at most 39, is 40",
            id="too much",
        ),
        pytest.param(
            Target(of="relay", column="cost", least=30, most=50),
            "target reached      cost of relay: at least 30 and at most 50, is 40",
            id="between",
        ),
        pytest.param(
            Target(of="relay", column="cost", over="peer", most=1),
            "target not measured cost of relay: at most 1 x peer",
            id="nothing to divide by",
        ),
        pytest.param(
            Target(of="gone", column="cost", most=1), "target not measured cost of gone: at most 1", id="no such row"
        ),
    ],
)
def test_a_target_is_told_with_its_figure(target, said):
    assert [line.strip() for line in verdicts([target], FIGURES, {})] == [said]


def test_a_missing_figure_is_no_number():
    assert math.isnan(Target(of="relay", column="memory", most=1).value(FIGURES))


def test_columns_have_titles():
    target = Target(of="relay", column="cost", most=99)
    assert "CPU us/msg of relay" in verdicts([target], FIGURES, {"cost": "CPU us/msg"})[0]
