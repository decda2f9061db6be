"""How much each node was used lately, for `least-used`: our own messages at once, other workers' by and by.

Counts fade, so that a node which was away, or is new, is not flooded with everything it missed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

HALF_LIFE_S = 300.0
"""Use counts half after this. Long against a store's delay in counting, short against an outage worth noticing."""


class Usage:
    """Recent recipients by node name, faded. Plain arithmetic; time is an argument."""

    def __init__(self) -> None:
        self.used: dict[str, float] = {}
        self._unseen: dict[str, float] = {}  # ours, not yet found in the shared totals
        self._totals: dict[str, int] | None = None
        self._at = 0.0

    def took(self, node: str, recipients: int) -> None:
        """We routed recipients to this node."""
        self.used[node] = self.used.get(node, 0.0) + recipients
        self._unseen[node] = self._unseen.get(node, 0.0) + recipients

    def merge(self, totals: Mapping[str, int], now: float) -> None:
        """Take in the shared totals of all workers since ever, ours included sooner or later.

        What they grew by and is not ours was sent by others. Ours that never shows up (no attempt was made after
        all) fades like everything else.
        """
        if self._totals is None:
            fade = 1.0  # the totals of a whole life say nothing about lately
        else:
            fade = 0.5 ** (max(0.0, now - self._at) / HALF_LIFE_S)
            for node, total in totals.items():
                grown = total - self._totals.get(node, 0)
                ours = min(self._unseen.get(node, 0.0), max(grown, 0))
                if ours:
                    self._unseen[node] -= ours
                if grown > ours:
                    self.used[node] = self.used.get(node, 0.0) + grown - ours
        self.used = {node: value * fade for node, value in self.used.items()}
        self._unseen = {node: value * fade for node, value in self._unseen.items()}
        self._totals = dict(totals)
        self._at = now

    def keep(self, nodes: Collection[str]) -> None:
        """Forget all other nodes."""
        self.used = {node: value for node, value in self.used.items() if node in nodes}
        self._unseen = {node: value for node, value in self._unseen.items() if node in nodes}
