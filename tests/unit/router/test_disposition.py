from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.envelope import Message, Recipient, RecipientStatus
from relay.outcome import Outcome, RecipientOutcome, Scope, Status
from relay.pools.pool import Node, Pool
from relay.router import disposition
from relay.router.disposition import (
    CoolDown,
    Delivered,
    Disposition,
    Fault,
    Next,
    NoEffect,
    Run,
    describe,
    dispose,
    expire,
)
from relay.schedule import RetryPolicy
from tests.unit.router.values import NOW, message, node, nodes, pool

POLICY = RetryPolicy(intervals_s=(60.0, 300.0), max_age_s=86400.0, uncertain_wait_s=1800.0)

OK = Outcome(status=Status.DELIVERED, scope=Scope.RECIPIENT, code=250, enhanced="2.0.0", text="queued", phase="dot")
GREYLISTED = Outcome(status=Status.DEFERRED, scope=Scope.RECIPIENT, code=450, enhanced="4.7.1", text="later")
NO_USER = Outcome(
    status=Status.REFUSED, scope=Scope.RECIPIENT, code=550, enhanced="5.1.1", text="no such user", phase="rcpt"
)
SPAM = Outcome(status=Status.REFUSED, scope=Scope.MESSAGE, code=554, enhanced="5.7.1", text="spam", phase="dot")
LATER = Outcome(status=Status.DEFERRED, scope=Scope.MESSAGE, code=451, enhanced="4.3.0", text="busy", phase="dot")
NO_CONNECTION = Outcome(
    status=Status.DEFERRED, scope=Scope.NODE, text="connection refused", phase="connect", attempted=False
)
BAD_LOGIN = Outcome(
    status=Status.REFUSED,
    scope=Scope.ACCOUNT,
    code=535,
    enhanced="5.7.8",
    text="bad login",
    phase="auth",
    attempted=False,
)
SLOWER = Outcome(status=Status.DEFERRED, scope=Scope.QUOTA, code=421, enhanced="4.7.0", text="slow down", phase="mail")
LOST = Outcome(status=Status.UNCERTAIN, scope=Scope.MESSAGE, text="no answer", phase="dot")
TOO_LARGE = Outcome(
    status=Status.REFUSED, scope=Scope.MESSAGE, code=552, enhanced="5.3.4", text="too big", phase="mail"
)
TOO_MANY = Outcome(
    status=Status.DEFERRED, scope=Scope.RECIPIENT, code=452, enhanced="4.5.3", text="too many", phase="rcpt"
)

A, B, C = "a@dest.example", "b@dest.example", "c@dest.example"
TWO = pool(*nodes(2))


def settle(
    outcomes: dict[str, Outcome] | Outcome,
    *,
    subject: Message | None = None,
    run: Run | None = None,
    members: Pool = TWO,
    by: Node | None = None,
    now: float = NOW,
    jitter: float = 0.5,
) -> Disposition:
    """Dispose of an attempt by the first node; one outcome alone is that of every open recipient."""
    subject = subject or message(A)
    run = run or Run()
    if isinstance(outcomes, Outcome):
        outcomes = {recipient.address: outcomes for recipient in run.open(subject)}
    return dispose(
        subject,
        by or members.nodes[0],
        [RecipientOutcome(address, outcome) for address, outcome in outcomes.items()],
        run=run,
        pool=members,
        policy=POLICY,
        now=now,
        jitter=jitter,
    )


def statuses(result: Disposition) -> list[str]:
    return [recipient.status.value for recipient in result.message.recipients]


# The table


