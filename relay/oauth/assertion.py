"""Signed assertions of service accounts (RFC 7523 §2.1, RS256 of RFC 7518 §3.3). Pure: no I/O, no clock."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

LIFE_S = 3600
"""Google takes no longer ones; the token that is given for it lives as long."""

BACKDATE_S = 60
"""An assertion of the future is refused; clocks differ by less than this."""


class UnusableKey(ValueError):
    """The key file cannot be used; the text says why and holds none of it."""


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """What a key file of Google holds. `token_url`: where Google says that it is used; empty when it does not say."""

    email: str
    key: RSAPrivateKey = field(repr=False)
    key_id: str
    token_url: str


def parse_key_file(data: bytes) -> ServiceAccount:
    """Raises UnusableKey."""
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        facts = json.loads(data)
    except ValueError:
        raise UnusableKey("is not JSON; make a key of type JSON for the service account") from None
    if not isinstance(facts, dict) or facts.get("type") != "service_account":
        raise UnusableKey('is not the key file of a service account (its "type" is another)')
    email, pem = facts.get("client_email"), facts.get("private_key")
    if not isinstance(email, str) or not email or not isinstance(pem, str):
        raise UnusableKey("lacks client_email or private_key")
    try:
        key = load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError):
        raise UnusableKey("holds no usable private key") from None
    if not isinstance(key, RSAPrivateKey) or key.key_size < 2048:
        raise UnusableKey("holds no RSA key of at least 2048 bits")
    return ServiceAccount(email, key, str(facts.get("private_key_id") or ""), str(facts.get("token_uri") or ""))


def sign(account: ServiceAccount, *, audience: str, scopes: Sequence[str], subject: str, now: float) -> str:
    """The assertion.

    Args:
        audience: the token endpoint.
        subject: the person to act for (domain-wide delegation), or empty.
        now: epoch seconds.
    """
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

    issued = int(now) - BACKDATE_S
    header = {"alg": "RS256", "typ": "JWT"} | ({"kid": account.key_id} if account.key_id else {})
    claims: dict[str, str | int] = {
        "iss": account.email,
        "scope": " ".join(scopes),
        "aud": audience,
        "iat": issued,
        "exp": issued + LIFE_S,
    }
    if subject:
        claims["sub"] = subject
    head = f"{_part(json.dumps(header).encode())}.{_part(json.dumps(claims).encode())}"
    return f"{head}.{_part(account.key.sign(head.encode(), PKCS1v15(), hashes.SHA256()))}"


def _part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
