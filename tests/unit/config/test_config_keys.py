"""Certificates and keys on disk: readable, belonging together, strong enough; told by file name, never by content."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from relay.config import InvalidConfig, load
from tests.unit.config.config_files import ENVIRONMENT, text_with, unmark

NOW = datetime.now(UTC)
SHORT_RSA = """\
-----BEGIN RSA PRIVATE KEY-----
MIIBOgIBAAJBAKj34GkxFhD90vcNLYLInFEX6Ppy1tPf9Cnzj4p4WGeKLs1Pt8Qu
KUpRKfFLfRYC9AIKjbJTWit+CqvjWYzvQwECAwEAAQJAIJLixBy2qpFoS4DSmoEm
o3qGy0t6z09AIJtH+5OeRV1be+N4cDYJKffGzDa88vQENZiRm0GRq6a+HPGQMd2k
TQIhAKMSvzIBnni7ot/OSie2TmJLY4SwTQAevXysE2RbFDYdAiEBCUEaRQnMnbp7
9mxDXDf6AU0cN/RPBjb9qSHDcWZHGzUCIG2Es59z8ugGrDY+pxLQnwfotadxd+Uy
v/Ow5T0q5gIJAiEAyS4RaI9YG8EWx/2w0T67ZUVAw8eOMB6BIUg0Xcu+3okCIBOs
/5OiPgoTdSy7bcF9IGpSE8ZgGKzgYQVZeN97YE00
-----END RSA PRIVATE KEY-----
"""
"""A 512-bit key known from examples: too short to be a secret."""


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey, password: str = "") -> bytes:
    cipher = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, cipher)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sound and unsound keys and certificates."""
    folder = tmp_path_factory.mktemp("keys")
    authority = trustme.CA()
    leaf = authority.issue_cert("relay.acme.example")
    other = authority.issue_cert("other.acme.example")
    expired = authority.issue_cert("relay.acme.example", not_after=NOW - timedelta(days=1))
    soon = authority.issue_cert("relay.acme.example", not_after=NOW + timedelta(days=3))
    chain = b"".join(part.bytes() for part in leaf.cert_chain_pems)
    rsa_2048 = rsa.generate_private_key(65537, 2048)
    content = {
        "cert.pem": chain,
        "key.pem": leaf.private_key_pem.bytes(),
        "ca.pem": authority.cert_pem.bytes(),
        "other-key.pem": other.private_key_pem.bytes(),
        "wrong-order.pem": authority.cert_pem.bytes() + chain,
        "expired.pem": expired.cert_chain_pems[0].bytes(),
        "expired-key.pem": expired.private_key_pem.bytes(),
        "soon.pem": soon.cert_chain_pems[0].bytes(),
        "soon-key.pem": soon.private_key_pem.bytes(),
        "short.pem": SHORT_RSA.encode(),
        "rsa-1024.pem": pem(rsa.generate_private_key(65537, 1024)),
        "rsa-2048.pem": pem(rsa_2048),
        "ed25519.pem": pem(ed25519.Ed25519PrivateKey.generate()),
        "ec.pem": pem(ec.generate_private_key(ec.SECP256R1())),
        "locked.pem": pem(rsa_2048, "passphrase-of-key"),
        "public.pem": rsa_2048.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "nonsense.pem": b"MIIC-secret-looking text",
        "empty.pem": b"",
    }
    for name, data in content.items():
        (folder / name).write_bytes(data)
        (folder / name).chmod(0o600)
    (folder / "open.pem").write_bytes(content["rsa-2048.pem"])
    (folder / "open.pem").chmod(0o644)
    (folder / "folder.pem").mkdir()
    return folder


def listener(cert: str, key: str, more: str = "") -> str:
    return f"listeners: [{{bind: '127.0.0.1:465', tls: implicit, cert: {cert}, key: {key}{more}}}]\n"


def dkim(key: str) -> str:
    return f"dkim: [{{domain: acme.example, selector: s1, key_file: {key}}}]\n"


def outcome(folder: Path, tmp_path: Path, section: str) -> tuple[list[str], list[str], list[str]]:
    """Marked places, faults, warnings."""
    text, places = unmark(text_with(extra=section), str(tmp_path / "relay.yaml"))
    (tmp_path / "relay.yaml").write_text(text)
    try:
        loaded = load(tmp_path / "relay.yaml", environment=ENVIRONMENT, base=folder, now=NOW)
    except InvalidConfig as refusal:
        said = [list(map(str, refusal.faults)), list(map(str, refusal.warnings))]
    else:
        said = [[], list(map(str, loaded.warnings))]
    assert not [secret for secret in ("BEGIN", "secret-looking", "of-key") if secret in str(said)]
    return places, said[0], said[1]