@pytest.mark.parametrize(
    ("outcome", "status", "step", "effect"),
    [
        pytest.param(OK, "delivered", Next.DONE, Delivered(), id="delivered"),
        pytest.param(NO_USER, "failed", Next.DONE, NoEffect(), id="recipient refused"),
        pytest.param(SPAM, "failed", Next.DONE, NoEffect(), id="message refused"),
        pytest.param(GREYLISTED, "pending", Next.LATER, NoEffect(), id="recipient deferred"),
        pytest.param(LATER, "pending", Next.LATER, NoEffect(), id="message deferred"),
        pytest.param(
            NO_CONNECTION,
            "pending",
            Next.ANOTHER_NODE,
            Fault("connect: connection refused", account=False),
            id="node fault",
        ),
        pytest.param(
            BAD_LOGIN,
            "pending",
            Next.ANOTHER_NODE,
            Fault("auth: 535 5.7.8 bad login", account=True),
            id="account fault",
        ),
        pytest.param(SLOWER, "pending", Next.ANOTHER_NODE, CoolDown(NOW + 60, "mail: 421 4.7.0 slow down"), id="quota"),
        pytest.param(LOST, "pending", Next.LATER, NoEffect(), id="uncertain"),
    ],
)
def test_what_follows_from_one_outcome(outcome: Outcome, status: str, step: Next, effect: object) -> None:
    result = settle(outcome)
    assert statuses(result) == [status]
    assert result.next is step
    assert result.effect == effect


@pytest.mark.parametrize(("status", "scope"), list(product(Status, Scope)))
@pytest.mark.parametrize("attempted", [True, False])
def test_refusals_and_deferrals_of_mail_never_touch_health(status: Status, scope: Scope, attempted: bool) -> None:
    result = settle(Outcome(status=status, scope=scope, attempted=attempted))
    if status is Status.DELIVERED:
        assert result.effect == Delivered()
    elif scope in (Scope.RECIPIENT, Scope.MESSAGE):
        assert result.effect == NoEffect()
        assert result.run.tried == frozenset()
    else:
        assert isinstance(result.effect, CoolDown if scope is Scope.QUOTA else Fault)


def test_the_answer_is_recorded_with_the_recipient() -> None:
    result = settle(replace(NO_USER, text="x" * 900))
    (failed,) = result.failed
    assert (failed.code, failed.enhanced, failed.node, len(failed.text)) == (550, "5.1.1", "n0", 500)
    assert result.message.recipients == (failed,)


@pytest.mark.parametrize(
    "run", [Run(), Run(tried=frozenset({"z"}), waiting=frozenset({B}), wait_s=5.0, reason="z: no")]
)
@pytest.mark.parametrize("recipients", [(A,), (A, B, C)], ids=["one", "three"])
@pytest.mark.parametrize("age_s", [1.0, 2 * 86400.0], ids=["young", "past its age"])
def test_the_short_way_of_what_is_delivered_whole_says_what_the_rules_say(
    monkeypatch: pytest.MonkeyPatch, run: Run, recipients: tuple[str, ...], age_s: float
) -> None:
    subject = replace(message(*recipients), received_at=NOW - age_s)
    answers = {address: replace(OK, text=f"queued as {address}") for address in recipients}
    short = settle(answers, subject=subject, run=run)
    monkeypatch.setattr(disposition, "_all_taken", lambda *_: None)
    assert short == settle(answers, subject=subject, run=run)
    assert short.next is Next.DONE


def test_final_recipients_are_left_alone() -> None:
    done = Recipient(address=B, status=RecipientStatus.DELIVERED, code=250, node="n9")
    subject = replace(message(A), recipients=(Recipient(address=A), done))
    result = settle({A: OK, B: NO_USER}, subject=subject)
    assert result.message.recipients[1] is done
    assert result.failed == ()


# Failover


def test_a_fault_leaves_the_node_out_of_the_run() -> None:
    result = settle(NO_CONNECTION)
    assert result.run.tried == {"n0"}
    assert result.reason == "n0: connect: connection refused"


def test_when_every_node_failed_it_goes_later_with_the_last_error() -> None:
    first = settle(replace(NO_CONNECTION, attempted=True))
    second = settle(SLOWER, subject=first.message, run=first.run, by=TWO.nodes[1])
    assert second.next is Next.LATER
    assert second.due == NOW + 60
    assert second.reason == "n1: mail: 421 4.7.0 slow down"


