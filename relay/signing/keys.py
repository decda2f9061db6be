"""DKIM keys: loading, checking, making, and the DNS record that publishes them (RFC 6376 §3.6, RFC 8301, RFC 8463)."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key

from relay.domains import a_labels
from relay.errors import ConfigError

MIN_RSA_BITS = 1024
"""RFC 8301 §3.2: signers must use at least 1024, should use 2048; verifiers must refuse less."""
MAX_RSA_BITS = 4096  # verifiers need not read more (RFC 8301 §3.2), and the record outgrows a UDP answer

_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """One key and whom it speaks for.

    Attributes:
        domain: A-label, lower case; the d= of its signatures.
        selector: lower case; the s= of its signatures.
        subdomains: also sign for From domains below `domain` that have no key of their own.
    """

    domain: str
    selector: str
    private: RSAPrivateKey | Ed25519PrivateKey
    subdomains: bool = False

    def __repr__(self) -> str:
        return f"SigningKey(domain={self.domain!r}, selector={self.selector!r}, kind={self.kind!r}, private=***)"

    @property
    def kind(self) -> str:
        """`rsa` or `ed25519`: the k= of the record."""
        return "rsa" if isinstance(self.private, RSAPrivateKey) else "ed25519"

    @property
    def public(self) -> bytes:
        """What p= of the record holds before base64: SubjectPublicKeyInfo for RSA, the 32 octets for Ed25519."""
        key = self.private.public_key()
        if isinstance(self.private, RSAPrivateKey):
            return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def load_key(path: Path, *, domain: str, selector: str, subdomains: bool = False) -> SigningKey:
    """Read and check a PEM private key. Blocking; at start and reload only.

    Raises:
        ConfigError: naming the file and what is wrong with it.
    """
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"DKIM key {path}: {error.strerror or error}") from error
    return parse_key(pem, domain=domain, selector=selector, subdomains=subdomains, source=str(path))


def parse_key(
    pem: bytes, *, domain: str, selector: str, subdomains: bool = False, source: str = "given as text"
) -> SigningKey:
    """A checked key from PEM text (PKCS#1 or PKCS#8, not encrypted).

    Args:
        domain: A-labels, or U-labels that IDNA can encode.
        source: names the key in errors.

    Raises:
        ConfigError: not a PEM private key, encrypted, of another kind, RSA below 1024 or above 4096 bits, or domain
            or selector that cannot be DNS names.
    """
    where = f"DKIM key {source}"
    try:
        private = serialization.load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise ConfigError(f"{where}: it is encrypted; store it without passphrase and protect the file") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        hint = "; this is the public half" if b"PUBLIC KEY" in pem else ""
        raise ConfigError(f"{where}: not a PEM private key{hint}") from error
    if isinstance(private, RSAPrivateKey):
        if not MIN_RSA_BITS <= private.key_size <= MAX_RSA_BITS:
            raise ConfigError(
                f"{where}: RSA of {private.key_size} bits; use {MIN_RSA_BITS} to {MAX_RSA_BITS}, best 2048"
            )
    elif not isinstance(private, Ed25519PrivateKey):
        raise ConfigError(f"{where}: DKIM knows RSA and Ed25519 keys only")
    name = ascii_domain(domain)
    if not name:
        raise ConfigError(f"{where}: {domain!r} is not a domain")
    if not _NAME.fullmatch(selector.lower()):
        raise ConfigError(f"{where}: {selector!r} is not a selector (letters, digits, hyphens, dots)")
    return SigningKey(domain=name, selector=selector.lower(), private=private, subdomains=subdomains)


def ascii_domain(domain: str) -> str:
    """The domain in A-labels and lower case; empty when it is not one."""
    domain = domain.lower().removesuffix(".")
    try:
        domain = a_labels(domain)
    except UnicodeError:
        return ""
    return domain if _NAME.fullmatch(domain) and len(domain) <= 253 else ""


def keygen(kind: str = "rsa", bits: int = 2048) -> tuple[bytes, str]:
    """A new private key as PKCS#8 PEM, and the TXT value to publish (one line, not split).

    Args:
        kind: `rsa` or `ed25519`; bits: of an RSA key.

    Raises:
        ValueError: another kind or a size no verifier takes.
    """
    private: RSAPrivateKey | Ed25519PrivateKey
    if kind == "ed25519":
        private = Ed25519PrivateKey.generate()
    elif kind == "rsa" and MIN_RSA_BITS <= bits <= MAX_RSA_BITS:
        private = generate_private_key(public_exponent=65537, key_size=bits)
    else:
        raise ValueError(f"a DKIM key is ed25519, or rsa of {MIN_RSA_BITS} to {MAX_RSA_BITS} bits")
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key = SigningKey(domain="unnamed", selector="unnamed", private=private)
    return pem, "".join(dns_record(key)[1])


def dns_record(key: SigningKey) -> tuple[str, tuple[str, ...]]:
    """Name and TXT value of the key's record; the value in strings of at most 255 octets (joined without blanks)."""
    value = f"v=DKIM1; k={key.kind}; p={base64.b64encode(key.public).decode('ascii')}"
    return f"{key.selector}._domainkey.{key.domain}", tuple(value[i : i + 255] for i in range(0, len(value), 255))
