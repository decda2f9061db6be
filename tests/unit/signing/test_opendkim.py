"""An independent verifier reads our signatures: opendkim, with the key record given as test data."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from relay.envelope import Content
from relay.signing import Signer, Style, dns_record, keygen, parse_key

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which("opendkim") is None, reason="opendkim is not installed"),
]
MAIL = Path(__file__).parents[2] / "data" / "mail"
KEYS = [
    parse_key(keygen("rsa", 2048)[0], domain="acme.example", selector="r"),
    parse_key(keygen("ed25519")[0], domain="acme.example", selector="e"),
]


def verdicts(folder: Path, message: bytes, keys) -> str:
    (folder / "message").write_bytes(message)
    records = [f"{name} {''.join(value)}\n" for name, value in map(dns_record, keys)]
    (folder / "records").write_text("".join(records))
    (folder / "conf").write_text(
        f"Mode v\nSyslog no\nSocket local:{folder}/socket\nTestDNSData file:{folder}/records\n"
    )
    done = subprocess.run(
        ["opendkim", "-x", str(folder / "conf"), "-t", str(folder / "message"), "-v", "-v"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize("form", ["relaxed/relaxed", "relaxed/simple", "simple/relaxed", "simple/simple"])
@pytest.mark.parametrize(
    "name", ["plain", "alternative", "attachments", "folded-to", "trailing-blanks", "subject-arabic"]
)
def test_opendkim_verifies_both_kinds(tmp_path, name, form):
    head, _, body = (MAIL / f"{name}.eml").read_bytes().partition(b"\r\n\r\n")
    head += b"\r\n"
    signer = Signer(KEYS, Style.of(form, 86400))
    block = signer.sign(Content(head, body), "acme.example", time.time())
    said = verdicts(tmp_path, block + head + b"\r\n" + body, KEYS)
    assert said.count("dkim=pass") == 2, said


def test_opendkim_refuses_a_changed_body(tmp_path):
    head, _, body = (MAIL / "plain.eml").read_bytes().partition(b"\r\n\r\n")
    head += b"\r\n"
    block = Signer(KEYS).sign(Content(head, body), "acme.example", time.time())
    said = verdicts(tmp_path, block + head + b"\r\n" + body + b"more\r\n", KEYS)
    assert "dkim=pass" not in said
    assert "dkim=fail" in said