def test_when_nothing_was_offered_to_any_node_it_was_no_attempt() -> None:
    first = settle(NO_CONNECTION)
    second = settle(BAD_LOGIN, subject=first.message, run=first.run, by=TWO.nodes[1])
    assert second.next is Next.HOLD
    assert second.due > NOW
    assert second.refund == 1


def test_a_hold_never_drops_results() -> None:
    """One recipient failed without contact to the upstream: that must be kept, so the run ends in a settlement."""
    refused = replace(NO_USER, attempted=False)
    result = settle({A: refused, B: NO_CONNECTION}, subject=message(A, B), members=pool(node("n0")))
    assert result.next is Next.LATER


def test_a_node_that_can_never_take_the_message_is_no_hope() -> None:
    result = settle(
        replace(NO_CONNECTION, attempted=True),
        members=pool(node("n0"), node("n1", weight=0), node("n2", max_size=1)),
    )
    assert result.next is Next.LATER


def test_another_node_gets_only_the_recipients_concerned() -> None:
    result = settle({A: OK, B: GREYLISTED, C: SLOWER}, subject=message(A, B, C))
    assert result.next is Next.ANOTHER_NODE
    assert [recipient.address for recipient in result.run.open(result.message)] == [C]
    after = settle(OK, subject=result.message, run=result.run, by=TWO.nodes[1])
    assert after.next is Next.LATER
    assert statuses(after) == ["delivered", "pending", "delivered"]
    assert after.reason == "n0: mail: 421 4.7.0 slow down"


def test_the_rest_of_a_partial_grant_goes_on_at_once() -> None:
    result = settle({A: OK}, subject=message(A, B))
    assert result.next is Next.CONTINUE
    assert result.run.tried == frozenset()
    assert [recipient.address for recipient in result.run.open(result.message)] == [B]


def test_the_rest_of_a_partial_grant_follows_the_fault_to_another_node() -> None:
    result = settle({A: NO_CONNECTION}, subject=message(A, B))
    assert result.next is Next.ANOTHER_NODE
    assert [recipient.address for recipient in result.run.open(result.message)] == [A, B]


def test_recipients_that_wait_are_not_asked_again_in_the_same_run() -> None:
    result = settle({A: GREYLISTED}, subject=message(A, B))
    assert result.next is Next.CONTINUE
    after = settle({B: GREYLISTED}, subject=result.message, run=result.run)
    assert after.next is Next.LATER


def test_no_answer_at_all_ends_the_run() -> None:
    result = settle({}, subject=message(A, B))
    assert result.next is Next.LATER
    assert result.reason == "n0: no answer"


def test_the_same_address_twice_has_one_fate() -> None:
    result = settle({A: OK}, subject=message(A, A))
    assert statuses(result) == ["delivered", "delivered"]
    assert result.next is Next.DONE


# Size and capability


@pytest.mark.parametrize(
    ("outcome", "elsewhere"),
    [
        pytest.param(TOO_LARGE, True, id="552 5.3.4"),
        pytest.param(replace(TOO_LARGE, enhanced=""), True, id="552"),
        pytest.param(replace(TOO_LARGE, code=413, enhanced="", phase="http"), True, id="HTTP 413"),
        pytest.param(replace(TOO_LARGE, code=553, enhanced="5.6.7"), True, id="SMTPUTF8 needed"),
        pytest.param(replace(TOO_LARGE, code=554, enhanced="5.6.3"), True, id="conversion needed"),
        pytest.param(
            replace(TOO_LARGE, code=422, enhanced="5.7.1", phase="http"), True, id="sender not verified at a vendor"
        ),
        pytest.param(
            replace(TOO_LARGE, code=550, enhanced="5.7.1", phase="dot"), False, id="550 5.7.1 says many things"
        ),
        pytest.param(replace(TOO_LARGE, enhanced="5.2.2"), False, id="552 5.2.2 is a full mailbox"),
        pytest.param(replace(TOO_LARGE, scope=Scope.RECIPIENT), False, id="552 for one recipient"),
        pytest.param(SPAM, False, id="554 is about the message"),
    ],
)
def test_what_one_node_cannot_carry_another_may(outcome: Outcome, elsewhere: bool) -> None:
    result = settle(outcome)
    assert result.effect == NoEffect()
    assert result.next is (Next.ANOTHER_NODE if elsewhere else Next.DONE)
    assert statuses(result) == ["pending" if elsewhere else "failed"]


