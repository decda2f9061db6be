"""Roles and callers. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """Each may do what those before it may."""

    VIEWER = "viewer"  # sees
    OPERATOR = "operator"  # acts on mail and nodes
    ADMIN = "admin"  # changes the configuration, tokens included

    def covers(self, needed: Role) -> bool:
        ranks = list(Role)
        return ranks.index(self) >= ranks.index(needed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks.

    Attributes:
        name: of the token, for the audit trail.
        token: its id.
        peer: address the request came from.
        session: id digest of the browser's session; empty for a bearer token.
        csrf: what a page of that session must send along with changes.
    """

    name: str
    token: str
    role: Role
    peer: str
    session: bytes = b""
    csrf: str = ""
