"""Acceptance: what is added, removed, read; and that everything else stays (R38)."""

from __future__ import annotations

import time
from pathlib import Path

import dkim
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.envelope import Content, Lane
from relay.headers import CONTROLS, STAMPED, Trace, from_domain, prepare, stamp, walk
from relay.pools.pool import Node, Pool, Rotation

MAIL = Path(__file__).parents[2] / "data" / "mail"
NAMES = sorted(path.stem for path in MAIL.glob("*.eml"))
SIGNED = [name for name in NAMES if name.startswith("signed-")]
REMOVED = {*STAMPED, *CONTROLS, b"bcc", b"resent-bcc", b"return-path"}
NOW = 1_700_000_000.0
TRACE = Trace(
    helo="client.example", peer="192.0.2.7", hostname="relay.acme.example", protocol="ESMTPSA", id="01HFABCDEF"
)


def split(octets: bytes) -> tuple[bytes, bytes]:
    """Header section and body as the listener divides them."""
    if octets.startswith(b"\r\n"):
        return b"", octets[2:]
    head, blank, body = octets.partition(b"\r\n\r\n")
    return (head + b"\r\n", body) if blank else (octets, b"")


def mail(name: str) -> tuple[bytes, bytes]:
    return split((MAIL / f"{name}.eml").read_bytes())


def prepared(head: bytes, trace: Trace = TRACE):
    return prepare(head, trace=trace, now=NOW, new_message_id=lambda: "<01HFABCDEF@relay.acme.example>")


def names_of(head: bytes) -> list[bytes]:
    return [field.name for field in walk(head)]


@pytest.mark.parametrize("name", NAMES)
def test_original_fields_stay_byte_for_byte_in_order(name):
    head, _ = mail(name)
    result = prepared(head)
    kept = b"".join(field.raw for field in walk(head) if field.name not in REMOVED)
    assert result.head.endswith(kept)
    added = walk(result.head[: len(result.head) - len(kept)])
    assert added[0].name == b"received"
    guard = kept[:1] in (b" ", b"\t")
    assert (added[-1].name == b"x-relay-malformed") is guard
    assert [field.name for field in added[1 : len(added) - guard]] in (
        [],
        [b"date"],
        [b"message-id"],
        [b"date", b"message-id"],
    )
    assert len(result.removed) == len(walk(head)) - len(walk(kept))
    assert not set(names_of(result.head)) & REMOVED


field_text = st.text(alphabet='abcXZ -:;,.<>@"()=?é\t', max_size=40).map(str.encode)
field_name = st.sampled_from(
    [
        b"From",
        b"Subject",
        b"X-Zone",
        b"bcc",
        b"Received",
        b"Date",
        b"Message-ID",
        b"DKIM-Signature",
        b"X-A",
        b"no colon",
    ]
)


@given(st.lists(st.tuples(field_name, field_text), max_size=12))
def test_any_fields_survive_and_are_never_an_error(fields):
    head = b"".join(name + b":" + text.replace(b"\t", b"\r\n\t") + b"\r\n" for name, text in fields)
    result = prepared(head)
    assert result.head.endswith(b"".join(field.raw for field in walk(head) if field.name not in REMOVED))
    assert b"\r\n\r\n" not in result.head


@given(st.binary(max_size=300))
def test_any_octets_are_never_an_error(head):
    result = prepared(head)
    result.facts()
    assert result.head.endswith(b"\r\n")


@pytest.mark.parametrize("name", SIGNED)
def test_client_signatures_still_verify_after_prepare_and_stamp(name):
    head, body = mail(name)
    result = prepared(head)
    pool = Pool(
        name="p", id=7, internal_name="acme-42-mta4-pool-7", mta="mta4", zone="us-1", feedtype="transactional",
        rotation=Rotation.RANDOM, nodes=(), headers=(("X-Mailer-Variant", "a"), ("List-Id", "ours")),
    )  # fmt: skip
    node = Node(name="n", pool="p", type="smtp", from_email="f@acme.example", reply_to="r@acme.example")
    out = stamp(Content(result.head, body), pool=pool, node=node)
    record = (MAIL / "client.txt").read_bytes().strip()
    verified = dkim.DKIM(out.head + b"\r\n" + body).verify(0, lambda name, timeout=5: record)
    assert result.signed
    assert verified is (name != "signed-covers-ours")
    assert bool(result.unsigned_by_removal) is (name == "signed-covers-ours")


