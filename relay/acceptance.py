"""What happens between the final dot and the 250: policy, the edits that are made once, the spool.

This is the `Acceptor` of the listener. What a message needs once is done here (trace header, missing Date and
Message-ID, removal of what clients may not set); what belongs to an attempt happens later and is never written back.
The reply follows from the result of the store and from nothing else: 250 after it, 4xx when it failed.

Source: RFC 5321 §4.2.5, §6.1 (what 250 promises), RFC 6409 §8 (what a submission server may add).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from relay.bridges.bridge import Bridge
from relay.bridges.registry import BridgeGate
from relay.delivery.direct import Direct
from relay.delivery.dispatcher import Dispatcher
from relay.envelope import Content, Lane, Message, Reply
from relay.errors import SpoolError, SpoolFull, StateUnavailable
from relay.events import Events
from relay.headers import Prepared, Trace, prepare
from relay.idempotency import Keys, Known
from relay.ids import IdSource
from relay.listener.submission import Submission
from relay.pools.pool import Pool
from relay.spool import Lease, Selection, Spool
from relay.state import Candidate, Denied, Permit, PermitRequest, State

NO_ROOM = Reply(452, "4.3.1", "Insufficient system storage, please try again later")
TROUBLE = Reply(451, "4.3.0", "Temporary local problem, please try again later")
CLOSING = Reply(421, "4.3.2", "Service is shutting down, please try again")
TOO_LATE = Reply(451, "4.4.5", "Storing the message took too long, please try again later")
TOO_BIG = Reply(552, "5.3.4", "Message too big")
LOOP = Reply(554, "5.4.6", "Too many hops: this message has been here before")

KEY_REUSED = Reply(554, "5.5.0", "This idempotency key was used for another message")
KEY_BUSY = Reply(451, "4.5.0", "A message with this idempotency key is being taken, please try again")

ANSWER_S = 1.0
"""Of the client's patience, what is left for storing the rest of a direct delivery and for the reply."""

OWN_HOPS = 3
"""Received fields with our own name after which a message is going round in a circle; two are legal (one relay can
stand before and behind a mailing list)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptancePolicy:
    """`hide_client`: leave the client's name and address out of the Received field."""

    hostname: str
    hide_client: bool = False


