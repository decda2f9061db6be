"""What a log line says and looks like: fields made safe, then one line of JSON or text. Pure.

What holds for every line:
- Exactly one line. Control characters, line separators and invisible direction marks of a peer appear as `\\uXXXX`
  (CWE-117), whatever field they came in.
- No secrets: fields with secret-looking names and logins in URLs are masked.
- Bounded: long texts and lists are cut.
- With a redaction key, addresses of recipients keep their domain and get a keyed hash for a local part: the same
  recipient still shows as the same, and nobody can be read from the log.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from math import isfinite
from typing import Any

import orjson

MAX_TEXT = 2000
MAX_ITEMS = 100
MAX_DEPTH = 5
"""A field holds at most so much text, so many items, nested so deep; the rest is told as a count."""

MAX_NAMES = 1024
"""Field names whose kind is remembered; names come from code, so that only nested ones could ever be more."""

_SECRET = re.compile(
    r"passw|passphrase|secret|token|credential|cookie|authorization|bearer|(api|access|private|signing)_?key"
    r"|(^|_)(pass|pwd|auth)($|_)"
)
# May hold an `@` without being about a recipient.
_NOT_RECIPIENT = frozenset(
    ("sender", "from", "return_path", "username", "id", "message_id", "dsn_id", "vendor_id", "envid", "bridge", "pool")
)
# Runs of what a local part may be made of, with the `@` behind them if there is one. It matches every run, not only
# those before an `@`, so that no text makes it start over at each character.
_RUN = re.compile(r"\"[^\"]*+\"@?|[^\s<>\"(),:;\[\]@]++@?")
_URL_LOGIN = re.compile(r"://[^/\s@]+@")
# What a terminal or a log reader may take as a command, a line end or a change of direction, besides C0 controls,
# which JSON escapes anyway.
_UNSAFE = re.compile(
    "[\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"
)
_PLAIN = re.compile(r"[\w@.:/+<>,*-]+", re.ASCII)


# What a field may hold, by its name. Plain numbers: compared for every field of every line.
_OPEN, _MASKED, _EXEMPT = 0, 1, 2


def _kind(key: str) -> int:
    name = key.lower().replace("-", "_")
    if _SECRET.search(name):
        return _MASKED
    return _EXEMPT if name in _NOT_RECIPIENT else _OPEN


class _Kinds(dict[str, int]):
    """Kind by field name, learnt as names appear."""

    def __missing__(self, key: str) -> int:
        if len(self) >= MAX_NAMES:
            self.clear()
        kind = self[key] = _kind(key)
        return kind


class Redactor:
    """Makes field values fit to be written: masked, cut, and made of JSON types.

    Args:
        key: redact recipients with hashes under this key; None leaves them readable.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key
        self._kinds = _Kinds()

    def clean(self, fields: Mapping[str, Any], into: dict[str, Any]) -> None:
        """Add the fields to `into`. Hot path: the usual field is a number or a short text and costs one look at it."""
        kinds = self._kinds
        for key, value in fields.items():
            kind = kinds[key]
            sort = type(value)
            if kind == _MASKED:
                value = _mask(value)
            elif sort is str:
                if "@" in value or len(value) > MAX_TEXT:
                    value = self._text(value, kind)
            elif sort is not int and (sort is not float or not isfinite(value)):
                value = self._value(value, kind, 0)
            into[key] = value

    def text(self, text: str) -> str:
        """A text of no particular field."""
        return self._text(text, _OPEN)

    def _value(self, value: Any, kind: int, depth: int) -> Any:
        sort = type(value)  # the usual sorts first: hot path
        if sort is str:
            return self._text(value, kind) if "@" in value or len(value) > MAX_TEXT else value
        if sort is bool or sort is int or value is None:
            return value
        if (sort is list or isinstance(value, tuple)) and depth < MAX_DEPTH and len(value) <= MAX_ITEMS:
            depth += 1
            return [self._value(item, kind, depth) for item in value]
        return self._odd(value, kind, depth)

    def _odd(self, value: Any, kind: int, depth: int) -> Any:
        match value:
            case str():
                return self._text(str(value), kind)
            case float():
                return value if isfinite(value) else str(value)  # JSON has no infinity
            case int():
                return value
            case bytes() | bytearray():
                return self._text(value.decode("utf-8", "backslashreplace"), kind)
            case Mapping() | list() | tuple() | set() | frozenset() if depth >= MAX_DEPTH:
                return "…"
            case Mapping():
                return self._mapping(value, kind, depth)
            case list() | tuple() | set() | frozenset():
                return self._items(value, len(value), kind, depth)
        return self._text(as_text(value), kind)

    def _mapping(self, value: Mapping[Any, Any], kind: int, depth: int) -> dict[str, Any]:
        cleaned: dict[str, Any] = {}
        for key, item in value.items():
            if len(cleaned) == MAX_ITEMS:
                cleaned["…"] = len(value) - MAX_ITEMS
                break
            name = self._text(as_text(key), kind)
            own = self._kinds[name]
            cleaned[name] = _mask(item) if own == _MASKED else self._value(item, own or kind, depth + 1)
        return cleaned

    def _items(self, items: Iterable[Any], count: int, kind: int, depth: int) -> list[Any]:
        cleaned: list[Any] = []
        for item in items:
            if len(cleaned) == MAX_ITEMS:
                cleaned.append(f"… {count - MAX_ITEMS} more")
                break
            cleaned.append(self._value(item, kind, depth + 1))
        return cleaned

    def _text(self, text: str, kind: int) -> str:
        if len(text) > MAX_TEXT:
            text = f"{text[:MAX_TEXT]}… {len(text) - MAX_TEXT} more"
        if "@" not in text:
            return text
        if "://" in text:
            text = _URL_LOGIN.sub("://***@", text)
        if self._key is None or kind == _EXEMPT:
            return text
        return _RUN.sub(self._hide, text)

    def _hide(self, match: re.Match[str]) -> str:
        """A local part as its hash: of itself alone, since in free text nobody can say where the domain ends."""
        run = match[0]
        if not run.endswith("@"):
            return '"' + _RUN.sub(self._hide, run[1:-1]) + '"' if run.startswith('"') else run
        local = run[:-1].strip("\"'").lower().encode("utf-8", "surrogatepass")
        return "~" + blake2b(local, digest_size=6, key=self._key or b"").hexdigest() + "@"


