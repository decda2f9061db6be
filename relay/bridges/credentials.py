"""Stored secrets of bridges, and checking a presented password against one.

Two kinds of secret. *Fast* ones are compared by SHA-256 on the spot: plain passwords (kept in memory only as their
digest) and generated tokens, whose 160 random bits leave nothing to guess. *Slow* ones, argon2id and bcrypt, cost
tens of milliseconds by design, so `PasswordChecker` runs them in a few threads of low priority behind a bounded
queue: a flood of guesses costs the flood 454 replies and never the loop, the memory, or the logged-in clients.

Names are compared octet by octet after one normalisation, Unicode NFC: the same name typed on two systems is one
name, look-alikes and trailing blanks are different names (B078). Passwords are never normalised.

Unknown names cost the same as known ones: the caller checks them against `stand_in()`, which never matches and has
the scheme and cost most stored secrets have.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets
import sys
import time
import unicodedata
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

import argon2
import bcrypt

from relay.envelope import Reply
from relay.errors import AcceptanceError, ConfigError

MAX_PASSWORD_OCTETS = 1024
"""No longer password is hashed, so that its length cannot be made our work (B085)."""

ARGON2_MEMORY_KIB, ARGON2_PASSES, ARGON2_LANES = 19456, 2, 1
"""Cost of the hashes we make: the OWASP minimum, 19 MiB and two passes; about 22 ms of one core."""

MAX_ARGON2_MEMORY_KIB, MAX_ARGON2_WORK_KIB, MAX_ARGON2_LANES = 512 * 1024, 1024 * 1024, 16
"""Dearest argon2id hash accepted: half a GiB at once, one GiB written in all passes, about a second of one core."""

BCRYPT_COSTS = range(4, 15)
"""bcrypt doubles with each step: cost 10 is about 60 ms, 14 about a second."""

BCRYPT_OCTETS = 72
"""bcrypt reads no further; every implementation that hashed a longer password cut it here."""

TOKEN_BITS = 160
"""32 base32 characters: above the 128 bits that make an unsalted fast hash safe, and nothing a shell would quote."""

BUSY = Reply(454, "4.7.0", "Too many logins are being checked; try again in a moment")

_ARGON2 = re.compile(r"\$argon2id\$v=19\$m=(\d{1,9}),t=(\d{1,9}),p=(\d{1,9})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)")
_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
_SHA256 = re.compile(r"sha256:([0-9a-fA-F]{64})")
_LIKE_A_HASH = re.compile(
    r"\$(argon2|2[abxy]?\$|1\$|5\$|6\$|7\$|y\$|gy\$|sha1\$|md5|apr1\$|pbkdf2|scrypt)|sha(1|256|512):|\{[A-Z0-9.-]{2,16}\}",
    re.IGNORECASE,
)
_NEVER_IN_PASSWORDS = re.compile(rb"[\x00\r\n]")


class Scheme(StrEnum):
    DIGEST = "digest"
    ARGON2ID = "argon2id"
    BCRYPT = "bcrypt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A stored secret, validated.

    Attributes:
        cost: parameters of a slow scheme, `m=19456,t=2,p=1` or `10`; empty for digests.
        stored: the SHA-256 digest (32 octets), or the hash string.
    """

    scheme: Scheme
    cost: str = ""
    stored: bytes = field(repr=False)

    @property
    def is_fast(self) -> bool:
        return self.scheme is Scheme.DIGEST

    def verify(self, password: bytes) -> bool:
        """Whether `password` is the one; compares in constant time. Slow schemes block for their whole cost.

        Raises:
            argon2.exceptions.VerificationError: the check could not be made, for example for want of memory.
        """
        if self.scheme is Scheme.DIGEST:
            return hmac.compare_digest(hashlib.sha256(password).digest(), self.stored)
        if self.scheme is Scheme.BCRYPT:
            return bcrypt.checkpw(password[:BCRYPT_OCTETS], self.stored)
        try:
            return argon2.low_level.verify_secret(self.stored, password, argon2.Type.ID)
        except argon2.exceptions.VerifyMismatchError:
            return False


