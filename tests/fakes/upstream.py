"""Builders for tests of drivers: an SMTP node against a scripted server, and messages for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from relay.envelope import BodyFile, Content
from relay.outcome import Outcome, Scope, Status
from relay.upstreams.base import Capabilities, Outbound, OutboundRecipient, Setting
from relay.upstreams.smtp import SmtpUpstream
from relay.upstreams.smtp_options import SmtpOptions
from tests.fakes.smtp_server import SmtpServer

HEAD = b"From: a@b.example\r\nSubject: hello\r\n"
BODY = b"first\r\n.second\r\n..third\r\n"


@dataclass
class Rendered:
    """A `render` that gives fixed content and remembers the capabilities it was asked for."""

    content: Content
    asked: list[Capabilities] = field(default_factory=list)

    async def __call__(self, capabilities: Capabilities) -> Content:
        self.asked.append(capabilities)
        return self.content


def outbound(
    *recipients: str | OutboundRecipient,
    sender: str = "a@b.example",
    head: bytes = HEAD,
    body: bytes | BodyFile = BODY,
    render: Callable[..., object] | None = None,
    **more: object,
) -> Outbound:
    """A message; one recipient `x@y.example` unless told otherwise."""
    content = Content(head, body)
    return Outbound(
        id="01J0000000000000000000TEST",
        sender=sender,
        recipients=tuple(
            OutboundRecipient(address=r) if isinstance(r, str) else r for r in recipients or ("x@y.example",)
        ),
        render=render or Rendered(content),  # type: ignore[arg-type]
        size=content.size,
        **more,  # type: ignore[arg-type]
    )


async def send(upstream: SmtpUpstream, *recipients: str, within: float = 10.0, **more: object) -> list[Outcome]:
    """Outcomes of one delivery, in order of the recipients."""
    message = outbound(*recipients, **more)  # type: ignore[arg-type]
    deadline = asyncio.get_running_loop().time() + within
    results = await upstream.deliver(message, deadline=deadline)
    assert [r.address for r in results] == [r.address for r in message.recipients]
    return [r.outcome for r in results]


def kinds(outcomes: list[Outcome]) -> list[tuple[Status, Scope]]:
    return [(outcome.status, outcome.scope) for outcome in outcomes]


@asynccontextmanager
async def smtp_node(server: SmtpServer, **options: object) -> AsyncIterator[SmtpUpstream]:
    """A node on `server`; at its end no task, no connection and nothing counted is left over."""
    options = {"host": server.host, "port": server.port, "tls": "none", **options}
    before = asyncio.all_tasks()
    upstream = SmtpUpstream("node-1", SmtpOptions.model_validate(options), Setting(ehlo="relay.example"))
    try:
        yield upstream
    finally:
        await upstream.close()
    assert upstream._pool._slots == upstream._pool._alive == 0, "a connection is still counted"
    assert not upstream._pool._waiters
    async with asyncio.timeout(3):
        await server.until(gone=True)
    left = asyncio.all_tasks() - before
    if left:  # asyncio's own of the server side end within moments
        _, left = await asyncio.wait(left, timeout=2)
    assert not left, f"tasks left behind: {left}"
