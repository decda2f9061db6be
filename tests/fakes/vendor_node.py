"""A vendor's node against a server that checks its contract."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from relay.envelope import Content
from relay.outcome import Outcome, RecipientOutcome
from relay.transcode import CannotTranscode, transcode
from relay.upstreams import make, options_model
from relay.upstreams.base import Capabilities, Outbound, OutboundRecipient, Setting, Upstream
from tests.fakes.vendor_contract import Contract
from tests.fakes.vendor_contracts import CONTRACTS
from tests.fakes.vendor_server import Handler, VendorServer, vendor_server


class Tokens:
    """A source of tokens: `token-1`, and after each refusal the next one."""

    def __init__(self) -> None:
        self.number = 1
        self.invalidated: list[str] = []

    async def token(self) -> str:
        return f"token-{self.number}"

    async def invalidate(self, token: str) -> None:
        self.invalidated.append(token)
        if token == f"token-{self.number}":
            self.number += 1


@dataclass
class VendorNode:
    upstream: Upstream
    server: VendorServer
    contract: Contract
    tokens: Tokens

    async def send(self, message: Outbound, *, within: float = 20.0) -> list[Outcome]:
        """Outcomes in order of the recipients."""
        results = await self.upstream.deliver(message, deadline=asyncio.get_running_loop().time() + within)
        assert [r.address for r in results] == [r.address for r in message.recipients]
        return [r.outcome for r in results]

    async def send_all(self, message: Outbound) -> list[RecipientOutcome]:
        """As delivery does: what waits for the next batch goes in the next call."""
        from dataclasses import replace

        done: list[RecipientOutcome] = []
        while message.recipients:
            outcomes = await self.send(message)
            left = []
            for recipient, outcome in zip(message.recipients, outcomes, strict=True):
                if outcome.enhanced == "4.5.3":
                    left.append(recipient)
                else:
                    done.append(RecipientOutcome(recipient.address, outcome))
            assert len(left) < len(message.recipients)
            message = replace(message, recipients=tuple(left))
        return done


def options_for(kind: str, url: str, **more: Any) -> dict[str, Any]:
    options = {**CONTRACTS[kind]().options, **more}
    if kind == "relay":
        return {"url": url, **options}
    if kind == "mumara-one":
        return {"url": f"{url}/bridge/7/send", **options}
    return {"base_url": url, **options}


@asynccontextmanager
async def vendor_node(
    kind: str, handler: Handler | None = None, *, early: Any = lambda _: None, **options: Any
) -> AsyncIterator[VendorNode]:
    """A node and its vendor; requests that break the contract fail the test."""
    contract = CONTRACTS[kind]()
    tokens = Tokens()
    async with vendor_server(handler or contract.handle, early=early) as server:
        model = options_model(kind).model_validate(options_for(kind, server.url, **options))
        setting = Setting(ehlo="relay.example", tokens=lambda _: tokens)
        upstream = make(kind, "node-1", model, setting)
        try:
            yield VendorNode(upstream, server, contract, tokens)
        finally:
            await upstream.close()
        assert not server.faults, server.faults[0]


def letter(
    octets: bytes,
    recipients: Sequence[str],
    *,
    sender: str = "bounce@acme.example",
    id: str = "01J0000000000000000000TEST",
    signed: bool = False,
) -> Outbound:
    """A message as delivery would hand it over: 8-bit content is converted where the driver asks for it."""
    content = split(octets)

    async def render(capabilities: Capabilities) -> Content:
        if capabilities.eight_bit:
            return content
        return transcode(content, eight_bit=True, long_lines=False, signed=signed)

    return Outbound(
        id=id,
        sender=sender,
        recipients=tuple(OutboundRecipient(address=address) for address in recipients),
        render=render,
        size=content.size,
    )


def split(octets: bytes) -> Content:
    """Head and body as acceptance splits them."""
    if octets.startswith(b"\r\n"):
        return Content(b"", octets[2:])
    head, blank, body = octets.partition(b"\r\n\r\n")
    return Content(head + b"\r\n" if head and (blank or not head.endswith(b"\r\n")) else head, body)


def joined(octets: bytes) -> bytes:
    """The message as it is on the wire: head, blank line, body."""
    return b"".join(split(octets).chunks())


__all__ = ["CannotTranscode", "Tokens", "VendorNode", "joined", "letter", "options_for", "split", "vendor_node"]
