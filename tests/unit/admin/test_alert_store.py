"""Issues and notices on disk: one issue for a trouble, one notice for an issue, none when it was over before."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.admin.alerts.rules import Over, Rule, Trouble
from relay.admin.alerts.store import Listener, NoticeState, Store

ALL = frozenset(str(rule) for rule in Rule)
OPS = Listener("ops", ALL, True)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def down(at: float, error: str = "535 no", *, is_there: bool = False) -> Trouble:
    return Trouble(key="node:a", rule=Rule.NODE, error=error, since=at, node="a", pool="p", is_there=is_there)


def up(at: float) -> Over:
    return Over("node:a", at, "it is well")


def enter(store: Store, *found: Trouble | Over, now: float, listeners: tuple[Listener, ...] = (OPS,)) -> list[str]:
    return [what for what, _ in store.enter(found, now=now, listeners=listeners, quiet_s=100.0)]


def test_one_issue_from_beginning_to_end(store: Store) -> None:
    assert enter(store, down(10), now=11) == ["opened"]
    assert enter(store, down(20, "421 later"), down(30, "421 later", is_there=True), now=30) == []
    (issue,) = store.open_issues()
    assert (issue.error, issue.last_error, issue.since) == ("535 no", "421 later", 10)
    assert enter(store, up(40), up(41), now=41) == ["closed"]
    (closed,) = store.issues(state="closed")
    assert (closed.until, closed.how) == (40, "it is well")
    assert store.issues(state="open") == []


def test_late_events_neither_open_again_nor_close_what_came_after(store: Store) -> None:
    enter(store, down(10, is_there=True), now=10)
    enter(store, up(20), now=20)
    assert enter(store, down(10), up(19), now=21) == []  # read after the looks had seen both
    assert enter(store, down(30), now=30) == ["opened"]
    assert enter(store, up(20), now=31) == []
    assert len(store.open_issues()) == 1


def test_a_node_that_comes_back_into_the_configuration_is_seen_again(store: Store) -> None:
    enter(store, down(10), up(20), now=20)
    assert enter(store, down(10, is_there=True), now=30) == ["opened"]


def take(store: Store, now: float) -> list[tuple[str, str]]:
    taken = []
    for notice in store.due(now):
        store.settle(notice, NoticeState.TAKEN, now=now, answer="250")
        taken.append((notice.target, notice.what))
    return taken


def test_beginning_and_end_are_told_once_each(store: Store) -> None:
    enter(store, down(10), now=10)
    assert take(store, 11) == [("ops", "opened")]
    assert take(store, 12) == []
    enter(store, up(20), now=20)
    assert take(store, 21) == [("ops", "closed")]
    found = store.issue(1)
    assert found is not None
    assert [(notice.what, notice.state, notice.answer) for notice in found[1]] == [
        ("opened", "taken", "250"),
        ("closed", "taken", "250"),
    ]


def test_what_comes_and_goes_is_told_once_in_the_quiet_time(store: Store) -> None:
    enter(store, down(10), now=10)
    take(store, 10)
    enter(store, up(20), now=20)
    take(store, 20)
    for at in (30, 50, 70):
        enter(store, down(at), now=at)
        enter(store, up(at + 10), now=at + 10)
    assert take(store, 1000) == []
    enter(store, down(90), now=90)
    assert take(store, 109) == []
    assert take(store, 111) == [("ops", "opened")]
    assert len(store.issues()) == 5  # each is an issue all the same


def test_targets_hear_what_they_asked_for(store: Store) -> None:
    listeners = (Listener("caps", frozenset({"cap"}), True), Listener("quiet", ALL, False))
    enter(store, down(10), now=10, listeners=listeners)
    assert take(store, 10) == [("quiet", "opened")]
    enter(store, up(20), now=20, listeners=listeners)
    assert take(store, 20) == []


def test_who_may_have_heard_of_it_hears_the_end(store: Store) -> None:
    enter(store, down(10), now=10)
    (notice,) = store.due(10)
    store.settle(notice, NoticeState.WAITING, now=10, answer="no answer", due=500)
    enter(store, up(20), now=20)
    assert [(each.what, each.state) for each in store.due(20)] == [("closed", "waiting")]
    assert take(store, 1000) == [("ops", "closed")]


def test_the_position_is_kept_with_the_issues(store: Store, tmp_path: Path) -> None:
    assert store.position() is None
    store.enter([down(10)], now=10, listeners=(), quiet_s=1, position={"0": 7})
    store.database.close()
    assert Store(tmp_path).position() == {"0": 7}
    assert len(Store(tmp_path).open_issues()) == 1


def test_old_issues_go(store: Store) -> None:
    enter(store, down(10), up(20), now=20)
    enter(store, down(500 * 86400.0), now=500 * 86400.0)
    assert [issue.since for issue in store.issues()] == [500 * 86400.0]