@pytest.mark.parametrize(
    "members",
    [
        pytest.param(pool(node("n0")), id="there is no other"),
        pytest.param(pool(node("n0"), node("n1", max_size=1000)), id="the other takes even less"),
    ],
)
def test_too_large_for_the_last_node_is_final(members: Pool) -> None:
    result = settle(TOO_LARGE, members=members)
    assert statuses(result) == ["failed"]
    assert result.next is Next.DONE


def test_too_large_for_every_node_is_final_after_the_last() -> None:
    first = settle(TOO_LARGE)
    second = settle(TOO_LARGE, subject=first.message, run=first.run, by=TWO.nodes[1])
    assert statuses(second) == ["failed"]


def test_too_many_recipients_are_the_next_batch() -> None:
    result = settle({A: OK, B: TOO_MANY, C: TOO_MANY}, subject=message(A, B, C))
    assert result.next is Next.CONTINUE
    assert [recipient.address for recipient in result.run.open(result.message)] == [B, C]


def test_too_many_recipients_without_any_taken_is_a_deferral() -> None:
    result = settle({A: TOO_MANY, B: TOO_MANY}, subject=message(A, B))
    assert result.next is Next.LATER


# Uncertainty


def test_after_an_uncertain_end_only_the_same_node_may_try() -> None:
    result = settle(LOST)
    assert (result.message.bound_node, result.message.bound_until) == ("n0", NOW + 1800)
    assert result.reason == "n0 may have delivered it (dot: no answer)"
    assert result.due == NOW + 60


def test_nothing_goes_elsewhere_at_once_with_an_uncertain_recipient() -> None:
    result = settle({A: LOST, B: NO_CONNECTION, C: OK}, subject=message(A, B, C))
    assert result.next is Next.LATER
    assert result.message.bound_node == "n0"


def test_without_a_waiting_time_an_uncertain_recipient_still_waits_for_the_schedule() -> None:
    result = dispose(
        message(A),
        TWO.nodes[0],
        [RecipientOutcome(A, LOST)],
        run=Run(),
        pool=TWO,
        policy=replace(POLICY, uncertain_wait_s=0.0),
        now=NOW,
        jitter=0.5,
    )
    assert result.next is Next.LATER


@pytest.mark.parametrize("outcome", [NO_CONNECTION, SLOWER, TOO_LARGE])
def test_a_bound_message_waits_where_another_would_go_elsewhere(outcome: Outcome) -> None:
    bound = message(A, bound_node="n0", bound_until=NOW + 100)
    result = settle(outcome, subject=bound)
    assert result.next in (Next.LATER, Next.HOLD)
    assert (result.message.bound_node, result.message.bound_until) == ("n0", NOW + 100)


def test_uncertain_again_does_not_prolong_the_binding() -> None:
    result = settle(LOST, subject=message(A, bound_node="n0", bound_until=NOW + 100))
    assert result.message.bound_until == NOW + 100


def test_uncertain_after_the_binding_binds_to_the_new_node() -> None:
    result = settle(LOST, subject=message(A, bound_node="n0", bound_until=NOW - 1), by=TWO.nodes[1])
    assert (result.message.bound_node, result.message.bound_until) == ("n1", NOW + 1800)


# When