class Acceptance:
    """Takes finished transactions."""

    def __init__(
        self,
        *,
        gate: BridgeGate,
        pools: Mapping[str, Pool],
        spool: Spool,
        state: State,
        dispatcher: Dispatcher,
        direct: Direct,
        ids: IdSource,
        events: Events,
        policy: AcceptancePolicy,
        clock: Callable[[], float],
        keys: Keys | None = None,
    ) -> None:
        self._gate = gate
        self._keys = keys
        self.pools = pools
        self._spool = spool
        self._state = state
        self._dispatcher = dispatcher
        self._direct = direct
        self._ids = ids
        self._events = events
        self._policy = policy
        self._clock = clock
        self._closing = False
        self._keyed: set[asyncio.Future[Reply]] = set()

    def close(self) -> None:
        """Take nothing more: MAIL is answered 421 from now on."""
        self._closing = True

    async def authenticate(self, username: str, password: str, *, peer: str) -> Bridge | None:
        return await self._gate.authenticate(username, password, peer=peer)

    def bridge_for(self, address: str) -> Bridge | None:
        return self._gate.bridge_for(address)

    def admits(self, bridge: Bridge) -> bool:
        return self._gate.admits(bridge)

    def renewed(self, bridge: Bridge, username: str) -> Bridge | None:
        return self._gate.renewed(bridge, username)

    def use(self, pools: Mapping[str, Pool], policy: AcceptancePolicy) -> None:
        """From now on; the gate is given its registry by itself."""
        self.pools, self._policy = pools, policy

    def check_open(self, size: int) -> Reply | None:
        if self._closing:
            return CLOSING
        if self._spool.unhealthy_reason():
            return TROUBLE
        if self._spool.full_reason(size):
            return NO_ROOM
        return None

    async def check_sender(self, bridge: Bridge, sender: str) -> Reply | None:
        return self._gate.registry.policy(bridge).check_sender(sender)

    async def submit(self, submission: Submission, *, deadline: float) -> Reply:
        """Take one message. One that was stored after `deadline` (loop time) is removed again: the client is told
        that it was not taken and will send it once more (R04)."""
        bridge = self._gate.registry.named(submission.bridge.name) or submission.bridge
        if bridge is not submission.bridge:  # reconfigured since MAIL: its pool of before may be gone
            submission = replace(submission, bridge=bridge)
        now = self._clock()
        message_id = self._ids.next()
        prepared = prepare(
            submission.content.head,
            trace=Trace(
                helo=submission.session.helo,
                peer=submission.session.peer,
                hostname=self._policy.hostname,
                protocol=submission.session.protocol,
                id=message_id,
                recipients=tuple(r.address for r in submission.recipients),
                hide_client=self._policy.hide_client,
            ),
            now=now,
            new_message_id=lambda: f"<{message_id}@{self._policy.hostname}>",
        )
        content = Content(prepared.head, submission.content.body)
        refusal = self._check_message(submission, prepared, content.size)
        if refusal is not None:
            return refusal
        key = submission.idempotency_key or prepared.idempotency_key
        if key and self._keys is not None:
            once = self._once(key, self._keys, message_id, submission, prepared, content, now, deadline)
            # A key must learn what became of its message, also when the client has left meanwhile.
            task = asyncio.ensure_future(once)
            self._keyed.add(task)
            task.add_done_callback(self._keyed.discard)
            return await asyncio.shield(task)
        return await self._take(None, message_id, submission, prepared, content, now, deadline)

    async def _once(
        self,
        key: str,
        keys: Keys,
        message_id: str,
        submission: Submission,
        prepared: Prepared,
        content: Content,
        now: float,
        deadline: float,
    ) -> Reply:
        """Take the message unless its key says that it was taken."""
        bridge = submission.bridge.name
        try:
            digest = submission.digest or await asyncio.to_thread(_digest, submission)
            claim = await keys.claim(bridge, key, digest=digest, id=message_id, now=now)
            match claim.known:
                case Known.DONE:
                    return Reply(250, "2.0.0", f"Ok: queued as {claim.id}")
                case Known.OPEN:
                    return KEY_BUSY
                case Known.OTHER:
                    return KEY_REUSED
                case Known.NEW:
                    pass
        except (StateUnavailable, OSError) as error:
            self._events.fault(where="idempotency", error=str(error))
            return TROUBLE

        async def kept() -> None:
            await keys.finish(bridge, key, id=message_id)

        taken = False
        try:
            reply = await self._take(kept, message_id, submission, prepared, content, now, deadline)
            taken = reply.code < 400
            return reply
        finally:
            if not taken:
                await self._forget(keys, bridge, key, message_id)

    async def _forget(self, keys: Keys, bridge: str, key: str, message_id: str) -> None:
        try:
            await keys.forget(bridge, key, id=message_id)
        except StateUnavailable as error:
            self._events.fault(where="idempotency", error=str(error))

    async def _take(
        self,
        kept: Callable[[], Awaitable[None]] | None,
        message_id: str,
        submission: Submission,
        prepared: Prepared,
        content: Content,
        now: float,
        deadline: float,
    ) -> Reply:
        """`kept`: told when the message is stored, before anybody may deliver it."""
        bridge = submission.bridge
        permit = await self._reserve(bridge, len(submission.recipients), now)
        if isinstance(permit, Reply):
            return permit
        message = self._message(message_id, submission, prepared, content, now)
        if bridge.direct:
            reply = await self._direct.deliver(message, content, deadline=deadline - ANSWER_S)
            if reply.code < 400:
                self._tell(message, submission, prepared)
                if kept is not None:
                    await self._note(kept, message_id)
        else:
            reply = await self._keep(message, content, submission, prepared, deadline, kept)
        if permit is not None and reply.code >= 400:
            await self._refund(permit)
        return reply

    async def _keep(
        self,
        message: Message,
        content: Content,
        submission: Submission,
        prepared: Prepared,
        deadline: float,
        kept: Callable[[], Awaitable[None]] | None = None,
    ) -> Reply:
        fresh = self._dispatcher.takes_fresh(message)
        try:
            lease = await self._spool.store(message, content, lease=fresh)
        except SpoolFull:
            return NO_ROOM
        except SpoolError as error:
            self._events.fault(where="spool", error=str(error))
            return TROUBLE
        if asyncio.get_running_loop().time() > deadline:
            return await self._withdraw(message, lease)
        if kept is not None:
            await self._note(kept, message.id)
        try:
            self._tell(message, submission, prepared)
            if lease is not None:
                # A body file has moved into the spool under another name; only the spool knows where it lies now.
                self._dispatcher.offer(lease, content if isinstance(content.body, bytes) else None)
            else:
                self._dispatcher.stored(message)
        except Exception as error:
            # The message is ours already: a refusal now would make the client send a second copy of it.
            self._events.fault(where="acceptance", error=f"{message.id}: kept, but {type(error).__name__}: {error}")
        return Reply(250, "2.0.0", f"Ok: queued as {message.id}")

    async def _note(self, kept: Callable[[], Awaitable[None]], message_id: str) -> None:
        """A key that cannot be finished is no reason to refuse what is stored: at worst it is said to be busy."""
        try:
            await kept()
        except StateUnavailable as error:
            self._events.fault(where="idempotency", error=f"{message_id}: kept, but its key was not noted: {error}")

    def _check_message(self, submission: Submission, prepared: Prepared, size: int) -> Reply | None:
        """`size`: with what was added here."""
        if prepared.own_hops >= OWN_HOPS:
            return LOOP
        pool = self.pools.get(submission.bridge.pool)
        if pool is None:
            self._events.fault(
                where="acceptance", error=f"bridge {submission.bridge.name}: pool {submission.bridge.pool} is missing"
            )
            return Reply(451, "4.3.5", "This bridge is not set up completely, please tell its operator")
        if 0 < pool.max_size < size:
            return TOO_BIG
        return self._gate.registry.policy(submission.bridge).check_from(
            prepared.from_addresses, ambiguous=prepared.has_from and not prepared.from_address
        )

    async def _reserve(self, bridge: Bridge, cost: int, now: float) -> Permit | Reply | None:
        """Count the recipients against the bridge's own caps, if it has any; over them the client waits."""
        if not bridge.limits.caps:
            return None
        request = PermitRequest((Candidate(f"bridge:{bridge.name}", bridge.limits.caps),), cost, least=cost)
        try:
            (answer,) = await self._state.reserve([request], now=now)
        except StateUnavailable as error:
            self._events.fault(where="state", error=str(error))
            return TROUBLE
        if isinstance(answer, Denied):
            wait = max(1, round(answer.until - now))
            return Reply(452, "4.7.1", f"Sending limit reached, please try again in {wait} seconds")
        return answer

    async def _refund(self, permit: Permit) -> None:
        """The message was not taken after all: the client will come again with it."""
        try:
            await self._state.refund([(permit, permit.granted)])
        except StateUnavailable as error:
            self._events.fault(where="state", error=str(error))

    def _message(
        self, message_id: str, submission: Submission, prepared: Prepared, content: Content, now: float
    ) -> Message:
        bridge = submission.bridge
        lane, rotation = bridge.lane, ""
        if bridge.may_choose:
            lane = prepared.lane or lane
            rotation = str(prepared.rotation or "")
        return Message(
            id=message_id,
            bridge=bridge.name,
            pool=bridge.pool,
            lane=Lane(lane),
            sender=submission.sender,
            recipients=submission.recipients,
            received_at=now,
            size=content.size,
            feedtype=bridge.feedtype,
            campaign=prepared.campaign,
            rotation=rotation,
            ret=submission.ret,
            envid=submission.envid,
            facts=prepared.facts(
                eight_bit=submission.eight_bit,
                long_lines=submission.long_lines,
                smtputf8=submission.smtputf8 and _needs_smtputf8(submission, prepared),
            ),
        )

    async def _withdraw(self, message: Message, lease: Lease | None) -> Reply:
        """Unmake a message that was stored too late to be promised."""
        what = "refused with 451"
        if lease is not None:
            self._dispatcher.unmake(lease)
        else:
            async with self._dispatcher.set_aside(lambda other: other.id == message.id):
                try:
                    if not await self._spool.drop(Selection(ids=(message.id,))):
                        what += ", and on its way already: the client's next one is a second copy"
                except SpoolError as error:
                    what += f", and kept, because it could not be removed: {error}"
        self._events.fault(where="acceptance", error=f"{message.id}: stored after the accept deadline, {what}")
        return TOO_LATE

    def _tell(self, message: Message, submission: Submission, prepared: Prepared) -> None:
        session = submission.session
        extra: dict[str, object] = {}
        if message.campaign:
            extra["campaign"] = message.campaign
        if prepared.removed:
            if prepared.unsigned_by_removal:
                extra["signature_broken_by_removing"] = list(prepared.unsigned_by_removal)
            if ignored := _ignored(submission.bridge, prepared):
                extra["ignored_headers"] = ignored
        self._events.message_accepted(
            message.id,
            session=session.session,
            bridge=message.bridge,
            pool=message.pool,
            lane=message.lane,
            peer=session.peer,
            sender=message.sender,
            recipients=[r.address for r in message.recipients],
            size=message.size,
            message_id=message.facts.message_id,
            **extra,
        )


