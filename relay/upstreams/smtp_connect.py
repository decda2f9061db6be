"""The opening of an SMTP connection: TCP, TLS, greeting, EHLO, STARTTLS, AUTH.

TCP and TLS come from the loop, the dialogue from aiosmtplib, replies from our `Wire`. Every failure becomes one
`ConnectFailed` that carries the outcome for those who wanted the connection; nothing of a message was offered by then.

Invariants
  - With `starttls` and `implicit` nothing but EHLO is ever said in clear. `opportunistic` stays in clear only when
    STARTTLS is not offered, and then never logs in.
  - One AUTH command with one mechanism: a wrong password counts once at the upstream. A token that is refused is
    replaced by a fresh one, once, over a new connection: it may have been withdrawn before its time.
  - One SSLContext for the node, made once (loading the system's authorities takes 22 ms).

Source: RFC 5321 §3.1 and §4.1.4, RFC 3207, RFC 8314, RFC 4954.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address

import aiosmtplib

from relay.errors import UpstreamError
from relay.outcome import Outcome, Scope, Status
from relay.tap import SILENT, Tap
from relay.upstreams import replies, smtp_bearer
from relay.upstreams.base import Capabilities
from relay.upstreams.smtp_options import SmtpOptions, SmtpVerify
from relay.upstreams.smtp_wire import Wire, WireFault, WireReply
from relay.upstreams.tokens import TokenFault, TokenSource

Note = Callable[[str], None]
"""Takes one line about what was done or answered; secrets are masked before."""

_SHORTEST_SECRET = 4
"""Shorter passwords are not searched for in replies: masking every `a` would only point at them."""


_NO_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_NO_RESOLVER = frozenset({getattr(socket, "EAI_SYSTEM", -11), getattr(socket, "EAI_MEMORY", -10)})
"""Our own trouble: the node must not be taken out for it, and another one would fare no better."""


class ConnectFailed(Exception):
    """No connection; `outcome` says why, for every delivery that waited for it."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.text)
        self.outcome = outcome


@dataclass(slots=True, eq=False)
class Connection:
    """A connection after EHLO and AUTH, ready for transactions.

    Attributes:
        opened_at, idle_since: loop time.
        messages: transactions begun.
        reused: it was given back before; it may have died in idleness.
        needs_reset: the server still holds an envelope; RSET goes before the next MAIL.
    """

    wire: Wire
    capabilities: Capabilities
    pipelining: bool
    offers_size: bool
    opened_at: float
    idle_since: float
    messages: int = 0
    reused: bool = False
    needs_reset: bool = False


