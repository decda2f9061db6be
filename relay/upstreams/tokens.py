"""What a driver knows of OAuth 2: where access tokens come from, and how their lack is told.

The implementation is `relay.oauth.source`; drivers see this contract alone. A driver asks for a token before each use,
because tokens end after about an hour, and says so when the upstream refused one.
"""

from __future__ import annotations

from typing import Protocol

from relay.errors import UpstreamError
from relay.outcome import Outcome


class TokenFault(UpstreamError):
    """There is no access token; `outcome` says why, for every delivery that needed it: of scope ACCOUNT when only an
    operator can mend it, else it may pass by itself."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.text)
        self.outcome = outcome


class TokenSource(Protocol):
    """Access tokens of one node. Safe for concurrent calls: one request to the token endpoint serves all."""

    async def token(self) -> str:
        """A token that is good for minutes to come. At once when one is at hand.

        Raises:
            TokenFault: none can be had.
        """
        ...

    async def invalidate(self, token: str) -> None:
        """The upstream refused this token: the next one must be another. Does nothing for an older token."""
        ...
