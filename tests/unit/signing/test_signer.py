"""Signatures verify with dkimpy; the right keys sign; what must not be forged on cannot be."""

from __future__ import annotations

import time
from pathlib import Path

import dkim
import pytest

from relay.envelope import BodyFile, Content
from relay.headers import walk
from relay.signing import Signer, Style, dns_record, keygen, parse_key, sign_async

MAIL = Path(__file__).parents[2] / "data" / "mail"
PEMS = {"rsa": keygen("rsa", 2048)[0], "small": keygen("rsa", 1024)[0], "ed25519": keygen("ed25519")[0]}
NOW = time.time()  # dkimpy reads the clock itself, so the signatures must be of now

HEAD = (
    b"Received: from a by b; x\r\nFrom: Acme <shop@acme.example>\r\nTo: jane@customer.example\r\n"
    b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n folded\t value  \r\nDate: Tue, 14 Nov 2023 22:13:20 +0000\r\n"
    b"Message-ID: <1@acme.example>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n"
)
BODY = b"Hello  world \t\r\n\r\n.\r\nmore \r\n\r\n\r\n"


def key(kind="rsa", domain="acme.example", selector="s1", subdomains=False):
    return parse_key(PEMS[kind], domain=domain, selector=selector, subdomains=subdomains)


def verify(message: bytes, *keys, index: int = 0) -> bool:
    if any(k.kind == "ed25519" for k in keys):
        pytest.importorskip("nacl", reason="dkimpy verifies Ed25519 with PyNaCl")
    records = {name + ".": "".join(value).encode() for name, value in map(dns_record, keys)}
    try:
        return dkim.DKIM(message).verify(index, lambda name, timeout=5: records.get(name.decode(), b""))
    except dkim.ValidationError:  # how dkimpy says that the body is another
        return False


@pytest.mark.parametrize("kind", PEMS)
@pytest.mark.parametrize("form", ["relaxed/relaxed", "relaxed/simple", "simple/relaxed", "simple/simple"])
@pytest.mark.parametrize("expire_s", [None, 86400])
def test_every_kind_of_signature_verifies(kind, form, expire_s):
    k = key(kind)
    block = Signer([k], Style.of(form, expire_s)).sign(Content(HEAD, BODY), "acme.example", NOW)
    assert verify(block + HEAD + b"\r\n" + BODY, k)
    assert not verify(block + HEAD + b"\r\n" + BODY + b"added\r\n", k)
    assert (b" x=" in block) is (expire_s is not None)
    assert b" l=" not in block
    assert max(map(len, block.split(b"\r\n"))) <= 78


UNREADABLE = {"first-line-blank-begun", "blank-before-colon"}
"""Header sections dkimpy does not read at all; the signer must still not fail on them."""


@pytest.mark.parametrize("path", sorted(MAIL.glob("*.eml")), ids=lambda path: path.stem)
def test_corpus_verifies_when_signed(path):
    octets = path.read_bytes()
    head, _, body = octets.partition(b"\r\n\r\n")
    head = head + b"\r\n" if b":" in head.partition(b"\r\n")[0] else b"X-First: " + head + b"\r\n"
    malformed = any(not field.name for field in walk(head))
    k = key()
    block = Signer([k]).sign(Content(head, body), "acme.example", NOW)
    assert block
    if not malformed and path.stem not in UNREADABLE:
        assert verify(block + head + b"\r\n" + body, k)


def test_two_keys_of_one_domain_both_sign_and_both_verify():
    rsa, ed = key("rsa"), key("ed25519", selector="e1")
    message = Signer([rsa, ed]).sign(Content(HEAD, BODY), "acme.example", NOW) + HEAD + b"\r\n" + BODY
    assert message.count(b"DKIM-Signature:") == 2
    assert verify(message, rsa, ed, index=0)
    assert verify(message, rsa, ed, index=1)


@pytest.mark.parametrize("name", [b"From", b"To", b"Subject", b"Date"])
@pytest.mark.parametrize("where", ["above", "below"])
def test_a_second_field_breaks_the_signature(name, where):
    k = key()
    block = Signer([k]).sign(Content(HEAD, BODY), "acme.example", NOW)
    extra = name + b": forged\r\n"
    head = extra + HEAD if where == "above" else HEAD + extra
    assert not verify(block + head + b"\r\n" + BODY, k)


