"""What is advised about a test that failed."""

from __future__ import annotations

from typing import Any

import pytest

from relay.control.advice import advice
from relay.outcome import Outcome, Scope, Status

NODE = {"status": Status.DEFERRED, "scope": Scope.NODE}
ACCOUNT = {"status": Status.REFUSED, "scope": Scope.ACCOUNT}
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "wrong password": ({**ACCOUNT, "phase": "auth", "code": 535, "text": "no"}, "check username and password"),
    "microsoft": (
        {**ACCOUNT, "phase": "auth", "code": 535, "enhanced": "5.7.139", "text": "Authentication unsuccessful"},
        "use `oauth`",
    ),
    "app password": (
        {**ACCOUNT, "phase": "auth", "code": 534, "text": "Application-specific password required"},
        "app password",
    ),
    "no starttls": ({**NODE, "phase": "tls", "text": "the upstream does not offer STARTTLS"}, "tls: implicit"),
    "plain port": ({**NODE, "phase": "tls", "text": "TLS: WRONG_VERSION_NUMBER"}, "tls: starttls"),
    "certificate": ({**NODE, "phase": "tls", "text": "TLS: certificate verify failed"}, "ca_file"),
    "refused": ({**NODE, "phase": "connect", "text": "Connection refused"}, "firewall"),
    "silent": ({**NODE, "phase": "connect", "text": "no answer in time"}, "2525"),
    "name": ({**NODE, "phase": "connect", "text": "x.example cannot be resolved: Name or service not known"}, "DNS"),
    "key revoked": ({**ACCOUNT, "phase": "http", "code": 401, "text": "Unauthorized"}, "credentials"),
    "vendor down": ({**NODE, "phase": "http", "code": 503, "text": "down"}, "vendor has trouble"),
    "slower": ({"status": Status.DEFERRED, "scope": Scope.QUOTA, "phase": "http", "code": 429}, "slower pace"),
    "says it itself": ({**ACCOUNT, "phase": "auth", "text": "invalid_grant: x; `relay oauth login n` asks"}, ""),
    "well": ({"status": Status.DELIVERED, "scope": Scope.RECIPIENT, "code": 250}, ""),
}


@pytest.mark.parametrize(("outcome", "words"), CASES.values(), ids=list(CASES))
def test_advice(outcome: dict[str, Any], words: str) -> None:
    said = advice(Outcome(**outcome))
    assert words in said
    assert bool(words) == bool(said)