@pytest.mark.parametrize(
    ("retry_after_s", "wait_s"),
    [
        pytest.param(None, 60.0, id="no wish"),
        pytest.param(10.0, 60.0, id="shorter than the schedule"),
        pytest.param(600.0, 600.0, id="longer than the schedule"),
        pytest.param(1e9, 3600.0, id="absurd"),
        pytest.param(float("inf"), 3600.0, id="infinite"),
        pytest.param(float("nan"), 60.0, id="not a number"),
        pytest.param(-5.0, 60.0, id="negative"),
    ],
)
def test_deferrals_wait_as_long_as_asked_within_reason(retry_after_s: float | None, wait_s: float) -> None:
    assert settle(replace(GREYLISTED, retry_after_s=retry_after_s)).due == NOW + wait_s


@pytest.mark.parametrize(
    ("retry_after_s", "cool_s"),
    [(None, 60.0), (0.0, 60.0), (5.0, 5.0), (1e9, 3600.0), (float("nan"), 60.0)],
)
def test_cool_downs_last_as_long_as_asked_within_reason(retry_after_s: float | None, cool_s: float) -> None:
    effect = settle(replace(SLOWER, retry_after_s=retry_after_s)).effect
    assert isinstance(effect, CoolDown)
    assert effect.until == NOW + cool_s


def test_the_longest_wish_of_several_cools_the_node() -> None:
    result = settle(
        {A: replace(SLOWER, retry_after_s=5.0), B: replace(SLOWER, retry_after_s=50.0)}, subject=message(A, B)
    )
    assert result.effect == CoolDown(NOW + 50, "mail: 421 4.7.0 slow down")


def test_the_worst_of_several_outcomes_decides_about_the_node() -> None:
    result = settle({A: OK, B: SLOWER, C: BAD_LOGIN}, subject=message(A, B, C))
    assert result.effect == Fault("auth: 535 5.7.8 bad login", account=True)


def test_attempts_choose_the_interval() -> None:
    assert settle(GREYLISTED, subject=message(A, attempts=2)).due == NOW + 300


def test_the_next_look_comes_at_the_maximum_age_at_the_latest() -> None:
    received_at = NOW - POLICY.max_age_s + 7
    result = settle(replace(GREYLISTED, retry_after_s=900.0), subject=message(A, received_at=received_at))
    assert result.due == received_at + POLICY.max_age_s
    gone = expire(result.message, result.due, POLICY)
    assert gone is not None
    assert [recipient.address for recipient in gone.expired] == [A]


def test_refunds_count_the_recipients_that_were_not_offered() -> None:
    assert settle({A: NO_CONNECTION, B: NO_CONNECTION, C: OK}, subject=message(A, B, C)).refund == 2


# Expiry


def test_what_is_too_old_expires_with_its_last_answer() -> None:
    result = settle({A: GREYLISTED, B: OK}, subject=message(A, B, received_at=NOW - POLICY.max_age_s))
    assert statuses(result) == ["expired", "delivered"]
    assert result.next is Next.DONE
    assert [(recipient.address, recipient.enhanced) for recipient in result.expired] == [(A, "4.7.1")]


@pytest.mark.parametrize(
    ("age", "expires"),
    [
        pytest.param(POLICY.max_age_s - 0.001, False, id="just before"),
        pytest.param(POLICY.max_age_s, True, id="at the maximum age"),
        pytest.param(1e9, True, id="long after"),
        pytest.param(-1e9, False, id="from the future"),
    ],
)
def test_expiry(age: float, expires: bool) -> None:
    subject = message(A, B, received_at=NOW - age)
    result = expire(subject, NOW, POLICY)
    if expires:
        assert result is not None
        assert statuses(result) == ["expired", "expired"]
        assert result.next is Next.DONE
        assert len(result.expired) == 2
    else:
        assert result is None


def test_a_message_with_nothing_pending_does_not_expire() -> None:
    done = replace(message(A), recipients=(Recipient(address=A, status=RecipientStatus.DELIVERED),), received_at=0.0)
    assert expire(done, NOW, POLICY) is None


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (NO_USER, "rcpt: 550 5.1.1 no such user"),
        (Outcome(status=Status.UNCERTAIN, scope=Scope.MESSAGE), "uncertain without a word"),
        (Outcome(status=Status.DEFERRED, scope=Scope.NODE, text="y" * 900), "y" * 500),
    ],
)
def test_describe(outcome: Outcome, words: str) -> None:
    assert describe(outcome) == words


