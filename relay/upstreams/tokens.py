"""Where drivers get OAuth2 access tokens from. The flows that make them are no driver's business."""

from __future__ import annotations

from typing import Protocol


class TokenSource(Protocol):
    """Access tokens of one node. Safe for concurrent calls: one refresh serves all who wait."""

    async def token(self) -> str:
        """A token that is valid now.

        Raises:
            UpstreamError: none can be had; the text says why and what to do. Never holds a secret. With an attribute
                `outcome` (an Outcome) of scope NODE it is a trouble that passes; else an operator must act.
        """
        ...

    async def invalidate(self, token: str) -> None:
        """The upstream refused this token: the next `token` is a fresh one. Of a token already replaced, nothing."""
        ...
