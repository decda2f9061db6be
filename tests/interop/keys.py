"""DKIM keys for a relay of these tests, and what a verifier finds about them in the DNS."""

from __future__ import annotations

from pathlib import Path

import dkim

from relay.signing.keys import dns_record, keygen, load_key

Records = dict[bytes, bytes]
"""Name of a key record, with its final dot → its text."""


def make_keys(folder: Path) -> tuple[list[dict[str, str]], Records]:
    """An RSA key under selector `rsa` and an Ed25519 key under `ed`: the configuration's `dkim`, and the records."""
    records: Records = {}
    keys = []
    for selector, kind in (("rsa", "rsa"), ("ed", "ed25519")):
        path = folder / f"{selector}.pem"
        path.write_bytes(keygen(kind, 2048)[0])
        path.chmod(0o600)
        name, strings = dns_record(load_key(path, domain="acme.example", selector=selector))
        records[name.encode() + b"."] = "".join(strings).encode()
        keys.append({"domain": "acme.example", "selector": selector, "key_file": str(path)})
    return keys, records


def verifies(content: bytes, index: int, records: Records) -> bool:
    """What dkimpy says of one signature, counted from the top."""
    try:
        return dkim.DKIM(content).verify(idx=index, dnsfunc=lambda name, **_: records.get(name))
    except dkim.ValidationError:
        return False
