"""FairQueue: shares by lane and bridge, order of age, gates."""

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
    out = []
    while len(out) < most and (hit := queue.pop(now)):
        out.append(hit.message)
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
    queue.open_gates(lambda gate: gate[0] == "other")
    assert drain(queue) == []
    queue.open_gates(lambda gate: gate[0] == "p")
    assert len(drain(queue)) == 1


def test_a_moved_opening_is_obeyed():
    queue = FairQueue(lambda _: 1)
    put(queue, lease("1"))
    queue.close_gate("g", until=10.0)
    queue.close_gate("g", until=20.0)
    assert drain(queue, now=15.0) == []
    assert len(drain(queue, now=20.0)) == 1


def test_what_could_not_go_returns_to_the_front():
    queue = FairQueue(lambda _: 1)
    first, second = lease("1"), lease("2")
    put(queue, first)
    put(queue, second)
    popped = queue.pop(0.0)
    queue.close_gate(popped.gate, until=5.0)
    queue.push(popped, front=True)
    assert drain(queue, now=5.0) == [first, second]


def test_trim_keeps_the_oldest():
    queue = FairQueue(lambda _: 1)
    items = [lease(str(n)) for n in range(10)]
    for item in items:
        put(queue, item)
    queue.close_gate("g", until=5.0)
    assert {item.message.id for item in queue.trim("g", 3)} == set("3456789")
    assert len(queue) == 3
    assert drain(queue, now=5.0) == items[:3]


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
        match data.draw(st.integers(0, 4)):
            case 0:
                queue.close_gate(gate, until=1e6)
            case 1:
                queue.open_gates()
            case 2 if hit := queue.pop(0.0):
                if data.draw(st.booleans()):
                    queue.push(hit, front=True)
                else:
                    got.append(hit.message)
            case _:
                pass
    got += drain(queue, now=1e6)
    assert sorted(map(id, got)) == sorted(map(id, sent))
    assert len(queue) == 0
    assert queue._flows == queue._behind == queue._counts == {}
