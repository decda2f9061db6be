"""Fleet: places of nodes and pools."""

from relay.delivery.fleet import Fleet
from tests.unit.delivery.rig import node, pool

POOLS = (pool(node("n1", connections=1), node("n2", connections=2)), pool(name="empty"))


def fleet(freed: list[str] | None = None) -> Fleet:
    return Fleet(POOLS, {"n1": None, "n2": None}, on_free=(freed if freed is not None else []).append)


def test_a_node_has_twice_as_many_places_as_connections():
    places = fleet()
    assert places.free("p") == 6
    places.enter("n1")
    assert places.full("p") == set()
    places.enter("n1")
    assert places.full("p") == {"n1"}
    assert not places.has_place("n1")
    assert places.free("p") == 4
    assert places.running("n1") == 2


def test_a_full_node_tells_when_it_has_a_place_again():
    told: list[str] = []
    places = fleet(told)
    places.enter("n1")
    places.leave("n1", None)
    assert told == []
    places.enter("n1")
    places.enter("n1")
    places.leave("n1", None)
    assert told == ["p"]
    assert places.freed("p") == 1
    assert places.full("p") == set()


def test_more_than_there_are_may_be_taken_and_are_not_given_back_twice():
    places = fleet()
    for _ in range(5):
        places.enter("n1")
    assert places.free("p") == 4
    for _ in range(5):
        places.leave("n1", None)
    assert places.free("p") == 6
    assert places.freed("p") == 1


def test_a_pool_without_nodes_lets_one_ask():
    assert fleet().free("empty") == fleet().free("unknown") == 1
    assert fleet().full("unknown") == set()
