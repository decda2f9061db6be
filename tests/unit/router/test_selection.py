from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.envelope import Facts, Message
from relay.pools.health import NodeHealth, NodeStatus
from relay.pools.pool import Pool, Rotation
from relay.router.selection import (
    LOOK_AGAIN_S,
    SOON_S,
    Busy,
    Decision,
    Full,
    Hold,
    Route,
    Unroutable,
    Verdict,
    chosen,
    dead_end,
    gate_key,
    keep_back,
    screen,
)
from tests.unit.router.values import NOW, message, node, nodes, pool

PAUSED = NodeHealth(status=NodeStatus.PAUSED, since=NOW - 5, paused_by="ops", pause_reason="warm-up")
INACTIVE = NodeHealth(
    status=NodeStatus.INACTIVE, since=NOW - 5, next_check=NOW + 900, give_up_at=NOW + 86400, test_status="535 no"
)
UNFIT = {Verdict.DRAINED, Verdict.SENDER, Verdict.SIZE, Verdict.SMTPUTF8, Verdict.NULL_SENDER}
COOLING = NodeHealth(cool_until=NOW + 40, cool_reason="421 slow down")


def decide(
    members: Pool,
    subject: Message,
    *,
    health: dict[str, NodeHealth] | None = None,
    tried: frozenset[str] = frozenset(),
    busy: frozenset[str] = frozenset(),
    now: float = NOW,
) -> Decision:
    """The decision without rotation and caps: the first eligible node, or the dead end."""
    screening = screen(members, subject, health=health or {}, tried=tried, busy=busy, now=now)
    if screening.eligible:
        first = screening.eligible[0]
        return Route(first, None, 1, chosen(screening, first, reason="first"))
    return dead_end(screening, subject, now=now)


@pytest.mark.parametrize(
    ("changes", "subject", "circumstances", "verdict", "words"),
    [
        pytest.param({"weight": 0}, message(), {}, Verdict.DRAINED, "weight 0", id="drained"),
        pytest.param(
            {"sender_domains": frozenset({"other.example"})},
            message(),
            {},
            Verdict.SENDER,
            "other.example, not for acme.example",
            id="From domain not allowed",
        ),
        pytest.param(
            {"sender_domains": frozenset({"acme.example"})},
            message(facts=Facts(from_domain="news.example")),
            {},
            Verdict.SENDER,
            "not for news.example",
            id="the From header decides, not the reverse-path",
        ),
        pytest.param(
            {"sender_domains": frozenset({"other.example"})},
            message(facts=Facts()),
            {},
            Verdict.SENDER,
            "not for acme.example",
            id="without From domain the reverse-path decides",
        ),
        pytest.param(
            {"sender_domains": frozenset({"other.example"})},
            message(facts=Facts(), sender=""),
            {},
            Verdict.SENDER,
            "without sender domain",
            id="no domain at all",
        ),
        pytest.param({"max_size": 1999}, message(), {}, Verdict.SIZE, "1999 octets", id="too large"),
        pytest.param(
            {"smtputf8": False}, message(facts=Facts(smtputf8=True)), {}, Verdict.SMTPUTF8, "SMTPUTF8", id="SMTPUTF8"
        ),
        pytest.param(
            {"null_sender": False}, message(sender=""), {}, Verdict.NULL_SENDER, "null reverse-path", id="null sender"
        ),
        pytest.param(
            {}, message(bound_node="n1", bound_until=NOW + 9), {}, Verdict.BOUND, "n1 may have delivered it", id="bound"
        ),
        pytest.param({}, message(), {"tried": frozenset({"n0"})}, Verdict.TRIED, "in this run", id="tried"),
        pytest.param({}, message(), {"health": {"n0": PAUSED}}, Verdict.PAUSED, "warm-up", id="paused"),
        pytest.param({}, message(), {"health": {"n0": INACTIVE}}, Verdict.INACTIVE, "535 no", id="inactive"),
        pytest.param({}, message(), {"health": {"n0": COOLING}}, Verdict.COOLING, "421 slow down", id="cooling"),
        pytest.param({}, message(), {"busy": frozenset({"n0"})}, Verdict.BUSY, "connection", id="busy"),
        pytest.param(
            {},
            message(),
            {"health": {"n0": replace(PAUSED, paused_until=NOW - 1, give_up_at=NOW + 5, next_check=NOW + 2)}},
            Verdict.INACTIVE,
            "inactive",
            id="inactive under a pause that is over",
        ),
    ],
)
def test_a_node_is_skipped_with_its_reason(
    changes: dict[str, Any], subject: Message, circumstances: dict[str, Any], verdict: Verdict, words: str
) -> None:
    decision = decide(pool(node("n0", **changes), node("n1")), subject, **circumstances)
    assert isinstance(decision, Route)
    assert decision.node.name == "n1"
    assert decision.trace[0].verdict is verdict
    assert words in decision.trace[0].reason
    assert decision.trace[1] == ("n1", Verdict.CHOSEN, "first")