class Connector:
    """Opens connections for one node.

    Args:
        tokens: gives access tokens when the options ask for OAuth 2.
        node: its name, for those who listen at `tap`.
    """

    def __init__(
        self,
        options: SmtpOptions,
        ehlo: str,
        tokens: TokenSource | None = None,
        *,
        node: str = "",
        tap: Tap = SILENT,
    ) -> None:
        if options.oauth is not None and tokens is None:
            raise UpstreamError("oauth is configured, and there is nothing that gets tokens")
        self._options = options
        self._tokens = tokens if options.oauth is not None else None
        self.node = node
        self.tap = tap
        self._ehlo = options.ehlo or ehlo
        if ":" in self._ehlo:
            self._ehlo = f"[IPv6:{self._ehlo}]"
        elif self._ehlo.replace(".", "").isdigit():
            self._ehlo = f"[{self._ehlo}]"
        self._secrets = _forms(options)
        self.pipelining = options.pipelining == "auto"
        """May be set to False once a server has shown that it cannot do what it offers."""
        verify = options.verify
        own = isinstance(verify, SmtpVerify)
        self._tls_name = (verify.hostname if isinstance(verify, SmtpVerify) else None) or options.host
        # An own authority file is read here, so that a missing one stops the start; the system's are read on first use.
        self._context = self._make_context() if own and options.tls != "none" else None

    async def open(self, deadline: float, note: Note | None = None) -> Connection:
        """A new connection.

        Args:
            deadline: loop time at which this must have ended.
            note: is told each step.

        Raises:
            ConnectFailed: in every expected case of failure.
        """
        if self._tokens is None:
            return await self._open(deadline, note or _unheard, "")
        try:
            return await self._open(deadline, note or _unheard, await self._token(deadline, note or _unheard))
        except _TokenRefused as refused:
            await self._tokens.invalidate(refused.token)
        token = await self._token(deadline, note or _unheard)
        try:
            return await self._open(deadline, note or _unheard, token)
        except _TokenRefused as refused:
            raise ConnectFailed(refused.outcome) from refused

    async def _open(self, deadline: float, note: Note, token: str) -> Connection:
        opening = _Opening(self, self._options, deadline, note, token)
        try:
            return await opening.run()
        except BaseException as error:
            opening.abort()
            outcome = opening.outcome_of(error)
            if outcome is None:
                raise
            outcome = replace(outcome, text=self._mask(outcome.text, token), attempted=False)
            opening.note(f"failed at {outcome.phase}: {outcome.code or ''} {outcome.enhanced} {outcome.text}".strip())
            if isinstance(error, _Unusable) and error.token_refused:
                raise _TokenRefused(outcome, token) from error
            raise ConnectFailed(outcome) from error

    async def _token(self, deadline: float, note: Note) -> str:
        """Before anything is said to the server, which would not wait long for a login."""
        assert self._tokens is not None
        note("token ****")
        try:
            async with asyncio.timeout_at(deadline):
                return await self._tokens.token()
        except TokenFault as fault:
            outcome = replace(fault.outcome, attempted=False)
        except TimeoutError:
            outcome = replace(replies.fault("auth", "no access token in time"), attempted=False)
        note(f"failed at auth: {outcome.text}")
        raise ConnectFailed(outcome)

    @property
    def ehlo(self) -> str:
        return self._ehlo

    @property
    def tls_name(self) -> str:
        return self._tls_name

    async def context(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = await asyncio.to_thread(self._make_context)
        return self._context

    def _make_context(self) -> ssl.SSLContext:
        verify = self._options.verify
        if verify is False or self._options.tls == "opportunistic":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            return context
        ca_file = verify.ca_file if isinstance(verify, SmtpVerify) else None
        try:
            return ssl.create_default_context(cafile=ca_file)
        except OSError as error:
            raise UpstreamError(f"authorities in {ca_file or 'the system store'} cannot be read: {error}") from error

    def _mask(self, text: str, token: str = "") -> str:
        for secret in (*self._secrets, token) if token else self._secrets:
            text = text.replace(secret, "****")
        return text


class _Opening:
    """One opening in progress; `phase` is where it stands."""

    def __init__(self, connector: Connector, options: SmtpOptions, deadline: float, note: Note, token: str) -> None:
        self.phase = "connect"
        self._token = token
        self.note = note
        self._connector = connector
        self._options = options
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        self._wire: Wire | None = None

    async def run(self) -> Connection:
        options = self._options
        smtp = await self._connect()
        await self._hello(smtp)
        if options.tls == "starttls" or (options.tls == "opportunistic" and smtp.supports_extension("starttls")):
            await self._start_tls(smtp)
            await self._hello(smtp)
        login = options.login()
        if self._token:
            await self._login_by_token(smtp)
        elif login is not None:
            await self._login(smtp, *login)
        assert self._wire is not None
        if not self._wire.usable:  # something was said behind the last answer
            raise self._wire.fault or WireFault("connection closed by the upstream")
        now = self._loop.time()
        return Connection(
            wire=self._wire,
            capabilities=_capabilities(smtp),
            pipelining=self._connector.pipelining and smtp.supports_extension("pipelining"),
            offers_size=smtp.supports_extension("size"),
            opened_at=now,
            idle_since=now,
        )

    def abort(self) -> None:
        if self._wire is not None:
            self._wire.abort()

    def outcome_of(self, error: BaseException) -> Outcome | None:
        """None for what is not an expected failure."""
        match error:
            case _Unusable():
                return error.outcome
            case WireFault():
                return replies.fault(self.phase, str(error))
            case aiosmtplib.SMTPResponseException():
                return _answer(self.phase, WireReply(error.code, error.message))
            case TimeoutError() | aiosmtplib.SMTPTimeoutError():
                return replies.fault(self.phase, "no answer in time")
            case aiosmtplib.SMTPException():
                return replies.fault(self.phase, str(error))
            case ssl.SSLError():
                reason = getattr(error, "verify_message", "") or error.reason or str(error)
                return replies.fault("tls", f"TLS: {reason}")
            case OSError() if error.errno in (_NO_RESOLVER if isinstance(error, socket.gaierror) else _NO_RESOURCES):
                text = replies.clean(f"this machine has no more of something: {error.strerror}")
                return Outcome(status=Status.DEFERRED, scope=Scope.MESSAGE, text=text, phase="connect")
            case socket.gaierror():
                return replies.fault("connect", f"{self._options.host} cannot be resolved: {error.strerror}")
            case OSError():
                broke_in_handshake = self._options.tls == "implicit" and not isinstance(error, ConnectionRefusedError)
                phase = "tls" if self.phase == "connect" and broke_in_handshake and error.errno is None else self.phase
                return replies.fault(phase, error.strerror or str(error) or type(error).__name__)
        return None

    def _left(self, limit_s: float) -> float:
        return max(0.001, min(limit_s, self._deadline - self._loop.time()))

    async def _connect(self) -> aiosmtplib.SMTP:
        options, loop = self._options, self._loop
        self.note(f"connect {options.host}:{options.port}" + (" with TLS" if options.tls == "implicit" else ""))
        context = await self._connector.context() if options.tls == "implicit" else None
        limit = self._left(options.timeouts.connect)
        source = options.source_address
        family = 0 if source is None else socket.AF_INET if ip_address(source).version == 4 else socket.AF_INET6

        def make_wire() -> Wire:
            self._wire = Wire(loop, self._connector.tap, self._connector.node)
            return self._wire

        async with asyncio.timeout(limit):
            transport, wire = await loop.create_connection(
                make_wire,
                options.host,
                options.port,
                family=family,
                local_addr=None if source is None else (source, 0),
                ssl=context,
                server_hostname=None if context is None else self._connector.tls_name,
                ssl_handshake_timeout=None if context is None else limit,
            )
        if context is not None:
            self._note_tls(transport)
        self.phase = "greeting"
        greeting = (await wire.collect(1, loop.time() + self._left(options.timeouts.greeting)))[0]
        self.note(_shown(greeting))
        if greeting.code != 220:
            raise _Unusable(_answer("greeting", greeting))
        smtp = aiosmtplib.SMTP(hostname=options.host, port=options.port, local_hostname=self._connector.ehlo)
        smtp.protocol, smtp.transport = wire, transport
        return smtp

    async def _hello(self, smtp: aiosmtplib.SMTP) -> None:
        options = self._options
        self.phase = "ehlo"
        self.note(f"EHLO {self._connector.ehlo}")
        needs_esmtp = options.tls == "starttls" or bool(self._token) or options.password is not None
        try:
            reply = await smtp.ehlo(timeout=self._left(options.timeouts.ehlo))
        except aiosmtplib.SMTPHeloError as error:
            if error.code not in (500, 502, 504) or needs_esmtp:
                raise
            self.note(_shown(WireReply(error.code, error.message)))
            self.note(f"HELO {self._connector.ehlo}")
            reply = await smtp.helo(timeout=self._left(options.timeouts.ehlo))
        self.note(_shown(WireReply(*reply)))

    async def _start_tls(self, smtp: aiosmtplib.SMTP) -> None:
        self.phase = "tls"
        if not smtp.supports_extension("starttls"):
            raise _Unusable(replies.fault("tls", "the upstream does not offer STARTTLS"))
        self.note("STARTTLS")
        context = await self._connector.context()
        reply = await smtp.starttls(
            server_hostname=self._connector.tls_name,
            tls_context=context,
            timeout=self._left(self._options.timeouts.ehlo),
        )
        self.note(_shown(WireReply(*reply)))
        if smtp.transport is not None:
            self._note_tls(smtp.transport)

    async def _login(self, smtp: aiosmtplib.SMTP, username: str, password: str) -> None:
        options = self._options
        self.phase = "auth"
        encrypted = smtp.get_transport_info("sslcontext") is not None
        if not encrypted and options.tls != "none":
            detail = "the upstream does not offer STARTTLS, and the login is not sent in clear"
            raise _Unusable(replies.fault("tls", detail))
        offered = smtp.server_auth_methods
        mechanism = options.auth
        if mechanism == "auto":
            mechanism = "login" if "login" in offered and "plain" not in offered else "plain"
        if mechanism not in offered:
            raise _not_offered(mechanism, offered)
        method = {"plain": smtp.auth_plain, "login": smtp.auth_login, "cram-md5": smtp.auth_crammd5}[mechanism]
        self.note(f"AUTH {mechanism.upper()} ****")
        limit = self._left(options.timeouts.ehlo)
        reply = await method(username, password, timeout=limit)
        self.note(_shown(WireReply(reply.code, self._connector._mask(reply.message))))

    async def _login_by_token(self, smtp: aiosmtplib.SMTP) -> None:
        options = self._options
        self.phase = "auth"
        assert options.username is not None
        offered = smtp.server_auth_methods
        kind = smtp_bearer.mechanism(options.auth, offered)
        if kind is None:
            wanted = "XOAUTH2" if options.auth == "auto" else options.auth
            raise _not_offered(wanted, offered)
        self.note(f"AUTH {kind.upper()} ****")
        first = smtp_bearer.initial_response(
            kind, account=options.username, token=self._token, host=options.host, port=options.port
        )
        limit = options.timeouts.ehlo
        reply = await smtp.execute_command(b"AUTH", kind.upper().encode(), first, timeout=self._left(limit))
        why = ""
        if reply.code == 334:
            why = smtp_bearer.why(reply.message)
            self.note(f"334 {self._connector._mask(why, self._token)}")
            reply = await smtp.execute_command(smtp_bearer.final_line(kind), timeout=self._left(limit))
        self.note(_shown(WireReply(reply.code, self._connector._mask(reply.message, self._token))))
        if reply.code == 235:
            return
        outcome = _answer("auth", WireReply(reply.code, reply.message))
        if why:
            outcome = replace(outcome, text=replies.clean(f"{outcome.text} ({why})"))
        raise _Unusable(outcome, token_refused=reply.code >= 500)

    def _note_tls(self, transport: asyncio.BaseTransport) -> None:
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self.note(f"{tls.version()} {tls.cipher()[0]}")


class _Unusable(Exception):
    """The dialogue itself went well; what it said makes the upstream unusable."""

    def __init__(self, outcome: Outcome, *, token_refused: bool = False) -> None:
        super().__init__(outcome.text)
        self.outcome = outcome
        self.token_refused = token_refused


class _TokenRefused(Exception):
    """The server did not take this token."""

    def __init__(self, outcome: Outcome, token: str) -> None:
        super().__init__(outcome.text)
        self.outcome = outcome
        self.token = token


def _not_offered(mechanism: str, offered: list[str]) -> _Unusable:
    detail = f"the upstream does not offer AUTH {mechanism.upper()} (offered: {' '.join(offered) or 'none'})"
    return _Unusable(Outcome(status=Status.REFUSED, scope=Scope.ACCOUNT, text=replies.clean(detail), phase="auth"))


def _unheard(_: str) -> None:
    pass


def _answer(phase: str, reply: WireReply) -> Outcome:
    return replies.classify(phase, reply.code, *replies.split_enhanced(reply.code, reply.text))


def _shown(reply: WireReply) -> str:
    return f"{reply.code} {replies.clean(reply.text)}"


def _capabilities(smtp: aiosmtplib.SMTP) -> Capabilities:
    size = smtp.esmtp_extensions.get("size", "").strip()
    return Capabilities(
        eight_bit=smtp.supports_extension("8bitmime"),
        smtputf8=smtp.supports_extension("smtputf8"),
        dsn=smtp.supports_extension("dsn"),
        max_size=int(size) if size.isascii() and size.isdigit() and len(size) < 20 else 0,
    )


def _forms(options: SmtpOptions) -> tuple[str, ...]:
    """The shapes in which a server could echo the password, longest first."""
    login = options.login()
    if login is None:
        return ()
    username, password = login
    plain = f"\0{username}\0{password}".encode()
    forms = [password, base64.b64encode(password.encode()).decode(), base64.b64encode(plain).decode()]
    return tuple(sorted((f for f in forms if len(f) >= _SHORTEST_SECRET), key=len, reverse=True))
