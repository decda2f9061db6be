"""Presets: what they fill in, what wins over them, and what is said when something is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from relay.config.models.traffic import NODE_CLASSES
from relay.upstreams.smtp_options import SmtpOptions
from relay.upstreams.smtp_presets import MB, PRESETS, place

NODE = NODE_CLASSES["smtp"]


def node(**keys: Any) -> Any:
    return NODE.model_validate({"name": "n", "type": "smtp", **keys})


def faults(**keys: Any) -> list[tuple[tuple[str | int, ...], str]]:
    with pytest.raises(ValidationError) as caught:
        node(**keys)
    return [(error["loc"], error["msg"]) for error in caught.value.errors()]


ENDPOINTS = {
    "gmail": ({}, "smtp.gmail.com", 587, "starttls"),
    "gmail-relay": ({}, "smtp-relay.gmail.com", 587, "starttls"),
    "outlook": ({}, "smtp.office365.com", 587, "starttls"),
    "outlook-com": ({}, "smtp-mail.outlook.com", 587, "starttls"),
    "yahoo": ({}, "smtp.mail.yahoo.com", 465, "implicit"),
    "aol": ({}, "smtp.aol.com", 465, "implicit"),
    "ses-smtp": ({"region": "eu-west-1"}, "email-smtp.eu-west-1.amazonaws.com", 587, "starttls"),
    "mailgun-smtp": ({}, "smtp.mailgun.org", 587, "starttls"),
    "sparkpost-smtp": ({"region": "eu"}, "smtp.eu.sparkpostmail.com", 587, "starttls"),
    "zeptomail-smtp": ({"region": "in"}, "smtp.zeptomail.in", 587, "starttls"),
    "smtp2go-smtp": ({}, "mail.smtp2go.com", 2525, "starttls"),
    "resend-smtp": ({}, "smtp.resend.com", 465, "implicit"),
}


@pytest.mark.parametrize(("preset", "expected"), ENDPOINTS.items(), ids=list(ENDPOINTS))
def test_host_port_and_tls_are_filled_in(preset: str, expected: tuple[dict[str, str], str, int, str]) -> None:
    region, host, port, tls = expected
    made = node(preset=preset, username="u", password="secret", **region)
    assert (made.host, made.port, made.tls) == (host, port, tls)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_makes_a_node_that_encrypts(preset: str) -> None:
    known = PRESETS[preset]
    login = {"password": "secret"} if known.username else {"username": "u", "password": "secret"}
    made = node(preset=preset, **({"region": "us-east-1"} if preset == "ses-smtp" else {}), **login)
    assert made.tls in ("starttls", "implicit")
    assert "{" not in made.host
    assert made.max_recipients == (known.max_recipients or 100)
    assert made.max_size == (known.max_size or None)


def test_a_fixed_user_name_need_not_be_written() -> None:
    assert node(preset="sendgrid-smtp", password="SG.key").username == "apikey"
    assert node(preset="sendgrid-smtp", username="other", password="SG.key").username == "other"


def test_a_token_that_is_the_user_name_too_is_shown_nowhere() -> None:
    made = SmtpOptions.model_validate({"preset": "postmark-smtp", "password": "the-token"})
    assert made.login() == ("the-token", "the-token")
    assert "the-token" not in repr(made)


def test_caps_are_joined_window_by_window() -> None:
    caps = node(preset="outlook", username="u", password="p", caps={"minute": 5, "hour": 100}).caps
    assert (caps.minute.limit, caps.hour.limit, caps.day.limit) == (5, 100, 10000)
    assert node(preset="gmail", username="u", password="p", caps={"day": None}).caps.day is None


def test_what_is_written_wins() -> None:
    made = node(
        preset="gmail",
        username="u",
        password="p",
        host="mail.example",
        port=2525,
        tls="implicit",
        max_size="1MB",
        max_recipients=7,
        connections=2,
    )
    assert (made.host, made.port, made.tls, made.max_size) == ("mail.example", 2525, "implicit", MB)
    assert (made.max_recipients, made.connections) == (7, 2)


def test_another_tls_mode_brings_its_usual_port() -> None:
    assert node(preset="ses-smtp", region="us-east-1", tls="implicit").port == 465
    assert node(preset="yahoo", tls="starttls").port == 587


FAULTS = {
    "no region": ({"preset": "ses-smtp"}, (), "preset ses-smtp needs region, for example us-east-1"),
    "unknown region": (
        {"preset": "mailgun-smtp", "region": "de"},
        (),
        "preset mailgun-smtp needs region, one of us, eu",
    ),
    "region alone": ({"host": "a.example", "region": "eu"}, (), "region goes with a preset"),
    "password missing": ({"preset": "resend-smtp"}, (), "password is missing: an API key"),
    "token missing": ({"preset": "postmark-smtp", "username": "u"}, (), "password is missing"),
}


@pytest.mark.parametrize(("keys", "place", "text"), FAULTS.values(), ids=list(FAULTS))
def test_what_is_missing_is_said(keys: dict[str, Any], place: tuple[str, ...], text: str) -> None:
    assert faults(**keys) == [(place, f"Value error, {text}")]


def test_an_unknown_preset_is_the_only_fault() -> None:
    [(place, _)] = faults(preset="gmial")
    assert place == ("preset",)


def test_the_table_of_the_documentation_holds_every_preset() -> None:
    page = (Path(__file__).parents[3] / "docs" / "smtp-providers.md").read_text()
    rows = {line.split("|")[1].strip(" `"): line for line in page.splitlines() if line.startswith("| `")}
    for name, preset in PRESETS.items():
        row = rows[name]
        assert (place(preset, "") or preset.host.replace("{region}", "REGION")) in row
        assert f"{preset.port} {preset.tls}" in row
        assert all(f"{limit} a {window}" in row for window, limit in preset.caps.items())
        assert not preset.max_recipients or f"{preset.max_recipients} recipients" in row
        assert not preset.max_size or f"{preset.max_size // MB} MB" in row
        assert not preset.username.strip("@") or f"`{preset.username}`" in row
