"""Every knob of a listener, as plain values."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerOptions:
    """Durations in seconds, sizes in octets. A limit of 0 is no limit, unless said otherwise.

    Attributes:
        hostname: what the greeting and EHLO call this server.
        tls: `none`, `starttls` (offered) or `implicit` (from the first octet).
        auth_without_tls: offer AUTH on connections without TLS.
        require_tls: MAIL needs TLS too, also for clients that need no AUTH.
        proxy_from: peers that must begin with a PROXY v1 or v2 header, whose address is then believed.
        line_endings: `reject` refuses bare CR and LF; `normalize` takes them for CRLF.
        body_dir: where large bodies are written; must be on the file system of the spool for it to adopt them.
        body_in_memory: content up to this size stays in memory.
        max_size: smaller limits of a bridge win.
        max_recipients: RFC 5321 §4.5.3.1.8 wants at least 100; smaller limits of a bridge win.
        max_connections, max_per_peer: connections at once in all and from one address (IPv6: one /64).
        max_errors: refused commands before 421.
        max_idle_commands: NOOP, RSET, EHLO and the like before 421, counted anew after each accepted message.
        max_auth_failures: before 421.
        idle_timeout: from a reply to the end of the next command.
        session_timeout: whole connection; a commit is waited for.
        data_window, data_rate: DATA must bring `data_rate` octets a second in every `data_window`.
        discard_timeout: how long a message that is already refused may go on.
        accept_deadline: how long a commit may take before the client hears 451.
        write_timeout: how long a client may leave its replies unread.
        tls_timeout, proxy_timeout: for the handshake and for the PROXY header.
        linger: how long a connection that is closed on a refusal is still read, so that the reply is not lost.
    """

    hostname: str
    tls: Literal["none", "starttls", "implicit"] = "none"
    auth_without_tls: bool = False
    require_tls: bool = False
    proxy_from: tuple[IPv4Network | IPv6Network, ...] = ()
    line_endings: Literal["reject", "normalize"] = "reject"
    body_dir: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))
    body_in_memory: int = 128 * 1024
    max_size: int = 25 * 1024 * 1024
    max_header: int = 256 * 1024
    max_header_fields: int = 1000
    max_received: int = 50
    max_recipients: int = 1000
    max_connections: int = 1000
    max_per_peer: int = 50
    max_errors: int = 10
    max_idle_commands: int = 100
    max_auth_failures: int = 3
    idle_timeout: float = 60.0
    session_timeout: float = 3600.0
    data_window: float = 30.0
    data_rate: int = 500
    discard_timeout: float = 600.0
    accept_deadline: float = 60.0
    write_timeout: float = 60.0
    tls_timeout: float = 30.0
    proxy_timeout: float = 5.0
    linger: float = 2.0
    backlog: int = 1024
