"""The content as one node is to get it: stamped, fitted to what the upstream can take, signed. Never written back."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from relay.envelope import Content, Message
from relay.headers import from_domain, stamp
from relay.headers.stamp import Headers
from relay.pools.pool import Node, Pool
from relay.signing.offload import sign_async
from relay.signing.signer import Signer
from relay.transcode import CannotTranscode, transcode
from relay.upstreams.base import Capabilities

INLINE_BYTES = 256 * 1024
"""Bodies up to this are converted on the loop; larger ones in a thread (R20: no callback above 100 ms)."""


class Renderer:
    """Makes renderings; one per worker.

    Args:
        headers: global custom headers.
        scratch: folder for converted large bodies; each lives as long as its attempt.
    """

    def __init__(self, *, headers: Headers, signer: Signer | None, scratch: Path, clock: Callable[[], float]) -> None:
        self.headers = tuple(headers)
        self.signer = signer
        self.scratch = scratch
        self.clock = clock

    def rendering(self, message: Message, content: Content, pool: Pool, node: Node) -> Rendering:
        return Rendering(self, message, content, pool, node)


class Rendering:
    """The content of one attempt; `render` is what the driver calls, `close` ends it."""

    def __init__(self, renderer: Renderer, message: Message, content: Content, pool: Pool, node: Node) -> None:
        self._renderer = renderer
        self._message = message
        self._content = content
        self._pool = pool
        self._node = node
        self._scratch: list[Path] = []

    async def render(self, capabilities: Capabilities) -> Content:
        """Stamp, fit, sign.

        Raises:
            CannotTranscode: the content cannot be made to fit this upstream without breaking it.
        """
        renderer, node, facts = self._renderer, self._node, self._message.facts
        content = stamp(
            self._content,
            pool=self._pool,
            node=node,
            global_headers=renderer.headers,
            feedtype=self._message.feedtype,
        )
        convert = node.eight_bit == "convert" or (node.eight_bit == "auto" and not capabilities.eight_bit)
        eight_bit = facts.eight_bit and convert and not facts.smtputf8
        long_lines = facts.long_lines and not facts.signed
        if eight_bit or long_lines:
            try:
                content = await self._fit(content, eight_bit=eight_bit, long_lines=long_lines)
            except CannotTranscode:
                # A line that cannot be made shorter without damage goes as it is: most servers take it. What is
                # 8-bit where only 7 bits pass does not.
                if not long_lines:
                    raise
                if eight_bit:
                    content = await self._fit(content, eight_bit=True, long_lines=False)
        if renderer.signer is None:
            return content
        domain = facts.from_domain or (from_domain(content.head) if node.from_email else "")
        signatures = await sign_async(renderer.signer, content, domain, renderer.clock())
        return Content(signatures + content.head, content.body) if signatures else content

    def close(self) -> None:
        """Remove what was made on disk."""
        for path in self._scratch:
            path.unlink(missing_ok=True)

    async def _fit(self, content: Content, *, eight_bit: bool, long_lines: bool) -> Content:
        signed = self._message.facts.signed
        if isinstance(content.body, bytes) and len(content.body) <= INLINE_BYTES:
            return transcode(content, eight_bit=eight_bit, long_lines=long_lines, signed=signed)
        handle, name = tempfile.mkstemp(
            prefix="body-", dir=self._renderer.scratch
        )  # the listener sweeps what a crash leaves
        os.close(handle)
        path = Path(name)
        self._scratch.append(path)
        return await asyncio.to_thread(
            transcode, content, eight_bit=eight_bit, long_lines=long_lines, signed=signed, scratch=path
        )
