"""The arithmetic under the benchmark's figures."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest

from bench.measure import (
    Process,
    Spread,
    cpu_seconds,
    family,
    last_count,
    memory,
    parse_pss,
    parse_stat,
    percentile,
    processes,
    spread,
)


def test_stat_is_read_past_a_name_with_brackets_and_blanks():
    line = "42 (a) b (c) S 7 42 42 0 -1 4194560 1 2 3 4 10 20 300 4000 20 0 1 0 99 1 1"
    assert parse_stat(line) == Process(pid=42, parent=7, ticks=4330)


def test_a_family_is_its_roots_and_all_below_them_once():
    tree = [Process(1, 0, 5), Process(2, 1, 5), Process(3, 2, 5), Process(4, 1, 5), Process(9, 8, 5)]
    assert {process.pid for process in family(tree, [2])} == {2, 3}
    assert sorted(process.pid for process in family(tree, [1, 3])) == [1, 2, 3, 4]
    assert family(tree, [77]) == []


def test_time_of_a_child_that_ended_counts_for_its_family():
    before = cpu_seconds([os.getpid()])
    spin = "import time\nwhile time.process_time() < 0.2: pass"
    subprocess.run([sys.executable, "-S", "-c", spin], check=True)
    assert cpu_seconds([os.getpid()]) - before >= 0.18


def test_a_living_child_is_in_the_family_and_its_memory_counts():
    alone = memory([os.getpid()])
    code = "x = bytearray(b'1') * 50_000_000; print('here', flush=True); input()"
    child = subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child:
        child.stdout.readline()
        assert child.pid in {process.pid for process in family(processes(), [os.getpid()])}
        assert memory([os.getpid()]) - alone > 45_000_000
        child.communicate(b"\n")


def test_pss_is_in_octets_and_zero_where_there_is_none():
    assert (
        parse_pss("00400000-7ffe ---p 00000000 00:00 0 [rollup]\nRss:  100 kB\nPss:   12 kB\nPss_Dirty: 3 kB\n")
        == 12288
    )
    assert parse_pss("") == 0


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (b"", None),
        (b"sess=0 quit=0 mesg=1", None),
        (b"sess=0 quit=0 mesg=12\r", 12),
        (b"sess=0 quit=0 mesg=12\rsess=1 quit=0 mesg=130\rsess=1 qu", 130),
        (b"sess=0 quit=0 mesg=12\rsess=1 quit=0 mesg=13", 12),
    ],
)
def test_the_sinks_counter_is_read_from_whole_lines_only(text, count):
    assert last_count(text) == count


def test_percentiles_are_values_that_occurred():
    values = [float(n) for n in range(100, 0, -1)]
    assert [percentile(values, part) for part in (0.01, 0.5, 0.99, 1)] == [1, 50, 99, 100]
    assert percentile([3.0], 0.99) == 3.0
    assert math.isnan(percentile([], 0.5))


def test_spread_is_the_median_between_the_ends():
    assert spread([5, 1, 9]) == Spread(5, 1, 9)
    assert spread([1, 3]) == Spread(2, 1, 3)
