"""Figures and times as pages write them. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

_SPANS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))
_WINDOWS = {1.0: "second", 60.0: "minute", 3600.0: "hour", 86400.0: "day"}


def moment(at: float | None) -> str:
    """Date and time in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S") if at else ""


def clock(at: float | None) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S") if at else ""


def iso(at: float | None) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds") if at else ""


def span(seconds: float) -> str:
    """`2 d`, `3 h 5 min`, `40 s`: two parts at most."""
    left, parts = max(0.0, seconds), []
    for size, name in _SPANS:
        if left >= size:
            parts.append(f"{int(left // size)} {name}")
            left %= size
        elif parts:
            break
        if len(parts) == 2:
            break
    return " ".join(parts) or "0 s"


def away(at: float | None, now: float) -> str:
    """How far a moment is: `in 5 min`, `3 h ago`."""
    if not at:
        return ""
    if abs(at - now) < 1:
        return "now"
    return f"in {span(at - now)}" if at > now else f"{span(now - at)} ago"


def octets(size: int) -> str:
    number = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError


def figure(number: float) -> str:
    """With a thin blank between thousands."""
    return f"{number:,.0f}".replace(",", "\u202f")


def rate(number: float) -> str:
    return figure(number) if number >= 10 or number == int(number) else f"{number:.1f}"


def window(seconds: float) -> str:
    """Of a cap."""
    return _WINDOWS.get(float(seconds)) or span(seconds)


def plural(count: int, word: str) -> str:
    return f"{figure(count)} {word}" if count == 1 else f"{figure(count)} {word}s"
