"""Fields made legal for an upstream that takes less: ASCII only, lines of at most 998 octets.

What a reader decodes stays the same: raw UTF-8 in free text and display names becomes encoded words (RFC 2047), in
parameters percent-encoding (RFC 2231); long lines are folded where a blank stands. Where neither is possible the field
is refused with `Unencodable`.
"""

from __future__ import annotations

import binascii
import re

from relay.headers.addresses import Token, tokens_of
from relay.headers.fields import Field
from relay.headers.words import encode_words

_LINE = 998  # RFC 5322 §2.1.1, without CRLF
_FOLD_AT = 900  # fold before this where possible, so that a hop that adds a few octets does no harm

_ADDRESSES = frozenset(
    {b"from", b"sender", b"reply-to", b"to", b"cc", b"resent-from", b"resent-sender", b"resent-to", b"resent-cc"}
    | {b"disposition-notification-to", b"return-receipt-to", b"errors-to"}
)
_PARAMETERS = frozenset({b"content-type", b"content-disposition"})
_STRUCTURED = frozenset(
    {b"received", b"message-id", b"in-reply-to", b"references", b"date", b"resent-date", b"resent-message-id"}
    | {b"mime-version", b"content-transfer-encoding", b"content-id", b"dkim-signature", b"authentication-results"}
    | {b"list-unsubscribe", b"list-unsubscribe-post", b"list-help", b"list-post", b"list-subscribe", b"list-owner"}
    | {b"list-archive", b"content-location", b"content-language", b"auto-submitted", b"return-path", b""}
)
"""Fields in which an encoded word means nothing."""

_PARAMETER = re.compile(rb'(;[ \t\r\n]*)([!#-\'+.0-9A-Za-z^-~-]+)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"', re.DOTALL)
_HIGH = re.compile(rb"[\x80-\xff]")


class Unencodable(ValueError):
    """The field cannot be written within the limits; the text names it."""


def seven_bit(field: Field) -> bytes:
    """The field in ASCII."""
    name, colon, value = field.raw.removesuffix(b"\r\n").partition(b":")
    if field.name in _STRUCTURED or not name.isascii():
        raise Unencodable(f"8-bit octets in {field.name.decode('ascii') or 'a malformed line'}")
    if field.name in _PARAMETERS:
        value = _PARAMETER.sub(_percent_encoded, value)
    elif field.name in _ADDRESSES:
        value = _names_encoded(field, value.replace(b"\r\n", b""))
    else:
        value = _words_encoded(value.replace(b"\r\n", b""))
    if not value.isascii():
        raise Unencodable(f"8-bit octets in {field.name.decode('ascii')} where no encoding is defined")
    return name + colon + value + b"\r\n"


def _words_encoded(text: bytes) -> bytes:
    """Free text: each run of words with 8-bit octets as encoded words, the rest as it is."""
    words = text.split(b" ")
    high = [_HIGH.search(word) is not None for word in words]
    out: list[bytes] = []
    at = 0
    while at < len(words):
        if not high[at]:
            out.append(words[at])
            at += 1
            continue
        end = at + 1
        for ahead in range(at + 1, len(words)):  # blanks between two such words are theirs
            if high[ahead]:
                end = ahead + 1
            elif words[ahead]:
                break
        run = b" ".join(words[at:end])
        # Readers drop blanks between encoded words: next to one that is there already, ours spells the blank.
        before = next((word for word in reversed(out) if word), b"")
        after = next((word for word in words[end:] if word), b"")
        out.append(_encoded(b" " * _is_word(before) + run + b" " * _is_word(after)))
        at = end
    return b" ".join(out).replace(b"?= =?", b"?=\r\n =?")


def _is_word(word: bytes) -> bool:
    return word.startswith(b"=?") and word.endswith(b"?=")