@pytest.mark.parametrize(
    ("changes", "subject"),
    [
        pytest.param({"sender_domains": frozenset({"acme.example"})}, message(), id="From domain allowed"),
        pytest.param(
            {"sender_domains": frozenset({"acme.example"})}, message(sender=""), id="null reverse-path with From domain"
        ),
        pytest.param(
            {"sender_domains": frozenset({"acme.example"})},
            message(facts=Facts(), sender="x@ACME.example"),
            id="reverse-path domain in capitals",
        ),
        pytest.param({"max_size": 2000}, message(), id="exactly as large as allowed"),
        pytest.param({"max_size": 0}, message(size=10**9), id="unknown size limit"),
        pytest.param({}, message(bound_node="n0", bound_until=NOW + 9), id="bound to this node"),
        pytest.param({}, message(bound_node="n1", bound_until=NOW), id="binding is over"),
        pytest.param({}, message(facts=Facts(smtputf8=True)), id="SMTPUTF8 possible"),
        pytest.param({}, message(sender=""), id="null reverse-path possible"),
        pytest.param({"null_sender": False}, message(), id="null reverse-path not needed"),
    ],
)
def test_a_node_that_fits_is_taken(changes: dict[str, Any], subject: Message) -> None:
    decision = decide(pool(node("n0", **changes), node("n1", weight=0)), subject)
    assert isinstance(decision, Route)
    assert decision.node.name == "n0"


# Ends


@pytest.mark.parametrize(
    ("health", "changes", "until"),
    [
        pytest.param({"n0": COOLING, "n1": INACTIVE}, {}, NOW + 40, id="the cool-down ends first"),
        pytest.param({"n0": PAUSED, "n1": INACTIVE}, {}, NOW + 900, id="the next check comes first"),
        pytest.param(
            {"n0": replace(PAUSED, paused_until=NOW + 7), "n1": INACTIVE}, {}, NOW + 7, id="the pause ends first"
        ),
        pytest.param({"n0": PAUSED, "n1": PAUSED}, {}, NOW + LOOK_AGAIN_S, id="only an operator can help"),
        pytest.param(
            {"n0": INACTIVE}, {"bound_node": "n0", "bound_until": NOW + 30}, NOW + 30, id="the binding ends first"
        ),
        pytest.param({}, {"bound_node": "gone", "bound_until": NOW + 30}, NOW + 30, id="the bound node is gone"),
        pytest.param(
            {"n0": replace(INACTIVE, next_check=NOW - 50), "n1": PAUSED}, {}, NOW + 1, id="an overdue check is soon"
        ),
    ],
)
def test_hold_until_the_first_thing_that_could_change(
    health: dict[str, NodeHealth], changes: dict[str, Any], until: float
) -> None:
    decision = decide(pool(*nodes(2)), message(**changes), health=health)
    assert isinstance(decision, Hold)
    assert decision.until == until
    assert "pool p" in decision.reason


def test_a_hold_names_the_gate_of_its_class() -> None:
    members = pool(*nodes(2))
    decision = decide(members, message(), health={"n0": COOLING, "n1": COOLING})
    assert isinstance(decision, Hold)
    assert decision.gate == gate_key(message("other@dest.example", id="other"), members)


def test_a_hold_about_tried_nodes_is_nobody_elses() -> None:
    decision = decide(pool(*nodes(2)), message(), tried=frozenset({"n0"}), health={"n1": COOLING})
    assert isinstance(decision, Hold)
    assert decision.gate is None


def test_busy_nodes_are_waited_for_even_when_others_are_away() -> None:
    decision = decide(pool(*nodes(2)), message(), health={"n0": COOLING}, busy=frozenset({"n1"}))
    assert isinstance(decision, Busy)
    assert decision.until == NOW + 40


