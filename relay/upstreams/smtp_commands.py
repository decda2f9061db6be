"""SMTP command lines of a transaction. Pure: bytes out, no I/O.

Addresses are written exactly as given. They were validated when the message was accepted, and are looked at once more
right before writing, because an address that could end its own line would speak SMTP in our name.

Source: RFC 5321 §4.1.1, RFC 1870 (SIZE), RFC 6152 (8BITMIME), RFC 6531 (SMTPUTF8), RFC 3461 §4 and RFC 6533 §3 (DSN).
"""

from __future__ import annotations

import re

from relay.upstreams.base import Outbound, OutboundRecipient

_UNSAFE = re.compile(r"[\x00-\x1f\x7f<>\ud800-\udfff]")
"""Controls would end the line, angle brackets the path. A quoted local part may hold brackets by grammar; servers that
read up to the first `>` are more common than such mailboxes."""
_XTEXT_PLAIN = re.compile(r"[!-*,-<>-~]*")
_NOTIFY = re.compile(r"NEVER|(?:SUCCESS|FAILURE|DELAY)(?:,(?:SUCCESS|FAILURE|DELAY)){0,2}")
_ORCPT_TYPE = re.compile(r"[A-Za-z0-9-]{1,64}")


def is_safe(address: str) -> bool:
    """True when `address` can stand between angle brackets in a command. `""` is the null reverse-path."""
    return _UNSAFE.search(address) is None


def xtext(text: str) -> str:
    """RFC 3461 §4 xtext of ASCII `text`."""
    if _XTEXT_PLAIN.fullmatch(text):
        return text
    return "".join(c if "!" <= c <= "~" and c not in "+=" else f"+{ord(c):02X}" for c in text)


def utf8_xtext(text: str) -> str:
    """RFC 6533 §3 utf-8-addr-xtext: printable ASCII but for `\\`, `+` and `=`; the rest as `\\x{HEX}`."""
    return "".join(c if "!" <= c <= "~" and c not in "\\+=" else f"\\x{{{ord(c):02X}}}" for c in text)


def _orcpt(orcpt: str) -> str:
    """The parameter, or empty when `orcpt` cannot be said."""
    kind, _, address = orcpt.partition(";")
    if not address or not _ORCPT_TYPE.fullmatch(kind):
        return ""
    if kind.lower() == "utf-8":
        return f" ORCPT={kind};{utf8_xtext(address)}"
    return f" ORCPT={kind};{xtext(address)}" if address.isascii() else ""


def mail(outbound: Outbound, *, size: int, eight_bit: bool, smtputf8: bool, dsn: bool) -> bytes:
    """The MAIL line with CRLF.

    Args:
        size: octets for SIZE=, 0 = the parameter is not offered.
        eight_bit, smtputf8, dsn: the parameters that the server offers and the message needs.
    """
    line = f"MAIL FROM:<{outbound.sender}>"
    if size:
        line += f" SIZE={size}"
    if eight_bit:
        line += " BODY=8BITMIME"
    if smtputf8:
        line += " SMTPUTF8"
    if dsn:
        if outbound.ret in ("FULL", "HDRS"):
            line += f" RET={outbound.ret}"
        if outbound.envid and outbound.envid.isascii():
            line += f" ENVID={xtext(outbound.envid)}"
    return line.encode() + b"\r\n"


def rcpt(recipient: OutboundRecipient, *, dsn: bool) -> bytes:
    """The RCPT line with CRLF."""
    line = f"RCPT TO:<{recipient.address}>"
    if dsn:
        if _NOTIFY.fullmatch(recipient.notify):
            line += f" NOTIFY={recipient.notify}"
        if recipient.orcpt:
            line += _orcpt(recipient.orcpt)
    return line.encode() + b"\r\n"
