"""A report reaches its reader through any node, whatever the original needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.delivery.reports import ReportPolicy, Reports
from relay.dsn import Action, Reporter
from relay.envelope import Content, Facts, Lane, Message, Recipient
from relay.events import Events
from relay.ids import IdSource
from relay.spool.memory import MemorySpool
from relay.transcode import transcode

MAIL = Path(__file__).parents[2] / "data" / "mail"
NOW = 1_800_000_000.0


async def report_on(name: str, *, sender: str, recipient: str, smtputf8: bool) -> tuple[Message, Content]:
    """The report on a message of the corpus that could not be delivered."""
    head, _, body = (MAIL / f"{name}.eml").read_bytes().partition(b"\r\n\r\n")
    content = Content(head + b"\r\n", body)
    message = Message(
        id="01M81G2WVVEEW0002NFW577V9Q",
        bridge="app",
        pool="main",
        lane=Lane.TRANSACTIONAL,
        sender=sender,
        recipients=(Recipient(address=recipient, code=550, enhanced="5.1.1", text="no such user"),),
        received_at=NOW,
        size=content.size,
        feedtype="transactional",
        facts=Facts(eight_bit=True, smtputf8=smtputf8),
    )
    spool = MemorySpool()
    await spool.store(message, content, lease=True)
    made: list[Message] = []
    reports = Reports(
        spool=spool,
        pools={},
        ids=IdSource(lambda: NOW),
        events=Events((), lambda: NOW),
        policy=ReportPolicy(
            enabled=True, reporter=Reporter(hostname="relay.example.com", address="md@relay.example.com")
        ),
        clock=lambda: NOW,
        stored=made.append,
    )
    await reports.tell(message, message.recipients, Action.FAILED)
    assert len(made) == 1
    return made[0], await spool.content(made[0].id)


@pytest.mark.parametrize("name", sorted(path.stem for path in MAIL.glob("*.eml")))
async def test_a_report_to_an_ascii_address_fits_a_node_that_takes_7_bits(name):
    for smtputf8 in (False, True):
        report, content = await report_on(
            name, sender="shop@acme.example", recipient="jürgen@customer.example", smtputf8=smtputf8
        )
        assert not report.facts.smtputf8
        assert content.head.isascii()
        fitted = transcode(content, eight_bit=True, long_lines=False, signed=False)
        assert fitted.body.isascii()
        assert b"Final-Recipient: utf-8; j\\x{FC}rgen@customer.example" in fitted.body


async def test_a_report_to_an_international_address_is_written_in_utf_8():
    report, content = await report_on(
        "smtputf8", sender="zoë@acme.example", recipient="jürgen@customer.example", smtputf8=True
    )
    assert report.facts.smtputf8
    assert "Final-Recipient: utf-8; jürgen@customer.example".encode() in content.body


async def test_a_signed_original_that_may_not_be_changed_comes_back_as_headers_only():
    _, content = await report_on("pgp-signed", sender="a@acme.example", recipient="b@customer.example", smtputf8=False)
    assert b"text/rfc822-headers" in content.body
    assert b"message/rfc822" not in content.body
