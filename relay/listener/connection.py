"""One connection below SMTP: input buffer, collected replies, one lazy timer, and its end.

aiosmtpd reads through a StreamReader and starts a timer for each command; here input stays in one bytes buffer that
`data_received` fills, replies gather until the input is used up and leave in one write (RFC 2920 §3.2), and a
deadline is a number that a single timer looks at when it fires.

One task per connection runs the dialogue. It is never cancelled from here: an ending connection shows as end of
input, so a commit that is under way always finishes.
"""

from __future__ import annotations

import asyncio
from enum import IntEnum
from typing import Any

from aiosmtpd.smtp import SMTP

from relay.bridges.bridge import Bridge
from relay.envelope import Reply
from relay.listener import replies
from relay.listener.service import Service, canonical_address, peer_key
from relay.listener.session import Client, Transaction

INPUT_HIGH = 64 * 1024
"""Input that may wait while a command runs, beyond which reading pauses. One read may add 256 kB to it."""

INPUT_LOW = 16 * 1024

OUTPUT_HIGH = 32 * 1024
"""Replies that gather before they are written although more commands are waiting."""

LINGER_OCTETS = 1024 * 1024
"""How much of what a refused client still sends is read and dropped."""


TIMER_GRAIN = 0.02
"""Loops fire a millisecond early, and what was told to end takes a moment: look again, but not at once."""


class Gone(Exception):
    """There is no more input: the client closed, was lost, or is being sent away."""


class Phase(IntEnum):
    """What a session is doing, for the timer."""

    RUN = 0  # a command, expected to end at once; the deadline is still that of the wait before it
    COMMAND = 1  # waiting for the client
    DATA = 2
    DISCARD = 3  # DATA that is already refused
    COMMIT = 4
    LATE = 5  # the commit was given up, its end is still awaited
    WRITE = 6  # the client does not read its replies
    TLS = 7
    LINGER = 8
    STUCK = 9  # a command that was still running when the timer looked


