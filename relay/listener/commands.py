"""The commands that set up a transaction, and those that do little.

Each takes the raw octets after the verb. Order of checks in MAIL: sequence, TLS, login, syntax, size, the bridge's
standing, room, policy; the cheap and certain first, so that a stranger learns nothing about policy.
"""

from __future__ import annotations

from relay.listener import replies
from relay.listener.auth import AuthCommands
from relay.listener.body import TOO_BIG
from relay.listener.paths import parse_mail, parse_rcpt, recipient_key
from relay.listener.session import Transaction

MAX_HELO = 255
"""Longest domain name."""


class MailCommands(AuthCommands):
    """Everything but DATA, AUTH and STARTTLS."""

    async def smtp_EHLO(self, argument: bytes) -> None:
        if self._hello(argument, extended=True):
            session = self.session
            auth = bool(session.tls) or self.service.options.auth_without_tls
            self.say(self.service.ehlo(tls=bool(session.tls), auth=auth and not session.authenticated))

    async def smtp_HELO(self, argument: bytes) -> None:
        if self._hello(argument, extended=False):
            self.say(self.service.helo)

    def _hello(self, argument: bytes, *, extended: bool) -> bool:
        self.count_idle()
        if not argument:
            self.fail(replies.NEEDS_ARGUMENT)
            return False
        session = self.session
        self.envelope = None  # RFC 5321 §4.1.4
        session.extended_smtp = extended
        session.host_name = argument[:MAX_HELO].decode("ascii")
        session.info = None
        return True

    async def smtp_MAIL(self, argument: bytes) -> None:
        session = self.session
        service = self.service
        bridge = session.bridge
        if not session.host_name:
            self.fail(replies.HELO_FIRST)
        elif self.envelope is not None:
            self.fail(replies.NESTED_MAIL)
        elif service.draining:
            self.end(replies.SHUTTING_DOWN, "")
        elif not session.tls and (service.options.require_tls or (bridge is None and self._tls_comes_first())):
            self.fail(replies.TLS_FIRST)
        elif bridge is None:
            self.fail(replies.AUTH_FIRST)
        else:
            command = parse_mail(argument, esmtp=session.extended_smtp)
            if not service.acceptor.admits(bridge):
                if session.authenticated:
                    renewed = service.acceptor.renewed(bridge, session.username)
                else:
                    renewed = service.bridge_for(session.address)
                if renewed is None or not self.use_bridge(renewed):
                    self.reject("mail", replies.REVOKED)
                    self.end(replies.REVOKED, "access has changed")
                    return
                bridge = renewed
            limits = [size for size in (service.options.max_size, bridge.limits.size) if size]
            max_size = min(limits, default=0)
            if max_size and command.size > max_size:
                self.reject("mail", TOO_BIG)
                self.refuse_with(TOO_BIG)
                return
            refusal = service.acceptor.check_open(command.size)
            if refusal is None:
                refusal = await service.acceptor.check_sender(bridge, command.sender)
            if refusal is not None:
                self.reject("mail", refusal)
                self.refuse_with(refusal)
                return
            self.envelope = Transaction(
                command.sender, smtputf8=command.smtputf8, ret=command.ret, envid=command.envid, max_size=max_size
            )
            self.say(replies.SENDER_OK)

    def _tls_comes_first(self) -> bool:
        return self.service.offers_starttls and not self.service.options.auth_without_tls

    async def smtp_RCPT(self, argument: bytes) -> None:
        transaction = self.envelope
        session = self.session
        if transaction is None:
            self.fail(replies.MAIL_FIRST if session.bridge is not None else replies.AUTH_FIRST)
            return
        assert session.bridge is not None  # MAIL needs one
        service = self.service
        transaction.refused += 1  # until it is taken; the parser may raise
        recipient = parse_rcpt(
            argument,
            esmtp=session.extended_smtp,
            smtputf8=transaction.smtp_utf8,
            own_domain=service.options.hostname,
        )
        key = recipient_key(recipient.address)
        if key not in transaction.keys:
            limits = [limit for limit in (service.options.max_recipients, session.bridge.limits.recipients) if limit]
            limit = min(limits, default=0)
            if limit and len(transaction.recipients) >= limit:
                # Clients are told to send the rest in another transaction (RFC 5321 §4.5.3.1.10), so this is no
                # error of theirs; but nobody needs to hear it without end.
                self.say(replies.TOO_MANY_RECIPIENTS)
                if transaction.refused == 1:
                    self.reject("rcpt", replies.TOO_MANY_RECIPIENTS)
                if transaction.refused > limit + service.options.max_errors:
                    self.end(replies.TOO_MANY_ERRORS, "far too many recipients")
                return
            transaction.keys.add(key)
            transaction.recipients.append(recipient)
        transaction.refused -= 1
        self.say(replies.RECIPIENT_OK)

    async def smtp_RSET(self, argument: bytes) -> None:
        self.count_idle()
        if argument:
            self.fail(replies.NO_ARGUMENT)
        else:
            self.envelope = None
            self.say(replies.OK)

    async def smtp_NOOP(self, _argument: bytes) -> None:
        self.count_idle()
        self.say(replies.OK)

    async def smtp_HELP(self, _argument: bytes) -> None:
        self.count_idle()
        self.say(replies.HELP)

    async def smtp_VRFY(self, argument: bytes) -> None:
        self.count_idle()
        if self.session.bridge is None:
            self.fail(replies.AUTH_FIRST)
        elif not argument:
            self.fail(replies.NEEDS_ARGUMENT)
        else:
            self.say(replies.NO_VRFY)

    async def smtp_EXPN(self, _argument: bytes | str) -> None:
        self.fail(replies.NOT_IMPLEMENTED)

    async def smtp_QUIT(self, argument: bytes) -> None:
        if argument:
            self.fail(replies.NO_ARGUMENT)
        else:
            self.say(replies.BYE)
            self._ending = True

    def count_idle(self) -> None:
        """Count a command that brings no mail nearer."""
        self.idle_commands += 1
        limit = self.service.options.max_idle_commands
        if limit and self.idle_commands > limit:
            self.end(replies.TOO_MANY_COMMANDS, "too many commands without mail")
