"""AUTH PLAIN and LOGIN (RFC 4954, RFC 4616).

aiosmtpd compares mechanism names by case, reads at most a thousand octets of a response, asks in words that devices
do not know and checks passwords on the loop; so all of AUTH is done here. A password is only ever a local variable.
"""

from __future__ import annotations

import binascii
import re

from relay.errors import AcceptanceError
from relay.listener import replies
from relay.listener.connection import Connection, Gone, Phase

MAX_RESPONSE = 12_288
"""RFC 4954 §4: what a server must be able to read, without CRLF."""

MAX_SECRET = 1024
"""Octets of a user name or password that are worth a hash; longer ones are wrong."""

_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")  # in UTF-8 these octets stand for nothing else


class AuthCommands(Connection):
    """The AUTH command."""

    async def smtp_AUTH(self, argument: bytes) -> None:
        session = self.session
        if not session.extended_smtp:
            self.fail(replies.HELO_FIRST)
        elif not (session.tls or self.service.options.auth_without_tls):
            self.fail(replies.AUTH_NEEDS_TLS)
        elif session.authenticated:
            self.fail(replies.AUTH_TWICE)
        elif self.envelope is not None:
            self.fail(replies.AUTH_IN_MAIL)
        elif not argument:
            self.fail(replies.NEEDS_ARGUMENT)
        else:
            name, blank, initial = argument.partition(b" ")
            mechanism = name.upper()
            if mechanism == b"PLAIN":
                await self._plain(initial if blank else None)
            elif mechanism == b"LOGIN":
                await self._login(initial if blank else None)
            else:
                self.fail(replies.AUTH_UNKNOWN)

    async def _plain(self, initial: bytes | None) -> None:
        response = await self._response(replies.ASK_PLAIN, initial)
        if response is None:
            return
        parts = response.split(b"\0")
        if len(parts) != 3:
            self.fail(replies.AUTH_MALFORMED)
            return
        authzid, username, password = parts
        # Acting for somebody else is not offered: the login is the bridge.
        await self._check("PLAIN", username, password, possible=authzid in (b"", username))

    async def _login(self, initial: bytes | None) -> None:
        username = await self._response(replies.ASK_USERNAME, initial)
        if username is None:
            return
        password = await self._response(replies.ASK_PASSWORD, None)
        if password is not None:
            await self._check("LOGIN", username, password, possible=True)

    async def _response(self, prompt: bytes, initial: bytes | None) -> bytes | None:
        """One decoded response, asked for unless it came with the command. None: it was refused, the reply is given."""
        if initial == b"=":  # RFC 4954 §4: an empty initial response
            return b""
        response = initial
        if response is None:
            self.say(prompt)
            response = await self._response_line()
            if response is None:
                self.fail(replies.AUTH_TOO_LONG)
                return None
            if response == b"*":
                self.fail(replies.AUTH_CANCELLED)
                return None
        elif len(response) > MAX_RESPONSE:
            self.fail(replies.AUTH_TOO_LONG)
            return None
        decoded = decode_base64(response)
        if decoded is None:
            self.fail(replies.AUTH_MALFORMED)
        return decoded

    async def _response_line(self) -> bytes | None:
        """The next line without its end; None when it is too long (its octets are dropped as they come)."""
        self._enter(Phase.COMMAND, self.service.options.idle_timeout)
        line = b""
        dropped = False
        while True:
            pending = self._take_input()
            head, newline, rest = pending.partition(b"\n")
            line += head
            if newline:
                self._pending = rest
                break
            if len(line) > MAX_RESPONSE + 1:
                dropped = True
                line = b""
                self._skipping += len(pending)
                if self._skipping > 65536:
                    self.end(replies.TOO_LONG, "line too long")
                    raise Gone
            await self._more()
        self._phase = Phase.RUN
        self._skipping = 0
        if not dropped and not line.endswith(b"\r") and self.service.options.line_endings == "reject":
            self.end(replies.BARE_LF, "bare LF in AUTH")
            raise Gone
        line = line.removesuffix(b"\r")
        return None if dropped or len(line) > MAX_RESPONSE else line

    async def _check(self, mechanism: str, username: bytes, password: bytes, *, possible: bool) -> None:
        """Ask the acceptor, unless these credentials cannot be right."""
        session = self.session
        service = self.service
        bridge = None
        why = "malformed credentials"
        name = username.decode("utf-8", "replace")
        if possible and is_plausible(username) and is_plausible(password):
            self._flush()
            try:
                bridge = await service.acceptor.authenticate(name, password.decode("utf-8"), peer=session.address)
            except AcceptanceError as error:
                self.say(replies.encode(error.reply))
                self._auth_failed(mechanism, name, str(error.reply))
                return
            why = "wrong credentials"
        if bridge is None:
            session.auth_failures += 1
            self._auth_failed(mechanism, name, why)
            limit = service.options.max_auth_failures
            self.fail(replies.AUTH_FAILED)
            if limit and session.auth_failures >= limit:
                self.end(replies.TOO_MANY_FAILURES, "too many failed authentications")
            return
        if not self.use_bridge(bridge):
            self.end(replies.BRIDGE_BUSY, f"too many connections of bridge {bridge.name}")
            return
        session.authenticated = True
        session.username = name
        session.info = None
        service.events.session_authenticated(
            session=session.id, bridge=bridge.name, peer=session.address, mechanism=mechanism
        )
        self.say(replies.AUTHENTICATED)

    def _auth_failed(self, mechanism: str, name: str, why: str) -> None:
        session = self.session
        shown = "".join(char if char.isprintable() else "?" for char in name[:100])
        self.service.events.session_auth_failed(
            session=session.id, username=shown, peer=session.address, mechanism=mechanism, why=why
        )


def decode_base64(text: bytes) -> bytes | None:
    """Decode canonical base64 (RFC 4648 §3.5, §4), or None. Blanks, the URL alphabet and stray bits are refused."""
    try:
        decoded = binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        return None
    return decoded if binascii.b2a_base64(decoded, newline=False) == text else None


def is_plausible(secret: bytes) -> bool:
    """Not empty, not huge, UTF-8 without control characters."""
    if not 0 < len(secret) <= MAX_SECRET:
        return False
    try:
        secret.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return _CONTROL.search(secret) is None