# Properties

_OUTCOME = st.builds(
    Outcome,
    status=st.sampled_from(Status),
    scope=st.sampled_from(Scope),
    code=st.sampled_from([0, 250, 452, 550, 552, 413]),
    enhanced=st.sampled_from(["", "4.5.3", "5.3.4", "5.2.2"]),
    retry_after_s=st.sampled_from([None, -1.0, 0.0, 30.0, 1e12, float("nan"), float("inf")]),
    attempted=st.booleans(),
)


@given(
    addresses=st.lists(st.sampled_from([A, B, C, "d@dest.example"]), min_size=1, max_size=6),
    outcomes=st.lists(st.tuples(st.sampled_from([A, B, C, "d@dest.example", "stranger@x.example"]), _OUTCOME)),
    run=st.builds(
        Run,
        tried=st.frozensets(st.sampled_from(["n0", "n1", "n2"])),
        waiting=st.frozensets(st.sampled_from([A, B])),
        attempted=st.booleans(),
    ),
    bound_until=st.sampled_from([0.0, NOW - 1, NOW + 50]),
    age=st.sampled_from([-100.0, 0.0, POLICY.max_age_s - 1, POLICY.max_age_s]),
)
@settings(deadline=None, max_examples=150)
def test_every_recipient_ends_in_exactly_one_place(
    addresses: list[str], outcomes: list[tuple[str, Outcome]], run: Run, bound_until: float, age: float
) -> None:
    subject = message(
        *addresses, received_at=NOW - age, bound_node="n0" if bound_until else "", bound_until=bound_until
    )
    result = dispose(
        subject,
        TWO.nodes[0],
        [RecipientOutcome(address, outcome) for address, outcome in outcomes],
        run=run,
        pool=TWO,
        policy=POLICY,
        now=NOW,
        jitter=0.3,
    )
    after = result.message.recipients
    assert [recipient.address for recipient in after] == addresses
    final = [*result.delivered, *result.failed, *result.expired]
    assert sorted(map(id, final)) == sorted(id(r) for r in after if r.status is not RecipientStatus.PENDING)
    assert (result.next is Next.DONE) == (not result.message.pending)
    if result.message.pending:
        assert NOW < result.due <= min(subject.received_at, NOW) + POLICY.max_age_s
    if result.next in (Next.ANOTHER_NODE, Next.CONTINUE):
        assert result.run.open(result.message)
        assert result.message.bound_until <= NOW
    if result.next is Next.ANOTHER_NODE:
        assert "n0" in result.run.tried
    if result.next is Next.HOLD:
        assert result.message.pending
        assert not final
    assert 0 <= result.refund <= len(addresses)
    assert age < POLICY.max_age_s or not result.message.pending


@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_a_run_always_ends(data: st.DataObject) -> None:
    """Whatever upstreams answer, going on at once comes to an end: each step tries a new node or settles somebody."""
    members = pool(*nodes(3))
    addresses = [f"r{position}@dest.example" for position in range(data.draw(st.integers(1, 6)))]
    subject, run, steps = message(*addresses), Run(), 0
    step = Next.CONTINUE
    while step in (Next.CONTINUE, Next.ANOTHER_NODE):
        steps += 1
        assert steps <= len(addresses) + len(members.nodes) + 1
        by = next(n for n in members.nodes if n.name not in run.tried)
        offered = run.open(subject)[: data.draw(st.integers(1, 6))]
        answers: list[Any] = [RecipientOutcome(recipient.address, data.draw(_OUTCOME)) for recipient in offered]
        result = dispose(subject, by, answers, run=run, pool=members, policy=POLICY, now=NOW, jitter=0.5)
        subject, run, step = result.message, result.run, result.next
    assert step in (Next.DONE, Next.LATER, Next.HOLD)