def _encoded(octets: bytes) -> bytes:
    try:
        return b" ".join(encode_words(octets.decode("utf-8")))
    except UnicodeDecodeError:
        # RFC 1428: the honest name of a character set nobody declared.
        pieces = [octets[i : i + 39] for i in range(0, len(octets), 39)]
        return b" ".join(b"=?unknown-8bit?b?" + binascii.b2a_base64(p, newline=False) + b"?=" for p in pieces)


def _names_encoded(field: Field, value: bytes) -> bytes:
    """Address field: display names as encoded words; an address with 8-bit octets needs SMTPUTF8 and is refused."""
    tokens = tokens_of(value)
    if tokens is None:
        raise Unencodable(f"8-bit octets in {field.name.decode('ascii')}, which cannot be read without doubt")
    out: list[bytes] = []
    phrase: list[Token] = []
    inside = False
    for token in [*tokens, Token("end", b"")]:
        if token.kind in ("blank", "quoted", "atom", "literal"):
            phrase.append(token)
            continue
        is_name = token.kind in ("<", ":") and not inside
        out += _phrase(phrase) if is_name else [t.text for t in phrase]
        out.append(token.text)
        inside = token.kind in ("<", "@") or (inside and token.kind not in (">", ",", ";"))
        phrase = []
    return b"".join(out)


def _phrase(tokens: list[Token]) -> list[bytes]:
    high = [i for i, t in enumerate(tokens) if t.kind in ("quoted", "atom") and not t.text.isascii()]
    if not high:
        return [t.text for t in tokens]
    if any(t.text.startswith(b"=?") for t in tokens):
        raise Unencodable("a display name of encoded words and raw 8-bit octets")
    first, last = high[0], high[-1]
    text = b"".join(
        re.sub(rb"\\(.)", rb"\1", t.text[1:-1]) if t.kind == "quoted" else t.text for t in tokens[first : last + 1]
    )
    words = _encoded(text).replace(b"?= =?", b"?=\r\n =?")
    before = [t.text for t in tokens[:first]]
    after = [t.text for t in tokens[last + 1 :]] or [b" "]
    return [*before, words, *after]


def _percent_encoded(match: re.Match[bytes]) -> bytes:
    if match[3].isascii():
        return match[0]
    text = re.sub(rb"\\(.)", rb"\1", match[3].replace(b"\r\n", b""))
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unencodable("a parameter holds 8-bit octets that are not UTF-8") from error
    plain = rb"[!#$&+.0-9A-Z^_`a-z{|}~-]"  # attribute-char of RFC 2231 §7
    value = b"".join(c if re.match(plain, c) else b"%%%02X" % c[0] for c in (bytes((o,)) for o in text))
    return match[1] + match[2] + b"*=utf-8''" + value


def fold_long(raw: bytes) -> bytes:
    """The field with each line above 998 octets folded at blanks; other lines stay as they are."""
    if len(raw) <= _LINE:
        return raw
    lines = raw.removesuffix(b"\r\n").split(b"\r\n")
    return b"\r\n".join(piece for line in lines for piece in _pieces(line, raw)) + b"\r\n"


def _pieces(line: bytes, raw: bytes) -> list[bytes]:
    out: list[bytes] = []
    while len(line) > _LINE:
        cut = _blank(line)
        if cut == 0:
            name = raw[:77].partition(b":")[0].decode("ascii", "replace")
            raise Unencodable(f"a line of {name} is longer than {_LINE} octets without a blank to fold at")
        out.append(line[:cut])
        line = line[cut:]  # the blank stays and becomes the fold's: unfolding gives the line back
    return [*out, line]


def _blank(line: bytes) -> int:
    """Where to fold: a blank before an octet that is none, with something to read before it; 0 when there is none."""
    for end in (_FOLD_AT, _LINE):
        for at in range(min(end, len(line) - 2), 0, -1):
            if line[at] in b" \t" and line[at + 1] not in b" \t" and line[:at].strip(b" \t"):
                return at
    return 0
