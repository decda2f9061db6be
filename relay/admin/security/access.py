"""Tokens and sessions: `admin.db` in the folder of the spool.

A token is 256 random bits, so its SHA-256 needs no salt and no slow hash; only that is kept. A browser trades a token
for a session, whose id is kept the same way; a session ends with its token, by time, or by logging out. The look-up is
by digest: what its time could tell is a prefix of a hash, and nothing about the secret.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from relay.admin.database import Database
from relay.admin.security.roles import Caller, Role
from relay.errors import RelayError

PREFIX = "rly_"
_TOKEN = re.compile(r"rly_[A-Za-z0-9_-]{43}")
_SESSION = re.compile(r"[A-Za-z0-9_-]{43}")

USED_EVERY_S = 60.0
"""How often the last use of a token is written down."""

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS token (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    digest BLOB NOT NULL UNIQUE,
    made REAL NOT NULL,
    made_by TEXT NOT NULL,
    expires REAL NOT NULL,     -- epoch seconds, 0 = never
    used REAL NOT NULL         -- last use, 0 = never
)""",
    """CREATE TABLE IF NOT EXISTS session (
    digest BLOB PRIMARY KEY,
    token TEXT NOT NULL REFERENCES token (id) ON DELETE CASCADE,
    csrf TEXT NOT NULL,
    expires REAL NOT NULL
) WITHOUT ROWID""",
)


class NameTaken(RelayError):
    """A token of this name exists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token without its secret."""

    id: str
    name: str
    role: Role
    made: float
    made_by: str
    expires: float
    used: float


class Access:
    """All methods block for a short transaction; async callers run them in threads."""

    def __init__(self, directory: Path, clock: Callable[[], float] = time.time) -> None:
        self.database = Database(directory / "admin.db", SCHEMA)
        self._clock = clock

    def tokens(self) -> list[Token]:
        return self.database.do(
            lambda c: [_token(row) for row in c.execute(f"SELECT {_COLUMNS} FROM token ORDER BY made, id")]  # noqa: S608
        )

    def add(self, name: str, role: Role, *, by: str, expires: float = 0.0) -> tuple[Token, str]:
        """A new token and its secret, which is known only now.

        Raises:
            NameTaken: another token has the name.
        """
        secret = PREFIX + secrets.token_urlsafe(32)
        made = Token(
            id=secrets.token_hex(4), name=name, role=role, made=self._clock(), made_by=by, expires=expires, used=0.0
        )
        values = (made.id, name, role.value, _digest(secret), made.made, by, expires, 0.0)

        def work(connection: sqlite3.Connection) -> None:
            if connection.execute("SELECT 1 FROM token WHERE name = ?", (name,)).fetchone():
                raise NameTaken(f"a token is called {name!r} already; choose another name, or revoke it first")
            connection.execute("INSERT INTO token VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)

        self.database.do(work)
        return made, secret

    def first(self) -> tuple[Token, str] | None:
        """A first token for who sets the relay up, when there is none at all."""
        if self.tokens():
            return None
        return self.add("first", Role.ADMIN, by="relay")

    def revoke(self, token: str) -> Token | None:
        """Take a token and its sessions away. Returns what it was; None when there is none of this id or name."""

        def work(connection: sqlite3.Connection) -> Token | None:
            row = connection.execute(
                f"SELECT {_COLUMNS} FROM token WHERE id = ? OR name = ? ORDER BY id = ? DESC LIMIT 1",  # noqa: S608
                (token, token, token),
            ).fetchone()
            if row is None:
                return None
            connection.execute("DELETE FROM session WHERE token = ?", (row[0],))
            connection.execute("DELETE FROM token WHERE id = ?", (row[0],))
            return _token(row)

        return self.database.do(work)

    def by_token(self, secret: str, *, peer: str) -> Caller | None:
        """Who presents this token; None when it is none, or is over."""
        if not _TOKEN.fullmatch(secret):
            return None
        now = self._clock()

        def work(connection: sqlite3.Connection) -> Token | None:
            row = connection.execute(
                f"SELECT {_COLUMNS} FROM token WHERE digest = ?",  # noqa: S608
                (_digest(secret),),
            ).fetchone()
            if row is None or 0 < row[5] <= now:
                return None
            if row[6] < now - USED_EVERY_S:
                connection.execute("UPDATE token SET used = ? WHERE id = ?", (now, row[0]))
            return _token(row)

        found = self.database.do(work)
        return Caller(name=found.name, token=found.id, role=found.role, peer=peer) if found else None

    def open_session(self, caller: Caller, lasts_s: float) -> str:
        """A new session for who presented a token; its id, which is known only now. Forgets those that are over."""
        session = secrets.token_urlsafe(32)
        now = self._clock()

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM session WHERE expires <= ?", (now,))
            values = (_digest(session), caller.token, secrets.token_urlsafe(32), now + lasts_s)
            connection.execute("INSERT INTO session VALUES (?, ?, ?, ?)", values)

        self.database.do(work)
        return session

    def by_session(self, session: str, *, peer: str) -> Caller | None:
        if not _SESSION.fullmatch(session):
            return None
        now, digest = self._clock(), _digest(session)

        def work(connection: sqlite3.Connection) -> Caller | None:
            row = connection.execute(
                "SELECT token.id, name, role, csrf FROM session JOIN token ON token.id = session.token"
                " WHERE session.digest = ? AND session.expires > ? AND (token.expires = 0 OR token.expires > ?)",
                (digest, now, now),
            ).fetchone()
            if row is None:
                return None
            return Caller(name=row[1], token=row[0], role=Role(row[2]), peer=peer, session=digest, csrf=row[3])

        return self.database.do(work)

    def close_session(self, caller: Caller) -> None:
        self.database.do(lambda c: c.execute("DELETE FROM session WHERE digest = ?", (caller.session,)))


_COLUMNS = "id, name, role, made, made_by, expires, used"


def _token(row: tuple[str, str, str, float, str, float, float]) -> Token:
    token, name, role, made, made_by, expires, used = row
    return Token(id=token, name=name, role=Role(role), made=made, made_by=made_by, expires=expires, used=used)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("ascii")).digest()
