"""Keys that secrets in the configuration are sealed with, and the sealed text itself. Pure: no I/O.

A sealed value is `sealed:v1:KEYID:DATA`, written as `${sealed:v1:KEYID:DATA}`. DATA is base64url of a random nonce of
12 octets and the output of ChaCha20-Poly1305 (RFC 8439). It is bound to its key alone, not to a file or a node, so that
files and nodes can be moved and renamed. The key id tells which key opens it; of several keys the first one seals.

A key is `relay-key-v1:` with base64url of 32 octets. A key file holds one a line; `#` begins a comment.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

KEY_PREFIX = "relay-key-v1:"
KEY_OCTETS = 32
NONCE_OCTETS = 12

SEALED = re.compile(r"v1:([0-9a-f]{8}):([A-Za-z0-9_-]{38,8192})")
"""What stands behind `sealed:`. 38 characters are nonce and tag of an empty text."""


class UnusableSeal(ValueError):
    """A key or a sealed text cannot be used; the text says why and holds nothing secret."""


@dataclass(frozen=True, slots=True)
class Key:
    """`id`: eight hexadecimal digits of a hash of the key."""

    id: str
    octets: bytes = field(repr=False)


def new_key() -> str:
    """A key, as it stands in a file."""
    return KEY_PREFIX + _encode(secrets.token_bytes(KEY_OCTETS))


def parse_key(text: str) -> Key:
    """Raises UnusableSeal."""
    if not text.startswith(KEY_PREFIX):
        raise UnusableSeal(f"a key begins with {KEY_PREFIX}; `relay secret keygen` makes one")
    octets = _decode(text.removeprefix(KEY_PREFIX))
    if octets is None or len(octets) != KEY_OCTETS:
        raise UnusableSeal("a key is cut or damaged; `relay secret keygen` makes one")
    return Key(hashlib.sha256(b"relay key v1\0" + octets).hexdigest()[:8], octets)


def parse_keys(text: str) -> tuple[Key, ...]:
    """The keys of a file or variable: separated by line ends, blanks or commas. Raises UnusableSeal, also for none."""
    lines = [line.partition("#")[0] for line in text.splitlines()]
    keys = tuple(parse_key(word) for word in re.split(r"[\s,]+", " ".join(lines)) if word)
    if not keys:
        raise UnusableSeal("there is no key; `relay secret keygen` makes one")
    return keys


class Keyring:
    """Keys to open with, the first of them to seal with."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys = {key.id: key for key in reversed(keys)}
        self.writer = keys[0] if keys else None

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(reversed(self._keys))

    def seal(self, text: str) -> str:
        """`sealed:v1:…`. Raises UnusableSeal when there is no key."""
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

        if self.writer is None:
            raise UnusableSeal("there is no key; `relay secret keygen` makes one")
        nonce = secrets.token_bytes(NONCE_OCTETS)
        data = nonce + ChaCha20Poly1305(self.writer.octets).encrypt(nonce, text.encode(), _bound_to(self.writer.id))
        return f"sealed:v1:{self.writer.id}:{_encode(data)}"

    def open(self, sealed: str) -> str:
        """The text behind `sealed:v1:…` or `v1:…`.

        Raises:
            UnusableSeal: no key of ours fits, or the text was damaged.
        """
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

        match = SEALED.fullmatch(sealed.removeprefix("sealed:"))
        data = _decode(match[2]) if match else None
        if match is None or data is None or len(data) < NONCE_OCTETS + 16:
            raise UnusableSeal("is no sealed text, or was cut; `relay secret encrypt` makes one")
        key = self._keys.get(match[1])
        if key is None:
            here = f"the keys here are {', '.join(self.ids)}" if self._keys else "there is no key here"
            raise UnusableSeal(f"was sealed with key {match[1]}, and {here}")
        try:
            text = ChaCha20Poly1305(key.octets).decrypt(data[:NONCE_OCTETS], data[NONCE_OCTETS:], _bound_to(key.id))
        except InvalidTag:
            raise UnusableSeal("was damaged: not a character of it may be changed") from None
        return text.decode()


def key_id_of(sealed: str) -> str:
    """Which key opens it; empty when it is no sealed text."""
    match = SEALED.fullmatch(sealed.removeprefix("sealed:"))
    return match[1] if match else ""


def _bound_to(key_id: str) -> bytes:
    return b"relay sealed v1\0" + key_id.encode()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes | None:
    """Strict: a text has one way to be written, so that a changed character is seen."""
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return None
    return data if _encode(data) == text else None
