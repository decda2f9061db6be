"""What an attempt came to: one fact (status) and how far it reaches (scope); everything else is derived.

Upstream drivers make outcomes (`upstreams.replies` maps SMTP answers, each vendor file its own answers); only
`router.disposition` decides what follows from them.

Unclassified means DEFERRED before hand-over and UNCERTAIN after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from relay.values import thawed


class Status(StrEnum):
    DELIVERED = "delivered"
    DEFERRED = "deferred"
    REFUSED = "refused"
    UNCERTAIN = "uncertain"  # the upstream may have taken the message; its answer is not known (RFC 1047)


class Scope(StrEnum):
    RECIPIENT = "recipient"
    MESSAGE = "message"
    NODE = "node"  # this upstream does not work now: connect, TLS, greeting, 421, protocol fault
    ACCOUNT = "account"  # credentials refused, account suspended: an operator must act
    QUOTA = "quota"  # the upstream says slower: the node cools down and stays active


@thawed
@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of one attempt for one recipient.

    Attributes:
        code: SMTP reply code or HTTP status; 0 when there was no answer.
        enhanced: RFC 3463 code or empty.
        text: the peer's words, control characters removed, at most 500 characters. Never shown to our client.
        phase: where it happened: `connect`, `tls`, `greeting`, `ehlo`, `auth`, `mail`, `rcpt`, `data`, `body`, `dot`,
            `http`.
        retry_after_s: seconds the upstream asked us to wait; None when it did not say.
        vendor_id: the upstream's own id of the message, or empty.
        attempted: False when nothing of this message was offered to the upstream, so that the permit goes back and
            the attempt does not count (for example: no connection could be made).
    """

    status: Status
    scope: Scope
    code: int = 0
    enhanced: str = ""
    text: str = ""
    phase: str = ""
    retry_after_s: float | None = None
    vendor_id: str = ""
    attempted: bool = True


@thawed
@dataclass(frozen=True, slots=True)
class RecipientOutcome:
    """`outcome` for the recipient with this `address`."""

    address: str
    outcome: Outcome