def _digest(submission: Submission) -> bytes:
    """What makes two submissions the same: envelope and content as the client sent them. Blocking for body files."""
    digest = hashlib.sha256()
    for text in (submission.sender, *(recipient.address for recipient in submission.recipients)):
        digest.update(text.encode("utf-8", "surrogateescape") + b"\0")
    for piece in submission.content.chunks():
        digest.update(piece)
    return digest.digest()


def _ignored(bridge: Bridge, prepared: Prepared) -> list[str]:
    """Control fields that had no effect, and why: the client thinks that it steers its mail, and does not."""
    ignored = []
    if "x-relay-campaign" in prepared.removed and not prepared.campaign:
        ignored.append("x-relay-campaign: a tag is 1 to 64 letters, digits, '.', '_' or '-'")
    for name, value in (("x-relay-rotation", prepared.rotation), ("x-relay-lane", prepared.lane)):
        if name not in prepared.removed:
            continue
        if value is None:
            ignored.append(f"{name}: no such value")
        elif not bridge.may_choose:
            ignored.append(f"{name}: bridge {bridge.name} may not choose (may_choose)")
    return ignored


def _needs_smtputf8(submission: Submission, prepared: Prepared) -> bool:
    """Some clients ask for SMTPUTF8 always. Where addresses and header section are ASCII there is nothing that an
    upstream without it could not carry (RFC 6531 §3.2 is about what the message holds)."""
    return (
        prepared.eight_bit
        or not submission.sender.isascii()
        or not all(recipient.address.isascii() for recipient in submission.recipients)
    )