@pytest.mark.parametrize(
    ("members", "subject", "words"),
    [
        pytest.param(pool(), message(), "no nodes", id="empty pool"),
        pytest.param(pool(*nodes(3, max_size=10)), message(), "10 octets", id="too large for all"),
        pytest.param(pool(*nodes(2, weight=0)), message(), "weight 0", id="all drained"),
        pytest.param(
            pool(*nodes(9, sender_domains=frozenset({"x.example"}))), message(), "and 4 more", id="sender not allowed"
        ),
        pytest.param(
            pool(node("n0", max_size=1), node("n1", smtputf8=False)),
            message(facts=Facts(smtputf8=True)),
            "SMTPUTF8",
            id="each for its own reason",
        ),
    ],
)
def test_unroutable_when_no_node_could_ever_take_it(members: Pool, subject: Message, words: str) -> None:
    decision = decide(
        members,
        subject,
        health={"n0": INACTIVE},
        busy=frozenset({"n1"}),
    )
    assert isinstance(decision, Unroutable)
    assert words in decision.reason


def test_a_node_that_is_away_keeps_the_message_routable() -> None:
    decision = decide(pool(node("n0", max_size=1), node("n1")), message(), health={"n1": PAUSED})
    assert isinstance(decision, Hold)


def test_capped_nodes_are_named_with_their_cap() -> None:
    screening = screen(pool(*nodes(2)), message(), health={}, tried=set(), busy=set(), now=NOW)
    full = Full({"n0": "14 of 14", "n1": "9 of 9"}, NOW + 0.05)
    decision = dead_end(screening, message(), now=NOW, full=full)
    assert isinstance(decision, Hold)
    assert decision.until == NOW + 0.05
    assert decision.trace == (("n0", Verdict.CAPPED, "14 of 14"), ("n1", Verdict.CAPPED, "9 of 9"))


def test_room_that_was_promised_for_the_past_is_looked_for_soon() -> None:
    screening = screen(pool(*nodes(1)), message(), health={}, tried=set(), busy=set(), now=NOW)
    decision = dead_end(screening, message(), now=NOW, full=Full({"n0": "full"}, NOW - 5))
    assert isinstance(decision, Hold)
    assert decision.until == NOW + SOON_S


def test_standbys_are_named_as_kept_back() -> None:
    screening = screen(pool(*nodes(2)), message(), health={}, tried=set(), busy={"n0"}, now=NOW)
    decision = dead_end(screening, message(), now=NOW)
    assert isinstance(decision, Busy)
    assert [line.verdict for line in decision.trace] == [Verdict.BUSY, Verdict.STANDBY]


def test_a_trace_is_plain_json() -> None:
    decision = decide(pool(*nodes(2)), message(), health={"n0": PAUSED})
    assert json.loads(json.dumps(decision.trace)) == [
        ["n0", "paused", "paused by ops: warm-up"],
        ["n1", "chosen", "first"],
    ]


# Standing by


@pytest.mark.parametrize(
    ("mode", "busy", "expected"),
    [
        pytest.param(Rotation.PRIORITY, set(), ["a", "b", "c", "d"], id="nobody busy"),
        pytest.param(Rotation.PRIORITY, {"a"}, ["b"], id="an equal takes over, the standby does not"),
        pytest.param(Rotation.PRIORITY, {"a", "b"}, [], id="the standby is not for busy primaries"),
        pytest.param(Rotation.PRIORITY, {"c"}, ["a", "b"], id="a busy standby keeps the next one back"),
        pytest.param(Rotation.INTERVAL, {"a"}, [], id="the slice waits for its node"),
        pytest.param(Rotation.INTERVAL, {"b"}, ["a"], id="the next slices do not matter"),
        pytest.param(Rotation.ROUND_ROBIN, {"a"}, ["b", "c", "d"], id="elsewhere the turn goes on"),
    ],
)
def test_who_may_be_used_while_some_are_busy(mode: Rotation, busy: set[str], expected: list[str]) -> None:
    ordered = [node("a"), node("b"), node("c", priority=2), node("d", priority=3)]
    assert [n.name for n in keep_back(ordered, busy, mode)] == expected


# Gates

