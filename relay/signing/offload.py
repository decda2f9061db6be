"""Signing from the event loop: large bodies are read and hashed in a thread (R20: no callback above 100 ms)."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from relay.envelope import Content
from relay.signing.signer import Signer

INLINE_BYTES = 256 * 1024
"""Bodies up to this are hashed on the loop: about 2 ms, little more than handing them to a thread costs under load."""


async def sign_async(
    signer: Signer, content: Content, from_domain: str, timestamp: float, *, leave_out: Collection[bytes] = ()
) -> bytes:
    """As `Signer.sign`; a `BodyFile` or a body above `INLINE_BYTES` goes to a thread."""
    if not from_domain or not signer.keys_for(from_domain):
        return b""
    if isinstance(content.body, bytes) and len(content.body) <= INLINE_BYTES:
        return signer.sign(content, from_domain, timestamp, leave_out=leave_out)
    return await asyncio.to_thread(signer.sign, content, from_domain, timestamp, leave_out=leave_out)
