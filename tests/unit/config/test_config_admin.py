"""`admin` and `webhooks` in the configuration."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from relay.config.models import Config
from relay.config.models.admin import WebhookModel

SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"


def test_the_admin_server_is_on_for_this_machine_alone() -> None:
    admin = Config(version=1).admin
    assert admin is not None
    assert str(admin.bind) == "127.0.0.1:8025"


@pytest.mark.parametrize("word", ["off", None, False, "none"])
def test_off_is_off(word: Any) -> None:
    assert Config(version=1, admin=word).admin is None


@pytest.mark.parametrize(
    ("url", "sound"),
    [
        ("https://hooks.acme.example/x?y=1", True),
        ("http://127.0.0.1:8080/", True),
        ("ftp://hooks.acme.example/", False),
        ("https://", False),
        ("https://user:pw@hooks.acme.example/", False),
        ("https://hooks.acme.example:0/", False),
        ("https://hooks.acme.example:99999/", False),
        ("https://hooks.acme.example/a b", False),
        ("https://hooks.acme.example/\r\nX: 1", False),
        ("file:///etc/passwd", False),
    ],
)
def test_urls_of_webhooks(url: str, sound: bool) -> None:
    if sound:
        assert WebhookModel(url=url, secret=SECRET).url == url
    else:
        with pytest.raises(ValidationError):
            WebhookModel(url=url, secret=SECRET)


@pytest.mark.parametrize("secret", ["", "password", "whsec_", "whsec_short", "whsec_" + "A" * 200, "whsec_!!!!"])
def test_secrets_of_webhooks(secret: str) -> None:
    with pytest.raises(ValidationError) as caught:
        WebhookModel(url="https://hooks.acme.example/", secret=secret)
    assert secret[6:] == "" or secret[6:] not in str(caught.value)


@pytest.mark.parametrize("events", [["*"], ["message"], ["message.failed", "node"]])
def test_events_of_webhooks(events: list[str]) -> None:
    assert WebhookModel(url="https://hooks.acme.example/", secret=SECRET, events=events).events == tuple(events)


@pytest.mark.parametrize("event", ["", "Message", "message.", "a.b.c", "message.*"])
def test_what_is_no_event(event: str) -> None:
    with pytest.raises(ValidationError):
        WebhookModel(url="https://hooks.acme.example/", secret=SECRET, events=[event])