def test_a_removed_field_that_the_client_signed_is_named():
    assert prepared(mail("signed-covers-ours")[0]).unsigned_by_removal == ("x-zone",)


def test_nothing_is_added_that_a_signature_guards_against():
    result = prepared(mail("signed-without-date")[0])
    assert b"date" not in names_of(result.head)
    assert result.message_id == ""


def test_control_fields_are_read_and_removed():
    result = prepared(mail("controls")[0])
    assert (result.campaign, result.rotation, result.lane) == ("spring", Rotation.WEIGHTED, Lane.BULK)
    assert result.idempotency_key == "k-1"
    assert sorted(result.removed) == sorted(
        ["x-virtual-mta", "x-feedtype", "x-zone", "x-serverid", "x-serverid", "bcc", "bcc", "return-path"]
        + [name.decode() for name in CONTROLS]
    )
    assert b"secret@" not in result.head
    assert b"third@" not in result.head


def test_invalid_control_values_are_ignored_but_removed():
    result = prepared(mail("controls-invalid")[0])
    assert (result.campaign, result.rotation, result.lane) == ("", None, None)
    assert b"x-relay" not in result.head.lower()


@pytest.mark.parametrize("value", [b"a" * 65, b"a/b", b"", b"\xc3\xbc", b"a\r\n b"])
def test_campaign_values_outside_the_grammar_count_as_none(value):
    assert prepared(b"X-Relay-Campaign: " + value + b"\r\n").campaign == ""


def test_the_first_valid_of_repeated_control_fields_counts():
    head = b"X-Relay-Lane: none\r\nx-relay-lane : Bulk\r\nX-Relay-Lane: transactional\r\n"
    assert prepared(head).lane is Lane.BULK


def test_blank_before_the_colon_does_not_smuggle_a_control_field():
    result = prepared(mail("blank-before-colon")[0])
    assert result.removed == ("x-zone",)
    assert result.from_domain == "acme.example"


def test_missing_date_and_message_id_are_added_once():
    result = prepared(mail("no-date-no-id")[0])
    assert names_of(result.head)[:3] == [b"received", b"date", b"message-id"]
    assert result.message_id == "<01HFABCDEF@relay.acme.example>"
    assert b"Date: Tue, 14 Nov 2023 22:13:20 +0000\r\n" in result.head


def test_present_date_and_message_id_are_left():
    result = prepared(mail("plain")[0])
    assert names_of(result.head).count(b"date") == names_of(result.head).count(b"message-id") == 1
    assert result.message_id == "<1.1700000000@acme.example>"


def test_empty_message_gets_what_makes_it_a_message():
    assert names_of(prepared(b"").head) == [b"received", b"date", b"message-id"]


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("plain", "acme.example"),
        ("from-quoted", "acme.example"),
        ("from-encoded-address", "other.example"),
        ("nested-comments", "acme.example"),
        ("no-from", ""),
        ("two-from", ""),
        ("from-list", ""),
        ("from-group", ""),
        ("from-trick", ""),
        ("empty-values", ""),
    ],
)
def test_from_domain_is_that_of_the_one_clear_mailbox(name, domain):
    result = prepared(mail(name)[0])
    assert result.from_domain == domain == from_domain(result.head)
    assert result.has_from is (name != "no-from")


def test_all_from_mailboxes_are_given_for_policy():
    assert prepared(mail("from-list")[0]).from_addresses == ("a@acme.example", "b@acme.example")
    assert prepared(mail("two-from")[0]).from_addresses == ("shop@acme.example", "evil@other.example")
    assert prepared(mail("from-trick")[0]).from_addresses == ()


def test_a_first_line_that_begins_with_a_blank_does_not_continue_a_field_of_ours():
    result = prepared(b" Bcc: x\r\nno colon\r\nSubject: y\r\n")
    assert result.malformed == 2
    assert result.head.endswith(b"X-Relay-Malformed:\r\n Bcc: x\r\nno colon\r\nSubject: y\r\n")
    ids = [field.text for field in walk(result.head) if field.name == b"message-id"]
    assert ids == [b"<01HFABCDEF@relay.acme.example>"]


