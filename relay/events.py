"""Everything worth telling, as a closed set of events, and where it goes.

One method for each event; its name is the constant operators grep for, its data are key-values. The events of a
message, in order, are its story: `relay explain ID` prints them. No event ever carries content or secrets.

Levels: debug = another event tells it in short, info = mail moved, warning = someone may want to look, error = we are
wrong. A refused client is not an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from relay.values import thawed

DEBUG, INFO, WARNING, ERROR = "debug", "info", "warning", "error"


@thawed
@dataclass(frozen=True, slots=True)
class Event:
    """`at`: epoch seconds. `message_id`: spool id, or empty when the event is not about one message."""

    name: str
    at: float
    level: str
    message_id: str
    data: dict[str, Any]


class Sink(Protocol):
    """Somewhere events go. `emit` must not block: hot path."""

    def emit(self, event: Event) -> None: ...


class Events:
    """Makes events and hands them to the sinks."""

    def __init__(self, sinks: Sequence[Sink], clock: Callable[[], float]) -> None:
        self._sinks = tuple(sinks)
        self._clock = clock

    def _tell(self, name: str, level: str = INFO, message_id: str = "", /, **data: Any) -> None:
        event = Event(name, self._clock(), level, message_id, data)
        for sink in self._sinks:
            sink.emit(event)

    # Sessions

    def session_authenticated(self, *, session: str, bridge: str, peer: str, mechanism: str) -> None:
        """Not for the usual log: `session.ended` names the login of every session that used one."""
        self._tell("session.authenticated", DEBUG, session=session, bridge=bridge, peer=peer, mechanism=mechanism)

    def session_auth_failed(self, *, session: str, username: str, peer: str, mechanism: str, why: str) -> None:
        self._tell(
            "session.auth_failed", WARNING, session=session, username=username, peer=peer, mechanism=mechanism, why=why
        )

    def session_refused(self, *, session: str, peer: str, why: str) -> None:
        """A connection was not served or was cut: limits, TLS fault, PROXY header, errors."""
        self._tell("session.refused", WARNING, session=session, peer=peer, why=why)

    def session_ended(self, *, session: str, peer: str, **data: Any) -> None:
        """The story of one session in one line: what it used, how much was taken and refused, why it was cut."""
        self._tell("session.ended", session=session, peer=peer, **data)

    # Messages

    def message_accepted(self, message_id: str, /, **data: Any) -> None:
        self._tell("message.accepted", INFO, message_id, **data)

    def message_rejected(self, *, session: str, bridge: str, peer: str, stage: str, reply: str) -> None:
        self._tell("message.rejected", session=session, bridge=bridge, peer=peer, stage=stage, reply=reply)

    def message_held(self, message_id: str, /, *, until: float, why: Sequence[str]) -> None:
        self._tell("route.held", INFO, message_id, until=until, why=list(why))

    def message_failed(self, message_id: str, /, *, recipients: Sequence[dict[str, Any]], **data: Any) -> None:
        """Refused for good. `recipients`: address, code, text and node of each."""
        self._tell("message.failed", WARNING, message_id, recipients=list(recipients), **data)

    def message_expired(self, message_id: str, /, *, recipients: Sequence[str], age_s: float) -> None:
        self._tell("message.expired", WARNING, message_id, recipients=list(recipients), age_s=age_s)

    def message_quarantined(self, message_id: str, /, *, why: str) -> None:
        self._tell("message.quarantined", ERROR, message_id, why=why)

    def message_dropped(self, message_id: str, /, *, by: str) -> None:
        self._tell("message.dropped", WARNING, message_id, by=by)

    def message_recovered(self, message_id: str, /, *, crashes: int) -> None:
        """An attempt was open when the process died: the upstream may get a second copy."""
        self._tell("message.recovered", WARNING, message_id, crashes=crashes, possible_duplicate=True)

    def dsn_created(self, message_id: str, /, *, dsn_id: str, to: str, action: str, recipients: Sequence[str]) -> None:
        self._tell("dsn.created", INFO, message_id, dsn_id=dsn_id, to=to, action=action, recipients=list(recipients))

    def dsn_suppressed(self, message_id: str, /, *, why: str) -> None:
        self._tell("dsn.suppressed", INFO, message_id, why=why)

    def attempt(self, message_id: str, status: str, /, **data: Any) -> None:
        """`attempt.delivered`, `.deferred`, `.refused` or `.uncertain`: one attempt with one node."""
        self._tell(f"attempt.{status}", INFO if status == "delivered" else WARNING, message_id, **data)

    # Nodes

    def node_deactivated(self, *, node: str, pool: str, test_status: str, next_check: float) -> None:
        self._tell("node.deactivated", WARNING, node=node, pool=pool, test_status=test_status, next_check=next_check)

    def node_recovered(self, *, node: str, pool: str, down_s: float) -> None:
        self._tell("node.recovered", INFO, node=node, pool=pool, down_s=down_s)

    def node_ready(self, *, node: str, pool: str) -> None:
        """A node passed its first test and is used from now on."""
        self._tell("node.ready", INFO, node=node, pool=pool)

    def node_check_failed(self, *, node: str, pool: str, test_status: str, next_check: float) -> None:
        """`next_check` 0: checking has ended; the node stays off until an operator acts."""
        self._tell("node.check_failed", WARNING, node=node, pool=pool, test_status=test_status, next_check=next_check)

    def node_cooled(self, *, node: str, pool: str, until: float, reason: str) -> None:
        self._tell("node.cooled", WARNING, node=node, pool=pool, until=until, reason=reason)

    def node_paused(self, *, node: str, pool: str, by: str, reason: str, until: float) -> None:
        self._tell("node.paused", WARNING, node=node, pool=pool, by=by, reason=reason, until=until)

    def node_resumed(self, *, node: str, pool: str, by: str) -> None:
        self._tell("node.resumed", INFO, node=node, pool=pool, by=by)

    def node_token_failed(self, *, node: str, pool: str, error: str, account: bool) -> None:
        """No access token could be had, or the consent ends soon. `account`: only an operator can mend it; `error`
        says what to do."""
        self._tell("node.token_failed", WARNING, node=node, pool=pool, error=error, account=account)

    # Process

    def started(self, **data: Any) -> None:
        self._tell("relay.started", **data)

    def adopted(self, *, shard: str, messages: int, damaged: int) -> None:
        """The mail of a worker that there is no more was taken over; what is damaged stayed where it is."""
        self._tell("relay.adopted", WARNING if damaged else INFO, shard=shard, messages=messages, damaged=damaged)

    def stopping(self, **data: Any) -> None:
        self._tell("relay.stopping", **data)

    def stopped(self, **data: Any) -> None:
        self._tell("relay.stopped", **data)

    def reloaded(self, **data: Any) -> None:
        self._tell("relay.reloaded", **data)

    def reload_failed(self, *, error: str) -> None:
        """The running configuration goes on."""
        self._tell("relay.reload_failed", ERROR, error=error)

    def reload_returned(self, *, why: str) -> None:
        """Delivery broke after a reload; the configuration before it is back. The files still hold the other one."""
        self._tell("relay.reload_returned", ERROR, why=why)

    def store_changed(self, why: str) -> None:
        """A shared store went away, or is back when `why` is empty."""
        if why:
            self._tell("store.away", ERROR, error=why)
        else:
            self._tell("store.back")

    def fault(self, *, where: str, error: str) -> None:
        """Something failed that is ours to fix; the mail flow goes on."""
        self._tell("relay.fault", ERROR, where=where, error=error)
