"""What a driver can carry, as far as the envelope and the size tell. Values only.

The router reads it through `pools.pool.Node`, so that a message never costs an attempt at a node that cannot take it.
What only the content tells (signed or encrypted MIME, reports, invitations) is judged by the driver, which refuses
before anything is sent.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Carries:
    """Limits of one node's driver.

    Attributes:
        null_sender: the null reverse-path; a vendor that puts its own return path on everything cannot say it.
        smtputf8: addresses and headers of RFC 6531.
        max_size: octets of content, growth by base64 taken off already; 0 = not known.
        max_recipients: of one hand-over; 0 = not known.
    """

    null_sender: bool = True
    smtputf8: bool = True
    max_size: int = 0
    max_recipients: int = 0


EVERYTHING = Carries()
"""Of drivers without limits of their own."""
