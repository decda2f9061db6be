"""What the tables of the benchmark say."""

from __future__ import annotations

import pytest

from bench.measure import Spread
from bench.report import COLUMNS, Run, as_json, cell, ratios, summarize, table


def run(**figures: float) -> Run:
    return Run(**{**dict.fromkeys((*COLUMNS, "others"), 10.0), **figures})  # type: ignore[arg-type]


RUNS = {
    "relay": [run(delivered=900, others=0.02), run(delivered=1000, others=0.02), run(delivered=1200, others=0.02)],
    "Postfix": [run(delivered=400, others=0.02), run(delivered=500, others=0.3), run(delivered=600, others=0.02)],
}


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (Spread(1000, 900, 1200), "1000 ±15%"),
        (Spread(12.34, 12.34, 12.34), "12.3"),
        (Spread(0, 0, 10), "0.0"),
    ],
)
def test_a_cell_is_the_median_and_half_of_the_span(figure, text):
    assert cell(figure) == text


def test_ratios_are_medians_over_medians():
    over = ratios(summarize(RUNS["relay"]), summarize(RUNS["Postfix"]))
    assert over["delivered"] == 2.0
    assert over["cpu_us"] == 1.0


def test_a_peer_without_a_figure_has_no_ratio():
    over = ratios(summarize([run()]), summarize([run(cpu_us=0)]))
    assert "cpu_us" not in over
    assert over["delivered"] == 1.0


def test_the_table_has_every_system_its_ratios_and_the_load_of_others():
    text = table(RUNS, {"relay"})
    assert [line.split("  ")[0].strip() for line in text.split("\n")[1:3]] == ["relay", "Postfix"]
    assert "1000 ±15%" in text
    assert "over Postfix" in text
    assert "2.00 x" in text
    assert "30% of the machine" in text


def test_json_keeps_each_run_and_the_ratios():
    found = as_json(RUNS, {"relay"})
    assert [entry["delivered"] for entry in found["systems"]["relay"]["runs"]] == [900, 1000, 1200]
    assert found["systems"]["Postfix"]["figures"]["delivered"] == {"median": 500, "low": 400, "high": 600}
    assert list(found["ratios"]) == ["relay over Postfix"]
