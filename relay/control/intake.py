"""Messages that come over the control socket instead of SMTP: the send API's way into acceptance.

The admin process speaks HTTP and makes the content canonical; who may send what, limits, keys, ids and storing are
decided here, by the same parts that serve SMTP. A large body comes as a file in the listener's own temporary folder.
"""

from __future__ import annotations

import asyncio
import base64
import unicodedata
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from relay.bridges.bridge import Bridge
from relay.bridges.registry import BridgeGate
from relay.envelope import BodyFile, Content, Recipient, Reply
from relay.errors import AcceptanceError, SpoolError
from relay.events import Events
from relay.ids import is_id
from relay.listener.body import TOO_BIG
from relay.listener.paths import parse_mail, parse_rcpt, recipient_key
from relay.listener.submission import SessionInfo, Submission

NO_RECIPIENT = Reply(554, "5.5.1", "No valid recipients")
TOO_MANY = Reply(554, "5.5.3", "Too many recipients for one message")
TROUBLE = Reply(451, "4.3.0", "Temporary local problem, please try again later")


class Takes(Protocol):
    """The part of acceptance that is needed here."""

    async def authenticate(self, username: str, password: str, *, peer: str) -> Bridge | None: ...

    def check_open(self, size: int) -> Reply | None: ...

    async def check_sender(self, bridge: Bridge, sender: str) -> Reply | None: ...

    async def submit(self, submission: Submission, *, deadline: float) -> Reply: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeLimits:
    """As the listeners have them; `body_dir` is where body files are expected."""

    hostname: str
    max_size: int
    max_recipients: int
    accept_deadline: float
    body_dir: Path


class Intake:
    """`gate`, `limits`: of the configuration that runs, asked anew each time."""

    def __init__(
        self, acceptor: Takes, gate: Callable[[], BridgeGate], events: Events, limits: Callable[[], IntakeLimits]
    ) -> None:
        self._acceptor = acceptor
        self._gate = gate
        self._events = events
        self._limits = limits
        self._sessions = 0

    async def submit(
        self,
        *,
        peer: str,
        messages: Sequence[Mapping[str, Any]],
        username: str = "",
        password: str = "",
        token: str = "",
        bridge: str = "",
    ) -> dict[str, Any]:
        """Take messages of one client.

        Args:
            bridge: instead of a login, for an operator's test message and the relay's own mail: only its user reaches
                the socket.
            token: instead of username and password.
            messages: each `sender`, `recipients`, `head` and `body` in base64, or `file` and `size` for a body in
                `body_dir`; `eight_bit`, `long_lines`; `key` and `digest` (hex) for those that count once.

        Returns:
            `bridge`: its name, empty when the login is wrong; `refused`: why it was not even looked at; `results`:
            for each message `code`, `enhanced`, `text` and `id` as SMTP would have answered.
        """
        self._sessions += 1
        session = f"api-{self._sessions:x}"
        mechanism = "OPERATOR" if bridge else "TOKEN" if token else "PLAIN"
        try:
            if bridge:
                found = self._gate().registry.named(bridge)
            elif token:
                found = await self._gate().authenticate_token(token, peer=peer)
            else:
                found = await self._acceptor.authenticate(username, password, peer=peer)
        except AcceptanceError as error:
            return {"bridge": "", "refused": _row(error.reply), "results": []}
        if found is None:
            self._events.session_auth_failed(
                session=session, username=username, peer=peer, mechanism=mechanism, why="wrong login of the send API"
            )
            return {"bridge": "", "refused": None, "results": []}
        self._events.session_authenticated(session=session, bridge=found.name, peer=peer, mechanism=mechanism)
        info = SessionInfo(session=session, peer=peer, port=0, helo="", protocol="HTTP", username=username)
        results = []
        for message in messages:
            reply = await self._guarded(self._one(found, info, message))
            if reply.code >= 400:
                self._events.message_rejected(
                    session=session, bridge=found.name, peer=peer, stage="api", reply=str(reply)
                )
            results.append(_row(reply))
        return {"bridge": found.name, "refused": None, "results": results}

    async def _guarded(self, work: Awaitable[Reply]) -> Reply:
        try:
            return await work
        except AcceptanceError as error:
            return error.reply
        except SpoolError as error:
            self._events.fault(where="send API", error=str(error))
            return TROUBLE

    async def _one(self, bridge: Bridge, info: SessionInfo, message: Mapping[str, Any]) -> Reply:
        limits = self._limits()
        content = self._content(message)
        largest = min([size for size in (limits.max_size, bridge.limits.size) if size], default=0)
        if largest and content.size > largest:
            return TOO_BIG
        refusal = self._acceptor.check_open(content.size)
        if refusal is not None:
            return refusal
        given = str(message["sender"])
        sender = parse_mail(b"FROM:" + _path(given) + b" SMTPUTF8", esmtp=True).sender
        _same(given, sender, "5.1.7")
        refusal = await self._acceptor.check_sender(bridge, sender)
        if refusal is not None:
            return refusal
        recipients = self._recipients(message["recipients"])
        if not recipients:
            return NO_RECIPIENT
        most = min([limit for limit in (limits.max_recipients, bridge.limits.recipients) if limit], default=0)
        if most and len(recipients) > most:
            return TOO_MANY
        return await self._acceptor.submit(
            Submission(
                bridge=bridge,
                session=info,
                sender=sender,
                recipients=recipients,
                content=content,
                eight_bit=bool(message.get("eight_bit")),
                long_lines=bool(message.get("long_lines")),
                smtputf8=True,
                idempotency_key=str(message.get("key", "")),
                digest=bytes.fromhex(str(message.get("digest", ""))),
            ),
            deadline=asyncio.get_running_loop().time() + limits.accept_deadline,
        )

    def _recipients(self, given: Sequence[str]) -> tuple[Recipient, ...]:
        found: dict[str, Recipient] = {}
        for address in given:
            recipient = parse_rcpt(
                b"TO:" + _path(address), esmtp=True, smtputf8=True, own_domain=self._limits().hostname
            )
            if address.lower() != "postmaster":
                _same(address, recipient.address, "5.1.3")
            found.setdefault(recipient_key(recipient.address), recipient)
        return tuple(found.values())

    def _content(self, message: Mapping[str, Any]) -> Content:
        head = base64.b64decode(message["head"])
        name = message.get("file")
        if name is None:
            return Content(head, base64.b64decode(message["body"]))
        if Path(name).name != name:
            raise SpoolError(f"{name!r} is not the name of a body file")
        return Content(head, BodyFile(self._limits().body_dir / name, int(message["size"])))


def _path(address: str) -> bytes:
    """An address as it stands in a command."""
    raw = address.encode("utf-8", "surrogateescape")
    if any(octet < 32 or octet == 127 for octet in raw):
        raise AcceptanceError(Reply(501, "5.1.3", "Malformed address"))
    return b"<" + raw + b">"


def _same(given: str, read: str, enhanced: str) -> None:
    """What was read is all that was given: no parameter, route or second address hid behind it."""
    if unicodedata.normalize("NFC", given) != read:
        raise AcceptanceError(Reply(501, enhanced, "Malformed address"))


def _row(reply: Reply) -> dict[str, Any]:
    last = reply.text.rpartition(" ")[2]
    named = last if reply.code < 400 and is_id(last) else ""
    return {"code": reply.code, "enhanced": reply.enhanced, "text": reply.text, "id": named}
