"""What SQLite and the system say about a file, in three words that callers act on."""

from __future__ import annotations

import errno
import sqlite3

from relay.errors import RelayError


class StoreFull(RelayError):
    """No room on the disk; nothing of this group was kept. Worth trying again later."""


class StoreBusy(RelayError):
    """Another process held the file for longer than the busy timeout; nothing was kept. Worth trying again."""


class StoreFailed(RelayError):
    """The file cannot be trusted any more (I/O error, damage), or the store is closed. Whether the last group was
    kept cannot be known."""


def code_of(error: sqlite3.Error) -> int:
    """The primary result code; the extended part only says which call of the file system it was."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


_BROKEN = {
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
}


def fault_of(error: Exception) -> RelayError | None:
    """What an error says about the file; None when it is an operation's own affair."""
    fault: RelayError
    match error:
        case StoreFull() | StoreBusy() | StoreFailed():
            return error
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            fault = StoreFull(f"no space: {error}")
        case OSError():
            fault = StoreFailed(str(error))
        case sqlite3.Error() if code_of(error) == sqlite3.SQLITE_FULL:
            fault = StoreFull(f"no space: {error}")
        case sqlite3.Error() if code_of(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            fault = StoreBusy(str(error))
        case sqlite3.Error() if code_of(error) in _BROKEN:
            fault = StoreFailed(str(error))
        case _:
            return None
    fault.__cause__ = error
    return fault
