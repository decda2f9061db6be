"""Mail for a simulation: a stated volume, a sample of real messages, or what came in lately.

A sample goes through `headers.prepare` like mail that is accepted, so that campaign, lane and sender domain are what
the relay would see. Nothing of the content is kept.
"""

from __future__ import annotations

import contextlib
import mailbox
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.utils import getaddresses
from pathlib import Path

from relay.bridges.bridge import Bridge
from relay.envelope import Facts, Lane, Message, Recipient
from relay.events import Event
from relay.headers import Trace, prepare

USUAL_SIZE = 20_000
"""Octets of a message of a stated volume."""

MAX_SAMPLE = 100_000
"""Messages read of a sample."""


@dataclass(frozen=True, slots=True)
class Template:
    """What one message of a sample is like."""

    size: int
    recipients: int
    sender: str
    facts: Facts
    campaign: str = ""
    lane: Lane | None = None
    rotation: str = ""


def plain(sender: str = "sender@example.com", recipients: int = 1, size: int = USUAL_SIZE) -> Template:
    """A message of a stated volume."""
    return Template(size, recipients, sender, Facts(from_domain=sender.rpartition("@")[2]))


def read_sample(path: Path) -> list[Template]:
    """Messages of an mbox file, of a folder of `.eml` files, or of one such file.

    Raises:
        ValueError: there is none.
        OSError: it cannot be read.
    """
    found = []
    for octets in _octets(path):
        found.append(_template(octets))
        if len(found) >= MAX_SAMPLE:
            break
    if not found:
        raise ValueError(f"{path}: no message; it must be an mbox file or a folder of .eml files")
    return found


def steady(
    templates: Sequence[Template], bridges: Sequence[Bridge], *, messages: int, per_hour: float, start: float
) -> Iterator[Message]:
    """That many messages at an even pace, the templates and the bridges by turns."""
    names = _Names()
    for number in range(messages):
        template = templates[number % len(templates)]
        bridge = bridges[number % len(bridges)]
        yield message_of(template, bridge, names, start + number * 3600.0 / per_hour)


def replayed(events: Sequence[Event], bridges: Sequence[Bridge], *, start: float) -> Iterator[Message]:
    """What was accepted, at the pace at which it was, through the bridges as they are configured now.

    Args:
        events: `message.accepted`, oldest first; those of bridges that are gone are left out.
    """
    by_name = {bridge.name: bridge for bridge in bridges}
    names = _Names()
    for event in events:
        bridge = by_name.get(str(event.data.get("bridge")))
        if bridge is None:
            continue
        sender = str(event.data.get("sender", ""))
        template = Template(
            size=int(event.data.get("size", USUAL_SIZE)),
            recipients=max(1, len(event.data.get("recipients", ()))),
            sender=sender,
            facts=Facts(from_domain=sender.rpartition("@")[2].lower()),
            campaign=str(event.data.get("campaign", "")),
        )
        yield message_of(template, bridge, names, start + event.at - events[0].at)


class _Names:
    """Ids that sort like time, and recipients that are made once for each number of them."""

    def __init__(self) -> None:
        self._made = 0
        self._recipients: dict[int, tuple[Recipient, ...]] = {}

    def next(self) -> str:
        self._made += 1
        return f"{self._made:026d}"

    def recipients(self, count: int) -> tuple[Recipient, ...]:
        found = self._recipients.get(count)
        if found is None:
            found = tuple(Recipient(address=f"r{n}@example.net") for n in range(count))
            self._recipients[count] = found
        return found


def message_of(template: Template, bridge: Bridge, names: _Names, at: float) -> Message:
    lane, rotation = bridge.lane, ""
    if bridge.may_choose:
        lane, rotation = template.lane or lane, template.rotation
    return Message(
        id=names.next(),
        bridge=bridge.name,
        pool=bridge.pool,
        lane=lane,
        sender=template.sender,
        recipients=names.recipients(template.recipients),
        received_at=at,
        size=template.size,
        feedtype=bridge.feedtype,
        campaign=template.campaign,
        rotation=rotation,
        facts=template.facts,
        attempts=1,
    )


def _octets(path: Path) -> Iterator[bytes]:
    if path.is_dir():
        for file in sorted(path.rglob("*.eml")):
            yield file.read_bytes()
    elif path.suffix == ".eml":
        yield path.read_bytes()
    elif path.read_bytes()[:5] == b"From ":
        with contextlib.closing(mailbox.mbox(path, create=False)) as box:
            for message in box:
                yield message.as_bytes()


def _template(octets: bytes) -> Template:
    content = octets.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    head, _, _ = content.partition(b"\r\n\r\n")
    head += b"\r\n"
    trace = Trace(helo="", peer="", hostname="simulation", protocol="ESMTP", id="", hide_client=True)
    prepared = prepare(head, trace=trace, now=0.0, new_message_id=lambda: "<simulation>")
    facts = prepared.facts(
        eight_bit=not content.isascii(),
        long_lines=any(len(line) > 998 for line in content.split(b"\r\n")),
        smtputf8=prepared.eight_bit,
    )
    return Template(
        size=len(content),
        recipients=max(1, len(_recipients(head))),
        sender=prepared.from_address or "",
        facts=facts,
        campaign=prepared.campaign,
        lane=Lane(prepared.lane) if prepared.lane else None,
        rotation=str(prepared.rotation or ""),
    )


def _recipients(head: bytes) -> list[str]:
    """Addresses of To and Cc, folded lines joined."""
    unfolded = head.replace(b"\r\n ", b" ").replace(b"\r\n\t", b" ").decode("latin-1")
    named = [line.partition(":") for line in unfolded.split("\r\n")]
    values = [value for name, _, value in named if name.strip().lower() in ("to", "cc")]
    return [address for _, address in getaddresses(values) if "@" in address]
