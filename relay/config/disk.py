"""Reading regular files whole, within a bound, with the reason in plain words when that is not possible."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


class Unreadable(Exception):
    """A file cannot be read; the text says why, as in `does not exist`, and holds none of its content."""


def read_regular(path: Path, limit: int) -> tuple[bytes, int]:
    """Content of a regular file, at most `limit` octets of it, and its mode.

    Raises:
        Unreadable: missing, a directory, a device or pipe, no permission.
    """
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to must not stop the start.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as fault:
        raise Unreadable(_reason(fault)) from None
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise Unreadable("is a directory")
        if not stat.S_ISREG(mode):
            raise Unreadable("is not a regular file")
        data = b""
        while len(data) < limit and (piece := os.read(handle, limit - len(data))):
            data += piece
    except OSError as fault:
        raise Unreadable(_reason(fault)) from None
    finally:
        os.close(handle)
    return data, mode


def is_exposed(mode: int) -> bool:
    """Every user of the machine may read the file."""
    return bool(mode & stat.S_IROTH)


def _reason(fault: OSError | ValueError) -> str:
    if isinstance(fault, ValueError):
        return "has NUL in its name"
    match fault.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return "does not exist"
        case errno.EACCES | errno.EPERM:
            return "is not readable by this user"
        case errno.ELOOP:
            return "cannot be followed (a circle of symbolic links)"
        case _:
            return f"cannot be read ({os.strerror(fault.errno or 0)})"
