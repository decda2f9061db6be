"""Tokens and sessions: what is kept, and when they end."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.admin.security.access import Access, NameTaken
from relay.admin.security.guess import Guesses
from relay.admin.security.roles import Role


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def access(tmp_path: Path, clock: Clock) -> Access:
    return Access(tmp_path, clock)


def test_only_the_digest_is_kept(access: Access, tmp_path: Path) -> None:
    _, secret = access.add("ops", Role.OPERATOR, by="me")
    access.database.close()
    for path in tmp_path.iterdir():
        assert secret.encode() not in path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("role", "needed", "may"),
    [
        (Role.VIEWER, Role.VIEWER, True),
        (Role.VIEWER, Role.OPERATOR, False),
        (Role.OPERATOR, Role.VIEWER, True),
        (Role.OPERATOR, Role.ADMIN, False),
        (Role.ADMIN, Role.OPERATOR, True),
    ],
)
def test_roles_cover_those_before_them(role: Role, needed: Role, may: bool) -> None:
    assert role.covers(needed) is may


@pytest.mark.parametrize("presented", ["", "rly_", "rly_" + "A" * 43, "x" * 100_000, "rly_" + "é" * 43, "\udcff" * 47])
def test_what_is_no_token(access: Access, presented: str) -> None:
    access.add("ops", Role.ADMIN, by="me")
    assert access.by_token(presented, peer="192.0.2.1") is None
    assert access.by_session(presented, peer="192.0.2.1") is None


def test_a_token_ends_by_its_time_and_its_session_with_it(access: Access, clock: Clock) -> None:
    _, secret = access.add("short", Role.VIEWER, by="me", expires=clock.now + 100)
    caller = access.by_token(secret, peer="192.0.2.1")
    assert caller is not None
    session = access.open_session(caller, 1000)
    assert access.by_session(session, peer="192.0.2.1") is not None
    clock.now += 101
    assert access.by_token(secret, peer="192.0.2.1") is None
    assert access.by_session(session, peer="192.0.2.1") is None


def test_sessions_end_by_time_by_logging_out_and_by_revoking(access: Access, clock: Clock) -> None:
    token, secret = access.add("ops", Role.ADMIN, by="me")
    caller = access.by_token(secret, peer="192.0.2.1")
    assert caller is not None
    first, second, third = (access.open_session(caller, 100) for _ in range(3))
    found = access.by_session(first, peer="192.0.2.1")
    assert found is not None
    assert found.csrf
    access.close_session(found)
    assert access.by_session(first, peer="192.0.2.1") is None
    assert access.by_session(second, peer="192.0.2.1") is not None
    clock.now += 101
    assert access.by_session(second, peer="192.0.2.1") is None
    clock.now -= 101
    assert access.revoke(token.id) is not None
    assert access.by_session(third, peer="192.0.2.1") is None
    assert access.revoke(token.id) is None


def test_there_is_one_first_token(access: Access) -> None:
    made = access.first()
    assert made is not None
    assert made[0].role is Role.ADMIN
    assert access.first() is None


def test_names_are_unique(access: Access) -> None:
    access.add("ops", Role.VIEWER, by="me")
    with pytest.raises(NameTaken):
        access.add("ops", Role.ADMIN, by="me")
    assert [token.role for token in access.tokens()] == [Role.VIEWER]


def test_too_many_wrong_tokens_are_told_to_wait() -> None:
    now = 0.0
    guesses = Guesses(lambda: now)
    statuses = [guesses.wrong("192.0.2.1").status for _ in range(12)]
    assert statuses == [401] * 10 + [429] * 2
    assert guesses.wrong("192.0.2.2").status == 401
    now = 61.0
    assert guesses.wrong("192.0.2.1").status == 401
