"""Listening in on SMTP dialogue: commands and replies of clients and of nodes, for whoever asks, while they ask.

The way of mail looks at one attribute, `Tap.open`; nothing else happens while nobody listens. What is heard is shown
without secrets: an argument is shown only of verbs that are known to carry none, credentials and challenges never, and
content is counted and not shown. What is not read in time is dropped, the oldest first, and counted.

Lives on one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

KEPT = 2_000
"""Lines that wait for a reader."""

FORGET_S = 10.0
"""A listener that did not read for this long is gone."""

LISTENERS = 16

MAX_TEXT = 500
"""Characters of a line."""

_OPEN_VERBS = frozenset(
    b"EHLO HELO LHLO MAIL RCPT DATA RSET NOOP QUIT VRFY EXPN HELP STARTTLS BDAT".split()  # whole lines are shown
)


class Side(StrEnum):
    CLIENT = "client"
    NODE = "node"


@dataclass(frozen=True, slots=True)
class Heard:
    """One line of a dialogue.

    Attributes:
        at: epoch seconds.
        talk: tells dialogues apart: id of a session, or of a connection to a node.
        name: of the bridge (empty before it is known) or of the node.
        peer: address of the client, or host and port of the node.
        ours: we said it.
    """

    at: float
    side: Side
    talk: str
    name: str
    peer: str
    ours: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a listener wants to hear; empty fields do not restrict. Bridge and peer are about clients, node about
    nodes; who names one side only hears that side."""

    bridge: str = ""
    node: str = ""
    peer: str = ""

    def fits(self, heard: Heard) -> bool:
        if heard.side is Side.NODE:
            return heard.name == self.node if self.node else not (self.bridge or self.peer)
        if self.node and not (self.bridge or self.peer):
            return False
        return self.bridge in ("", heard.name) and self.peer in ("", heard.peer)


class Listening:
    """One listener: what it has not read yet."""

    def __init__(self, wanted: Wanted, until: float) -> None:
        self.wanted = wanted
        self.until = until  # loop time
        self.lines: deque[Heard] = deque(maxlen=KEPT)
        self.dropped = 0
        self.arrived = asyncio.Event()

    def take(self) -> tuple[list[Heard], int]:
        lines, self.lines = list(self.lines), deque(maxlen=KEPT)
        dropped, self.dropped = self.dropped, 0
        self.arrived.clear()
        return lines, dropped


class Tap:
    """One per worker."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.open = False
        """Somebody listens. Hot path: look at this, and at nothing else while it is False."""
        self.opened = 0
        """How often listening began after nobody had listened."""
        self._clock = clock
        self._listeners: dict[str, Listening] = {}

    # Listeners

    async def read(self, name: str, wanted: Wanted, *, wait_s: float) -> tuple[list[Heard], int]:
        """What the listener of that name has not heard yet, waiting for the first line; with the number of lines that
        were dropped. The first call begins to listen, and listening ends `FORGET_S` after the last one.

        Raises:
            ValueError: too many listen already.
        """
        loop = asyncio.get_running_loop()
        self._forget(loop.time())
        listening = self._listeners.get(name)
        if listening is None:
            if len(self._listeners) >= LISTENERS:
                raise ValueError(f"{LISTENERS} traces are open already")
            listening = self._listeners[name] = Listening(wanted, 0.0)
        listening.until = loop.time() + wait_s + FORGET_S
        loop.call_at(listening.until + 0.1, self._look)
        if not self.open:
            self.open = True
            self.opened += 1
        if not listening.lines:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await listening.arrived.wait()
        return listening.take()

    def close(self, name: str) -> None:
        self._listeners.pop(name, None)
        self.open = bool(self._listeners)

    def _look(self) -> None:
        self._forget(asyncio.get_running_loop().time())

    def _forget(self, now: float) -> None:
        for name in [name for name, listening in self._listeners.items() if listening.until <= now]:
            self.close(name)

    # What is said

    def client_said(self, talk: str, bridge: str, peer: str, line: bytes) -> None:
        """A command line of a client, without its end."""
        self._hear(Side.CLIENT, talk, bridge, peer, False, [command_text(line)])

    def client_told(self, talk: str, bridge: str, peer: str, wire: bytes) -> None:
        """Replies as they leave."""
        self._hear(Side.CLIENT, talk, bridge, peer, True, reply_texts(wire))

    def node_told(self, talk: str, node: str, peer: str, texts: Iterable[str]) -> None:
        self._hear(Side.NODE, talk, node, peer, True, texts)

    def node_said(self, talk: str, node: str, peer: str, code: int, text: str) -> None:
        """A reply of a node; its lines joined by LF."""
        lines = text.split("\n")
        ends = [f"{code}{'-' if number < len(lines) - 1 else ' '}{line}" for number, line in enumerate(lines)]
        self._hear(Side.NODE, talk, node, peer, False, ["334 (challenge)"] if code == 334 else ends)

    def _hear(self, side: Side, talk: str, name: str, peer: str, ours: bool, texts: Iterable[str]) -> None:
        at = self._clock()
        for text in texts:
            heard = Heard(at, side, talk, name, peer, ours, _clean(text))
            for listening in self._listeners.values():
                if listening.wanted.fits(heard):
                    listening.dropped += len(listening.lines) == KEPT
                    listening.lines.append(heard)
                    listening.arrived.set()


SILENT = Tap()
"""Nobody ever listens here."""


class NodeTalk:
    """The dialogue of one connection to a node, from when listening began; `opened` is the tap's number of that.

    It may begin in the middle of a message, so until the first reply what is sent counts as content, unless `idle`
    says that nothing was under way.
    """

    def __init__(self, tap: Tap, talk: str, node: str, peer: str, *, idle: bool = False) -> None:
        self.opened = tap.opened
        self._tap = tap
        self._who = (talk, node, peer)
        self._content = not idle

    def told(self, data: bytes) -> None:
        """Octets as they are sent."""
        lines = data.split(b"\r\n")
        whole = not lines.pop()
        if not data:
            return
        if self._content or not whole or not all(_verb(line) in _OPEN_VERBS for line in lines):
            shown = [command_text(line) for line in lines] if _verb(lines[0] if lines else b"") == b"AUTH" else []
            self._tap.node_told(*self._who, shown or [f"({len(data)} octets that are not shown)"])
            return
        self._tap.node_told(*self._who, [command_text(line) for line in lines])

    def said(self, code: int, text: str) -> None:
        self._content = code == 354
        self._tap.node_said(*self._who, code, text)


def command_text(line: bytes) -> str:
    """A command line as it may be shown."""
    verb = _verb(line)
    if verb in _OPEN_VERBS:
        return line.decode("utf-8", "replace")
    if verb == b"AUTH":
        mechanism = line.split()[1:2]
        known = mechanism and mechanism[0].upper() in (b"PLAIN", b"LOGIN", b"CRAM-MD5")
        return f"AUTH {mechanism[0].decode().upper() if known else '…'} (credentials)"
    return f"({len(line)} octets that are no command)"


def reply_texts(wire: bytes) -> list[str]:
    """Reply lines as they may be shown."""
    lines = wire.decode("utf-8", "replace").split("\r\n")
    return ["334 (challenge)" if line.startswith("334") else line for line in lines if line]


def _verb(line: bytes) -> bytes:
    return line.partition(b" ")[0].strip().upper()


def _clean(text: str) -> str:
    shown = text if text.isprintable() else "".join(char if char.isprintable() else "�" for char in text)
    return shown if len(shown) <= MAX_TEXT else shown[: MAX_TEXT - 1] + "…"
