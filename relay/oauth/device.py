"""The waiting of the device flow (RFC 8628 §3.5) and the proof key of the code flow (RFC 7636). Pure."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from relay.oauth.requests import Failed, Granted, Refused

SLOWER_S = 5.0
"""What `slow_down` adds to the interval."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask again after this many seconds, and in that rhythm."""

    interval_s: float


def next_step(verdict: Granted | Refused | Failed, interval_s: float) -> Wait | Granted | Refused:
    """What follows from an answer while a person has yet to consent. Trouble of the server or the network is waited
    out at a slower pace: the code stays good."""
    match verdict:
        case Granted():
            return verdict
        case Refused(error="authorization_pending"):
            return Wait(interval_s)
        case Refused(error="slow_down") | Failed():
            return Wait(interval_s + SLOWER_S)
        case Refused():
            return verdict


def challenge_of(verifier: str) -> str:
    """`code_challenge` of method S256."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


class BadRedirect(ValueError):
    """What came back from the browser gives no code; the text says why."""


def code_of(redirected: str, state: str) -> str:
    """The code in the address that the browser was sent to (or its path and query, or the code alone).

    Raises:
        BadRedirect: consent refused, or the answer to another login.
    """
    redirected = redirected.strip()
    if "?" not in redirected and "=" not in redirected and redirected:
        return redirected
    facts = parse_qs(urlsplit(redirected).query or redirected)
    if error := facts.get("error", [""])[0]:
        described = facts.get("error_description", [""])[0]
        raise BadRedirect(f"{error}: {described}" if described else error)
    if facts.get("state", [""])[0] != state:
        raise BadRedirect("this address belongs to another login; use the page that was printed last")
    code = facts.get("code", [""])[0]
    if not code:
        raise BadRedirect("there is no code in this address")
    return code
