"""The Received field this relay adds when it accepts a message (RFC 5321 §4.4, RFC 3848, RFC 6531 §3.7.3)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from relay.headers.words import mail_date
from relay.values import thawed

_HELO = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,253}[A-Za-z0-9])?|\[[A-Za-z0-9.:]{1,80}\]")
_FOR = re.compile(r"[^\x00-\x20\x7f\"\\(),:;<>@\[\]]{1,64}@[^\x00-\x20\x7f\"\\(),;<>@]{1,255}")


@thawed
@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What a Received field tells.

    Attributes:
        helo: what the client called itself; anything but a domain or an address literal is not repeated.
        peer: client address without port; empty when unknown (unix socket, API).
        hostname: ours.
        protocol: RFC 3848 or RFC 6531 name.
        id: spool id.
        recipients: of the envelope; named only when there is exactly one, because a list would tell Bcc recipients.
        hide_client: leave out the client's name and address (privacy of people behind submission). Only the `from`
            clause goes: dropping the whole field would cost loop detection and reputation.
    """

    helo: str
    peer: str
    hostname: str
    protocol: str
    id: str
    recipients: tuple[str, ...] = ()
    hide_client: bool = False


def address_literal(address: str) -> str:
    """`[192.0.2.7]` or `[IPv6:2001:db8::7]` (RFC 5321 §4.1.3)."""
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


def received(trace: Trace, now: float) -> bytes:
    """The field, folded, with its CRLF. `now`: epoch seconds of receipt."""
    lines = []
    if not trace.hide_client:
        literal = address_literal(trace.peer) if re.fullmatch(r"[0-9A-Fa-f:.]+", trace.peer) else ""
        name = trace.helo if _HELO.fullmatch(trace.helo) else literal or "unknown"
        lines.append(f"from {name} ({literal})" if literal else f"from {name}")
    lines.append(f"by {trace.hostname} with {trace.protocol} id {trace.id}")
    if len(trace.recipients) == 1:
        address = trace.recipients[0]
        utf8 = trace.protocol.startswith("UTF8")
        if _FOR.fullmatch(address) and (utf8 or address.isascii()):
            lines.append(f"for <{address}>")
    text = "Received: " + "\r\n\t".join(lines)
    return text.encode("utf-8") + b";\r\n\t" + mail_date(now) + b"\r\n"