class Connection(SMTP):
    """Bytes in, replies out. The dialogue itself is in the subclasses."""

    session: Client
    envelope: Transaction | None

    def __init__(self, service: Service, peer: tuple[str, int] | None = None, *, counted: bool = False) -> None:
        """Does not call aiosmtpd's constructor, which inspects its handler anew for each connection (120 µs).

        Args:
            peer: address and port of the client when a PROXY header told them.
            counted: this connection is in the `total` already; it is given back here all the same.
        """
        self.service = service
        self.loop = service.loop
        self.transport: Any = None
        self.envelope = None
        self._closed = None  # read by the inherited __del__
        self._handler_coroutine: asyncio.Task[None] | None = None
        self._peer = peer

        self._pending = b""
        self._pos = 0
        self._received = 0
        self._waiter: asyncio.Future[None] | None = None
        self._read_paused = False
        self._eof = False
        self._lost = False
        self._ending = False  # no further command runs
        self._linger_wanted = False
        self._linger = False
        self._skipping = 0  # octets of an over-long line dropped so far

        self._out: list[bytes] = []
        self._out_size = 0
        self._write_paused = False
        self._write_waiter: asyncio.Future[None] | None = None

        self._phase = Phase.RUN
        self._deadline = 0.0
        self._session_end = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._window_start = 0  # octets received before this DATA window

        self._counted: list[str] = ["total"] if counted else []
        self._bridge_counted = ""
        self._started = 0.0
        self.errors = 0
        self.idle_commands = 0
        self.accepted = 0
        self.rejected = 0
        self.replies_lost = 0  # accepted, but the client went away before it could hear of it
        self.why = ""  # why this connection was ended by us

    @property
    def phase(self) -> Phase:
        return self._phase

    @property
    def task(self) -> asyncio.Task[None]:
        """The dialogue; only of a connection that was made."""
        assert self._handler_coroutine is not None
        return self._handler_coroutine

    def abort(self) -> None:
        """End now, without a word."""
        self._ending = True
        self.transport.abort()

    # Callbacks of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self.transport is not None:  # inside TLS after STARTTLS, on loops that call this again
            self.transport = transport
            return
        self.transport = transport
        service = self.service
        address, port = self._peer or peer_of(transport)
        self.session = Client(self.loop, service.new_session_id(), address, port)
        self._started = self.loop.time()
        self._session_end = self._started + service.options.session_timeout
        service.sessions.add(self)
        self._handler_coroutine = self.loop.create_task(self._handle_client())

    def data_received(self, data: bytes) -> None:
        if self._linger:
            self._received += len(data)
            if self._received > LINGER_OCTETS:
                self.transport.abort()
            return
        pos = self._pos
        if pos:
            self._pending = self._pending[pos:] + data
            self._pos = 0
        else:
            self._pending = self._pending + data if self._pending else data
        self._received += len(data)
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)
        elif len(self._pending) > INPUT_HIGH and not self._read_paused:
            self._read_paused = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """Keep the write side open: a client that pipes everything and shuts down still gets its replies.

        TLS has no half-close; saying True there only earns a warning.
        """
        self._eof = True
        self._wake()
        return not self.session.tls

    def connection_lost(self, _error: Exception | None) -> None:
        self._eof = self._lost = True
        self._wake()
        self._wake_writer()

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        self._wake_writer()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _wake_writer(self) -> None:
        waiter, self._write_waiter = self._write_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # Input and output of the dialogue

    async def _more(self) -> None:
        """Send what is waiting, then wait until more input is there. Raises Gone when there will be none."""
        self._flush()
        if self._write_paused:
            received = self._received
            await self._until_written()
            if self._received != received:
                return
        if self._eof or self._ending:
            raise Gone
        self._waiter = waiter = self.loop.create_future()
        if self._read_paused:
            self._read_paused = False
            self.transport.resume_reading()
        await waiter

    def _take_input(self) -> bytes:
        """All the input that is there."""
        pending = self._pending[self._pos :] if self._pos else self._pending
        self._pending = b""
        self._pos = 0
        return pending

    def say(self, wire: bytes) -> None:
        """Queue one reply; it leaves with the next flush."""
        self._out.append(wire)
        self._out_size += len(wire)

    async def push(self, status: Any) -> None:
        """aiosmtpd's way to reply; what is inherited stays in order with `say`."""
        self.say((status.encode("ascii", "replace") if isinstance(status, str) else status) + b"\r\n")

    def _flush(self) -> None:
        out = self._out
        if out:
            if self.service.tap.open:
                session = self.session
                bridge = session.bridge.name if session.bridge else ""
                self.service.tap.client_told(session.id, bridge, session.address, b"".join(out))
            if not self._lost:
                self.transport.write(out[0] if len(out) == 1 else b"".join(out))
            self._out = []
            self._out_size = 0

    async def _until_written(self) -> None:
        """Wait for a client that does not read; the timer ends it when it never does."""
        phase, deadline = self._phase, self._deadline
        self._enter(Phase.WRITE, self.service.options.write_timeout)
        while self._write_paused and not self._lost:
            self._write_waiter = self.loop.create_future()
            await self._write_waiter
        self._phase = phase
        self._deadline = max(deadline, self.loop.time() + 1.0)

    def fail(self, wire: bytes) -> None:
        """Reply to a command that is refused for good; too many of them end the session."""
        self.say(wire)
        self.errors += 1
        limit = self.service.options.max_errors
        if limit and self.errors >= limit:
            self.end(replies.TOO_MANY_ERRORS, "too many errors")

    def refuse_with(self, reply: Reply) -> None:
        """Give a refusal that somebody else decided on."""
        wire = replies.encode(reply)
        if reply.code == 421:
            self.end(wire, reply.text)
        elif reply.code >= 500:
            self.fail(wire)
        else:
            self.say(wire)

    def end(self, wire: bytes, why: str) -> None:
        """Say goodbye; the session ends after the current command."""
        if not self._ending:
            self.say(wire)
            self._ending = True
            self._linger_wanted = True
            self.why = why

    def dismiss(self, wire: bytes, why: str) -> None:
        """End the session from outside its task (timer, drain), whatever it waits for."""
        self.end(wire, why)
        self._deadline = float("inf")
        if self._phase in (Phase.RUN, Phase.STUCK, Phase.WRITE):
            # Its task waits for the acceptor or the client's window, not for input.
            self._flush()
            self.transport.close()
        self._wake()

    # Timer

    def _enter(self, phase: Phase, timeout: float) -> None:
        """Now in `phase`, for `timeout` seconds at most.

        A timer that fires too early looks and is set anew; so it is set for the shortest usual wait from the start,
        and a short session needs one.
        """
        now = self.loop.time()
        self._phase = phase
        self._deadline = deadline = now + timeout
        if deadline < self._timer_at or self._session_end < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._set_timer(min(deadline, self._session_end, now + self.service.options.data_window))

    def _set_timer(self, when: float) -> None:
        self._timer_at = when
        self._timer = self.loop.call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        now = self.loop.time()
        self._timer = None
        self._timer_at = float("inf")
        if self._handler_coroutine is None or self._handler_coroutine.done():
            return
        if now >= self._session_end and self._phase not in (Phase.COMMIT, Phase.LATE):
            self._session_end = float("inf")
            self.dismiss(replies.SESSION_OVER, "session too long")
        elif now > self._deadline:
            self._expire(now)
        if self._timer is None:
            self._set_timer(max(min(self._deadline, self._session_end), now + TIMER_GRAIN))

    def _expire(self, now: float) -> None:
        options = self.service.options
        match self._phase:
            case Phase.RUN:
                self._phase = Phase.STUCK
                self._deadline = now + options.accept_deadline
            case Phase.STUCK:
                self.dismiss(replies.BROKEN, "a command did not end")
            case Phase.COMMAND:
                self.dismiss(replies.IDLE, "idle")
            case Phase.DATA:
                if self._received - self._window_start < options.data_rate * options.data_window:
                    self.dismiss(replies.TOO_SLOW, "data too slow")
                else:
                    self._window_start = self._received
                    self._deadline = now + options.data_window
            case Phase.DISCARD:
                self.dismiss(replies.GAVE_UP, "message goes on after its limit")
            case Phase.COMMIT:
                # The awaiting task goes on and drops the answer when it comes, see `Acceptor.submit`.
                self.say(replies.TOO_LATE)
                self._flush()
                self._phase = Phase.LATE
                self._deadline = now + options.accept_deadline
            case Phase.LATE:
                self.why = "a commit did not end"
                self.transport.abort()
                self._deadline = float("inf")
            case Phase.WRITE:
                self.why = "client does not read"
                self.transport.abort()
            case Phase.LINGER | Phase.TLS:
                self.transport.abort()

    # The end

    async def _say_goodbye(self) -> None:
        """Send the last reply so that it arrives: closing with unread input would reset the connection over it."""
        self._flush()
        if self._linger_wanted and not self._eof and self.transport.can_write_eof():
            self._linger = True
            self._received = 0
            self._enter(Phase.LINGER, self.service.options.linger)
            self.transport.write_eof()
            if self._read_paused:
                self._read_paused = False
                self.transport.resume_reading()
            self._waiter = self.loop.create_future()
            await self._waiter

    def _leave(self) -> None:
        """Give back what this connection held and tell its story, if it has one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.transport.close()
        service = self.service
        service.sessions.discard(self)
        for key in self._counted:
            service.counters.give_back(key)
        session = self.session
        if self._bridge_counted:
            service.counters.give_back(self._bridge_counted)
        if self.why:
            service.refuse(session=session.id, peer=session.address, why=self.why)
        if self.accepted or self.rejected or self.why or session.authenticated or session.auth_failures:
            service.events.session_ended(
                session=session.id,
                peer=session.address,
                bridge=session.bridge.name if session.bridge else "",
                username=session.username,
                helo=session.host_name or "",
                tls=session.tls,
                accepted=self.accepted,
                rejected=self.rejected,
                errors=self.errors,
                replies_lost=self.replies_lost,
                seconds=round(self.loop.time() - self._started, 3),
                why=self.why,
            )

    def count(self, key: str, limit: int) -> bool:
        """Count this connection under `key` until it ends; False when there are `limit` already."""
        if not self.service.counters.take(key, limit):
            return False
        self._counted.append(key)
        return True

    def count_peer(self) -> bool:
        return self.count(peer_key(self.session.address), self.service.options.max_per_peer)

    def use_bridge(self, bridge: Bridge) -> bool:
        """Make `bridge` the one of this session, if it has room for a connection."""
        key = f"bridge {bridge.name}"
        if key != self._bridge_counted:
            if not self.service.counters.take(key, bridge.limits.connections):
                return False
            self.release_bridge()
            self._bridge_counted = key
        self.session.bridge = bridge
        return True

    def release_bridge(self) -> None:
        if self._bridge_counted:
            self.service.counters.give_back(self._bridge_counted)
            self._bridge_counted = ""

    def reject(self, stage: str, reply: bytes | Reply) -> None:
        """Tell that a message was refused."""
        self.rejected += 1
        session = self.session
        self.service.events.message_rejected(
            session=session.id,
            bridge=session.bridge.name if session.bridge else "",
            peer=session.address,
            stage=stage,
            reply=replies.as_text(reply) if isinstance(reply, bytes) else str(reply),
        )


def peer_of(transport: asyncio.BaseTransport) -> tuple[str, int]:
    """Address and port of the other end; `""` for anything but IP."""
    name = transport.get_extra_info("peername")
    if isinstance(name, tuple) and len(name) >= 2:
        return canonical_address(str(name[0])), int(name[1])
    return "", 0


def is_being_cancelled() -> bool:
    """The running task itself is being cancelled; a CancelledError is not just something that a callee let slip."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
