"""What `relay init` asks for: from the models, in an order in which answers make later questions needless."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel

from relay.cli.questions import Question, next_question
from relay.fields import Options, Secret, Text
from relay.upstreams import KINDS, options_model
from relay.upstreams.smtp_options import SmtpOptions


class Vendor(Options):
    """A type nobody knew when the questions were written."""

    api_key: Secret
    """API key (`SG.…`) with the right to send. More words."""
    region: Literal["us", "eu"] = "us"
    """Where the account lives."""
    domain: Text
    """Sending domain."""
    pool: Text | None = None
    """Not asked."""
    webhook_token: Secret | None = None
    """For answers."""


def ask(kind: str, model: type[BaseModel], *answers: str | None, **given: Any) -> list[Question]:
    """The questions, each answered in turn."""
    known: dict[str, Any] = dict(given)
    asked = []
    waiting = list(answers)
    while (question := next_question(kind, model, known)) is not None:
        asked.append(question)
        known[question.key] = waiting.pop(0) if waiting else None
        assert len(asked) < 30, "it never ends"
    return asked


def keys(questions: list[Question]) -> list[str]:
    return [question.key for question in questions]


def test_a_new_type_is_asked_for_by_its_model() -> None:
    asked = ask("vendor", Vendor)
    assert [(q.key, q.secret, q.optional, q.choices, q.default) for q in asked] == [
        ("region", False, True, ("us", "eu"), "us"),
        ("domain", False, False, (), None),
        ("api_key", True, False, (), None),
        ("webhook_token", True, True, (), None),
    ]
    assert asked[2].text == "Api key, API key (SG.…) with the right to send"


def test_what_is_given_is_not_asked() -> None:
    assert keys(ask("vendor", Vendor, domain="a.example", api_key="")) == ["region", "webhook_token"]


SMTP: dict[str, tuple[dict[str, Any], list[str | None], list[str]]] = {
    "any server": ({}, [None, "h", "none", "25", None], ["preset", "host", "tls", "port", "username"]),
    "any server with a login": (
        {},
        [None, "h", "starttls", "587", "u", "p"],
        ["preset", "host", "tls", "port", "username", "password"],
    ),
    "a host was given": ({"host": "h", "tls": "none", "port": 25}, [None], ["username"]),
    "gmail by password": ({}, ["gmail", "password", "me", "p"], ["preset", "login", "username", "password"]),
    "microsoft by oauth": (
        {},
        ["outlook", "oauth", "me", "id", None, "acme.example"],
        ["preset", "login", "username", "oauth.client_id", "oauth.client_secret", "oauth.tenant"],
    ),
    "gmail by oauth": (
        {"preset": "gmail"},
        ["oauth", "me", "id", "s"],
        ["login", "username", "oauth.client_id", "oauth.client_secret"],
    ),
    "oauth was given": ({"preset": "outlook", "username": "me", "oauth.client_id": "c"}, [], []),
    "a fixed user name": ({}, ["sendgrid-smtp", "k"], ["preset", "password"]),
    "a token as both": ({"preset": "postmark-smtp"}, ["t"], ["password"]),
    "a region": ({"preset": "ses-smtp"}, ["eu-west-1", "u", "p"], ["region", "username", "password"]),
    "no login": ({"host": "h", "tls": "none", "port": 25, "username": ""}, [], []),
}


@pytest.mark.parametrize(("given", "answers", "expected"), SMTP.values(), ids=list(SMTP))
def test_smtp_is_asked_for_what_its_preset_leaves_open(
    given: dict[str, Any], answers: list[str | None], expected: list[str]
) -> None:
    assert keys(ask("smtp", SmtpOptions, *answers, **given)) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_comes_to_an_end_of_questions(kind: str) -> None:
    asked = ask(kind, options_model(kind))
    assert len(set(keys(asked))) == len(asked)
    assert all(question.text for question in asked)
