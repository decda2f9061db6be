"""Key and certificate files: readable, sound, belonging together. Messages name files, never their content.

The one check that reads the disk. `cryptography` is imported when there is something to check.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

from relay.config.checks.references import nodes_of
from relay.config.disk import Unreadable, is_exposed, read_regular
from relay.config.models import Config
from relay.config.models.server import ListenerModel
from relay.config.models.traffic import node_options
from relay.config.places import Path, Report
from relay.upstreams.api_options import ApiOptions
from relay.upstreams.smtp_options import SmtpOptions, SmtpVerify

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.x509 import Certificate

_LEAST_RSA_BITS = 1024
"""RFC 8301 §3.2: verifiers must not accept shorter keys; the same bound serves for TLS."""
_SOUND_RSA_BITS = 2048
_LARGEST_FILE = 1024 * 1024
"""The authorities of a whole system are a quarter of this."""
_SOON = timedelta(days=14)


class _Unfit(Exception):
    """A file cannot be used for what it is meant; the text says why."""


def check_keys(config: Config, report: Report, *, now: datetime, base: FilePath) -> Iterator[FilePath]:
    """Check listeners' certificates, DKIM keys and nodes' authorities; yields the files that were looked at."""
    for index, listener in enumerate(config.listeners):
        if listener.tls != "none" and listener.cert is not None and listener.key is not None:
            _check_pair(listener, ("listeners", index), report, now, base)
            yield from (base / listener.cert, base / listener.key)
    for index, dkim in enumerate(config.dkim):
        _check_dkim(base / dkim.key_file, ("dkim", index, "key_file"), report)
        yield base / dkim.key_file
    for path, node in nodes_of(config):
        options = node_options(node)
        named: str | None = None
        key: tuple[str, ...] = ("ca_file",)
        if isinstance(options, SmtpOptions) and isinstance(options.verify, SmtpVerify):
            named, key = options.verify.ca_file, ("verify", "ca_file")
        elif isinstance(options, ApiOptions):
            named = options.ca_file
        if named:
            ca_file = base / named
            try:
                _certificates(ca_file)
            except _Unfit as fault:
                report.fault((*path, *key), f"{ca_file}: {fault}")
            yield ca_file


def _check_pair(listener: ListenerModel, path: Path, report: Report, now: datetime, base: FilePath) -> None:
    cert_file, key_file = base / str(listener.cert), base / str(listener.key)
    chain: list[Certificate] = []
    key: PrivateKeyTypes | None = None
    try:
        chain = _certificates(cert_file)
    except _Unfit as fault:
        report.fault((*path, "cert"), f"{cert_file}: {fault}")
    password = listener.key_password.get_secret_value() if listener.key_password is not None else None
    try:
        key = _private_key(key_file, password)
        _check_strength(key)
    except _Unfit as fault:
        report.fault((*path, "key"), f"{key_file}: {fault}")
    else:
        _warn_exposed(key_file, (*path, "key"), report)
    if chain and key is not None:
        _check_match(chain, key, cert_file, key_file, path, report)
    if chain:
        _check_dates(chain[0], cert_file, (*path, "cert"), report, now)


def _check_match(
    chain: list[Certificate], key: PrivateKeyTypes, cert_file: FilePath, key_file: FilePath, path: Path, report: Report
) -> None:
    public = key.public_key()
    if chain[0].public_key() == public:
        return
    if any(certificate.public_key() == public for certificate in chain[1:]):
        report.fault(
            (*path, "cert"), f"{cert_file}: wrong order", "the server's own certificate comes first, then the chain"
        )
    else:
        report.fault((*path, "key"), f"{key_file} does not belong to the certificate in {cert_file}")


def _check_dates(certificate: Certificate, file: FilePath, path: Path, report: Report, now: datetime) -> None:
    """Warnings only: a relay that restarts with yesterday's certificate still serves clients that do not check it;
    one that refuses to start serves nobody."""
    if certificate.not_valid_after_utc < now:
        report.warn(path, f"{file}: expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC", "renew it")
    elif certificate.not_valid_after_utc < now + _SOON:
        report.warn(path, f"{file}: expires at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC", "renew it soon")
    if certificate.not_valid_before_utc > now:
        report.warn(path, f"{file}: not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")


def _check_dkim(file: FilePath, path: Path, report: Report) -> None:
    from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

    try:
        key = _private_key(file, None)
        _check_strength(key)
        if not isinstance(key, (rsa.RSAPrivateKey, ed25519.Ed25519PrivateKey)):
            raise _Unfit("neither an RSA nor an Ed25519 key")  # RFC 6376 §3.3, RFC 8463
    except _Unfit as fault:
        report.fault(path, f"{file}: {fault}", "`relay dkim keygen` makes a key")
        return
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < _SOUND_RSA_BITS:
        what = f"{file}: an RSA key of {key.key_size} bits is weak"
        report.warn(path, what, f"use {_SOUND_RSA_BITS} bits")
    _warn_exposed(file, path, report)


def _certificates(file: FilePath) -> list[Certificate]:
    from cryptography import x509

    data = _read(file)
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        raise _Unfit("holds no certificate in PEM form") from None


def _private_key(file: FilePath, password: str | None) -> PrivateKeyTypes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _read(file)
    try:
        return load_pem_private_key(data, password.encode() if password is not None else None)
    except TypeError:
        lack = "needs a passphrase" if password is None else "has no passphrase, but one is configured"
        raise _Unfit(lack) from None
    except (ValueError, UnsupportedAlgorithm):
        wrong = "holds no usable private key in PEM form"
        raise _Unfit(wrong if password is None else f"{wrong}, or the passphrase is wrong") from None


def _check_strength(key: PrivateKeyTypes) -> None:
    from cryptography.hazmat.primitives.asymmetric import rsa

    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < _LEAST_RSA_BITS:
        raise _Unfit(f"an RSA key of {key.key_size} bits is too short; at least {_LEAST_RSA_BITS}")


def _read(file: FilePath) -> bytes:
    try:
        return read_regular(file, _LARGEST_FILE)[0]
    except Unreadable as fault:
        raise _Unfit(str(fault)) from None


def _warn_exposed(file: FilePath, path: Path, report: Report) -> None:
    try:
        mode = file.stat().st_mode
    except OSError:
        return
    if is_exposed(mode):
        report.warn(path, f"{file} can be read by every user of this machine", f"chmod o-r {file}")
