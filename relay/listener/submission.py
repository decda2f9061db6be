"""What the listener hands over, and the contract of whoever takes it.

The listener speaks SMTP and knows sessions; everything that decides about mail is behind `Acceptor`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from relay.bridges.bridge import Bridge
from relay.envelope import Content, Recipient, Reply
from relay.values import thawed


@thawed
@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """Who is at the other end.

    Attributes:
        session: id of the session, for logs.
        peer: client address without port (after PROXY), port apart.
        helo: what the client called itself, cleaned to printable ASCII.
        protocol: RFC 3848 name: SMTP, ESMTP, ESMTPA, ESMTPS, ESMTPSA, or the UTF8SMTP… of RFC 6531.
        tls: version and cipher, or empty.
        username: what it authenticated as, or empty.
    """

    session: str
    peer: str
    port: int
    helo: str
    protocol: str
    tls: str = ""
    username: str = ""


@thawed
@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One finished transaction, content complete and canonical (every line ends CRLF, dots unstuffed, no NUL).

    `content.body` is a `BodyFile` in the listener's temporary folder when large.

    Attributes:
        eight_bit: an octet above 0x7f was seen anywhere in the content.
        long_lines: a line longer than 998 octets was seen.
        smtputf8: the client asked for SMTPUTF8 on MAIL.
        ret, envid: RFC 3461, decoded; empty when absent.
        idempotency_key: given beside the message instead of in its header section; empty when not.
        digest: of what the client sent, where that is not the content itself (the send API's JSON).
    """

    bridge: Bridge
    session: SessionInfo
    sender: str
    recipients: tuple[Recipient, ...]
    content: Content
    eight_bit: bool = False
    long_lines: bool = False
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    idempotency_key: str = ""
    digest: bytes = b""


class Acceptor(Protocol):
    """Takes finished transactions and answers for them."""

    async def authenticate(self, username: str, password: str, *, peer: str) -> Bridge | None:
        """The bridge these credentials open, or None. Constant work for unknown users; runs hashes off the loop.

        Raises:
            AcceptanceError: 454 when too many checks are waiting, or this peer or name has failed too often.
        """
        ...

    def bridge_for(self, address: str) -> Bridge | None:
        """The bridge whose networks hold this client address (most specific first), or None."""
        ...

    def admits(self, bridge: Bridge) -> bool:
        """False when the bridge was revoked or changed since the session logged in."""
        ...

    def renewed(self, bridge: Bridge, username: str) -> Bridge | None:
        """What an admitted bridge that changed has become for a session that logged in to it; None ends the session."""
        ...

    def check_open(self, size: int) -> Reply | None:
        """The reply to give MAIL when nothing can be taken now (disk, store, shutting down), or None. No I/O."""
        ...

    async def check_sender(self, bridge: Bridge, sender: str) -> Reply | None:
        """Policy on the reverse-path; a refusal, or None."""
        ...

    async def submit(self, submission: Submission, *, deadline: float) -> Reply:
        """Take the message for good. The returned reply is the promise (250) or the refusal.

        A `BodyFile` that still exists when this returns is deleted by the listener: adopt it by renaming or linking.

        Args:
            deadline: seconds of the event loop's clock (`loop.time()`). Past it the client hears 451 4.4.5 and will
                send the message again, so it must not stay. Nothing is cancelled for that, because a cancelled commit
                may or may not have happened: when the message is durable, look at the clock; if it is later than
                `deadline`, remove the message again and answer 451. The listener answers strictly later than
                `deadline`, on the same loop and from the awaiting task, so there is no gap between the two as long
                as nothing is awaited between that look and the return.

        Never raises but on bugs; the caller shields it from cancellation and answers 451 4.3.0 on any exception.
        """
        ...
