"""What is posted to an OAuth 2 server, and what its answers are taken for."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from relay.oauth import requests
from relay.oauth.device import BadRedirect, Wait, challenge_of, code_of, next_step
from relay.oauth.judge import outcome
from relay.oauth.requests import Answer, DeviceCode, Failed, Granted, Refused
from relay.outcome import Scope, Status
from relay.upstreams.oauth_options import OAuthOptions, TokenPlan

PLAN = TokenPlan(
    flow="refresh-token",
    token_url="https://id.example/token",
    authorize_url="https://id.example/authorize",
    device_url="https://id.example/device",
    client_id="id-1",
    client_secret="very-secret",
    scopes=("a", "b"),
    account="me@acme.example",
)


def answer(status: int, facts: Any, **more: Any) -> Answer:
    return Answer(status=status, body=facts if isinstance(facts, bytes) else json.dumps(facts).encode(), **more)


def test_a_refresh_repeats_scopes_and_authenticates_in_the_form() -> None:
    form = requests.refresh(PLAN, "r1")
    assert form.url == PLAN.token_url
    assert form.fields == {
        "grant_type": "refresh_token",
        "refresh_token": "r1",
        "scope": "a b",
        "client_id": "id-1",
        "client_secret": "very-secret",
    }


def test_yahoo_wants_basic_authentication() -> None:
    plan = OAuthOptions.model_validate({"client_id": "a:b", "client_secret": "c d"}).plan(use="smtp", provider="yahoo")
    form = requests.refresh(plan, "r1")
    assert form.headers == {"Authorization": "Basic YSUzQWI6YyUyMGQ="}  # a%3Ab:c%20d
    assert "client_secret" not in form.fields


def test_no_secret_is_shown() -> None:
    shown = [
        repr(PLAN),
        repr(requests.refresh(PLAN, "r-1")),
        repr(requests.read_token(answer(200, {"access_token": "t-1"}))),
    ]
    for text in shown:
        assert not any(secret in text for secret in ("very-secret", "r-1", "t-1"))


def test_the_page_of_consent_carries_its_proofs() -> None:
    google = OAuthOptions.model_validate({"client_id": "id-1"}).plan(
        use="smtp", provider="google", account="me@x.example"
    )
    url = requests.authorize_url(google, challenge="ch", redirect_uri="http://127.0.0.1:1/", state="st")
    facts = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    assert url.startswith("https://accounts.google.com/o/oauth2/v2/auth?")
    assert facts == {
        "client_id": "id-1",
        "response_type": "code",
        "redirect_uri": "http://127.0.0.1:1/",
        "scope": "https://mail.google.com/",
        "state": "st",
        "code_challenge": "ch",
        "code_challenge_method": "S256",
        "access_type": "offline",
        "prompt": "consent",
        "login_hint": "me@x.example",
    }


def test_the_challenge_of_rfc_7636() -> None:
    assert challenge_of("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk") == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


GRANTED = {
    "plain": ({"access_token": "t", "expires_in": 3599, "token_type": "Bearer"}, 3599.0, ""),
    "life as text": ({"access_token": "t", "expires_in": "3599"}, 3599.0, ""),
    "no life": ({"access_token": "t"}, 3600.0, ""),
    "absurd life": ({"access_token": "t", "expires_in": 10**9}, 7 * 86400.0, ""),
    "negative life": ({"access_token": "t", "expires_in": -5}, 3600.0, ""),
    "rotated": ({"access_token": "t", "refresh_token": "r2", "token_type": "bearer"}, 3600.0, "r2"),
}


@pytest.mark.parametrize(("facts", "life_s", "refresh"), GRANTED.values(), ids=list(GRANTED))
def test_tokens(facts: dict[str, Any], life_s: float, refresh: str) -> None:
    got = requests.read_token(answer(200, facts))
    assert isinstance(got, Granted)
    assert (got.access_token, got.life_s, got.refresh_token) == ("t", life_s, refresh)


NONE = {
    "expired consent": (400, {"error": "invalid_grant", "error_description": "AADSTS700082: expired"}, "invalid_grant"),
    "wrong secret": (401, {"error": "invalid_client"}, "invalid_client"),
    "no right": (403, {"error": "unauthorized_client"}, "unauthorized_client"),
    "server error": (500, {"error": "invalid_grant"}, ""),
    "gateway": (502, b"<html>bad gateway</html>", ""),
    "busy": (429, {"error": "slow"}, ""),
    "soon": (400, {"error": "temporarily_unavailable"}, ""),
    "empty": (200, b"", ""),
    "no token": (200, {}, ""),
    "a list": (200, [1], ""),
    "nested too deep": (200, b"[" * 100_000, ""),
    "token with a line end": (200, {"access_token": "a\r\nb"}, ""),
    "token with ^A": (200, {"access_token": "a\x01auth=x"}, ""),
    "mac token": (200, {"access_token": "t", "token_type": "mac"}, ""),
    "google's other form": (403, {"error": {"message": "API disabled", "code": 403}}, ""),
    "forbidden page": (403, b"no", ""),
}


@pytest.mark.parametrize(("status", "facts", "error"), NONE.values(), ids=list(NONE))
def test_no_token(status: int, facts: Any, error: str) -> None:
    got = requests.read_token(answer(status, facts))
    assert isinstance(got, Refused if error else Failed)
    if isinstance(got, Refused):
        assert got.error == error


def test_a_refusal_is_about_the_account_with_the_exact_words() -> None:
    verdict = requests.read_token(
        answer(
            400,
            {
                "error": "invalid_grant",
                "error_description": "AADSTS700082: The refresh token has expired.\r\nTrace ID: 1",
            },
        )
    )
    assert isinstance(verdict, Refused)
    got = outcome(verdict, node="m365", flow="refresh-token")
    assert (got.status, got.scope, got.code, got.attempted) == (Status.REFUSED, Scope.ACCOUNT, 400, False)
    assert got.text.startswith("invalid_grant: AADSTS700082: The refresh token has expired. Trace ID: 1")
    assert "relay oauth login m365" in got.text


def test_trouble_is_about_the_node_and_a_wish_for_a_slower_pace_about_the_quota() -> None:
    failed = requests.read_token(answer(503, b"", retry_after_s=7.0))
    busy = requests.read_token(answer(429, {"error": "x"}, retry_after_s=9.0))
    assert isinstance(failed, Failed)
    assert isinstance(busy, Failed)
    first, second = (outcome(one, node="n", flow="refresh-token") for one in (failed, busy))
    assert (first.status, first.scope, first.retry_after_s) == (Status.DEFERRED, Scope.NODE, 7.0)
    assert (second.status, second.scope, second.retry_after_s) == (Status.DEFERRED, Scope.QUOTA, 9.0)


def test_a_device_code_and_its_older_name() -> None:
    facts = {"device_code": "d", "user_code": "U-1", "verification_url": "https://x.example/device", "expires_in": 1800}
    got = requests.read_device_code(answer(200, facts))
    assert isinstance(got, DeviceCode)
    assert (got.user_code, got.verification_uri, got.life_s, got.interval_s) == (
        "U-1",
        "https://x.example/device",
        1800.0,
        5.0,
    )
    assert isinstance(requests.read_device_code(answer(400, {"error": "invalid_scope"})), Refused)
    assert isinstance(requests.read_device_code(answer(200, {"access_token": "t"})), Failed)


STEPS = {
    "pending": (Refused(error="authorization_pending", text="", status=400), Wait(5.0)),
    "slow down": (Failed(text="slow_down", busy=True), Wait(10.0)),
    "no network": (Failed(text="gone"), Wait(10.0)),
    "denied": (
        Refused(error="access_denied", text="", status=400),
        Refused(error="access_denied", text="", status=400),
    ),
    "expired": (
        Refused(error="expired_token", text="", status=400),
        Refused(error="expired_token", text="", status=400),
    ),
    "granted": (Granted(access_token="t", life_s=1.0), Granted(access_token="t", life_s=1.0)),
}


@pytest.mark.parametrize(("verdict", "expected"), STEPS.values(), ids=list(STEPS))
def test_what_follows_while_a_person_decides(verdict: Any, expected: Any) -> None:
    assert next_step(verdict, 5.0) == expected


REDIRECTS = {
    "address": ("http://127.0.0.1:8400/?state=s1&code=4%2F0Ab", "4/0Ab"),
    "path": ("/?code=c&state=s1", "c"),
    "code alone": ("  4/0Ab-cd  ", "4/0Ab-cd"),
}


@pytest.mark.parametrize(("text", "code"), REDIRECTS.values(), ids=list(REDIRECTS))
def test_the_code_in_what_came_back(text: str, code: str) -> None:
    assert code_of(text, "s1") == code


BAD_REDIRECTS = {
    "refused": ("http://x/?error=access_denied&error_description=no+way&state=s1", "access_denied: no way"),
    "another login": ("http://x/?code=c&state=s2", "another login"),
    "no state": ("http://x/?code=c", "another login"),
    "no code": ("http://x/?state=s1", "no code"),
    "nothing": ("", "another login"),
}


@pytest.mark.parametrize(("text", "words"), BAD_REDIRECTS.values(), ids=list(BAD_REDIRECTS))
def test_what_came_back_gives_no_code(text: str, words: str) -> None:
    with pytest.raises(BadRedirect, match=words):
        code_of(text, "s1")
