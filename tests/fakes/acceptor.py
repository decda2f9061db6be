"""An acceptor that records what it is given, and does as it is told about it.

acceptor = RecordingAcceptor(logins={("shop", "secret"): bridge})
acceptor.replies.append(Reply(451, "4.3.0", "no"))   # for the next message, then 250 again
acceptor.raises["submit"] = RuntimeError("boom")      # at each call, until taken away
acceptor.gate = asyncio.Event()                       # commits wait here
...
assert acceptor.messages[0].content == b"Subject: x\r\n\r\nhello\r\n"
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from ipaddress import ip_address

from relay.bridges.bridge import Bridge
from relay.envelope import Reply
from relay.listener.submission import Submission


@dataclass(frozen=True)
class Taken:
    """One message that was submitted: the content whole, read at once because a body file does not stay."""

    submission: Submission
    content: bytes

    @property
    def sender(self) -> str:
        return self.submission.sender

    @property
    def recipients(self) -> tuple[str, ...]:
        return tuple(r.address for r in self.submission.recipients)


@dataclass
class RecordingAcceptor:
    """Satisfies `relay.listener.submission.Acceptor`.

    Attributes:
        logins: (username, password) → bridge.
        bridges: those whose networks are looked through for clients without AUTH.
        revoked: names of bridges that are no longer admitted.
        refused_senders: reverse-path → reply.
        closed: reply to every MAIL, or None.
        replies: answers for the next messages, in order; 250 when empty.
        raises: method name → exception raised by it.
        gate: when set, commits wait for it.
        messages: everything that was answered 2xx; `offered` counts all that was submitted.
    """

    logins: dict[tuple[str, str], Bridge] = field(default_factory=dict)
    bridges: list[Bridge] = field(default_factory=list)
    revoked: set[str] = field(default_factory=set)
    refused_senders: dict[str, Reply] = field(default_factory=dict)
    closed: Reply | None = None
    replies: list[Reply] = field(default_factory=list)
    raises: dict[str, BaseException] = field(default_factory=dict)
    gate: asyncio.Event | None = None
    committing: asyncio.Event = field(default_factory=asyncio.Event)
    messages: list[Taken] = field(default_factory=list)
    offered: int = 0
    attempts: list[tuple[str, str]] = field(default_factory=list)
    deadlines: list[float] = field(default_factory=list)

    def _maybe_raise(self, method: str) -> None:
        if method in self.raises:
            raise self.raises[method]

    async def authenticate(self, username: str, password: str, *, peer: str) -> Bridge | None:
        self.attempts.append((username, peer))
        await asyncio.sleep(0)
        self._maybe_raise("authenticate")
        return self.logins.get((username, password))

    def bridge_for(self, address: str) -> Bridge | None:
        self._maybe_raise("bridge_for")
        ip = ip_address(address)
        return next((bridge for bridge in self.bridges if any(ip in net for net in bridge.networks)), None)

    def admits(self, bridge: Bridge) -> bool:
        self._maybe_raise("admits")
        return bridge.name not in self.revoked

    def renewed(self, bridge: Bridge, username: str) -> Bridge | None:
        return None

    def check_open(self, size: int) -> Reply | None:
        self._maybe_raise("check_open")
        return self.closed

    async def check_sender(self, bridge: Bridge, sender: str) -> Reply | None:
        self._maybe_raise("check_sender")
        return self.refused_senders.get(sender)

    async def submit(self, submission: Submission, *, deadline: float) -> Reply:
        self.offered += 1
        self.deadlines.append(deadline)
        self._maybe_raise("submit")
        content = b"".join(submission.content.chunks())
        self.committing.set()
        if self.gate is not None:
            await self.gate.wait()
        else:
            await asyncio.sleep(0)
        if asyncio.get_running_loop().time() > deadline:
            return Reply(451, "4.4.5", "Too late")
        reply = self.replies.pop(0) if self.replies else Reply(250, "2.0.0", f"Ok: queued as {self.offered}")
        if reply.code < 300:
            self.messages.append(Taken(submission, content))
        return reply
