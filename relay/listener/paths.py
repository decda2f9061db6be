"""Reverse-paths, forward-paths and ESMTP parameters, parsed strictly from the bytes of the command.

Nothing here decodes more than the grammar asks for: an encoded-word is a run of atom characters, a comment is a
syntax error, a quoted local part passes literally. What a client wrote between the brackets is what the policy sees,
what the spool stores and what leaves, so there is only ever one reading of it.

Every refusal is an `AcceptanceError` with the reply to give. The text of a reply never repeats input.

Source: RFC 5321 §4.1.2 (grammar), §4.5.3.1 (lengths), RFC 6531 §3.3 (UTF-8), RFC 1870 (SIZE), RFC 3461 (DSN),
RFC 4954 §5 (AUTH=), RFC 5891 (IDNA).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

import idna

from relay.envelope import Recipient, Reply
from relay.errors import AcceptanceError

MAX_PATH = 254
"""Octets of an address: RFC 5321 §4.5.3.1.3 allows 256 for the path, of which the brackets take two."""

MAX_ENVID = 100
"""RFC 3461 §4.4. Counted after decoding; the command line limit bounds the encoded form."""

MAX_ORCPT = 500
"""RFC 3461 §4.2."""

# The path of nearly every command: a dot-string at a domain name of ASCII letters. Length of labels and A-labels are
# looked at afterwards, and only where they can matter.
_ATEXT = rb"A-Za-z0-9!#$%&'*+\-/=?^_`{|}~"
_LABEL = rb"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_PLAIN = re.compile(rb"<([%b]+(?:\.[%b]+)*)@(%b(?:\.%b)*)>" % (_ATEXT, _ATEXT, _LABEL, _LABEL))

# The general shape: what the pieces hold is judged piece by piece, so that the reply can say what is wrong.
_ROUTE = re.compile(rb"@[A-Za-z0-9.\-\[\]:]+(?:,@[A-Za-z0-9.\-\[\]:]+)*:")
_QUOTED = re.compile(rb'"(?:[^"\\\x00-\x1f\x7f]|\\[ -~])*"')
_UNQUOTED = re.compile(rb'[^\x00-\x20\x7f<>()\[\]\\,;:@"]*')
_DOMAIN_BYTES = re.compile(rb"[A-Za-z0-9.\-_\[\]:\x80-\xff]*")

_DOT_STRING = re.compile(rb"[%b]+(?:\.[%b]+)*" % (_ATEXT, _ATEXT))
_DOT_STRING_UTF8 = re.compile(rb"[%b\x80-\xff]+(?:\.[%b\x80-\xff]+)*" % (_ATEXT, _ATEXT))
_NAME = re.compile(rb"%b(?:\.%b)*" % (_LABEL, _LABEL))

_KEYWORD = re.compile(rb"[A-Za-z0-9][A-Za-z0-9-]*")
_VALUE = re.compile(rb"[!-<>-~\x80-\xff]+")
_XTEXT = re.compile(rb"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
_XCHAR = re.compile(rb"\+([0-9A-F]{2})")
_ADDR_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_EMBEDDED = re.compile(r"\\x\{([0-9A-F]{2,6})\}")  # RFC 6533 §3
_NOTIFY = frozenset({"SUCCESS", "FAILURE", "DELAY"})


def _refusal(code: int, enhanced: str, text: str) -> AcceptanceError:
    return AcceptanceError(Reply(code, enhanced, text))


class _Fault:
    """Makes the refusals of one side: the enhanced codes of a bad sender and of a bad recipient differ (RFC 3463)."""

    __slots__ = ("domain_code", "path_code")

    def __init__(self, path_code: str, domain_code: str) -> None:
        self.path_code = path_code
        self.domain_code = domain_code

    def __call__(self, text: str) -> AcceptanceError:
        return _refusal(501, self.path_code, text)

    def domain(self, text: str) -> AcceptanceError:
        return _refusal(501, self.domain_code, text)


_BAD_SENDER = _Fault("5.1.7", "5.1.8")
_BAD_RECIPIENT = _Fault("5.1.3", "5.1.2")


@dataclass(frozen=True, slots=True)
class MailCommand:
    """What MAIL said. `sender`: `""` is the null reverse-path. `size`: 0 = not declared. `ret`, `envid`: decoded."""

    sender: str
    size: int = 0
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""


def parse_mail(argument: bytes, *, esmtp: bool) -> MailCommand:
    """Read what follows `MAIL `.

    Args:
        argument: the rest of the line without CRLF, no control characters.
        esmtp: the client said EHLO; parameters are refused otherwise (RFC 5321 §4.1.1.1).

    Raises:
        AcceptanceError: 501 (syntax), 553 5.6.7 (UTF-8 without SMTPUTF8), 552 (absurd SIZE), 555 (unknown parameter).
    """
    if argument[:5].upper() != b"FROM:":
        raise _refusal(501, "5.5.4", "Syntax: MAIL FROM:<address>")
    path = argument[5:].lstrip(b" ")
    domain: bytes | None
    plain, _, rest = path.partition(b" ")
    if simple := _PLAIN.fullmatch(plain) is not None and _is_simple(plain):
        if not rest:
            return MailCommand(plain[1:-1].decode())
        local = domain = b""
    else:
        local, domain, rest = _split_path(path, _BAD_SENDER)
    parameters = _parameters(rest, esmtp)
    utf8 = False
    size = 0
    ret = envid = ""
    for keyword, value in parameters.items():
        match keyword:
            case b"SIZE":
                size = _size(value)
            case b"BODY":
                if value is None or value.upper() not in (b"7BIT", b"8BITMIME"):
                    raise _refusal(501, "5.5.4", "BODY is 7BIT or 8BITMIME")
            case b"SMTPUTF8":
                if value is not None:
                    raise _refusal(501, "5.5.4", "SMTPUTF8 takes no value")
                utf8 = True
            case b"RET":
                if value is None or value.upper() not in (b"FULL", b"HDRS"):
                    raise _refusal(501, "5.5.4", "RET is FULL or HDRS")
                ret = value.upper().decode()
            case b"ENVID":
                envid = decode_xtext(value or b"")
                if not 0 < len(envid) <= MAX_ENVID:
                    raise _refusal(501, "5.5.4", "ENVID is empty or too long")
            case b"AUTH":
                # Checked and forgotten: this relay vouches for its own logins only (RFC 4954 §5).
                if value is None:
                    raise _refusal(501, "5.5.4", "AUTH needs a value")
                decode_xtext(value if value != b"<>" else b"")
            case _:
                raise _refusal(555, "5.5.4", "Parameter not recognised")
    if simple:
        return MailCommand(plain[1:-1].decode(), size, utf8, ret, envid)
    if not local and domain is None:
        return MailCommand("", size, utf8, ret, envid)
    if domain is None:
        raise _BAD_SENDER("Sender address needs a domain")
    return MailCommand(_address(local, domain, utf8, _BAD_SENDER), size, utf8, ret, envid)


def parse_rcpt(argument: bytes, *, esmtp: bool, smtputf8: bool, own_domain: str) -> Recipient:
    """Read what follows `RCPT `.

    Args:
        argument: the rest of the line without CRLF, no control characters.
        smtputf8: the transaction was opened with SMTPUTF8.
        own_domain: completes `<postmaster>`, the one address allowed without a domain (RFC 5321 §4.5.1).

    Raises:
        AcceptanceError: 501, 553 5.6.7 or 555, as for `parse_mail`.
    """
    if argument[:3].upper() != b"TO:":
        raise _refusal(501, "5.5.4", "Syntax: RCPT TO:<address>")
    path = argument[3:].lstrip(b" ")
    if _PLAIN.fullmatch(path) is not None and _is_simple(path):
        return Recipient(address=path[1:-1].decode())
    local, domain, rest = _split_path(path, _BAD_RECIPIENT)
    parameters = _parameters(rest, esmtp)
    notify = orcpt = ""
    for keyword, value in parameters.items():
        match keyword:
            case b"NOTIFY":
                notify = _notify(value)
            case b"ORCPT":
                orcpt = _orcpt(value, smtputf8)
            case _:
                raise _refusal(555, "5.5.4", "Parameter not recognised")
    if domain is None:
        if local.lower() != b"postmaster":
            raise _BAD_RECIPIENT("Recipient address needs a domain" if local else "Recipient address is empty")
        domain = own_domain.encode()
    return Recipient(address=_address(local, domain, smtputf8, _BAD_RECIPIENT), notify=notify, orcpt=orcpt)


def recipient_key(address: str) -> str:
    """`address` with its domain in lower case: two recipients with one key are one mailbox (RFC 5321 §2.4)."""
    local, at, domain = address.rpartition("@")
    return f"{local}{at}{domain.lower()}"


def decode_xtext(value: bytes) -> str:
    """Decode RFC 3461 §4 xtext. What comes out is printable ASCII: `+0D+0A` and `+00` are refused, never stored.

    Raises:
        AcceptanceError: 501 5.5.4.
    """
    if _XTEXT.fullmatch(value) is None:
        raise _refusal(501, "5.5.4", "Malformed xtext")
    text = _XCHAR.sub(lambda found: bytes((int(found[1], 16),)), value).decode("latin-1")
    if not (text.isascii() and text.isprintable()):
        raise _refusal(501, "5.5.4", "Malformed xtext")
    return text


# Paths


def _is_simple(path: bytes) -> bool:
    """`path` matched `_PLAIN` and is too short for an over-long label or address; an A-label still needs its look."""
    return len(path) < 64 and b"xn--" not in path.lower()


def _split_path(path: bytes, fault: _Fault) -> tuple[bytes, bytes | None, bytes]:
    """Local part, domain (None when there is no `@`) and what follows the path, for `path` with or without brackets.

    A source route is dropped: RFC 5321 appendix C asks to accept it, and nothing may ever be relayed by it.
    """
    bracketed = path.startswith(b"<")
    at = 1 if bracketed else 0
    if bracketed and path.startswith(b"@", at):
        route = _ROUTE.match(path, at)
        if route is None:
            raise fault("Malformed source route")
        at = route.end()
        if path.startswith(b">", at):
            raise fault("Malformed address")
    match = _QUOTED.match(path, at) or _UNQUOTED.match(path, at)
    assert match is not None  # _UNQUOTED matches the empty string
    local = match[0]
    at = match.end()
    domain = None
    if path.startswith(b"@", at):
        match = _DOMAIN_BYTES.match(path, at + 1)
        assert match is not None
        domain = match[0]
        at = match.end()
        if not local:
            raise fault("Malformed address")
    if bracketed:
        if not path.startswith(b">", at):
            raise fault("Malformed address")
        at += 1
    elif not local:
        raise fault("Malformed address")
    rest = path[at:]
    if rest and not rest.startswith(b" "):
        raise fault("Malformed address")
    return local, domain, rest


def _address(local: bytes, domain: bytes, utf8: bool, fault: _Fault) -> str:
    """The address as text, every piece checked. UTF-8 is stored in NFC, so that one mailbox has one spelling."""
    if len(local) + 1 + len(domain) > MAX_PATH:
        raise fault("Address too long")
    if not (local.isascii() and domain.isascii()):
        if not utf8:
            raise _refusal(553, "5.6.7", "Address needs SMTPUTF8")
        return _utf8_address(local, domain, fault)
    if not local.startswith(b'"') and _DOT_STRING.fullmatch(local) is None:
        raise fault("Malformed local part")
    _check_domain(domain, fault)
    return f"{local.decode()}@{domain.decode()}"


def _utf8_address(local: bytes, domain: bytes, fault: _Fault) -> str:
    try:
        local_text = unicodedata.normalize("NFC", local.decode("utf-8"))
        domain_text = unicodedata.normalize("NFC", domain.decode("utf-8"))
    except UnicodeDecodeError:
        raise fault("Address is not UTF-8") from None
    # Cc, Cf, Cs, Co, Cn and line or paragraph separators: invisible, reordering or not characters at all.
    if any(unicodedata.category(char) in _INVISIBLE for char in local_text):
        raise fault("Malformed local part")
    if not local.startswith(b'"') and _DOT_STRING_UTF8.fullmatch(local_text.encode()) is None:
        raise fault("Malformed local part")
    if not _OTHER_DOTS.isdisjoint(domain_text):
        raise fault.domain("Malformed domain")
    if domain_text.isascii():
        _check_domain(domain_text.encode(), fault)
    else:
        try:
            a_labels = idna.encode(domain_text.lower())
        except (idna.IDNAError, UnicodeError):
            raise fault.domain("Malformed domain") from None
        _check_domain(a_labels, fault)
    return f"{local_text}@{domain_text}"


_INVISIBLE: Collection[str] = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})
_OTHER_DOTS = frozenset("\u3002\uff0e\uff61")  # IDNA takes these for dots, the rest of the world does not


def _check_domain(domain: bytes, fault: _Fault) -> None:
    """A domain name of LDH labels, whose A-labels decode, or an address literal."""
    if domain.startswith(b"["):
        if not _is_literal(domain):
            raise fault.domain("Malformed address literal")
        return
    if len(domain) > 255 or _NAME.fullmatch(domain) is None or any(len(label) > 63 for label in domain.split(b".")):
        raise fault.domain("Malformed domain")
    if b"xn--" in domain.lower():
        try:
            idna.decode(domain.lower())
        except (idna.IDNAError, UnicodeError):
            raise fault.domain("Malformed domain") from None


def _is_literal(domain: bytes) -> bool:
    """RFC 5321 §4.1.3: `[192.0.2.1]` or `[IPv6:2001:db8::1]`."""
    if not domain.endswith(b"]"):
        return False
    inside = domain[1:-1].decode()
    try:
        if inside[:5].lower() == "ipv6:":
            IPv6Address(inside[5:])
        else:
            IPv4Address(inside)
    except ValueError:
        return False
    return True


# Parameters


def _parameters(rest: bytes, esmtp: bool) -> dict[bytes, bytes | None]:
    """Keyword (upper case) → value or None."""
    found: dict[bytes, bytes | None] = {}
    for word in rest.split():
        keyword, equals, value = word.partition(b"=")
        if _KEYWORD.fullmatch(keyword) is None or (equals and _VALUE.fullmatch(value) is None):
            raise _refusal(501, "5.5.4", "Malformed parameter")
        keyword = keyword.upper()
        if keyword in found:
            raise _refusal(501, "5.5.4", "Parameter given twice")
        found[keyword] = value if equals else None
    if found and not esmtp:
        raise _refusal(555, "5.5.4", "Parameters need EHLO")
    return found


def _size(value: bytes | None) -> int:
    # isdigit on bytes is ASCII only, unlike str; 20 digits are RFC 1870's bound and keep int() cheap.
    if value is None or not value.isdigit():
        raise _refusal(501, "5.5.4", "SIZE is a number")
    digits = value.lstrip(b"0")
    if len(digits) > 20:
        raise _refusal(552, "5.3.4", "Message too big")
    return int(digits or b"0")


def _notify(value: bytes | None) -> str:
    words = (value or b"").upper().decode("latin-1").split(",")
    if words != ["NEVER"] and (not set(words) <= _NOTIFY or len(set(words)) != len(words)):
        raise _refusal(501, "5.5.4", "NOTIFY is NEVER or some of SUCCESS, FAILURE, DELAY")
    return ",".join(words)


def _orcpt(value: bytes | None, smtputf8: bool) -> str:
    """`type;address`, decoded. The utf-8 type has its own encoding (RFC 6533 §3)."""
    kind, semicolon, encoded = (value or b"").partition(b";")
    kind_text = kind.decode("latin-1")
    if not semicolon or not encoded or _ADDR_TYPE.fullmatch(kind_text) is None:
        raise _refusal(501, "5.5.4", "Malformed ORCPT")
    text = _utf8_orcpt(encoded, smtputf8) if kind_text.lower() == "utf-8" else decode_xtext(encoded)
    if len(kind_text) + 1 + len(text) > MAX_ORCPT:
        raise _refusal(501, "5.5.4", "ORCPT too long")
    return f"{kind_text};{text}"


def _utf8_orcpt(encoded: bytes, smtputf8: bool) -> str:
    try:
        text = encoded.decode("utf-8" if smtputf8 else "ascii")
        text = _EMBEDDED.sub(lambda found: chr(int(found[1], 16)), text)
        text.encode("utf-8")  # \x{D800} is a surrogate
    except (UnicodeError, ValueError, OverflowError):
        raise _refusal(501, "5.5.4", "Malformed ORCPT") from None
    if not text.isprintable():
        raise _refusal(501, "5.5.4", "Malformed ORCPT")
    return text