def test_a_subject_added_where_there_was_none_breaks_the_signature():
    k = key()
    head = b"From: a@acme.example\r\n"
    block = Signer([k]).sign(Content(head, BODY), "acme.example", NOW)
    assert verify(block + head + b"\r\n" + BODY, k)
    assert not verify(block + head + b"Subject: added\r\n\r\n" + BODY, k)


def test_repeated_fields_are_signed_from_the_bottom():
    k = key()
    head = HEAD + b"From: second@acme.example\r\nCc: a@x.example\r\nCc: b@x.example\r\n"
    block = Signer([k]).sign(Content(head, BODY), "acme.example", NOW)
    assert verify(block + head + b"\r\n" + BODY, k)


def test_fields_an_upstream_rewrites_can_be_left_out():
    k = key()
    block = Signer([k]).sign(Content(HEAD, BODY), "acme.example", NOW, leave_out={b"date", b"message-id"})
    head = HEAD.replace(b"14 Nov", b"15 Nov").replace(b"<1@", b"<2@")
    assert verify(block + head + b"\r\n" + BODY, k)


def test_trace_fields_added_later_do_no_harm():
    k = key()
    block = Signer([k]).sign(Content(HEAD, BODY), "acme.example", NOW)
    assert verify(b"Received: from later by hop; x\r\nReturn-Path: <>\r\n" + block + HEAD + b"\r\n" + BODY, k)


def test_keys_are_chosen_by_from_domain():
    exact = key(domain="acme.example", selector="top")
    wide = key(domain="example", selector="wide", subdomains=True)
    sub = key(domain="mail.acme.example", selector="sub", subdomains=True)
    signer = Signer([exact, wide, sub])
    assert signer.keys_for("acme.example") == (exact,)
    assert signer.keys_for("a.mail.acme.example") == (sub,)
    assert signer.keys_for("news.acme.example") == (wide,)  # acme.example does not sign for subdomains
    assert signer.keys_for("badexample") == ()
    assert signer.keys_for("notacme.example") == (wide,)
    assert Signer([exact]).keys_for("news.acme.example") == ()
    assert Signer([exact]).keys_for("evilacme.example") == ()
    assert Signer([key(domain="bücher.example")]).keys_for("bücher.example")[0].domain == "xn--bcher-kva.example"


@pytest.mark.parametrize("domain", ["", "other.example", "\udcff", "a..b", "." * 300])
def test_no_key_means_no_signature(domain):
    assert Signer([key()]).sign(Content(HEAD, BODY), domain, NOW) == b""


def test_signing_is_a_function_of_its_arguments():
    signer = Signer([key(), key("ed25519", selector="e")])
    content = Content(HEAD, BODY)
    assert signer.sign(content, "acme.example", 5.9) == signer.sign(content, "acme.example", 5.1)
    assert b" t=5;" in signer.sign(content, "acme.example", 5.1)


@pytest.mark.parametrize("size", [0, 10, 300_000, 2_000_000])
async def test_a_body_file_is_signed_as_its_octets(tmp_path, size):
    body = (b"line of  text \r\n" * (size // 16 + 1))[:size]
    (tmp_path / "body").write_bytes(body)
    signer = Signer([key("ed25519")])
    from_file = await sign_async(signer, Content(HEAD, BodyFile(tmp_path / "body", size)), "acme.example", 7)
    assert from_file == signer.sign(Content(HEAD, body), "acme.example", 7)
    assert from_file == await sign_async(signer, Content(HEAD, body), "acme.example", 7)


async def test_without_a_key_the_body_file_is_not_even_opened(tmp_path):
    missing = Content(HEAD, BodyFile(tmp_path / "missing", 10))
    assert await sign_async(Signer([key()]), missing, "other.example", 7) == b""


def test_style_reads_the_c_tag():
    assert Style.of("relaxed/simple") == Style(header="relaxed", body="simple")
    with pytest.raises(ValueError, match="relaxed/relaxed"):
        Style.of("strict/relaxed")
    with pytest.raises(ValueError, match="relaxed/relaxed"):
        Style.of("relaxed")
