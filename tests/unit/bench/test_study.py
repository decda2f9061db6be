"""Tables of measurements with rows of their own, and that what is listed there fits together."""

from __future__ import annotations

import pytest

from bench import flat
from bench.idle import address
from bench.report import COLUMNS
from bench.run import STUDIES
from bench.scenarios import SCENARIOS
from bench.study import summarize, table

ROUNDS = {"slow": [{"ms": 5.0}, {"ms": 9.0}, {"ms": 7.0}], "quick": [{"ms": 1.0, "MB": 200.0}]}


def test_rounds_become_medians_between_their_ends():
    found = summarize(ROUNDS)
    assert (found["slow"]["ms"].median, found["slow"]["ms"].low, found["slow"]["ms"].high) == (7, 5, 9)
    assert found["quick"]["MB"].median == 200


def test_a_row_without_a_figure_shows_a_dash():
    lines = table(summarize(ROUNDS), ["ms", "MB"]).split("\n")
    assert lines[1].split() == ["slow", "7.0", "±29%", "-"]
    assert lines[2].split() == ["quick", "1.0", "200"]


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_targets_of_a_study_name_its_rows_and_columns(study):
    for target in study.targets:
        assert target.of in study.rows
        assert target.over in ("", *study.rows)
        assert target.column in study.columns


@pytest.mark.parametrize("scenario", [*SCENARIOS, *flat.scenarios(quick=False)], ids=lambda scenario: scenario.name)
def test_targets_of_a_scenario_name_its_systems_and_columns(scenario):
    names = {kind.name for kind in scenario.kinds}
    assert len(names) == len(scenario.kinds)
    assert scenario.base in ("", *names)
    for target in scenario.targets:
        assert target.of in names
        assert target.over in ("", *names)
        assert target.column in COLUMNS


def test_names_are_unique_and_the_same_when_quick():
    names = [scenario.name for scenario in (*SCENARIOS, *flat.scenarios(quick=True), *STUDIES)]
    assert len(names) == len(set(names))
    assert [s.name for s in flat.scenarios(quick=True)] == [s.name for s in flat.scenarios(quick=False)]


def test_the_relay_is_beside_itself_when_there_is_a_base():
    queued = flat.scenarios(quick=False)[0]
    assert queued.relays == {"1,000 queued", "100,000 queued"}
    assert [kind.shape.queued for kind in queued.kinds] == [10, 1000, 100_000]


def test_only_logins_that_a_relay_has_are_used():
    scenario = next(s for s in flat.scenarios(quick=False) if s.name == "flat-bridges-all")
    assert [scenario.load_for(kind).logins for kind in scenario.kinds] == [1, 1000]


def test_idle_clients_have_loopback_addresses_of_their_own():
    made = [address(number) for number in range(5020)]
    assert len(set(made)) == len(made)
    assert all(text.startswith("127.1.") and all(0 <= int(p) <= 255 for p in text.split(".")) for text in made)
