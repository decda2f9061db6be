"""How things are printed."""

from __future__ import annotations

import pytest

from relay.cli import text
from relay.cli.text import age, clean, moment, octets, print_table, shorten, when

NOW = 1_800_000_000.0


@pytest.fixture(autouse=True)
def piped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)


def table(capsys: pytest.CaptureFixture[str], *rows: tuple[object, ...], prose: bool = False) -> list[str]:
    headings = ["id", "name", "count", "why"][: len(rows[0])]
    print_table(headings, rows, empty="nothing", prose=prose)
    return capsys.readouterr().out.splitlines()


def test_columns_are_aligned_and_numbers_stand_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert table(capsys, ("a", "long name", 7), ("bb", "x", 1234)) == [
        "ID  NAME       COUNT",
        "a   long name      7",
        "bb  x           1234",
    ]


def test_an_empty_table_says_so_instead(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["id"], [], empty="The queue is empty.")
    assert capsys.readouterr().out == "The queue is empty.\n"


def test_a_table_fits_into_100_columns_and_never_cuts_what_names_the_row(capsys: pytest.CaptureFixture[str]) -> None:
    ident = "01M81GCFZ5F30000J93GJ9MS6R"
    lines = table(capsys, (ident, "n" * 80, 1, "w" * 300), (ident, "n", 2, "w"))
    assert max(len(line) for line in lines) <= 100
    assert all(line.startswith(ident) for line in lines[1:])
    assert "…" in lines[1]
    assert "…" not in lines[2]


def test_long_reasons_stand_whole_below_the_table_once_for_all_rows(capsys: pytest.CaptureFixture[str]) -> None:
    long = "no node may take it now: " + "a 3 of 3 recipients in 1m used; " * 5
    lines = table(capsys, ("1", "a", 1, long), ("2", "b", 1, long), ("3", "c", 1, "short"), prose=True)
    assert [line.count("[1]") for line in lines] == [0, 1, 1, 0, 0, 1, *[0] * (len(lines) - 6)]
    assert " ".join("".join(f" {line}" for line in lines[5:]).split()) == f"[1] {long.strip()}"
    assert max(len(line) for line in lines) <= 100


def test_many_different_long_reasons_are_only_shortened(capsys: pytest.CaptureFixture[str]) -> None:
    lines = table(capsys, *((str(n), "a", 1, f"{n} " + "x" * 200) for n in range(20)), prose=True)
    assert len(lines) == 21
    assert max(len(line) for line in lines) <= 100


def test_the_width_is_that_of_the_terminal_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert text.width() == 100
    monkeypatch.setenv("COLUMNS", "160")
    assert text.width() == 160
    monkeypatch.setenv("COLUMNS", "20")
    assert text.width() == 80


def test_nothing_from_outside_moves_the_cursor_or_colours_the_terminal() -> None:
    assert clean("subject\x1b[31m\r\x07 grüß dich 你好") == "subject�[31m�� grüß dich 你好"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "-"),
        (-5, "0s"),
        (0, "0s"),
        (59.4, "59s"),
        (59.6, "1m"),
        (61, "1m 1s"),
        (3600, "1h"),
        (3605, "1h"),
        (3700, "1h 1m"),
        (90061, "1d 1h"),
        (86400 * 400, "400d"),
    ],
)
def test_ages_are_told_in_their_two_largest_units(seconds: float | None, said: str) -> None:
    assert age(seconds) == said


def test_times_are_utc_with_their_distance() -> None:
    assert when(NOW) == "2027-01-15 08:00:00Z"
    assert moment(NOW + 250, NOW) == "2027-01-15 08:04:10Z (in 4m 10s)"
    assert moment(NOW - 250, NOW) == "2027-01-15 07:55:50Z (4m 10s ago)"
    assert (when(None), when(0), moment(None, NOW)) == ("-", "-", "-")
    assert when(1e20).startswith("@")


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (15_400, "15 kB"), (2.5e9, "2.5 GB")]
)
def test_sizes(count: int, said: str) -> None:
    assert octets(count) == said


def test_what_is_cut_is_marked() -> None:
    assert (shorten("abc", 3), shorten("abcd", 3), shorten("ab cd", 4)) == ("abc", "ab…", "ab…")
