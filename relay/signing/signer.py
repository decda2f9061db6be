"""DKIM signatures over finished content (RFC 6376, RFC 8301, RFC 8463).

Signing is the last thing done to a message: what is signed is what leaves. The relay signs for the From domain it was
told; a message without a single clear From is not signed. OpenSSL makes the signatures, canonical forms are those of
dkimpy, and the time is an argument.

From, To, Subject and Date are listed once more than they occur, so that none can be added above ours; `l=` is never
used, because it would let others append to the body (RFC 6376 §8.2).
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from relay.envelope import Content
from relay.headers.fields import Field, walk
from relay.signing.canonical import Form, body_digest, relaxed_value
from relay.signing.keys import SigningKey, ascii_domain

OVERSIGNED = (b"from", b"to", b"subject", b"date")
SIGNED = (
    *OVERSIGNED, b"sender", b"reply-to", b"message-id", b"cc",
    b"mime-version", b"content-type", b"content-transfer-encoding", b"content-id", b"content-description",
    b"in-reply-to", b"references",
    b"resent-date", b"resent-from", b"resent-sender", b"resent-to", b"resent-cc", b"resent-message-id",
    b"list-id", b"list-help", b"list-unsubscribe", b"list-unsubscribe-post", b"list-subscribe", b"list-post",
    b"list-owner", b"list-archive", b"feedback-id",
)  # fmt: skip
"""RFC 6376 §5.4.1, and what one-click unsubscription (RFC 8058 §4) and feedback loops want covered; in h= order."""

_LINE = 72  # of the folded field; base64 lines of this length are safe everywhere
_PADDING, _SHA256 = PKCS1v15(), SHA256()


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How signatures look. `expire_s`: seconds until x=, None for signatures that do not expire."""

    header: Form = "relaxed"
    body: Form = "relaxed"
    expire_s: int | None = None

    @classmethod
    def of(cls, canonicalization: str, expire_s: int | None = None) -> Style:
        """From a c= value such as `relaxed/simple`. Raises ValueError for anything else."""
        forms: dict[str, Form] = {"relaxed": "relaxed", "simple": "simple"}
        header, _, body = canonicalization.partition("/")
        if header not in forms or body not in forms:
            raise ValueError(f"canonicalization {canonicalization!r}: write relaxed/relaxed, relaxed/simple, …")
        return cls(header=forms[header], body=forms[body], expire_s=expire_s)


class Signer:
    """Signs with the keys of the From domain. Immutable: safe from any thread."""

    def __init__(self, keys: Iterable[SigningKey], style: Style | None = None) -> None:
        """Keys of one domain sign together, in the given order. `style`: relaxed/relaxed without expiry if None."""
        self._style = style or Style()
        by_domain: dict[str, list[SigningKey]] = {}
        for key in keys:
            by_domain.setdefault(key.domain, []).append(key)
        self._by_domain = {domain: tuple(found) for domain, found in by_domain.items()}

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(self._by_domain)

    def keys_for(self, from_domain: str) -> tuple[SigningKey, ...]:
        """The keys that sign for a domain: its own, else those of the nearest parent that may sign for subdomains."""
        domain = from_domain if from_domain in self._by_domain else ascii_domain(from_domain)
        if own := self._by_domain.get(domain):
            return own
        while "." in domain:
            domain = domain.partition(".")[2]
            if parents := tuple(key for key in self._by_domain.get(domain, ()) if key.subdomains):
                return parents
        return ()

    def sign(self, content: Content, from_domain: str, timestamp: float, *, leave_out: Collection[bytes] = ()) -> bytes:
        """The DKIM-Signature fields to put on top of `content.head`; empty when there is no key for the domain.

        Blocking for a `BodyFile`: use `sign_async` on the loop.

        Args:
            timestamp: epoch seconds, the t= of the signatures.
            leave_out: lower-case names not to cover, for an upstream known to rewrite them.
        """
        keys = self.keys_for(from_domain) if from_domain else ()
        if not keys:
            return b""
        body = content.body
        body_hash = body_digest(body if isinstance(body, bytes) else body.chunks(), self._style.body)
        names, data = _signed_fields(walk(content.head), self._style.header, leave_out)
        return b"".join(self._field(key, names, data, body_hash, int(timestamp)) for key in keys)

    def _field(self, key: SigningKey, names: list[bytes], data: bytes, body_hash: bytes, timestamp: int) -> bytes:
        style = self._style
        tags = [
            f"v=1; a={key.kind}-sha256; c={style.header}/{style.body};".encode("ascii"),
            f"d={key.domain}; s={key.selector};".encode("ascii"),
            b"t=%d;" % timestamp
            if style.expire_s is None
            else b"t=%d; x=%d;" % (timestamp, timestamp + style.expire_s),
            *_names_folded(names),
            b"bh=" + binascii.b2a_base64(body_hash, newline=False) + b";",
            b"b=",
        ]
        value = b" " + b"\r\n ".join(tags)
        # The field itself is hashed with an empty b= and without a CRLF at its end (RFC 6376 §3.7). Each fold
        # stands where a blank stands, so that the relaxed form is the value without its line ends.
        if style.header == "relaxed":
            data += b"dkim-signature:" + value[1:].replace(b"\r\n", b"")
        else:
            data += b"DKIM-Signature:" + value
        if isinstance(key.private, Ed25519PrivateKey):
            signature = key.private.sign(hashlib.sha256(data).digest())  # RFC 8463 §3
        else:
            signature = key.private.sign(data, _PADDING, _SHA256)
        text = binascii.b2a_base64(signature, newline=False)
        lines = [text[i : i + _LINE] for i in range(0, len(text), _LINE)]
        return b"DKIM-Signature:" + value + b"\r\n ".join(lines) + b"\r\n"


def _signed_fields(fields: list[Field], form: Form, leave_out: Collection[bytes]) -> tuple[list[bytes], bytes]:
    """Names for h= and the canonical fields in that order; the last field of a name first (RFC 6376 §5.4.2)."""
    found: dict[bytes, list[Field]] = {}
    for field in fields:
        if field.name in _SIGNED_SET:
            found.setdefault(field.name, []).append(field)
    names: list[bytes] = []
    data: list[bytes] = []
    for name in SIGNED:
        if name in leave_out:
            continue
        for field in reversed(found.get(name, ())):
            names.append(name)
            data.append(name + b":" + relaxed_value(field.value) + b"\r\n" if form == "relaxed" else field.raw)
        if name in OVERSIGNED:
            names.append(name)
    return names, b"".join(data)


_SIGNED_SET = frozenset(SIGNED)


def _names_folded(names: list[bytes]) -> list[bytes]:
    """`h=a:b:c;` in lines; a blank after a colon is allowed there."""
    lines: list[bytes] = []
    line = b"h="
    for index, name in enumerate(names):
        word = name + (b":" if index < len(names) - 1 else b";")
        if len(line) + len(word) > _LINE:
            lines.append(line)
            line = b""
        line += word
    return [*lines, line]