def test_repeated_single_fields_are_reported():
    assert prepared(mail("two-subjects")[0]).repeated == ("date", "subject")
    assert prepared(mail("two-from")[0]).repeated == ("from",)


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("subject-arabic", "تأكيد الطلب رقم 1042"),
        ("subject-japanese", "ご注文の確認"),
        ("subject-korean", "주문이 접수되었습니다"),
        ("hidden-line-in-subject", "a Bcc: x@y"),
        ("direction-marks", "exe.pdf"),
        ("smtputf8", "Grüße ohne Kodierung"),
    ],
)
def test_subject_for_display(name, subject):
    assert prepared(mail(name)[0]).subject == subject


def test_hops_are_counted():
    result = prepared(mail("hops")[0])
    assert (result.hops, result.own_hops) == (25, 0)
    again = prepared(prepared(result.head).head)
    assert (again.hops, again.own_hops) == (27, 2)


def test_a_forged_verdict_of_ours_is_removed_and_others_stay():
    head = (
        b"Authentication-Results: Relay.Acme.Example 1; dkim=pass\r\n"
        b"Authentication-Results: other.example; dkim=pass\r\n"
    )
    result = prepared(head)
    assert result.removed == ("authentication-results",)
    assert b"other.example; dkim=pass" in result.head


def test_facts_join_both_sides():
    facts = prepared(mail("smtputf8")[0]).facts(long_lines=True, smtputf8=True)
    assert facts.eight_bit
    assert facts.long_lines
    assert facts.smtputf8
    assert facts.subject == "Grüße ohne Kodierung"


# Received


def trace_field(**changes) -> bytes:
    values = {
        "helo": "client.example",
        "peer": "192.0.2.7",
        "hostname": "relay.example",
        "protocol": "ESMTPSA",
        "id": "X",
    }
    return walk(prepared(b"", Trace(**(values | changes))).head)[0].text.replace(b"\t", b" ")


def test_received_names_client_relay_protocol_id_and_date():
    assert trace_field() == (
        b"from client.example ([192.0.2.7]) by relay.example with ESMTPSA id X; Tue, 14 Nov 2023 22:13:20 +0000"
    )


def test_received_writes_ipv6_as_a_literal():
    assert b"([IPv6:2001:db8::7])" in trace_field(peer="2001:db8::7")


def test_received_tells_the_recipient_only_when_there_is_one():
    assert b" for <jane@x.example>; " in trace_field(recipients=("jane@x.example",))
    assert b" for " not in trace_field(recipients=("jane@x.example", "joe@x.example"))


def test_received_can_hide_the_client():
    field = trace_field(hide_client=True)
    assert field.startswith(b"by relay.example with ESMTPSA id X;")


@pytest.mark.parametrize("helo", ["a b", "x; by evil.example", "(", "[127.0.0.1", "", "x\r\nBcc: y", "ü"])
def test_received_never_repeats_a_helo_that_is_no_name(helo):
    assert trace_field(helo=helo).startswith(b"from [192.0.2.7] ([192.0.2.7]) by ")


def test_received_without_a_known_peer():
    assert trace_field(peer="", helo="").startswith(b"from unknown by ")


def test_received_names_a_utf8_recipient_only_under_utf8_protocols():
    assert b" for " not in trace_field(recipients=("jü@x.example",))
    assert " for <jü@x.example>".encode() in trace_field(recipients=("jü@x.example",), protocol="UTF8SMTPSA")


def test_usual_header_work_is_quick():
    """The budget is 30 us a walk; the bound here only catches a change of order on a busy machine."""
    head, _ = mail("alternative")
    started = time.process_time()
    for _ in range(200):
        prepared(head)
    assert (time.process_time() - started) / 200 < 0.001


@pytest.mark.parametrize(
    "head",
    [
        b"a: b\r\n" * 40_000,
        b"From: " + b'",<' * 16_000 + b"\r\n",
        b"Received: x\r\n" * 20_000,
        b"Subject: " + b"=?" * 99_000,
    ],
    ids=["fields", "quotes", "hops", "words"],
)
def test_hostile_header_sections_are_done_in_a_second(head):
    started = time.process_time()
    prepared(head)
    assert time.process_time() - started < 1
