"""FairQueue: shares by lane and bridge, order of age, gates."""

import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.delivery.fair import FairQueue
from relay.delivery.job import Job, queue_key
from relay.envelope import Lane, Message, Recipient
from relay.spool import Lease

T, B = Lane.TRANSACTIONAL, Lane.BULK


def lease(name: str, bridge: str = "a", lane: Lane = T, recipients: int = 1) -> Message:
    return Message(
        id=name,
        bridge=bridge,
        pool="p",
        lane=lane,
        sender="s@example.com",
        recipients=tuple(Recipient(address=f"r{n}@example.com") for n in range(recipients)),
        received_at=0.0,
        size=1,
    )


def put(queue: FairQueue, item: Message, gate: str = "g") -> None:
    queue.push(Job(queue_key(item), gate, Lease(item)))


def drain(queue: FairQueue, most: int = 10**9, now: float = 0.0) -> list[Message]:
    """What goes, if everything that goes passes."""
    out = []
    while len(out) < most and (hit := queue.pop(now)):
        out.append(hit.message)
        queue.admit(hit.gate)
    return out


def test_one_bridge_is_served_in_order_of_arrival():
    queue = FairQueue(lambda _: 1)
    items = [lease(str(n)) for n in range(5)]
    for item in items:
        put(queue, item)
    assert drain(queue) == items
    assert len(queue) == 0


def test_bridges_share_by_weight_while_both_have_work():
    queue = FairQueue({"big": 3, "small": 1}.__getitem__)
    for n in range(400):
        put(queue, lease(f"b{n}", "big"))
        put(queue, lease(f"s{n}", "small"))
    served = Counter(item.bridge for item in drain(queue, 200))
    assert served["big"] == pytest.approx(150, abs=2)


def test_a_message_behind_ten_thousand_of_another_bridge_goes_second_at_the_latest():
    queue = FairQueue(lambda _: 1)
    for n in range(10_000):
        put(queue, lease(f"x{n}", "flood"))
    drain(queue, 500)
    put(queue, lease("urgent", "quiet"))
    assert "urgent" in [item.id for item in drain(queue, 2)]


def test_transactional_goes_eight_to_one_and_bulk_is_not_starved():
    queue = FairQueue(lambda _: 1)
    for n in range(1000):
        put(queue, lease(f"t{n}", "a", T))
        put(queue, lease(f"b{n}", "b", B))
    served = Counter(item.lane for item in drain(queue, 90))
    assert served[T] == pytest.approx(80, abs=2)
    assert served[B] == pytest.approx(10, abs=2)


def test_an_idle_lane_earns_no_burst():
    queue = FairQueue(lambda _: 1)
    for n in range(500):
        put(queue, lease(f"t{n}", "a", T))
    drain(queue, 400)
    for n in range(500):
        put(queue, lease(f"b{n}", "b", B))
    served = Counter(item.lane for item in drain(queue, 45))
    assert served[T] >= 38


def test_cost_is_counted_in_recipients():
    queue = FairQueue(lambda _: 1)
    for n in range(100):
        put(queue, lease(f"m{n}", "many", recipients=10))
        put(queue, lease(f"o{n}", "one"))
    served = Counter(item.bridge for item in drain(queue, 55))
    assert served["one"] == pytest.approx(50, abs=2)


def test_a_closed_gate_parks_its_class_and_lets_others_pass():
    queue = FairQueue(lambda _: 1)
    put(queue, lease("1"), "shut")
    put(queue, lease("2"), "open")
    queue.close_gate("shut", until=100.0)
    put(queue, lease("3"), "shut")
    assert [item.id for item in drain(queue, now=99.9)] == ["2"]
    assert queue.next_opening() == 100.0
    assert [item.id for item in drain(queue, now=100.0)] == ["1", "3"]
    assert queue.next_opening() is None


def test_a_gate_without_a_time_opens_only_when_told():
    queue = FairQueue(lambda _: 1)
    put(queue, lease("1"), ("p", "x"))
    queue.close_gate(("p", "x"), until=float("inf"))
    assert drain(queue, now=1e12) == []
    queue.open_gate(("other", "x"))
    assert drain(queue) == []
    queue.open_gate(("p", "x"))
    assert len(drain(queue)) == 1


def test_a_moved_opening_is_obeyed():
    queue = FairQueue(lambda _: 1)
    put(queue, lease("1"))
    queue.close_gate("g", until=10.0)
    queue.close_gate("g", until=20.0)
    assert drain(queue, now=15.0) == []
    assert len(drain(queue, now=20.0)) == 1


def test_what_could_not_go_returns_to_its_place_by_age():
    queue = FairQueue(lambda _: 1)
    items = [lease(str(n)) for n in range(6)]
    for item in items:
        put(queue, item)
    popped = [queue.pop(0.0) for _ in range(4)]
    for job in (popped[1], popped[3], popped[0], popped[2]):
        queue.push(job)
    assert drain(queue) == items


def test_an_opened_gate_lets_one_through_and_two_more_for_each_that_passes():
    queue = FairQueue(lambda _: 1)
    for n in range(9):
        put(queue, lease(str(n)))
    queue.close_gate("g", until=5.0)
    assert queue.ready == 0
    assert [queue.pop(5.0) is not None, queue.pop(5.0)] == [True, None]
    assert queue.is_closed("g")
    queue.admit("g")
    assert [queue.pop(5.0) is not None for _ in range(3)] == [True, True, False]
    queue.admit("g")
    queue.admit("g")
    assert [queue.pop(5.0) is not None for _ in range(5)] == [True, True, True, True, False]


