"""AUTH with an access token: XOAUTH2 and OAUTHBEARER. Pure: no I/O.

Both send the token in the initial response. A server that refuses it answers 334 with JSON that says why, and waits for
one more line before the 535; what stands in the JSON is worth more to an operator than the 535.

Source: developers.google.com/gmail/imap/xoauth2-protocol, RFC 7628.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Collection
from typing import Literal

from relay.upstreams.replies import clean

Mechanism = Literal["xoauth2", "oauthbearer"]

PREFERRED: tuple[Mechanism, ...] = ("xoauth2", "oauthbearer")
"""XOAUTH2 first: every mailbox provider has it, and their OAUTHBEARER is the same check behind another name."""


def mechanism(wanted: str, offered: Collection[str]) -> Mechanism | None:
    """The one to use, or None when the server has none of them. `offered`: lower case."""
    return next((one for one in PREFERRED if wanted in ("auto", one) and one in offered), None)


def initial_response(kind: Mechanism, *, account: str, token: str, host: str, port: int) -> bytes:
    """What follows `AUTH XOAUTH2 `, in base64."""
    if kind == "xoauth2":
        text = f"user={account}\x01auth=Bearer {token}\x01\x01"
    else:
        name = account.replace("=", "=3D").replace(",", "=2C")  # saslname, RFC 5801 §4
        text = f"n,a={name},\x01host={host}\x01port={port}\x01auth=Bearer {token}\x01\x01"
    return base64.b64encode(text.encode())


def final_line(kind: Mechanism) -> bytes:
    """The line a server wants after its 334: empty, or one \\x01 in base64 (RFC 7628 §3.2.3)."""
    return b"" if kind == "xoauth2" else b"AQ=="


def why(challenge: str) -> str:
    """The words of a 334: its JSON on one line, `status=400 schemes=Bearer scope=…`, or whatever else it holds."""
    try:
        text = base64.b64decode(challenge.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return clean(challenge)
    try:
        facts = json.loads(text)
    except ValueError:
        return clean(text)
    return clean(" ".join(f"{key}={value}" for key, value in facts.items()) if isinstance(facts, dict) else text)