@pytest.mark.parametrize(
    "section",
    [
        listener("cert.pem", "key.pem"),
        dkim("rsa-2048.pem"),
        dkim("ed25519.pem"),
        "nodes: [{name: b, type: smtp, pool: main, host: h.example, verify: {ca_file: ca.pem}}]\n",
    ],
    ids=["pair", "rsa", "ed25519", "authorities"],
)
def test_sound_files_are_taken(files: Path, tmp_path: Path, section: str) -> None:
    assert outcome(files, tmp_path, section)[1:] == ([], [])


@pytest.mark.parametrize(
    ("section", "what"),
    [
        (listener("§missing.pem", "key.pem"), "missing.pem: does not exist"),
        (listener("cert.pem", "§missing.pem"), "missing.pem: does not exist"),
        (listener("§folder.pem", "key.pem"), "folder.pem: is a directory"),
        (listener("§nonsense.pem", "key.pem"), "nonsense.pem: holds no certificate in PEM form"),
        (listener("§key.pem", "key.pem"), "key.pem: holds no certificate in PEM form"),
        (listener("cert.pem", "§nonsense.pem"), "nonsense.pem: holds no usable private key in PEM form"),
        (listener("cert.pem", "§cert.pem"), "cert.pem: holds no usable private key in PEM form"),
        (listener("cert.pem", "§other-key.pem"), "other-key.pem does not belong to the certificate in"),
        (listener("§wrong-order.pem", "key.pem"), "wrong-order.pem: wrong order"),
        (listener("cert.pem", "§locked.pem"), "locked.pem: needs a passphrase"),
        (listener("cert.pem", "§locked.pem", ", key_password: wrong"), "or the passphrase is wrong"),
        (listener("cert.pem", "§key.pem", ", key_password: wrong"), "has no passphrase, but one is configured"),
        (dkim("§missing.pem"), "missing.pem: does not exist"),
        (dkim("§folder.pem"), "folder.pem: is a directory"),
        (dkim("§empty.pem"), "empty.pem: holds no usable private key"),
        (dkim("§public.pem"), "public.pem: holds no usable private key"),
        (dkim("§short.pem"), "short.pem: an RSA key of 512 bits is too short"),
        (dkim("§ec.pem"), "ec.pem: neither an RSA nor an Ed25519 key"),
        (dkim("§locked.pem"), "locked.pem: needs a passphrase"),
        (
            "nodes: [{name: b, type: smtp, pool: main, host: h.example, verify: {ca_file: §nonsense.pem}}]\n",
            "nonsense.pem: holds no certificate",
        ),
    ],
)
def test_unsound_files_are_faults_that_name_them(files: Path, tmp_path: Path, section: str, what: str) -> None:
    places, faults, _ = outcome(files, tmp_path, section)
    (fault,) = faults
    assert fault.startswith(f"{places[0]}: ")
    assert what in fault


@pytest.mark.parametrize(
    ("section", "what"),
    [
        (listener("§expired.pem", "expired-key.pem"), "expired at"),
        (listener("§soon.pem", "soon-key.pem"), "expires at"),
        (dkim("§rsa-1024.pem"), "an RSA key of 1024 bits is weak"),
        (dkim("§open.pem"), "open.pem can be read by every user"),
    ],
    ids=["expired", "expires soon", "weak", "readable by all"],
)
def test_what_still_works_is_a_warning(files: Path, tmp_path: Path, section: str, what: str) -> None:
    places, faults, warnings = outcome(files, tmp_path, section)
    assert faults == []
    (warning,) = warnings
    assert warning.startswith(f"{places[0]}: ")
    assert what in warning


def test_two_keys_of_one_selector_are_a_fault(files: Path, tmp_path: Path) -> None:
    section = (
        "dkim:\n"
        "  - {domain: acme.example, selector: s1, key_file: rsa-2048.pem}\n"
        "  - {domain: acme.example, selector: s2, key_file: ed25519.pem}\n"
        "  - {domain: Acme.example, selector: §s1, key_file: ed25519.pem}\n"
    )
    places, faults, _ = outcome(files, tmp_path, section)
    (fault,) = faults
    assert fault.startswith(f"{places[0]}: dkim[2].selector: domain and selector are used twice")


def test_key_files_are_among_the_files_to_watch(files: Path, tmp_path: Path) -> None:
    (tmp_path / "relay.yaml").write_text(text_with(extra=listener("cert.pem", "key.pem") + dkim("ed25519.pem")))
    loaded = load(tmp_path / "relay.yaml", environment=ENVIRONMENT, base=files, now=NOW)
    assert [file.name for file in loaded.files] == ["relay.yaml", "cert.pem", "key.pem", "ed25519.pem"]
