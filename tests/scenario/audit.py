"""Was every promise kept? Compares the clients' ledger with the sinks' ledgers, the queue and the log."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.scenario.clients import Ledger
from tests.scenario.sink import name_of

SPOOL_ID = re.compile(r"(?i)\bid ([0-9A-HJKMNP-TV-Z]{26})\b")


class Events(Protocol):
    """A `Relay`, or several of them."""

    def events(self, name: str = "") -> list[dict[str, Any]]: ...


class Server(Protocol):
    """Where mail arrives: a `Sink` or an `Upstream`."""

    name: str

    def transactions(self) -> list[dict[str, Any]]: ...


@dataclass
class Audit:
    """What became of the promises.

    Attributes:
        lost: promised and neither at a server nor in the queue: name and recipient.
        copies: surplus copies of (name, recipient).
        unexplained: surplus copies of messages whose log does not name a possible duplicate.
        damaged: names whose body arrived other than it was sent.
        strangers: arrived under a name that was refused, or that nobody sent.
        named: attempts that the log calls possible duplicates; the bound for `copies`.
    """

    arrived: int = 0
    lost: list[tuple[str, str]] = field(default_factory=list)
    copies: Counter[tuple[str, str]] = field(default_factory=Counter)
    unexplained: list[tuple[str, str]] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    named: int = 0

    @property
    def duplicates(self) -> int:
        return sum(self.copies.values())

    def check(self, *, bound: int | None = None) -> None:
        """Nothing lost, mixed up or changed; copies within what the log names, and within `bound` when given."""
        assert not self.lost, f"{len(self.lost)} lost: {self.lost[:10]}"
        assert not self.damaged, f"changed on the way: {self.damaged[:10]}"
        assert not self.strangers, f"not promised and yet sent: {self.strangers[:10]}"
        assert not self.unexplained, f"second copies that no log line explains: {self.unexplained[:10]}"
        assert self.duplicates <= self.named, f"{self.duplicates} second copies, {self.named} possible ones named"
        if bound is not None:
            assert self.duplicates <= bound, f"{self.duplicates} second copies, at most {bound} are allowed"


def audit(
    ledger: Ledger,
    relay: Events,
    servers: Sequence[Server],
    *,
    waiting: Iterable[dict[str, Any]] = (),
    final: Iterable[tuple[str, str]] = (),
) -> Audit:
    """Compare.

    Args:
        waiting: entries of the queue that count as kept.
        final: (name, recipient) pairs that were reported to their sender.
    """
    result = Audit()
    kept = {(entry["id"], r["address"]) for entry in waiting for r in entry["recipients"] if r["status"] == "pending"}
    reported = set(final)
    arrived: Counter[tuple[str, str]] = Counter()
    ids: dict[str, str] = {}
    for server in servers:
        for transaction in server.transactions():
            name = name_of(transaction["head"])
            if not name:
                continue
            found = SPOOL_ID.search(transaction["head"])
            ids[name] = found[1] if found else ""
            arrived.update((name, address) for address in transaction["to"])
            if ledger.bodies.get(name) != transaction["body"]:
                result.damaged.append(name)
            if name not in ledger.promised and name not in ledger.unclear:
                result.strangers.append(name)
    result.arrived = len(arrived)
    for name in ledger.promised:
        for address in ledger.recipients[name]:
            pair = (name, address)
            if not arrived[pair] and pair not in reported and (ledger.id_of(name), address) not in kept:
                result.lost.append(pair)
    events = relay.events()
    suspected = Counter(event["id"] for event in events if event["event"] in ("message.recovered", "attempt.uncertain"))
    result.named = suspected.total()
    result.copies = Counter({pair: count - 1 for pair, count in arrived.items() if count > 1})
    result.unexplained = [pair for pair in result.copies if not suspected[ids[pair[0]]]]
    return result
