"""What is said to an OAuth 2 server, and what its answers mean. Pure: no I/O, no clock.

Every request is a form POST (RFC 6749 §4.4, §6; RFC 7523 §2.1; RFC 8628 §3.1 and §3.4; RFC 7636). An answer becomes
`Granted`, `Refused` or `Failed`: the second says that somebody must act, the third that the server should be asked
again later. Unclassified means `Failed`: a token is never given up because of an answer nobody understands.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from relay.upstreams.oauth_options import TokenPlan
from relay.upstreams.replies import clean

DEFAULT_LIFE_S = 3600.0
"""When `expires_in` is left out (it is only RECOMMENDED, RFC 6749 §5.1); what all mailbox providers give."""

MAX_LIFE_S = 7 * 86400.0
"""No access token is believed to live longer."""

JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"

_TRY_LATER = frozenset({"temporarily_unavailable", "server_error", "slow_down"})
_BUSY_STATUS = frozenset({408, 425, 429})


class NoAnswer(Exception):
    """Nothing came back that could be read; the text says why. Raised by whoever posts forms."""


@dataclass(frozen=True, slots=True)
class Form:
    """One POST. `headers`: beside those of the form itself; hold secrets, as `fields` do."""

    url: str
    fields: Mapping[str, str] = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """HTTP status, body and the header Retry-After (seconds, or None) of an answer."""

    status: int
    body: bytes = field(repr=False)
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """`refresh_token` empty: none was sent, the old one stays good (RFC 6749 §6)."""

    access_token: str = field(repr=False)
    life_s: float
    refresh_token: str = field(default="", repr=False)
    refresh_life_s: float | None = None
    scope: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """`error`: the code of RFC 6749 §5.2; `text`: the server's exact words."""

    error: str
    text: str
    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The server did not decide. `busy`: it asked for a slower pace."""

    text: str
    status: int = 0
    retry_after_s: float | None = None
    busy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCode:
    """What a person is shown, and how often to ask whether they are done (RFC 8628 §3.2)."""

    device_code: str = field(repr=False)
    user_code: str
    verification_uri: str
    complete_uri: str
    life_s: float
    interval_s: float


def refresh(plan: TokenPlan, refresh_token: str) -> Form:
    """A new access token for a refresh token. Microsoft wants the scopes repeated; the others do not mind."""
    return _form(plan, {"grant_type": "refresh_token", "refresh_token": refresh_token, "scope": " ".join(plan.scopes)})


def client_credentials(plan: TokenPlan) -> Form:
    return _form(plan, {"grant_type": "client_credentials", "scope": " ".join(plan.scopes)})


def assertion(plan: TokenPlan, jwt: str) -> Form:
    """A token for a signed assertion; the scopes stand in it."""
    return Form(plan.token_url, {"grant_type": JWT_GRANT, "assertion": jwt})


def device_code(plan: TokenPlan) -> Form:
    fields = {"client_id": plan.client_id, "scope": " ".join(plan.scopes)}
    return Form(plan.device_url, {name: value for name, value in fields.items() if value})


def device_token(plan: TokenPlan, code: DeviceCode) -> Form:
    return _form(plan, {"grant_type": DEVICE_GRANT, "device_code": code.device_code})


def code_token(plan: TokenPlan, *, code: str, verifier: str, redirect_uri: str) -> Form:
    fields = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect_uri,
        "code_verifier": verifier,
    }
    return _form(plan, fields)


def authorize_url(plan: TokenPlan, *, challenge: str, redirect_uri: str, state: str) -> str:
    """The page to open in a browser (RFC 6749 §4.1.1 with RFC 7636)."""
    fields = {
        "client_id": plan.client_id,
        "response_type": "code",
        "redirect_uri": redirect_uri,
        "scope": " ".join(plan.scopes),
        "state": state,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
        **dict(plan.authorize_extra),
    }
    if plan.account:
        fields["login_hint"] = plan.account
    joint = "&" if "?" in plan.authorize_url else "?"
    return f"{plan.authorize_url}{joint}{urlencode(fields, quote_via=quote)}"


def read_token(answer: Answer) -> Granted | Refused | Failed:
    """The answer of a token endpoint."""
    facts = _facts(answer.body)
    if facts is None:
        text = f"HTTP {answer.status}: {clean(answer.body[:300].decode('utf-8', 'replace')) or 'no content'}"
        return Failed(text=text, status=answer.status, retry_after_s=answer.retry_after_s, busy=_is_busy(answer.status))
    token = facts.get("access_token")
    if answer.status == 200 and isinstance(token, str) and _is_token(token):
        kind = facts.get("token_type", "Bearer")
        if str(kind).lower() != "bearer":
            return Failed(text=f"token of type {clean(str(kind))[:40]}, only Bearer can be used", status=200)
        life_s = _seconds(facts.get("expires_in"))
        return Granted(
            access_token=token,
            life_s=DEFAULT_LIFE_S if life_s is None else min(life_s, MAX_LIFE_S),
            refresh_token=_word(facts.get("refresh_token")),
            refresh_life_s=_seconds(facts.get("refresh_token_expires_in")),
            scope=clean(_word(facts.get("scope"))),
        )
    error = _word(facts.get("error"))
    text = _words(error, facts, answer.status)
    if not error or error in _TRY_LATER or answer.status >= 500 or _is_busy(answer.status):
        busy = _is_busy(answer.status) or error == "slow_down"
        return Failed(text=text, status=answer.status, retry_after_s=answer.retry_after_s, busy=busy)
    return Refused(error=error[:100], text=text, status=answer.status)


def read_device_code(answer: Answer) -> DeviceCode | Refused | Failed:
    """The answer of a device authorization endpoint."""
    facts = _facts(answer.body) or {}
    code, user_code = _word(facts.get("device_code")), clean(_word(facts.get("user_code")))
    page = clean(_word(facts.get("verification_uri")) or _word(facts.get("verification_url")))  # Google's older name
    if answer.status == 200 and code and user_code and page:
        return DeviceCode(
            device_code=code,
            user_code=user_code,
            verification_uri=page,
            complete_uri=clean(_word(facts.get("verification_uri_complete"))),
            life_s=_seconds(facts.get("expires_in")) or 900.0,
            interval_s=max(1.0, _seconds(facts.get("interval")) or 5.0),
        )
    verdict = read_token(answer)
    return (
        Failed(text=f"HTTP {answer.status}: no device code in the answer") if isinstance(verdict, Granted) else verdict
    )


def _form(plan: TokenPlan, fields: dict[str, str]) -> Form:
    headers: dict[str, str] = {}
    fields = {**fields, "client_id": plan.client_id}
    if plan.client_secret and plan.basic_auth:
        pair = f"{quote(plan.client_id, safe='')}:{quote(plan.client_secret, safe='')}"  # RFC 6749 §2.3.1
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        del fields["client_id"]
    elif plan.client_secret:
        fields["client_secret"] = plan.client_secret
    return Form(plan.token_url, {name: value for name, value in fields.items() if value}, headers)


def _facts(body: bytes) -> dict[str, Any] | None:
    try:
        facts = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return facts if isinstance(facts, dict) else None


def _words(error: str, facts: Mapping[str, Any], status: int) -> str:
    """`invalid_grant: AADSTS70008: The provided …`; Microsoft's trace ids come with it, support asks for them."""
    described = _word(facts.get("error_description"))
    if not error:  # an API gateway, or Google's other form
        inner = facts.get("error")
        described = described or (_word(inner.get("message")) if isinstance(inner, dict) else "")
        return clean(f"HTTP {status}: {described or 'neither a token nor an error'}")
    return clean(f"{error}: {described}" if described else error)


def _is_token(token: str) -> bool:
    """What can be said in a SASL message or a header: RFC 6750 §2.1, and nothing that could end it."""
    return 0 < len(token) <= 20_000 and token.isascii() and token.isprintable() and " " not in token


def _is_busy(status: int) -> bool:
    return status in _BUSY_STATUS


def _word(value: object) -> str:
    return value if isinstance(value, str) else ""


def _seconds(value: object) -> float | None:
    """A number, or one in a text (Microsoft v1 sends `"3599"`)."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if 0.0 < number < 1e10 else None
