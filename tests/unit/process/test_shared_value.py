"""One value for all workers: what a fork sees, and that nothing half-written is ever read."""

from __future__ import annotations

import os
import signal

import pytest

from relay.errors import ConfigError
from relay.process.shared_value import SharedValue


def test_a_value_counts_from_the_commit_on() -> None:
    shared = SharedValue(100)
    assert (shared.generation, shared.current()) == (0, (0, b""))
    shared.offer(b"one")
    assert (shared.generation, shared.candidate(), shared.current()) == (0, b"one", (0, b""))
    assert shared.commit() == 1
    shared.offer(b"two, never committed")
    assert shared.current() == (1, b"one")
    shared.offer(b"two")
    assert shared.commit() == 2
    assert shared.current() == (2, b"two")


def test_too_much_is_refused_and_changes_nothing() -> None:
    shared = SharedValue(3)
    shared.offer(b"one")
    shared.commit()
    with pytest.raises(ConfigError, match="4 octets are more than the 3"):
        shared.offer(b"four")
    assert shared.current() == (1, b"one")


def test_a_process_that_was_forked_before_sees_it_and_one_that_died_leaves_it() -> None:
    shared = SharedValue(100)
    pid = os.fork()
    if not pid:
        shared.offer(b"from the child")
        shared.commit()
        os._exit(0)
    os.waitpid(pid, 0)
    assert shared.current() == (1, b"from the child")


def test_readers_find_whole_values_while_others_are_written() -> None:
    shared = SharedValue(100_000)
    pid = os.fork()
    if not pid:
        number = 0
        while True:
            number += 1
            shared.offer(bytes([number % 256]) * (1 + number * 300 % 100_000))
            shared.commit()
    try:
        seen = set()
        while len(seen) < 50:
            generation, value = shared.current()
            assert value == bytes([generation % 256]) * (1 + generation * 300 % 100_000 if generation else 0)
            seen.add(generation)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
