"""Mailboxes of a From field, read strictly (RFC 5322 §3.4, without the obsolete forms).

The question is not "which address could this mean" but "is there exactly one address every reader sees". What two
parsers could read differently (unquoted commas or at-signs in names, routes, blanks inside addresses, control
characters, unbalanced quotes) is answered with None, and policy treats it as ambiguous. Encoded words are never
decoded: inside an address they are plain atoms, whatever they would spell.

Linear time and no recursion, also for thousands of nested comments.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_MAX_OCTETS = 32 * 1024  # a From field of 1,000 mailboxes; beyond it nobody reads the same
_ATEXT = rb"A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\xff-"

_COMMON = re.compile(
    rb'[ \t]*+(?:(?:"[^"\\\x00-\x1f\x7f]*+"|[' + _ATEXT + rb". \t]*?)[ \t]*<([" + _ATEXT + rb".]+@[A-Za-z0-9_.-]+)>"
    rb"|([" + _ATEXT + rb".]+@[A-Za-z0-9_.-]+))[ \t]*"
)
"""The two forms nearly all mail has; the scanner below gives the same answer for them, only slower."""

_TOKEN = re.compile(
    rb"(?P<blank>[ \t]+)"
    rb'|(?P<quoted>"(?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[\t -~\x80-\xff])*+")'
    rb"|(?P<literal>\[[^\[\]\\\x00-\x1f\x7f]*+\])"
    rb"|(?P<atom>[" + _ATEXT + rb".]+)"
    rb"|(?P<special>[<>,:;@(])"
)
_COMMENT_MARK = re.compile(rb"[()\\\x00-\x08\x0a-\x1f\x7f]")
_DOMAIN = re.compile(r"(?!-)[\w-]{1,63}(?<!-)(?:\.(?!-)[\w-]{1,63}(?<!-))*")


class Mailboxes(NamedTuple):
    """`addresses`: `local@domain` as written. `grouped`: group syntax was used."""

    addresses: tuple[str, ...]
    grouped: bool = False


class Token(NamedTuple):
    """`kind`: `blank` (comments too), `quoted`, `literal`, `atom`, or the special character itself."""

    kind: str
    text: bytes


def parse_mailboxes(value: bytes) -> Mailboxes | None:
    """The mailboxes of an address-list field, or None when readers could disagree about them.

    Args:
        value: what follows the colon, folded or not.
    """
    if len(value) > _MAX_OCTETS:
        return None
    value = value.replace(b"\r\n", b"")
    if common := _COMMON.fullmatch(value):
        address = _address(common[1] or common[2])
        return Mailboxes((address,)) if address else None
    tokens = tokens_of(value)
    return None if tokens is None else _mailboxes(tokens)


def domain_of(address: str) -> str:
    """Domain of an address in lower case; empty without one."""
    return address.rpartition("@")[2].lower() if "@" in address else ""


def tokens_of(value: bytes) -> list[Token] | None:
    """Lexical tokens of an unfolded value. None when something is no token at all."""
    tokens: list[Token] = []
    at = 0
    while at < len(value):
        match = _TOKEN.match(value, at)
        if match is None:
            return None
        kind = match.lastgroup or ""
        if match[0] == b"(":
            end = _comment_end(value, at)
            if end < 0:
                return None
            tokens.append(Token("blank", value[at:end]))
            at = end
            continue
        tokens.append(Token(match[0].decode("ascii") if kind == "special" else kind, match[0]))
        at = match.end()
    return tokens


def _comment_end(value: bytes, start: int) -> int:
    """Index after the comment that opens at `start`; -1 when it never closes or holds control characters."""
    depth, at = 0, start
    while mark := _COMMENT_MARK.search(value, at):
        at = mark.end()
        if mark[0] == b"(":
            depth += 1
        elif mark[0] == b")":
            depth -= 1
            if depth == 0:
                return at
        elif mark[0] == b"\\":
            at += 1
        else:
            return -1
    return -1


def _mailboxes(tokens: list[Token]) -> Mailboxes | None:
    addresses: list[str] = []
    in_group = grouped = False
    item: list[Token] = []
    for token in [*tokens, Token("end", b"")]:
        if token.kind == ":":
            name = [t.kind for t in item if t.kind != "blank"]
            if in_group or not name or not set(name) <= {"atom", "quoted"}:
                return None
            in_group = grouped = True
            item = []
        elif token.kind in (",", ";", "end"):
            if ((token.kind == ";") and not in_group) or (token.kind == "end" and in_group):
                return None
            if any(t.kind != "blank" for t in item):
                address = _mailbox(item)
                if not address:
                    return None
                addresses.append(address)
            if token.kind == ";":
                in_group = False
            item = []
        else:
            item.append(token)
    return Mailboxes(tuple(addresses), grouped)


def _mailbox(item: list[Token]) -> str:
    """The address of one mailbox, or empty when it is not exactly one."""
    kinds = [t.kind for t in item]
    if "<" not in kinds:
        return _addr_spec(item)
    opening = kinds.index("<")
    if ">" not in kinds[opening:]:
        return ""
    closing = kinds.index(">", opening)
    if any(kind != "blank" for kind in kinds[closing + 1 :]):
        return ""
    address = _addr_spec(item[opening + 1 : closing])
    name = item[:opening]
    if any(t.kind not in ("blank", "atom", "quoted", "literal") for t in name):
        # "a@x <a@x>" is common and says one thing; "a@x <b@y>" is the trick this parser exists for.
        same = _addr_spec(name)
        return address if same and same.lower() == address.lower() else ""
    return address


def _addr_spec(tokens: list[Token]) -> str:
    """`local@domain` out of tokens with blanks around it only."""
    start, end = 0, len(tokens)
    while start < end and tokens[start].kind == "blank":
        start += 1
    while end > start and tokens[end - 1].kind == "blank":
        end -= 1
    core = tokens[start:end]
    if len(core) != 3 or core[1].kind != "@" or core[0].kind not in ("atom", "quoted"):
        return ""
    if core[2].kind not in ("atom", "literal"):
        return ""
    return _address(core[0].text + b"@" + core[2].text)


def _address(spec: bytes) -> str:
    """The address as text when its parts are well formed, else empty. UTF-8 is RFC 6532, other 8-bit is nothing."""
    try:
        text = spec.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    local, _, domain = text.rpartition("@")
    if local[:1] != '"' and (not local or local[0] == "." or local[-1] == "." or ".." in local):
        return ""
    if domain[:1] != "[" and (len(domain) > 255 or not _DOMAIN.fullmatch(domain)):
        return ""
    return text
