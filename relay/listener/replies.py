"""The listener's own replies, as they go over the wire, and how an acceptor's reply becomes one.

Every reply has an enhanced code where RFC 2034 wants one (not the greeting, EHLO, 334 and 354), none repeats input.
"""

from __future__ import annotations

import re

from relay.envelope import Reply

_UNPRINTABLE = re.compile(r"[^ -~\n]")

MAX_REPLY_TEXT = 450
"""A reply line has at most 512 octets (RFC 5321 §4.5.3.1.5); codes and CRLF need their share."""

OK = b"250 2.0.0 Ok\r\n"
SENDER_OK = b"250 2.1.0 Ok\r\n"
RECIPIENT_OK = b"250 2.1.5 Ok\r\n"
GO_AHEAD = b"354 End data with <CR><LF>.<CR><LF>\r\n"
BYE = b"221 2.0.0 Bye\r\n"
HELP = b"214 2.0.0 EHLO HELO MAIL RCPT DATA RSET NOOP VRFY QUIT AUTH STARTTLS; see RFC 5321\r\n"
NO_VRFY = b"252 2.0.0 Cannot verify, send mail to find out\r\n"
START_TLS = b"220 2.0.0 Ready to start TLS\r\n"
AUTHENTICATED = b"235 2.7.0 Authentication succeeded\r\n"
ASK_PLAIN = b"334 \r\n"
ASK_USERNAME = b"334 VXNlcm5hbWU6\r\n"  # Username:
ASK_PASSWORD = b"334 UGFzc3dvcmQ6\r\n"  # Password:

UNKNOWN = b"500 5.5.1 Command not recognised\r\n"
NOT_A_COMMAND = b"500 5.5.2 Malformed command line\r\n"
TOO_LONG = b"500 5.5.2 Line too long\r\n"
BARE_LF = b"500 5.5.2 Lines end in CRLF\r\n"
NO_ARGUMENT = b"501 5.5.4 This command takes no argument\r\n"
NEEDS_ARGUMENT = b"501 5.5.4 This command needs an argument\r\n"
NOT_ASCII = b"501 5.5.4 Argument is not ASCII\r\n"
NOT_IMPLEMENTED = b"502 5.5.1 Command not implemented\r\n"
HELO_FIRST = b"503 5.5.1 Say EHLO first\r\n"
NESTED_MAIL = b"503 5.5.1 A transaction is open already\r\n"
MAIL_FIRST = b"503 5.5.1 Send MAIL first\r\n"
RCPT_FIRST = b"503 5.5.1 Send RCPT first\r\n"
NO_RECIPIENTS = b"554 5.5.1 No valid recipients\r\n"
TLS_ACTIVE = b"503 5.5.1 TLS is active already\r\n"
TLS_FIRST = b"530 5.7.0 Use STARTTLS first\r\n"
AUTH_FIRST = b"530 5.7.0 Authentication required\r\n"
AUTH_NEEDS_TLS = b"538 5.7.11 Encryption required for authentication\r\n"
AUTH_TWICE = b"503 5.5.1 Already authenticated\r\n"
AUTH_IN_MAIL = b"503 5.5.1 Not during a transaction\r\n"
AUTH_UNKNOWN = b"504 5.5.4 Mechanism not supported\r\n"
AUTH_CANCELLED = b"501 5.7.0 Authentication cancelled\r\n"
AUTH_MALFORMED = b"501 5.5.2 Malformed authentication response\r\n"
AUTH_TOO_LONG = b"500 5.5.6 Authentication response too long\r\n"
AUTH_FAILED = b"535 5.7.8 Authentication failed\r\n"
TOO_MANY_RECIPIENTS = b"452 4.5.3 Too many recipients, send the rest in another message\r\n"
FAULT = b"451 4.3.0 Temporary trouble, try again later\r\n"
TOO_LATE = b"451 4.4.5 Storing the message took too long, send it again\r\n"

BUSY = b"421 4.3.2 Too many connections, try again later\r\n"
PEER_BUSY = b"421 4.7.0 Too many connections from your address\r\n"
BRIDGE_BUSY = b"421 4.7.0 Too many connections with this login\r\n"
SHUTTING_DOWN = b"421 4.3.2 Service shutting down\r\n"
IDLE = b"421 4.4.2 Timeout, closing\r\n"
SESSION_OVER = b"421 4.4.2 Session too long, closing\r\n"
TOO_SLOW = b"421 4.4.2 Data comes too slowly, closing\r\n"
GAVE_UP = b"421 4.7.0 Message goes on after its limit, closing\r\n"
TOO_MANY_ERRORS = b"421 4.7.0 Too many errors\r\n"
TOO_MANY_COMMANDS = b"421 4.7.0 Too many commands without mail\r\n"
TOO_MANY_FAILURES = b"421 4.7.0 Too many failed authentications\r\n"
NOT_HTTP = b"421 4.7.0 This is not HTTP\r\n"
REVOKED = b"421 4.7.0 Access has changed, connect again\r\n"
BROKEN = b"421 4.3.0 Temporary trouble, try again later\r\n"


def encode(reply: Reply) -> bytes:
    """`reply` with line ends, one line for each LF in its text; whatever is not printable ASCII becomes `?`."""
    prefix = f"{reply.code}", f" {reply.enhanced} " if reply.enhanced else " "
    text = reply.text
    if text.isascii() and text.isprintable() and len(text) <= MAX_REPLY_TEXT:
        return f"{prefix[0]}{prefix[1]}{text}\r\n".encode()
    lines = [line[:MAX_REPLY_TEXT] for line in _UNPRINTABLE.sub("?", text).split("\n")]
    wire = [f"{prefix[0]}-{prefix[1][1:]}{line}\r\n" for line in lines[:-1]]
    wire.append(f"{prefix[0]}{prefix[1]}{lines[-1]}\r\n")
    return "".join(wire).encode("ascii")


def as_text(wire: bytes) -> str:
    """A wire reply for an event: without the line end."""
    return wire.decode("ascii").strip().replace("\r\n", " / ")