def normalise_name(name: str) -> str:
    """`name` in the one form in which names are stored and compared: NFC."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def parse_secret(text: str) -> Secret:
    """The secret an operator wrote: an argon2id or bcrypt hash, `sha256:<hex>`, or else a plain password.

    Raises:
        ConfigError: a damaged or unsupported hash (never taken for a plain password), an absurd cost, a plain
            password nobody could present. The text never repeats the secret.
    """
    if match := _ARGON2.fullmatch(text):
        return _parse_argon2(text, match)
    if match := _BCRYPT.fullmatch(text):
        if int(match[1]) not in BCRYPT_COSTS:
            raise ConfigError(f"bcrypt cost {match[1]}: must be {BCRYPT_COSTS.start} to {BCRYPT_COSTS.stop - 1}")
        return Secret(scheme=Scheme.BCRYPT, cost=match[1], stored=text.encode())
    if match := _SHA256.fullmatch(text):
        return Secret(scheme=Scheme.DIGEST, stored=bytes.fromhex(match[1]))
    if _LIKE_A_HASH.match(text):
        raise ConfigError(
            "looks like a password hash but is damaged or of an unsupported kind; "
            "use argon2id ($argon2id$v=19$...), bcrypt ($2b$...), or sha256:<64 hex digits> of a generated token"
        )
    password = _octets(text)
    if password is None:
        raise ConfigError(f"a password must have 1 to {MAX_PASSWORD_OCTETS} octets, without NUL, CR or LF")
    return Secret(scheme=Scheme.DIGEST, stored=hashlib.sha256(password).digest())


def _parse_argon2(text: str, match: re.Match[str]) -> Secret:
    memory, passes, lanes = int(match[1]), int(match[2]), int(match[3])
    if not (
        1 <= lanes <= MAX_ARGON2_LANES
        and 8 * lanes <= memory <= MAX_ARGON2_MEMORY_KIB
        and 1 <= passes <= MAX_ARGON2_WORK_KIB // memory
    ):
        raise ConfigError(
            f"argon2id cost m={memory},t={passes},p={lanes}: p must be 1 to {MAX_ARGON2_LANES}, m at least 8 per lane "
            f"and at most {MAX_ARGON2_MEMORY_KIB} KiB, and m times t at most {MAX_ARGON2_WORK_KIB} KiB"
        )
    salt, digest = _base64_octets(match[4]), _base64_octets(match[5])
    if not (8 <= salt <= 64 and 16 <= digest <= 128):
        raise ConfigError("damaged argon2id hash: salt or digest has the wrong length")
    return Secret(scheme=Scheme.ARGON2ID, cost=f"m={memory},t={passes},p={lanes}", stored=text.encode())


def _base64_octets(text: str) -> int:
    """How many octets unpadded base64 holds; 0 when it is damaged."""
    try:
        return len(base64.b64decode(text + "=" * (-len(text) % 4), validate=True))
    except binascii.Error:
        return 0


def _octets(password: str) -> bytes | None:
    """The octets a client sent, or None for a password that cannot match anything (B075, B085)."""
    try:
        octets = password.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return None
    if not 0 < len(octets) <= MAX_PASSWORD_OCTETS or _NEVER_IN_PASSWORDS.search(octets):
        return None
    return octets


def generate_token() -> tuple[str, str]:
    """A new login token (`brg_…`) and the `sha256:…` form to keep in the configuration."""
    token = "brg_" + base64.b32encode(secrets.token_bytes(TOKEN_BITS // 8)).decode().lower()
    return token, "sha256:" + hashlib.sha256(token.encode()).hexdigest()


def hash_password(password: str) -> str:
    """argon2id PHC string of a password an operator chose. Blocks for about 22 ms.

    Raises:
        ValueError: empty, too long, or with NUL, CR or LF.
    """
    octets = _octets(password)
    if octets is None:
        raise ValueError(f"a password must have 1 to {MAX_PASSWORD_OCTETS} octets, without NUL, CR or LF")
    hasher = argon2.PasswordHasher(
        time_cost=ARGON2_PASSES, memory_cost=ARGON2_MEMORY_KIB, parallelism=ARGON2_LANES, type=argon2.Type.ID
    )
    return hasher.hash(octets)


def stand_in(stored: Iterable[Secret]) -> Secret:
    """A secret that matches nothing and costs what most of `stored` cost: what unknown names are checked against.

    Where schemes or costs are mixed, names of the rarer ones can still be told apart by time; one scheme for all
    bridges closes that.
    """
    common = Counter((secret.scheme, secret.cost) for secret in stored).most_common(1)
    scheme, cost = common[0][0] if common else (Scheme.DIGEST, "")
    if scheme is Scheme.ARGON2ID:
        salt, digest = (base64.b64encode(secrets.token_bytes(n)).decode().rstrip("=") for n in (16, 32))
        return Secret(scheme=scheme, cost=cost, stored=f"$argon2id$v=19${cost}${salt}${digest}".encode())
    if scheme is Scheme.BCRYPT:
        return Secret(scheme=scheme, cost=cost, stored=bcrypt.gensalt(int(cost)) + secrets.token_hex(16)[:31].encode())
    return Secret(scheme=Scheme.DIGEST, stored=secrets.token_bytes(32))


class _Remembered:
    """Keys seen lately: at most `size`, each for `keep_s`; the least recently used go first."""

    def __init__(self, size: int, keep_s: float) -> None:
        self._until: OrderedDict[bytes, float] = OrderedDict()
        self._size = size
        self._keep_s = keep_s

    def holds(self, key: bytes, now: float) -> bool:
        until = self._until.get(key)
        if until is None:
            return False
        if until <= now:
            del self._until[key]
            return False
        self._until.move_to_end(key)
        return True

    def add(self, key: bytes, now: float) -> None:
        self._until[key] = now + self._keep_s
        self._until.move_to_end(key)
        if len(self._until) > self._size:
            self._until.popitem(last=False)

    def clear(self) -> None:
        self._until.clear()

    def __len__(self) -> int:
        return len(self._until)


class PasswordChecker:
    """Checks passwords without ever holding up the loop it runs on.

    Outlives registries: results are remembered under an HMAC, keyed afresh in each process, of name, password *and*
    stored secret, so that a changed secret takes effect with the next login and nothing readable is kept. Right and
    wrong answers are remembered apart: a flood of guesses cannot push out the clients that log in all day.

    Args:
        threads: hashes computed at once; each holds its scheme's memory while it runs.
        waiting: distinct checks that may wait for a thread; more are answered 454.
        keep_s, keep_wrong_s: how long a right and a wrong answer stand.
    """

    def __init__(
        self,
        *,
        threads: int = 2,
        waiting: int = 32,
        size: int = 8192,
        keep_s: float = 600.0,
        keep_wrong_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = ThreadPoolExecutor(threads, "password", initializer=_yield_to_loop)
        self._room = threads + waiting
        self._running: dict[bytes, asyncio.Future[bool]] = {}
        self._right = _Remembered(size, keep_s)
        self._wrong = _Remembered(size, keep_wrong_s)
        self._key = secrets.token_bytes(32)
        self._clock = clock

    async def check(self, username: str, password: str, secret: Secret) -> bool:
        """Whether `password` opens `secret`. Fast secrets are answered without suspending.

        Raises:
            AcceptanceError: 454 when too many slow checks are waiting, or one could not be made.
        """
        octets = _octets(password)
        if octets is None:
            return False
        if secret.is_fast:
            return secret.verify(octets)
        key = self._remembered_as(username, octets, secret)
        now = self._clock()
        if self._right.holds(key, now):
            return True
        if self._wrong.holds(key, now):
            return False
        check = self._running.get(key)
        if check is None:
            if len(self._running) >= self._room:
                raise AcceptanceError(BUSY)
            check = asyncio.get_running_loop().run_in_executor(self._pool, secret.verify, octets)
            self._running[key] = check
            check.add_done_callback(partial(self._settle, key))
        try:
            # Shielded: one client hanging up must not take the answer from others who wait for the same check.
            return await asyncio.shield(check)
        except (argon2.exceptions.VerificationError, MemoryError) as error:
            raise AcceptanceError(BUSY) from error

    def forget(self) -> None:
        """Drop all remembered answers."""
        self._right.clear()
        self._wrong.clear()

    def close(self) -> None:
        """Start no further checks; those running end by themselves."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _remembered_as(self, username: str, password: bytes, secret: Secret) -> bytes:
        name = username.encode("utf-8", "surrogatepass")
        # Lengths first: no name can swallow the start of a password.
        message = b"%d,%d\0%b\0%b\0%b" % (len(name), len(password), name, password, secret.stored)
        return hmac.digest(self._key, message, "sha256")

    def _settle(self, key: bytes, check: asyncio.Future[bool]) -> None:
        del self._running[key]
        if check.cancelled() or check.exception() is not None:
            return
        (self._right if check.result() else self._wrong).add(key, self._clock())


def _yield_to_loop() -> None:
    """Lower the priority of this thread alone, so that on a busy machine the loop runs first.

    Only Linux counts niceness by thread; elsewhere the call would slow the whole process.
    """
    if sys.platform == "linux":
        os.nice(5)
