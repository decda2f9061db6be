"""Programs of others log in over every TLS mode and their messages leave the relay as they were sent."""

from __future__ import annotations

import email
import email.policy
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from tests.interop.clients import CLIENTS, Client, nodemailer_run
from tests.interop.gateway import Passage
from tests.interop.programs import needs
from tests.interop.samples import assert_passed_on, assert_stamped, fields, message

pytestmark = [pytest.mark.interop, pytest.mark.scenario]


CASES = [
    pytest.param(name, client, mode, id=f"{name}-{mode}", marks=[needs(client.program)] if client.program else [])
    for name, client in CLIENTS.items()
    for mode in client.modes
]


@pytest.mark.parametrize(("name", "client", "mode"), CASES)
def test_a_client_delivers_with_a_login(passage: Passage, tmp_path: Path, name: str, client: Client, mode: str):
    original = message(name)
    recipients = [f"{name}.{mode}@customer.example", f"copy.{name}.{mode}@customer.example"]
    client.send(passage.gateway.doors[mode], "bounces@acme.example", recipients, original, tmp_path)
    arrived = passage.arrived(recipients[0])
    assert arrived.sender == "bounces@acme.example"
    assert arrived.recipients == recipients
    assert_passed_on(arrived.content, original + client.tail)
    trace = fields(arrived.content, "Received")
    assert len(trace) == 1
    assert (b"with ESMTPA " if mode == "none" else b"with ESMTPSA ") in trace[0]


@needs("nodemailer")
def test_what_nodemailer_composes_arrives_whole(passage: Passage, tmp_path: Path):
    """Not a finished message but what an application gives: text, markup, an attachment, headers of its own."""
    (tmp_path / "invoice.pdf").write_bytes(b"%PDF-1.4\n" + bytes(range(256)) * 2000)
    answer = nodemailer_run(
        passage.gateway.doors["starttls"],
        {
            "from": "Acme Bücher <shop@acme.example>",
            "to": "composed@customer.example",
            "bcc": "hidden@customer.example",
            "subject": "Ihre Bestellung: 注文 №1042",
            "text": ".\nGrüße\n",
            "html": "<p>Grüße</p>",
            "attachments": [{"path": str(tmp_path / "invoice.pdf")}],
            "headers": {"X-Virtual-MTA": "forged", "X-Campaign": "spring"},
        },
    )
    assert answer.startswith("250 2.0.0 Ok: queued as ")
    arrived = passage.arrived("composed@customer.example")
    assert sorted(arrived.recipients) == ["composed@customer.example", "hidden@customer.example"]
    assert_stamped(arrived.content)
    assert b"hidden@" not in arrived.content
    parsed = email.message_from_bytes(arrived.content, policy=email.policy.default)
    assert parsed["Subject"] == "Ihre Bestellung: 注文 №1042"
    assert parsed["X-Campaign"] == "spring"
    assert parsed.get_body(("plain",)).get_content() == ".\r\nGrüße\r\n"
    assert next(parsed.iter_attachments()).get_content() == (tmp_path / "invoice.pdf").read_bytes()


WRONG = [
    pytest.param(name, id=name, marks=[needs(CLIENTS[name].program)] if CLIENTS[name].program else [])
    for name in ("swaks-plain", "msmtp-plain", "curl-login", "nodemailer")
]


@pytest.mark.parametrize("name", WRONG)
def test_a_client_with_a_wrong_password_hears_it_and_nothing_leaves(passage: Passage, tmp_path: Path, name: str):
    door = replace(passage.gateway.doors["starttls"], password="wrong")
    with pytest.raises(AssertionError, match=r"535|67|ogin|uthentication"):
        CLIENTS[name].send(door, "a@acme.example", [f"wrong.{name}@customer.example"], message(name), tmp_path)
    assert not [t for t in passage.sink.transactions() if f"wrong.{name}@customer.example" in t["to"]]


@pytest.mark.parametrize("name", WRONG)
def test_a_client_that_does_not_know_the_authority_gives_no_password(passage: Passage, tmp_path: Path, name: str):
    """The clients of these tests really check the certificate: with another authority they stop before AUTH."""
    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(stranger)

    def logins() -> int:
        return sum(bool(event["username"]) for event in passage.gateway.relay.events("session.ended"))

    before = logins()
    door = replace(passage.gateway.doors["starttls"], ca=stranger)
    with pytest.raises(AssertionError, match=r"(?i)certificate|verif|tls|ssl"):
        CLIENTS[name].send(door, "a@acme.example", [f"stranger.{name}@customer.example"], message(name), tmp_path)
    assert logins() == before
