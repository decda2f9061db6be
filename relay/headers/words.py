"""Text of header values: encoded words to read for display and to write (RFC 2047), dates.

Reading is for people's eyes only (logs, DSN text, the queue listing), never for decisions or addresses: it is bounded,
never raises, and what it returns holds no control characters, so that nothing decoded can become a line of its own.
"""

from __future__ import annotations

import binascii
import re
import time
from functools import lru_cache

_READ_OCTETS = 4096  # enough for 200 characters in the most wasteful encoding, little enough to be safe on the loop

_WORD = re.compile(rb"=\?([A-Za-z0-9_.:-]{1,40})(?:\*[A-Za-z0-9-]{0,40})?\?([bBqQ])\?([!->@-~]*)\?=")
_CHARSET = re.compile(
    r"utf-?8|us-ascii|ascii|iso-?8859-\d{1,2}(-[ie])?|latin-?1|windows-\d{3,4}|cp\d{3,4}|koi8-[rut]|tis-620|"
    r"gb2312|gbk|gb18030|hz-gb-2312|big5(-?hkscs)?|euc-(jp|kr)|shift[_-]jis|iso-2022-(jp(-\d)?|kr)|mac(roman|intosh)?",
    re.IGNORECASE,
)
"""Character sets mail uses. An allow-list: Python also has codecs that unescape, decompress or raise on purpose."""

_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]+")
"""Controls, line separators, and direction marks that could make one text look like another."""


_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


def readable(value: bytes, limit: int = 200) -> str:
    """A header value as people read it: encoded words decoded, controls gone, blanks single, cut to `limit`.

    What cannot be decoded stays as it was written. Never raises.
    """
    value = value[:_READ_OCTETS].replace(b"\r\n", b"")
    text = _decode_words(value) if b"=?" in value else value.decode("utf-8", "replace")
    if not text.isascii() or not text.isprintable():
        text = _UNSEEN.sub(" ", text)
    return " ".join(text.split())[:limit].rstrip()


def decoded(value: bytes) -> str:
    """A header value as text in full, for writing it somewhere else: encoded words decoded, unfolded, controls made
    blanks; marks of direction stay, because scripts need them. 8-bit that is no UTF-8 is read as Windows-1252."""
    value = value.replace(b"\r\n", b"")
    try:
        text = _decode_words(value) if b"=?" in value else value.decode("utf-8")
    except UnicodeDecodeError:
        text = value.decode("cp1252", "replace")
    return _CONTROLS.sub(" ", text).strip()


def clean(text: str, limit: int = 500) -> str:
    """`text` without control characters and line ends, blanks single, cut to `limit`."""
    return " ".join(_UNSEEN.sub(" ", text).split())[:limit].rstrip()


def _decode_words(value: bytes) -> str:
    out: list[str] = []
    at = 0
    pending = b""  # octets of adjacent words in one charset: writers do cut characters in two
    charset = ""
    for match in _WORD.finditer(value):
        between = value[at : match.start()]
        octets = _word_octets(match[2], match[3])
        name = match[1].decode("ascii").lower()
        if octets is None or not _CHARSET.fullmatch(name):
            continue
        adjacent = bool(pending) and not between.strip(b" \t")
        if not (adjacent and name == charset):
            out.append(_decode(pending, charset))
            pending = b""
        if not adjacent:
            out.append(between.decode("utf-8", "replace"))
        pending, charset, at = pending + octets, name, match.end()
    out.append(_decode(pending, charset))
    out.append(value[at:].decode("utf-8", "replace"))
    return "".join(out)


def _word_octets(encoding: bytes, data: bytes) -> bytes | None:
    if encoding in b"bB":
        try:
            return binascii.a2b_base64(data + b"=" * (-len(data) % 4))
        except binascii.Error:
            return None
    return binascii.a2b_qp(data, header=True)


def _decode(octets: bytes, charset: str) -> str:
    if not octets:
        return ""
    try:
        return octets.decode(charset, "replace")
    except (LookupError, ValueError):
        return octets.decode("ascii", "replace")


def encode_words(text: str) -> list[bytes]:
    """RFC 2047 words of at most 75 octets that together spell `text`; to be joined by a blank or a fold."""
    words: list[bytes] = []
    piece = b""
    for character in text:
        octets = character.encode("utf-8", "replace")
        if len(piece) + len(octets) > 45:  # 45 octets are 60 of base64; with =?utf-8?b??= that makes 72
            words.append(piece)
            piece = b""
        piece += octets
    if piece:
        words.append(piece)
    return [b"=?utf-8?b?" + binascii.b2a_base64(piece, newline=False) + b"?=" for piece in words]


def encode_text(text: str) -> bytes:
    """An unstructured value: as it is when printable ASCII that cannot be mistaken for a word, else encoded words."""
    if text.isascii() and text.isprintable() and "=?" not in text:
        return text.encode("ascii")
    return b"\r\n ".join(encode_words(text))


def encode_mailbox(name: str, address: str) -> bytes:
    """`name <address>` with the name quoted or encoded as it needs; the address alone without a name.

    Args:
        address: ASCII, or UTF-8 where the message travels with SMTPUTF8.
    """
    spec = address.encode("utf-8")
    if not name:
        return spec
    if name.isascii() and name.isprintable() and "=?" not in name:
        if re.fullmatch(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]+", name):
            return name.encode("ascii") + b" <" + spec + b">"
        return b'"' + re.sub(r'(["\\])', r"\\\1", name).encode("ascii") + b'" <' + spec + b">"
    return b"\r\n ".join(encode_words(name)) + b" <" + spec + b">"


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def mail_date(epoch_s: float) -> bytes:
    """RFC 5322 §3.3 date-time in UTC, independent of the locale."""
    return _date_of_second(int(epoch_s))


@lru_cache(maxsize=4)
def _date_of_second(second: int) -> bytes:
    t = time.gmtime(second)
    month = _MONTHS[t.tm_mon - 1]
    return (
        f"{_DAYS[t.tm_wday]}, {t.tm_mday} {month} {t.tm_year:04} {t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} +0000"
    ).encode("ascii")
