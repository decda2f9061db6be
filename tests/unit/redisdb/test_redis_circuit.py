"""When a server that does not answer is left alone, and when it is looked at again."""

from __future__ import annotations

from relay.redisdb.circuit import FAILURES, LONGEST_S, Circuit


def test_a_refused_connection_opens_it_at_once() -> None:
    circuit = Circuit()
    assert circuit.failed(5.0, refused=True)
    assert (circuit.is_open, circuit.opened_at) == (True, 5.0)
    assert not circuit.failed(6.0, refused=True)
    assert circuit.opened_at == 5.0


def test_late_answers_open_it_after_some_in_a_row() -> None:
    circuit = Circuit()
    for _ in range(FAILURES - 1):
        assert not circuit.failed(0.0, refused=False)
    assert not circuit.worked()
    for _ in range(FAILURES - 1):
        assert not circuit.failed(0.0, refused=False)
    assert circuit.failed(0.0, refused=False)
    assert circuit.worked()
    assert not circuit.is_open


def test_probes_come_in_growing_steps_up_to_a_second_and_begin_anew() -> None:
    circuit = Circuit()
    waits = [circuit.next_probe_s(0.0) for _ in range(8)]
    assert waits == sorted(waits)
    assert waits[0] == 0.05
    assert waits[-1] == LONGEST_S
    assert circuit.next_probe_s(0.999) < 0.51 * LONGEST_S
    circuit.failed(0.0, refused=True)
    circuit.worked()
    assert circuit.next_probe_s(0.0) == 0.05
