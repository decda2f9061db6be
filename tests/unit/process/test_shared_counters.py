"""Connection counts over forked processes."""

from __future__ import annotations

import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.listener.counters import ConnectionCounter
from relay.process.shared_counters import SharedCounters


def in_child(work) -> None:
    """Run `work` in a forked process and wait for it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_counts_are_summed_over_processes():
    shared = SharedCounters(3)
    for index, times in [(1, 4), (2, 5)]:
        in_child(lambda index=index, times=times: [shared.worker(index).enter("peer 192.0.2.1") for _ in range(times)])
    assert shared.worker(0).enter("peer 192.0.2.1") == 10
    assert shared.worker(0).enter("peer 192.0.2.2") == 1
    assert shared.total() == 11


def test_leaving_gives_the_place_back():
    worker = SharedCounters(2).worker(1)
    assert [worker.enter("a") for _ in range(3)] == [1, 2, 3]
    worker.leave("a")
    assert worker.count("a") == 2
    assert worker.total() == 2


def test_a_worker_cannot_leave_what_it_did_not_enter():
    shared = SharedCounters(2)
    shared.worker(0).enter("a")
    with pytest.raises(ValueError, match="leave without enter"):
        shared.worker(1).leave("a")
    assert shared.count("a") == 1


def test_clearing_a_dead_worker_forgets_what_it_held_and_nothing_else():
    shared = SharedCounters(2)
    shared.worker(0).enter("a")
    in_child(lambda: [shared.worker(1).enter("a") for _ in range(7)])
    assert shared.count("a") == 8
    shared.clear(1)
    assert shared.count("a") == 1
    assert shared.total() == 1


def test_taking_holds_the_limit_over_all_workers():
    shared = SharedCounters(2)
    one: ConnectionCounter = shared.worker(0)
    two: ConnectionCounter = shared.worker(1)
    assert [worker.take("bridge shop", 3) for worker in (one, two, one, two, one)] == [True, True, True, False, False]
    one.give_back("bridge shop")
    assert two.take("bridge shop", 3)
    assert all(one.take("total", 0) for _ in range(100))


def test_a_thousand_peers_hardly_ever_share_a_count():
    worker = SharedCounters(1).worker(0)
    counts = [worker.enter(f"peer 10.0.{n >> 8}.{n & 255}") for n in range(1000)]
    assert min(counts) == 1
    assert sum(count > 1 for count in counts) <= 3  # expected 0.1
    assert worker.total() == 1000


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.text(max_size=3)), max_size=80))
def test_counts_are_never_too_low_even_in_a_tiny_sketch(steps):
    shared = SharedCounters(3, width=4)
    held: dict[tuple[int, str], int] = {}
    for index, entering, key in steps:
        if entering:
            held[index, key] = held.get((index, key), 0) + 1
            shared.worker(index).enter(key)
        elif held.get((index, key)):
            held[index, key] -= 1
            shared.worker(index).leave(key)
    for _, key in held:
        assert shared.count(key) >= sum(held.get((index, key), 0) for index in range(3))
    assert shared.total() == sum(held.values())
    for index in range(3):
        shared.clear(index)
    assert shared.total() == 0


def test_entering_is_cheap():
    worker = SharedCounters(8).worker(0)
    best = 1.0
    for _ in range(20):
        start = time.thread_time()
        for _ in range(100):
            worker.enter("peer 192.0.2.1")
        best = min(best, (time.thread_time() - start) / 100)
    assert best < 30e-6


@pytest.mark.parametrize(("workers", "width"), [(0, 10), (1, 0)])
def test_impossible_sizes_are_refused(workers, width):
    with pytest.raises(ValueError, match="positive"):
        SharedCounters(workers, width=width)


def test_there_is_no_column_beyond_the_last_worker():
    with pytest.raises(IndexError):
        SharedCounters(2).worker(2)
