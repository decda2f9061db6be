"""What is known about a client and about its open transaction: aiosmtpd's mutable values with the relay's own.

Both are turned into a `Submission` once, at the end of DATA, and then forgotten.
"""

from __future__ import annotations

import asyncio

from aiosmtpd.smtp import Envelope, Session

from relay.bridges.bridge import Bridge
from relay.envelope import Recipient
from relay.listener.submission import SessionInfo


class Client(Session):
    """aiosmtpd's session with what the relay knows about the other end. A new one after STARTTLS forgets the old.

    `bridge`: what this client may use now, by AUTH or by its address. `info`: for submissions; None after changes.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, session_id: str, address: str, port: int) -> None:
        super().__init__(loop)
        self.id = session_id
        self.address = address
        self.port = port
        self.tls = ""
        self.bridge: Bridge | None = None
        self.username = ""
        self.auth_failures = 0
        self.info: SessionInfo | None = None

    def protocol(self, *, smtputf8: bool) -> str:
        """RFC 3848 and RFC 6531 §4.3 name."""
        suffix = ("S" if self.tls else "") + ("A" if self.authenticated else "")
        if smtputf8:
            return f"UTF8SMTP{suffix}"
        return f"ESMTP{suffix}" if self.extended_smtp else "SMTP"

    def describe(self, *, smtputf8: bool = False) -> SessionInfo:
        """What `Submission` says about this client."""
        info = self.info
        if info is None or smtputf8:
            info = SessionInfo(
                session=self.id,
                peer=self.address,
                port=self.port,
                helo=self.host_name or "",
                protocol=self.protocol(smtputf8=smtputf8),
                tls=self.tls,
                username=self.username,
            )
            if not smtputf8:
                self.info = info
        return info


class Transaction(Envelope):
    """aiosmtpd's envelope with the relay's recipients. `refused`: RCPT commands that were refused."""

    def __init__(self, sender: str, *, smtputf8: bool, ret: str, envid: str, max_size: int) -> None:
        super().__init__()
        self.mail_from = sender
        self.smtp_utf8 = smtputf8
        self.ret = ret
        self.envid = envid
        self.max_size = max_size
        self.recipients: list[Recipient] = []
        self.keys: set[str] = set()
        self.refused = 0