def test_a_gate_closed_by_a_decision_is_not_opened_by_an_earlier_one():
    queue = FairQueue(lambda _: 1)
    for n in range(3):
        put(queue, lease(str(n)))
    queue.close_gate("g", until=5.0)
    queue.pop(5.0)
    queue.close_gate("g", until=9.0)
    queue.admit("g")
    assert queue.pop(8.0) is None
    assert queue.closed_until("g") == 9.0


def test_a_gate_that_awaits_a_decision_opens_when_nothing_is_left_behind_it():
    queue = FairQueue(lambda _: 1)
    put(queue, lease("1"))
    put(queue, lease("2"))
    queue.close_gate("g", until=5.0)
    queue.pop(5.0)
    queue.take(lambda _: True)
    put(queue, lease("3"))
    assert len(drain(queue)) == 1


def test_gates_are_forgotten_when_they_keep_nothing_back():
    queue = FairQueue(lambda _: 1)
    for n in range(1000):
        put(queue, lease(f"{n:04}"), gate=f"g{n}")
        queue.close_gate(f"g{n}", until=float(n))
        queue.close_gate(f"g{n}", until=float(n) + 0.5)
    drain(queue, now=1e6)
    assert queue._gates == queue._queues == {}
    assert queue.closed_gates() == {}


def test_openings_do_not_pile_up_when_a_gate_is_closed_again_and_again():
    queue = FairQueue(lambda _: 1)
    put(queue, lease("1"))
    for n in range(10_000):
        queue.close_gate("g", until=1e6 + n)
    assert len(queue._openings) < 200


def test_a_lane_that_was_shut_keeps_its_share_when_gates_open_and_close_all_the_time():
    """As in a saturated pool, where each place that becomes free opens the gate for a moment."""
    queue = FairQueue(lambda _: 1)
    for n in range(400):
        put(queue, lease(f"t{n:03}", "a", T))
        put(queue, lease(f"b{n:03}", "b", B))
    served = Counter()
    for _ in range(180):
        queue.close_gate("g", until=float("inf"))
        queue.open_gate("g")
        served[queue.pop(0.0).message.lane] += 1
    assert served[B] == pytest.approx(20, abs=2)


def test_a_bridge_that_sends_one_large_message_after_the_other_gets_no_more_than_its_share():
    queue = FairQueue(lambda _: 1)
    for n in range(500):
        put(queue, lease(f"o{n:03}", "one"))
    recipients = Counter()
    for n in range(300):
        if not queue.waiting(queue_key(lease("x", "many"))):
            put(queue, lease(f"m{n:03}", "many", recipients=50))
        hit = queue.pop(0.0).message
        recipients[hit.bridge] += len(hit.recipients)
    assert recipients["many"] <= recipients["one"] + 100


def test_bridges_that_are_gone_are_forgotten():
    queue = FairQueue(lambda _: 1)
    for n in range(5000):
        put(queue, lease(f"{n:05}", f"bridge-{n}"))
        if n % 10 == 9:
            drain(queue)
        put(queue, lease(f"{n:05}s", "steady"))
    drain(queue)
    put(queue, lease("z", "another"))
    assert len(queue._lanes[T].bridges) < 2500


def test_closing_and_opening_costs_the_same_however_many_wait():
    def busy(bridges: int) -> float:
        queue = FairQueue(lambda _: 1)
        for n in range(bridges):
            put(queue, lease(f"{n:05}", f"b{n}"))
        began = time.thread_time()
        for _ in range(300):
            queue.close_gate("g", until=float("inf"))
            queue.pop(0.0)
            queue.open_gate("g")
            queue.push(queue.pop(0.0))
        return time.thread_time() - began

    assert busy(10_000) < 20 * busy(10) + 0.05


def test_take_removes_wherever_it_stands():
    queue = FairQueue(lambda _: 1)
    for n in range(6):
        put(queue, lease(str(n), bridge="ab"[n % 2]), gate="g" if n < 3 else "h")
    queue.close_gate("h", until=9.0)
    taken = queue.take(lambda item: int(item.message.id) % 3 == 0)
    assert {item.message.id for item in taken} == {"0", "3"}
    assert {item.id for item in drain(queue, now=9.0)} == {"1", "2", "4", "5"}
    assert len(queue) == 0


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([T, B]), st.sampled_from("gh")), max_size=40), st.data()
)
def test_nothing_is_lost_or_doubled_whatever_happens(arrivals, data):
    queue = FairQueue(lambda _: 1)
    sent, got = [], []
    for n, (bridge, lane, gate) in enumerate(arrivals):
        item = lease(str(n), bridge, lane)
        sent.append(item)
        put(queue, item, gate)
        match data.draw(st.integers(0, 5)):
            case 0:
                queue.close_gate(gate, until=1e6)
            case 1:
                queue.open_gate(gate)
            case 2 if hit := queue.pop(0.0):
                if data.draw(st.booleans()):
                    queue.push(hit)
                    queue.admit(hit.gate, 1)
                else:
                    got.append(hit.message)
                    queue.admit(hit.gate)
            case 3:
                for job in queue.take(lambda job: job.key.bridge == bridge):  # noqa: B023
                    queue.push(job)
            case _:
                pass
        open_jobs = sum(
            len(flow.jobs) for held in queue._queues.values() for flow in held.flows.values() if flow.gate.until is None
        )
        assert queue.ready == open_jobs
    for gate in "gh":
        queue.open_gate(gate)
    got += drain(queue, now=1e6)
    assert sorted(map(id, got)) == sorted(map(id, sent))
    assert len(queue) == 0
    assert queue._queues == queue._gates == {}
