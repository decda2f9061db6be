"""The signatures of a whole corpus, after its messages really went through a relay, as independent verifiers see them.

dkimpy and OpenDKIM read what a server got, with the key records given as data. OpenDKIM shares no code with the relay.
"""

from __future__ import annotations

import re
import shutil
import smtplib
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.interop.keys import Records, make_keys, verifies
from tests.interop.programs import ROOT, needs
from tests.interop.samples import assert_stamped, fields
from tests.scenario.harness import Relay, base_config, free_port, wait_for
from tests.scenario.sink import Sink

pytestmark = [pytest.mark.interop, pytest.mark.scenario]

MAIL = ROOT / "tests" / "data" / "mail"
CORPUS = {path.stem: path.read_bytes() for path in sorted(MAIL.glob("*.eml"))}
UNSIGNED = {
    "body-only", "empty", "empty-values", "first-line-blank-begun", "no-from", "only-blank", "text-as-head",  # no From
    "from-encoded-address", "report",  # of another domain
    "from-group", "from-list", "from-trick", "two-from",  # more than one author, or one cannot say
}  # fmt: skip
SIGNED = sorted(set(CORPUS) - UNSIGNED)
UNREADABLE = {"blank-before-colon", "malformed-lines"}
"""Signed, but neither verifier takes their header sections for one."""
READABLE = sorted(set(SIGNED) - UNREADABLE)
CLIENT_SIGNED = [
    "signed-8bit",
    "signed-mixed",
    "signed-relaxed",
    "signed-simple",
    "signed-trailing",
    "signed-without-date",
]


@dataclass(frozen=True)
class Delivered:
    """What arrived, by name in the corpus; the records that verify it; the relay it came through."""

    contents: Mapping[str, bytes]
    records: Records
    relay: Relay


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Delivered]:
    """The corpus sent through a relay with an RSA and an Ed25519 key, once for all tests."""
    folder = tmp_path_factory.mktemp("dkim")
    keys, records = make_keys(folder)
    records[b"client._domainkey.acme.example."] = (MAIL / "client.txt").read_bytes().strip()
    sink = Sink(folder, "sink")
    port = free_port()
    relay = Relay(folder, base_config(port, [sink.node()], dkim=keys, headers={"X-Relayed-By": "acme"}), port)
    try:
        sink.start()
        relay.start()
        with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
            client.login("app", "app-password")
            for name, content in CORPUS.items():
                client.mail("bounces@acme.example", ["BODY=8BITMIME", "SMTPUTF8"])
                client.rcpt(f"{name}@customer.example")
                code, said = client.data(content)
                assert code == 250, (name, said)
        wait_for(lambda: len(sink.transactions()) == len(CORPUS), what="arrival of the corpus")
        contents = {
            transaction["to"][0].partition("@")[0]: transaction["content"].encode("utf-8", "surrogateescape")
            for transaction in sink.transactions()
        }
        yield Delivered(contents, records, relay)
    finally:
        relay.close()
        sink.close()


def verdicts(delivered: Delivered, content: bytes, folder: Path) -> list[str]:
    """What OpenDKIM says of each signature, top to bottom: `pass`, `fail`, …"""
    records = "".join(f"{name.decode()[:-1]} {text.decode()}\n" for name, text in delivered.records.items())
    (folder / "records").write_text(records)
    (folder / "message").write_bytes(content)
    (folder / "conf").write_text(
        f"Mode v\nSyslog no\nSocket local:{folder}/socket\nTestDNSData file:{folder}/records\n"
    )
    done = subprocess.run(
        ["opendkim", "-x", folder / "conf", "-t", folder / "message", "-v", "-v"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    return re.findall(r"dkim=(\w+)", done.stdout)


def selectors(content: bytes) -> list[str]:
    """Who signed, top to bottom."""
    signatures = fields(content, "DKIM-Signature")
    return [re.search(rb"[; \t]s=([a-z]+)", value)[1].decode() for value in signatures]


def test_every_message_of_the_corpus_arrives_stamped_once(delivered: Delivered):
    assert set(delivered.contents) == set(CORPUS)
    for content in delivered.contents.values():
        assert_stamped(content)
        assert len(fields(content, "X-Relayed-By")) == 1


def test_signed_is_what_has_one_author_of_the_domain(delivered: Delivered):
    assert {name for name, content in delivered.contents.items() if "rsa" not in selectors(content)} == UNSIGNED
    for name in SIGNED:
        assert selectors(delivered.contents[name])[:2] == ["rsa", "ed"]


@pytest.mark.parametrize("name", READABLE)
def test_dkimpy_verifies_both_signatures(delivered: Delivered, name: str):
    content = delivered.contents[name]
    assert verifies(content, 0, delivered.records)
    assert verifies(content, 1, delivered.records)


@needs("opendkim")
@pytest.mark.parametrize("name", READABLE)
def test_opendkim_verifies_both_signatures(delivered: Delivered, tmp_path: Path, name: str):
    assert verdicts(delivered, delivered.contents[name], tmp_path)[:2] == ["pass", "pass"]


@pytest.mark.parametrize("name", CLIENT_SIGNED)
def test_the_signature_of_the_client_still_verifies(delivered: Delivered, tmp_path: Path, name: str):
    content = delivered.contents[name]
    assert selectors(content) == ["rsa", "ed", "client"]
    assert verifies(content, 2, delivered.records)
    if shutil.which("opendkim"):
        assert verdicts(delivered, content, tmp_path) == ["pass", "pass", "pass"]


def test_a_client_that_signs_a_header_of_the_relay_loses_its_signature_and_it_is_said(delivered: Delivered):
    """X-Zone is the relay's to set: what the client wrote there goes, and with it the signature that covers it."""
    content = delivered.contents["signed-covers-ours"]
    assert verifies(CORPUS["signed-covers-ours"], 0, delivered.records)
    assert not verifies(content, 2, delivered.records)
    assert verifies(content, 0, delivered.records)
    assert verifies(content, 1, delivered.records)
    said = [event for event in delivered.relay.events("message.accepted") if "signature_broken_by_removing" in event]
    assert [event["recipients"] for event in said] == [["signed-covers-ours@customer.example"]]
    assert said[0]["signature_broken_by_removing"] == ["x-zone"]


@needs("opendkim")
def test_both_verifiers_notice_a_change(delivered: Delivered, tmp_path: Path):
    changed = delivered.contents["plain"].replace(b"Subject: Order", b"Subject: Border")
    assert not verifies(changed, 0, delivered.records)
    assert not verifies(changed, 1, delivered.records)
    assert verdicts(delivered, changed, tmp_path) == ["fail", "fail"]
    changed = delivered.contents["plain"] + b"more\r\n"
    assert not verifies(changed, 0, delivered.records)
    assert verdicts(delivered, changed, tmp_path) == ["fail", "fail"]
