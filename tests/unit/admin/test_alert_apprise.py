"""Calls by Apprise, made for real against a server of ours: guarded, masked, bounded."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from relay.admin.alerts.apprise_call import masked
from relay.admin.alerts.targets import call_apprise
from relay.admin.alerts.words import Words
from tests.fakes.http_receiver import Receiver

SAID = Words("[relay r] node a is deactivated", "Error: 535 no\n")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("POST https://h/T0KEN/x failed", "slack://T0KEN/abcdef"),
        ("login jo:s3cret refused", "json://jo:s3cret@host/path"),
        ("bad p@ss word", "json://jo:p%40ss@host"),
        ("token=QUERY", "jsons://host?token=QUERY"),
    ],
)
def test_nothing_of_the_url_is_shown(text: str, url: str) -> None:
    shown = masked(text, url)
    assert "***" in shown
    assert not any(secret in shown for secret in ("T0KEN", "s3cret", "p@ss", "QUERY"))


async def test_a_service_is_told(receiver: Receiver) -> None:
    told = await call_apprise(f"json://127.0.0.1:{receiver.port}/s3cret-path", SAID, allow_private=True)
    assert told.taken, told.answer
    (posted,) = receiver.posted
    assert json.loads(posted.body)["title"] == SAID.subject
    assert "535 no" in json.loads(posted.body)["message"]


async def test_private_addresses_are_not_called(receiver: Receiver) -> None:
    told = await call_apprise(f"json://localhost:{receiver.port}/s3cret-path", SAID, allow_private=False)
    assert not told.taken
    assert "private network" in told.answer
    assert "s3cret" not in told.answer
    assert not receiver.posted


async def test_a_refusal_is_told_without_the_secret(receiver: Receiver) -> None:
    receiver.status = 403
    told = await call_apprise(f"json://127.0.0.1:{receiver.port}/s3cret-path", SAID, allow_private=True)
    assert not told.taken
    assert told.answer
    assert "s3cret" not in told.answer


async def test_what_apprise_does_not_know() -> None:
    told = await call_apprise("nosuchservice://s3cret-token/x", SAID, allow_private=False)
    assert not told.taken
    assert "s3cret" not in told.answer
