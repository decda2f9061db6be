"""What a bridge may send: whose address, to how many, how large. Pure.

Sender entries (`Bridge.senders`): `user@domain` is one address, `@domain` every address of exactly that domain,
`@.domain` of that domain and all below it. Domains compare case-insensitively and internationalised ones by their
A-labels (RFC 5891); local parts are opaque and compare case-insensitively. Whatever does not compare equal is refused:
`"user"@domain` is not `user@domain` here, although RFC 5321 §4.1.2 lets a server think so.

A look-up costs one set probe for each label of the domain, whatever the number of entries.
"""

from __future__ import annotations

from collections.abc import Sequence

from relay.bridges.bridge import Bridge
from relay.domains import domain_key
from relay.envelope import Reply

SENDER_REFUSED = Reply(550, "5.7.1", "Sender address not allowed for this login")
NULL_SENDER_REFUSED = Reply(550, "5.7.1", "Empty sender address not allowed for this login")
FROM_REFUSED = Reply(550, "5.7.1", "From header address not allowed for this login")
FROM_AMBIGUOUS = Reply(550, "5.7.1", "From header must hold exactly the address the message is from")
TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "Too many recipients; send the rest in another message")


class SenderList:
    """Allowed addresses, compiled. An empty list allows every address."""

    def __init__(self, entries: Sequence[str]) -> None:
        self._addresses: set[tuple[str, str]] = set()
        self._domains: set[str] = set()
        self._trees: set[str] = set()
        for entry in entries:
            local, _, domain = entry.rpartition("@")
            if local:
                self._addresses.add((local.lower(), domain_key(domain)))
            elif domain.startswith("."):
                self._trees.add(domain_key(domain[1:]))
            else:
                self._domains.add(domain_key(domain))
        self.is_open = not entries

    def allows(self, address: str) -> bool:
        """`address`: without angle brackets; an empty one or one without a domain is never in a list."""
        if self.is_open:
            return True
        local, at, given = address.rpartition("@")
        if not (at and local and given):
            return False
        domain = domain_key(given)
        if domain in self._domains or (local.lower(), domain) in self._addresses:
            return True
        while self._trees and domain:
            if domain in self._trees:
                return True
            domain = domain.partition(".")[2]
        return False


class BridgePolicy:
    """Rules of one bridge; each check returns the refusal, or None.

    Args:
        null_sender: the null reverse-path is allowed although the bridge has a sender list. Delivery reports and
            automatic replies need it, and it evades the list.
    """

    def __init__(self, bridge: Bridge, *, null_sender: bool = False) -> None:
        self.bridge = bridge
        self._senders = SenderList(bridge.senders)
        self._null_sender = null_sender or self._senders.is_open

    def check_sender(self, sender: str) -> Reply | None:
        """`sender`: reverse-path without brackets, `""` for the null one."""
        if not sender:
            return None if self._null_sender else NULL_SENDER_REFUSED
        return None if self._senders.allows(sender) else SENDER_REFUSED

    def check_from(self, addresses: Sequence[str], *, ambiguous: bool = False) -> Reply | None:
        """The From header.

        Args:
            addresses: every mailbox of every From field; none when the message has no From.
            ambiguous: readers could disagree on who it is from: several From fields, or one that does not parse.
        """
        if self._senders.is_open:
            return None
        if ambiguous:
            return FROM_AMBIGUOUS
        return None if all(self._senders.allows(address) for address in addresses) else FROM_REFUSED

    def check_recipients(self, count: int) -> Reply | None:
        """`count`: recipients of the transaction with the new one (RFC 5321 §4.5.3.1.10: 452, not 552)."""
        limit = self.bridge.limits.recipients
        return TOO_MANY_RECIPIENTS if limit and count > limit else None

    def check_size(self, size: int) -> Reply | None:
        """`size`: octets declared on MAIL, or received (RFC 1870 §6.1)."""
        limit = self.bridge.limits.size
        if limit and size > limit:
            return Reply(552, "5.3.4", f"Message of {size} octets is too large; the limit is {limit}")
        return None
