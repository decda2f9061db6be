"""When to stop asking a server that does not answer, and when to look again. Pure: time comes in as an argument.

A refused connection opens the circuit at once: asking costs a connection each, and the answer is known. Answers that
come too late open it after `FAILURES` in a row, because one slow moment (a snapshot, a rewrite of the log) is no reason
to hold mail. While it is open nobody asks but a probe, in growing steps from `FIRST_S` to `LONGEST_S`, each shortened
by a random part so that many replicas do not come back in the same moment.
"""

from __future__ import annotations

from typing import Final

FAILURES: Final = 5
FIRST_S: Final = 0.05
LONGEST_S: Final = 1.0
"""A server that is back is noticed within this time and one timeout (R21 asks for 5 s)."""


class Circuit:
    """Open: nobody asks. Times are steady seconds.

    Attributes:
        opened_at: since when it is open; None while it is closed.
    """

    __slots__ = ("_failures", "_probes", "opened_at")

    def __init__(self) -> None:
        self.opened_at: float | None = None
        self._failures = 0
        self._probes = 0

    @property
    def is_open(self) -> bool:
        return self.opened_at is not None

    def worked(self) -> bool:
        """An answer came; True when that closed the circuit."""
        was_open = self.opened_at is not None
        self.opened_at = None
        self._failures = self._probes = 0
        return was_open

    def failed(self, now: float, *, refused: bool) -> bool:
        """No answer, or (`refused`) not even a connection; True when that opened the circuit."""
        self._failures += 1
        if self.opened_at is None and (refused or self._failures >= FAILURES):
            self.opened_at = now
            return True
        return False

    def next_probe_s(self, draw: float) -> float:
        """How long to wait before the next probe; `draw` in [0, 1)."""
        wait_s: float = min(LONGEST_S, FIRST_S * 2.0**self._probes)
        self._probes = min(self._probes + 1, 10)
        return wait_s * (1 - 0.5 * draw)
