"""Times and spans in the words of traces and reasons."""

from __future__ import annotations

from datetime import UTC, datetime

_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "m"))


def clock_words(at: float) -> str:
    """`2026-01-31 12:00:00 UTC`; the number itself where no calendar reaches."""
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"{at:.0f} s after the epoch"


def missing_pool(name: str) -> str:
    """Why mail of a pool that is not there waits, and what to do about it."""
    return f"pool {name} is not configured; configure it again, or drop its mail: relay queue drop --pool {name}"


def span_words(seconds: float) -> str:
    """As operators write it in caps: `1h`, `90s`, `1d`."""
    for size, unit in _UNITS:
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:g}s"