def _mask(value: Any) -> Any:
    return value if value is None or isinstance(value, bool) else "***"


def as_text(value: Any) -> str:
    """`str(value)`, or the name of what that raised."""
    try:
        return str(value)
    except Exception as error:  # whatever a stranger's __str__ does, the line goes out
        return f"<{type(value).__name__}: {type(error).__name__}>"


class Lines:
    """Renders events as lines. Pure but for a cache of the last second's time stamp.

    Args:
        bound: fields every line has, for example the worker.
    """

    def __init__(
        self, *, as_json: bool, redactor: Redactor | None = None, bound: Mapping[str, Any] | None = None
    ) -> None:
        self._as_json = as_json
        self._redactor = redactor or Redactor()
        self._bound = dict(bound or {})
        self._second = self._millisecond = -1
        self._until_second = self._stamp = ""

    def render(self, at: float, level: str, event: str, fields: Mapping[str, Any]) -> bytes:
        """One line with its LF.

        Args:
            at: epoch seconds.
            event: name of the event, or a library's message.
        """
        stamp, event = self._time(at), self._redactor.text(event)
        record: dict[str, Any] = {"ts": stamp, "level": level, "event": event}
        self._redactor.clean(fields, record)
        if self._bound:
            record.update(self._bound)
        record["ts"], record["level"], record["event"] = stamp, level, event  # fields cannot take their place
        return _json_line(record) if self._as_json else _text_line(record)

    def _time(self, at: float) -> str:
        """ISO 8601 in UTC with milliseconds; under load many lines share one."""
        millisecond = int(at * 1000)
        if millisecond != self._millisecond:
            second, rest = divmod(millisecond, 1000)
            if second != self._second:
                self._second, self._until_second = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._millisecond, self._stamp = millisecond, f"{self._until_second}.{rest:03d}Z"
        return self._stamp


def _json_line(record: dict[str, Any]) -> bytes:
    try:
        line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # lone surrogates of undecodable octets, integers beyond 64 bits
        return json.dumps(record, separators=(",", ":")).replace("\x7f", "\\u007f").encode() + b"\n"
    if line.isascii() and b"\x7f" not in line:
        return line
    return _UNSAFE.sub(_escape, line.decode()).encode()


def _text_line(record: dict[str, Any]) -> bytes:
    parts = [record.pop("ts"), f"{record.pop('level').upper():<7}", _text_value(record.pop("event"))]
    parts += [f"{_text_value(key)}={_text_value(value)}" for key, value in record.items()]
    return " ".join(parts).encode() + b"\n"


def _text_value(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    return _json_line({"": value})[4:-2].decode() if not isinstance(value, str) else _json_string(value)


def _json_string(text: str) -> str:
    return _UNSAFE.sub(_escape, json.dumps(text, ensure_ascii=False))


def _escape(match: re.Match[str]) -> str:
    # Through UTF-16: characters beyond the basic plane become the two escapes JSON wants.
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
