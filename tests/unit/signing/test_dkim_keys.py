"""Keys: loaded and checked with errors that name the file; made; published."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from relay.errors import ConfigError
from relay.signing import dns_record, keygen, load_key, parse_key

RSA_PEM, RSA_TXT = keygen("rsa", 2048)
PKCS8, PLAIN = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
PEM = serialization.Encoding.PEM


def test_made_keys_load_and_publish_the_same_record(tmp_path):
    for kind, bits in (("rsa", 1024), ("rsa", 2048), ("ed25519", 0)):
        pem, txt = keygen(kind, bits)
        (tmp_path / "key.pem").write_bytes(pem)
        key = load_key(tmp_path / "key.pem", domain="Acme.Example.", selector="S1")
        name, strings = dns_record(key)
        assert (name, "".join(strings)) == ("s1._domainkey.acme.example", txt)
        assert all(0 < len(part) <= 255 for part in strings)
        assert key.kind == kind


def test_records_hold_the_public_half():
    public = serialization.load_der_public_key(base64.b64decode(RSA_TXT.partition("p=")[2]))
    assert isinstance(public, rsa.RSAPublicKey)
    assert public.key_size == 2048
    raw = base64.b64decode(keygen("ed25519")[1].partition("p=")[2])
    Ed25519PublicKey.from_public_bytes(raw)


def test_a_2048_bit_record_is_split_in_two_strings():
    assert len(dns_record(parse_key(RSA_PEM, domain="a.example", selector="s"))[1]) == 2


def test_pkcs1_files_load():
    pem = rsa.generate_private_key(public_exponent=65537, key_size=1024).private_bytes(
        PEM, serialization.PrivateFormat.TraditionalOpenSSL, PLAIN
    )
    assert parse_key(pem, domain="a.example", selector="s").kind == "rsa"


def test_secrets_do_not_show_in_repr():
    assert "private=***" in repr(parse_key(RSA_PEM, domain="a.example", selector="s"))


BAD = {
    "not a PEM private key": b"garbage",
    "public half": parse_key(RSA_PEM, domain="a.example", selector="s")
    .private.public_key()
    .public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
    "encrypted": parse_key(RSA_PEM, domain="a.example", selector="s").private.private_bytes(
        PEM, PKCS8, serialization.BestAvailableEncryption(b"x")
    ),
    "RSA and Ed25519 keys only": ec.generate_private_key(ec.SECP256R1()).private_bytes(PEM, PKCS8, PLAIN),
}


@pytest.mark.parametrize("words", BAD)
def test_unusable_files_are_refused_by_name(tmp_path, words):
    path = tmp_path / "acme.pem"
    path.write_bytes(BAD[words])
    with pytest.raises(ConfigError, match=words) as caught:
        load_key(path, domain="acme.example", selector="s1")
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.pem: No such file"):
        load_key(tmp_path / "none.pem", domain="acme.example", selector="s1")


@pytest.mark.parametrize(("domain", "selector"), [("a b", "s"), ("", "s"), ("a.example", "s;"), ("a.example", "")])
def test_names_dns_cannot_hold_are_refused(domain, selector):
    with pytest.raises(ConfigError, match="is not a"):
        parse_key(RSA_PEM, domain=domain, selector=selector)


@pytest.mark.parametrize(("kind", "bits"), [("rsa", 512), ("rsa", 8192), ("dsa", 2048)])
def test_kinds_and_sizes_nobody_verifies_are_not_made(kind, bits):
    with pytest.raises(ValueError, match="ed25519, or rsa"):
        keygen(kind, bits)


def test_a_short_rsa_key_is_refused():
    pem = """-----BEGIN PRIVATE KEY-----
MIIBVwIBADANBgkqhkiG9w0BAQEFAASCAUEwggE9AgEAAkEAxBXksCRzDvT4ou2r
4AtMxLs3w9NGyQjbywdJbZ/dP6ud/JYkh1ubEDOMlmk8cB/Qwt45bvTH1ZqorkIx
M/gh3wIDAQABAkEAw8xcw+pRnfDNydtr0ddWu+d6Yqc4uouG9e/7yWRliCm1kzG3
UqnyhONmyshmD22hnnLvxj5p9vMM/3RDeZizGQIhAOUtFpEJVmXnHQQ7JGc72G5W
wFfwiJwi1LDgyISLa7NdAiEA2wlLu7yTJqbeSc3fK6KGmtX4m3A+uJ+04INT5bXc
MmsCIQCKgGhN+P2tEjKYFwIWHbXcYTNXMjftXKN7zi2A5R2OxQIhAMTjQD5LLgLK
cHnrIrY4a8J2n/gpF1ghxxchNaMArCRtAiEA4wKkKItEzgCrT9cHit+b4vJMZE/f
xVzIwKK78yQSvoU=
-----END PRIVATE KEY-----
"""  # 512 bits
    with pytest.raises(ConfigError, match="RSA of 512 bits"):
        parse_key(pem.encode(), domain="a.example", selector="s")
