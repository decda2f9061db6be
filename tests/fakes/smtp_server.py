"""A scripted SMTP server: takes mail properly, and misbehaves exactly where it is told to.

    async with SmtpServer() as server:
        server.at("rcpt", reply("550 5.1.1 no such user"), when="bad@")   # this recipient, always
        server.at("dot", Do(say=b"", then="close", store=True), times=1)  # takes one message, loses the answer
        ...
        assert server.messages[0].recipients == ["good@example.org"]

Steps, in order: `connect` (greeting), `ehlo`, `starttls`, `auth`, `mail`, `rcpt`, `data`, `body` (while content is
being read, after `after` octets), `dot`, `rset`, `quit`. `when` must be part of the command line. `times` None is for
ever; `skip` lets that many pass first. Of several rules that fit, the one told last acts.

It speaks raw asyncio streams on 127.0.0.1 and a port of the kernel's choice. Nothing is checked that is not scripted:
it is no model of a strict server.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import re
import select
import socket
import ssl
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

CAPABILITIES = ("PIPELINING", "SIZE 26214400", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES")
_CHALLENGE = b"<1896.697170952@fake.example>"


@dataclass(frozen=True, kw_only=True)
class Do:
    """What to do at a step.

    Attributes:
        say: raw octets instead of the usual reply; None = the usual one. A 2yz or 354 has its usual effect.
        also: raw octets behind the reply, in the same write.
        delay: seconds before the reply.
        then: afterwards go on, `hang` (read nothing, say nothing), `close` (FIN) or `reset` (RST).
        store: at `dot`: keep the message although the reply is not the usual one.
        pace: seconds between single octets of the reply; 0 = all at once.
    """

    say: bytes | None = None
    also: bytes = b""
    delay: float = 0.0
    then: Literal["go on", "hang", "close", "reset"] = "go on"
    store: bool = False
    pace: float = 0.0


def reply(text: str) -> Do:
    """The reply `text`, line end added; lines are separated by LF and must carry their codes."""
    return Do(say=text.replace("\n", "\r\n").encode() + b"\r\n")


HANG = Do(say=b"", then="hang")
CLOSE = Do(say=b"", then="close")
RESET = Do(say=b"", then="reset")


@dataclass(kw_only=True)
class Message:
    """One message that was taken (or kept by `store`).

    Attributes:
        mail, rcpts: command lines as read, without CRLF.
        content: without dot-stuffing; raw: as it came, the final dot included.
        connection: number of the connection, from 1.
    """

    mail: str
    rcpts: list[str]
    content: bytes
    raw: bytes
    tls: bool
    user: str
    connection: int
    ehlo: str

    @property
    def sender(self) -> str:
        return _path(self.mail)

    @property
    def recipients(self) -> list[str]:
        return [_path(line) for line in self.rcpts]


@dataclass
class _Rule:
    step: str
    do: Do
    when: str
    times: int | None
    skip: int
    after: int


def _path(line: str) -> str:
    found = re.search(r"<(.*?)>", line)
    return found[1] if found else ""


async def _peer_gone(writer: asyncio.StreamWriter) -> None:
    """Read nothing, and return when the other side has ended the connection."""
    transport = writer.transport
    if isinstance(transport, asyncio.ReadTransport) and not transport.is_closing():
        transport.pause_reading()
    fileno = writer.get_extra_info("socket").fileno()
    poll = select.poll()
    poll.register(fileno, select.POLLRDHUP)
    while not transport.is_closing() and not poll.poll(0):
        await asyncio.sleep(0.01)
    transport.abort()


class _Over(Exception):
    """This connection is done with."""


@dataclass
class _Session:
    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    tls: bool = False
    user: str = ""
    ehlo: str = ""
    mail: str = ""
    rcpts: list[str] = field(default_factory=list)


class SmtpServer:
    """See the module.

    Args:
        capabilities: EHLO lines; STARTTLS and AUTH are added by `tls` and `users`.
        tls: context for STARTTLS, or for the whole connection with `implicit`.
        users: logins; AUTH is offered when given. `mechanisms`: which ones.

    Attributes:
        messages: what was taken, in order.
        commands: (connection number, command line) as read.
        logins: (mechanism, user, right?) of every AUTH.
        connections: accepted so far; `open` now; `peak` at once.
    """

    def __init__(
        self,
        *,
        capabilities: Sequence[str] = CAPABILITIES,
        tls: ssl.SSLContext | None = None,
        implicit: bool = False,
        users: Mapping[str, str] | None = None,
        mechanisms: Sequence[str] = ("PLAIN", "LOGIN", "CRAM-MD5"),
        name: str = "fake.example",
    ) -> None:
        self.capabilities = list(capabilities)
        self.messages: list[Message] = []
        self.commands: list[tuple[int, str]] = []
        self.logins: list[tuple[str, str, bool]] = []
        self.connections = self.open = self.peak = 0
        self.host, self.port = "127.0.0.1", 0
        self._tls, self._implicit = tls, implicit
        self._users = users
        self._mechanisms = list(mechanisms)
        self._name = name
        self._rules: list[_Rule] = []
        self._server: asyncio.Server | None = None
        self._tasks: dict[asyncio.Task[None], _Session] = {}
        self._changed = asyncio.Event()

    def at(self, step: str, do: Do, *, when: str = "", times: int | None = None, skip: int = 0, after: int = 0) -> None:
        """Add a rule; see the module."""
        self._rules.append(_Rule(step, do, when, times, skip, after))

    def forget(self) -> None:
        """Drop all rules: the server is well again."""
        self._rules.clear()

    def said(self, verb: str) -> list[str]:
        """Command lines read that begin with `verb`."""
        return [line for _, line in self.commands if line.upper().startswith(verb.upper())]

    async def until(self, messages: int = 0, connections: int = 0, gone: bool = False) -> None:
        """Wait until so much has happened; `gone`: and no connection is open."""
        while len(self.messages) < messages or self.connections < connections or (gone and self.open):
            self._changed.clear()
            await self._changed.wait()

    def disconnect(self) -> None:
        """End every open connection now, as a server does with idle ones."""
        for session in self._tasks.values():
            session.writer.close()

    def talk(self, data: bytes) -> None:
        """Say something on every open connection that nobody asked for."""
        for session in self._tasks.values():
            session.writer.write(data)

    async def start(self, port: int = 0) -> None:
        context = self._tls if self._implicit else None
        self._server = await asyncio.start_server(self._serve, self.host, port, ssl=context, limit=2**20)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is None:
            return
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # -- one connection --

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections += 1
        self.open += 1
        self.peak = max(self.peak, self.open)
        session = _Session(self.connections, reader, writer, tls=self._implicit)
        self._tasks[task] = session
        self._changed.set()
        try:
            await self._act(session, "connect", "", f"220 {self._name} ESMTP\r\n".encode())
            while line := await reader.readline():
                await self._command(session, line.decode("utf-8", "surrogateescape").rstrip("\r\n"))
        except (_Over, ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            writer.close()
            if session.tls:  # no wait for the other side's close_notify; clients must bear that
                writer.transport.abort()
            with contextlib.suppress(OSError, ssl.SSLError, asyncio.CancelledError, TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), 1)
            self._tasks.pop(task, None)
            self.open -= 1
            self._changed.set()

    async def _command(self, session: _Session, line: str) -> None:
        self.commands.append((session.number, line))
        verb = line.split(" ", 1)[0].upper()
        match verb:
            case "EHLO" | "HELO":
                session.ehlo = line[5:]
                await self._act(session, "ehlo", line, self._ehlo(session, verb))
            case "STARTTLS":
                code = await self._act(session, "starttls", line, b"220 2.0.0 go ahead\r\n")
                if code == 220 and self._tls is not None:
                    await session.writer.start_tls(self._tls)
                    session.tls = True
            case "AUTH":
                await self._auth(session, line)
            case "MAIL":
                if await self._act(session, "mail", line, b"250 2.1.0 Ok\r\n") // 100 == 2:
                    session.mail, session.rcpts = line, []
            case "RCPT":
                usual = b"250 2.1.5 Ok\r\n" if session.mail else b"503 5.5.1 need MAIL\r\n"
                if await self._act(session, "rcpt", line, usual) // 100 == 2:
                    session.rcpts.append(line)
            case "DATA":
                usual = b"354 go\r\n" if session.rcpts else b"554 5.5.1 no valid recipients\r\n"
                if await self._act(session, "data", line, usual) == 354:
                    await self._content(session)
            case "RSET":
                await self._act(session, "rset", line, b"250 2.0.0 Ok\r\n")
                session.mail, session.rcpts = "", []
            case "QUIT":
                await self._act(session, "quit", line, b"221 2.0.0 Bye\r\n")
                raise _Over
            case _:
                await self._act(session, verb.lower(), line, b"500 5.5.2 what\r\n")

    def _ehlo(self, session: _Session, verb: str) -> bytes:
        lines = [self._name]
        if verb == "EHLO":
            lines += self.capabilities
            if self._tls is not None and not session.tls:
                lines.append("STARTTLS")
            if self._users is not None:
                lines.append(f"AUTH {' '.join(self._mechanisms)}")
        ended = [f"250{'-' if i < len(lines) - 1 else ' '}{line}\r\n" for i, line in enumerate(lines)]
        return "".join(ended).encode()

    async def _auth(self, session: _Session, line: str) -> None:
        _, mechanism, *rest = line.split(" ")
        user = password = ""
        right = False
        if mechanism.upper() == "PLAIN":
            answer = rest[0] if rest else await self._ask(session, b"")
            _, user, password = base64.b64decode(answer).decode().split("\0")
        elif mechanism.upper() in ("XOAUTH2", "OAUTHBEARER"):
            user, right = await self._bearer(session, mechanism.upper(), rest[0] if rest else "")
        elif mechanism.upper() == "LOGIN":
            user = base64.b64decode(rest[0] if rest else await self._ask(session, b"Username:")).decode()
            password = base64.b64decode(await self._ask(session, b"Password:")).decode()
        else:
            user, _, digest = base64.b64decode(await self._ask(session, _CHALLENGE)).decode().partition(" ")
            key = (self._users or {}).get(user, "").encode()
            right = hmac.compare_digest(hmac.new(key, _CHALLENGE, hashlib.md5).hexdigest(), digest)
        right = right or (bool(password) and (self._users or {}).get(user) == password)
        self.logins.append((mechanism.upper(), user, right))
        usual = b"235 2.7.0 welcome\r\n" if right else b"535 5.7.8 authentication failed\r\n"
        if await self._act(session, "auth", line, usual) == 235:
            session.user = user

    async def _bearer(self, session: _Session, mechanism: str, initial: str) -> tuple[str, bool]:
        """User and verdict; what a mailbox provider answers to a token that is not the user's: 334 with JSON, then it
        waits for the one line that each mechanism has for that."""
        text = base64.b64decode(initial, validate=True).decode()
        form = (
            r"user=([^\x01]*)\x01auth=Bearer ([!-~]+)\x01\x01"
            if mechanism == "XOAUTH2"
            else rf"n,a=([^\x01]*),\x01host=[^\x01]+\x01port={self.port}\x01auth=Bearer ([!-~]+)\x01\x01"
        )
        match = re.fullmatch(form, text)
        user, token = (match[1], match[2]) if match else ("", "")
        if match and (self._users or {}).get(user) == token:
            return user, True
        why = b'{"status":"400","schemes":"Bearer","scope":"https://mail.google.com/"}'
        line = await self._ask(session, why)
        self.commands.append((session.number, line.decode()))
        if line != (b"" if mechanism == "XOAUTH2" else b"AQ=="):
            raise _Over
        return user, False

    async def _ask(self, session: _Session, challenge: bytes) -> bytes:
        session.writer.write(b"334 " + base64.b64encode(challenge) + b"\r\n")
        return (await session.reader.readline()).strip()

    async def _content(self, session: _Session) -> None:
        raw = bytearray()
        rule = self._rule("body", "")
        while True:
            line = await session.reader.readline()
            if not line:
                raise _Over
            raw += line
            if rule is not None and len(raw) >= rule.after:
                await self._perform(session, rule.do, b"")
                rule = None
            if line == b".\r\n":
                break
        content = re.sub(rb"(?m)^\.", b"", bytes(raw[:-3]))
        message = Message(
            mail=session.mail,
            rcpts=session.rcpts,
            content=content,
            raw=bytes(raw),
            tls=session.tls,
            user=session.user,
            connection=session.number,
            ehlo=session.ehlo,
        )
        session.mail, session.rcpts = "", []
        rule = self._rule("dot", message.mail)
        do = rule.do if rule is not None else Do()
        usual = b"250 2.0.0 Ok: queued as %06d\r\n" % (len(self.messages) + 1)
        said = usual if do.say is None else do.say
        if do.store or said.startswith(b"2"):
            self.messages.append(message)
            self._changed.set()
        await self._perform(session, do, usual)

    async def _act(self, session: _Session, step: str, line: str, usual: bytes) -> int:
        """Do what the script says, or the usual. Returns the code that was said, 0 for none."""
        rule = self._rule(step, line)
        return await self._perform(session, rule.do if rule is not None else Do(), usual)

    def _rule(self, step: str, line: str) -> _Rule | None:
        for rule in reversed(self._rules):
            if rule.step != step or rule.when not in line or rule.times == 0:
                continue
            if rule.skip:
                rule.skip -= 1
                continue
            if rule.times is not None:
                rule.times -= 1
            return rule
        return None

    async def _perform(self, session: _Session, do: Do, usual: bytes) -> int:
        said = (usual if do.say is None else do.say) + do.also
        if do.delay:
            await asyncio.sleep(do.delay)
        if do.pace:
            for i in range(len(said)):
                if session.writer.transport.is_closing():
                    raise _Over
                session.writer.write(said[i : i + 1])
                await asyncio.sleep(do.pace)
        elif said:
            session.writer.write(said)
            await session.writer.drain()
        match do.then:
            case "hang":
                await _peer_gone(session.writer)
                raise _Over
            case "close":
                raise _Over
            case "reset":
                sock = session.writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                session.writer.transport.abort()
                raise _Over
        return int(said[:3]) if said[:3].isdigit() else 0