_MEMBERS = pool(
    node("any"),
    node("small", max_size=1000),
    node("acme", sender_domains=frozenset({"acme.example"})),
    node("ascii", smtputf8=False),
)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        pytest.param({"id": "b", "campaign": "c", "sender": "z@acme.example"}, True, id="what does not matter"),
        pytest.param({"size": 1999}, True, id="a size that no limit tells apart"),
        pytest.param({"size": 999}, False, id="a size that one limit tells apart"),
        pytest.param({"facts": Facts(from_domain="other.example")}, False, id="another domain"),
        pytest.param({"facts": Facts(from_domain="acme.example", smtputf8=True)}, False, id="SMTPUTF8"),
        pytest.param({"bound_node": "any", "bound_until": NOW + 5}, False, id="bound"),
    ],
)
def test_gate_keys_tell_apart_what_matters(other: dict[str, Any], same: bool) -> None:
    assert (gate_key(message(), _MEMBERS) == gate_key(message(**other), _MEMBERS)) is same


# Properties

_NODE = st.builds(
    node,
    st.just(""),
    weight=st.integers(0, 2),
    sender_domains=st.sampled_from([frozenset(), frozenset({"acme.example"}), frozenset({"x.example"})]),
    max_size=st.sampled_from([0, 100, 5000]),
    smtputf8=st.booleans(),
    null_sender=st.booleans(),
)
_TIME = st.sampled_from([0.0, NOW - 10, NOW, NOW + 0.5, NOW + 1000])
_HEALTH = st.builds(
    NodeHealth,
    status=st.sampled_from(NodeStatus),
    cool_until=_TIME,
    paused_until=_TIME,
    next_check=_TIME,
    give_up_at=_TIME,
)
_MESSAGE = st.builds(
    message,
    facts=st.builds(Facts, from_domain=st.sampled_from(["", "acme.example"]), smtputf8=st.booleans()),
    size=st.sampled_from([50, 500, 50_000]),
    sender=st.sampled_from(["", "a@x.example"]),
    bound_node=st.sampled_from(["", "n0", "gone"]),
    bound_until=_TIME,
)


@st.composite
def _situations(draw: st.DrawFn) -> tuple[Pool, Message, dict[str, Any]]:
    members = tuple(replace(n, name=f"n{i}") for i, n in enumerate(draw(st.lists(_NODE, max_size=5))))
    some = st.frozensets(st.sampled_from(["n0", "n1", "n2", "n3", "n4"]))
    circumstances = {
        "health": draw(st.dictionaries(st.sampled_from(["n0", "n1", "n2", "n3"]), _HEALTH)),
        "tried": draw(some),
        "busy": draw(some),
    }
    return pool(*members), draw(_MESSAGE), circumstances


@given(_situations())
@settings(deadline=None, max_examples=200)
def test_every_decision_accounts_for_every_node_and_never_waits_for_the_past(
    situation: tuple[Pool, Message, dict[str, Any]],
) -> None:
    members, subject, circumstances = situation
    decision = decide(members, subject, **circumstances)
    assert [line.node for line in decision.trace] == [n.name for n in members.nodes]
    verdicts = [line.verdict for line in decision.trace]
    match decision:
        case Route():
            assert verdicts.count(Verdict.CHOSEN) == 1
            assert decision.node.name not in circumstances["tried"] | circumstances["busy"]
        case Hold() | Busy():
            assert Verdict.CHOSEN not in verdicts
            assert decision.until > NOW
            assert isinstance(decision, Busy) == (Verdict.BUSY in verdicts)
        case Unroutable():
            assert set(verdicts) <= UNFIT


@given(_situations(), _MESSAGE)
@settings(deadline=None, max_examples=200)
def test_messages_behind_one_gate_get_one_answer(
    situation: tuple[Pool, Message, dict[str, Any]], other: Message
) -> None:
    members, subject, circumstances = situation
    other = replace(other, bound_node=subject.bound_node, bound_until=subject.bound_until)
    if gate_key(subject, members) != gate_key(other, members):
        return
    mine, theirs = decide(members, subject, **circumstances), decide(members, other, **circumstances)
    assert type(mine) is type(theirs)
    unfit = UNFIT
    assert [line.verdict in unfit or line.verdict for line in mine.trace] == [
        line.verdict in unfit or line.verdict for line in theirs.trace
    ]
