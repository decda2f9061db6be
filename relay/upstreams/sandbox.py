"""The sandbox driver: takes mail without sending it, keeps it to look at, and fails on request.

It renders messages as a real server would get them and answers through the same table (`replies`), so that everything
above it behaves as in production.

A message is kept in memory (the newest, bounded) and, with `directory`, as `<time>-<id>.eml` beside
`<time>-<id>.json` with its envelope. The `.eml` holds the content alone, octet for octet; it appears whole or not at
all, and after its `.json`.

The first rule that fits a recipient decides about it. What a rule does to the connection rather than to a recipient
(`node-fault`, `drop-after-dot`, waiting) happens to the whole message.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from random import Random

from relay.envelope import Content
from relay.errors import UpstreamError
from relay.outcome import Outcome, RecipientOutcome
from relay.upstreams import replies
from relay.upstreams.base import Capabilities, Outbound, Probe, Setting
from relay.upstreams.sandbox_options import SandboxOptions, SandboxRule

MEMORY_BYTES = 64 * 2**20
"""Octets of content kept in memory over all captured messages; older ones go first."""
SHOWN_BYTES = 2**20
"""Octets of one message kept in memory; the file, if any, has all of it."""

_CAPABILITIES = Capabilities(eight_bit=True, smtputf8=True, dsn=True)
_USUAL_REPLY = {"refuse": "550 5.1.1 refused by a sandbox rule", "defer": "451 4.5.0 deferred by a sandbox rule"}
_FILE_NAME = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """A message the sandbox took.

    Attributes:
        recipients: those it was taken for.
        content: at most `SHOWN_BYTES` of it; size: octets of all of it.
        uncertain: it was taken, but the answer was withheld.
    """

    id: str
    sender: str
    recipients: tuple[str, ...]
    content: bytes
    size: int
    taken_at: float
    uncertain: bool = False


class Sandbox:
    """Driver of one node of type `sandbox`. Implements `relay.upstreams.base.Upstream`."""

    def __init__(self, name: str, options: SandboxOptions, setting: Setting) -> None:
        self.name = name
        self.taken = 0
        """Messages taken since the start."""
        self._options = options
        self._clock = setting.clock
        self._random = setting.random if options.seed is None else Random(options.seed)
        self._kept: deque[Captured] = deque()
        self._kept_bytes = 0
        self._directory = Path(options.directory) if options.directory is not None else None
        if self._directory is not None:
            try:
                self._directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UpstreamError(f"{self._directory} cannot be made: {error.strerror}") from error

    def captured(self) -> tuple[Captured, ...]:
        """The messages in memory, oldest first."""
        return tuple(self._kept)

    async def deliver(self, outbound: Outbound, *, deadline: float) -> list[RecipientOutcome]:
        rules = self._draw([recipient.address for recipient in outbound.recipients])
        met = [rule for rule in rules if rule is not None]
        for rule in met:
            if rule.mode == "node-fault":
                await self._wait([rule], deadline)
                outcome = _node_fault(rule)
                return [RecipientOutcome(recipient.address, outcome) for recipient in outbound.recipients]
        content = await outbound.render(_CAPABILITIES)
        verdicts = [_refusal(rule) for rule in rules]
        accepted = tuple(
            recipient.address
            for recipient, verdict in zip(outbound.recipients, verdicts, strict=True)
            if verdict is None
        )
        dropped = any(rule.mode == "drop-after-dot" for rule in met)
        in_time = await self._wait(met, deadline)
        answer = _answer(outbound.id, met, dropped=dropped, in_time=in_time)
        if accepted:
            try:
                await self._keep(outbound, accepted, content, uncertain=dropped or not in_time)
            except OSError as error:
                answer = replies.fault("body", f"the message cannot be kept: {error.strerror}")
        return [
            RecipientOutcome(recipient.address, verdict or answer)
            for recipient, verdict in zip(outbound.recipients, verdicts, strict=True)
        ]

    async def probe(self) -> Probe:
        """Well, unless a `node-fault` rule for all recipients hits."""
        for rule in self._options.fail:
            if rule.mode == "node-fault" and rule.recipients == "*" and self._hits(rule):
                outcome = _node_fault(rule)
                return Probe(outcome=outcome, steps=("sandbox", f"failed: {outcome.text}"))
        return Probe(
            outcome=replies.delivered(250, "2.0.0 sandbox ready"), steps=("sandbox", "250 2.0.0 sandbox ready")
        )

    async def close(self) -> None:
        """Nothing to end."""

    def _hits(self, rule: SandboxRule) -> bool:
        return rule.rate >= 1.0 or self._random.random() < rule.rate

    def _draw(self, addresses: list[str]) -> list[SandboxRule | None]:
        """The rule for each recipient. A rule is drawn once for a message, and only if it fits somebody."""
        if not self._options.fail:
            return [None] * len(addresses)
        drawn: dict[int, bool] = {}

        def first(address: str) -> SandboxRule | None:
            for i, rule in enumerate(self._options.fail):
                if not fnmatchcase(address.lower(), rule.recipients.lower()):
                    continue
                if i not in drawn:
                    drawn[i] = self._hits(rule)
                if drawn[i]:
                    return rule
            return None

        return [first(address) for address in addresses]

    async def _wait(self, rules: list[SandboxRule], deadline: float) -> bool:
        """Wait as long as the slowest rule says. False when the deadline came first."""
        delay = max((rule.delay or 0.0 for rule in rules), default=0.0)
        if not delay:
            return True
        left = deadline - asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, min(delay, left)))
        return delay <= left

    async def _keep(self, outbound: Outbound, accepted: tuple[str, ...], content: Content, *, uncertain: bool) -> None:
        now = self._clock()
        if self._directory is not None:
            note = {
                "id": outbound.id,
                "node": self.name,
                "taken_at": now,
                "sender": outbound.sender,
                "recipients": list(accepted),
                "smtputf8": outbound.smtputf8,
                "uncertain": uncertain,
            }
            await asyncio.to_thread(_write, self._directory, _stem(outbound.id, now), note, content, self._options.keep)
        body = content.body
        whole = (
            content.head + b"\r\n" + body if isinstance(body, bytes) else await asyncio.to_thread(_beginning, content)
        )
        captured = Captured(
            id=outbound.id,
            sender=outbound.sender,
            recipients=accepted,
            content=whole[:SHOWN_BYTES],
            size=content.size,
            taken_at=now,
            uncertain=uncertain,
        )
        self.taken += 1
        self._kept.append(captured)
        self._kept_bytes += len(captured.content)
        while len(self._kept) > self._options.keep or (self._kept_bytes > MEMORY_BYTES and len(self._kept) > 1):
            self._kept_bytes -= len(self._kept.popleft().content)


def _refusal(rule: SandboxRule | None) -> Outcome | None:
    """The outcome of a recipient that its rule refuses or defers; None for one that is taken."""
    if rule is None or rule.mode not in _USUAL_REPLY:
        return None
    return replies.classify("rcpt", *_parts(rule.reply or _USUAL_REPLY[rule.mode]))


def _node_fault(rule: SandboxRule) -> Outcome:
    if rule.reply:
        return replies.classify("greeting", *_parts(rule.reply), attempted=False)
    return replies.fault("connect", "a sandbox rule says that this node is down", attempted=False)


def _answer(id: str, met: list[SandboxRule], *, dropped: bool, in_time: bool) -> Outcome:
    """The answer to the final dot."""
    if dropped:
        return replies.fault("dot", "a sandbox rule dropped the connection after the final dot")
    if not in_time:
        return replies.fault("dot", "no answer in time")
    said = next((rule.reply for rule in met if rule.mode == "delay" and rule.reply), "")
    return replies.classify("dot", *_parts(said or f"250 2.0.0 Ok: queued as {id}"))


def _parts(reply: str) -> tuple[int, str, str]:
    code = int(reply[:3])
    return code, *replies.split_enhanced(code, reply[4:])


def _stem(id: str, now: float) -> str:
    moment = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%S.%f")
    return f"{moment}-{_FILE_NAME.sub('_', id)[:64]}"


def _beginning(content: Content) -> bytes:
    """Enough of the content for `SHOWN_BYTES`. Blocking."""
    pieces, length = [], 0
    for piece in content.chunks():
        pieces.append(piece)
        length += len(piece)
        if length >= SHOWN_BYTES:
            break
    return b"".join(pieces)


def _write(directory: Path, stem: str, note: dict[str, object], content: Content, keep: int) -> None:
    """Both files by way of temporary ones, then the oldest beyond `keep` away. Blocking."""
    _replace(directory, f"{stem}.json", iter([json.dumps(note, ensure_ascii=False, indent=1).encode() + b"\n"]))
    _replace(directory, f"{stem}.eml", content.chunks())
    for old in sorted(directory.glob("*.eml"))[:-keep]:
        old.unlink(missing_ok=True)
        old.with_suffix(".json").unlink(missing_ok=True)


def _replace(directory: Path, name: str, pieces: Iterator[bytes]) -> None:
    temporary = directory / f".{name}.part"
    try:
        with temporary.open("wb") as file:
            file.writelines(pieces)
        temporary.replace(directory / name)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
