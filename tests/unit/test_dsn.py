"""Reports: when they are due, and that programs and people can read them."""

from __future__ import annotations

import email
import email.policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.dsn import Action, Reporter, build_dsn, due, status_code
from relay.envelope import Facts, Lane, Message, Recipient

REPORTER = Reporter(hostname="relay.acme.example", address="postmaster@relay.acme.example")
HEAD = b"From: shop@acme.example\r\nSubject: Order 1042\r\n"
BODY = b"Hello\r\n.\r\n"


def message(**changes) -> Message:
    values = {
        "id": "01HFABCDEF", "bridge": "shop", "pool": "p", "lane": Lane.BULK, "sender": "shop@acme.example",
        "recipients": (), "received_at": 1_700_000_000.0, "size": 100,
        "facts": Facts(subject="Order 1042", message_id="<1@acme.example>"),
    }  # fmt: skip
    return Message(**(values | changes))


def recipient(address="jane@customer.example", **changes) -> Recipient:
    return Recipient(**({"address": address, "code": 550, "enhanced": "5.1.1", "text": "no such user"} | changes))


def built(recipients=None, action=Action.FAILED, *, msg=None, head=HEAD, body=BODY, **options) -> tuple[bytes, bytes]:
    return build_dsn(
        msg or message(), recipients or [recipient()], action, reporter=REPORTER, head=head, body=body,
        **({"now": 1_700_003_600.0, "message_id": "<dsn@relay.acme.example>", "boundary": "b1"} | options),
    )  # fmt: skip


def parsed(*args, **options) -> email.message.EmailMessage:
    head, body = built(*args, **options)
    return email.message_from_bytes(head + b"\r\n" + body, policy=email.policy.default)


def parts(report):
    human, status, returned = report.iter_parts()
    return human, status, returned


def blocks(status) -> list[email.message.Message]:
    return status.get_payload()


# When


@pytest.mark.parametrize(
    ("sender", "why"),
    [("", "null reverse-path"), ("Postmaster@Relay.acme.example", "loop"), ("localuser", "no domain")],
)
def test_never_to_the_null_sender_ourselves_or_nobody(sender, why):
    for action in Action:
        answer = due(message(sender=sender), [recipient()], action, reporter=REPORTER)
        assert answer.recipients == ()
        assert why in answer.why


@pytest.mark.parametrize(
    ("notify", "failure", "delay"),
    [
        ("", True, True),
        ("NEVER", False, False),
        ("FAILURE", True, False),
        ("SUCCESS", False, False),
        ("DELAY", False, True),
        ("SUCCESS,FAILURE,DELAY", True, True),
        ("never", False, False),
        ("NEVER,FAILURE", False, False),
    ],
)
def test_notify_decides_for_each_recipient(notify, failure, delay):
    one = recipient(notify=notify)
    assert bool(due(message(), [one], Action.FAILED, reporter=REPORTER).recipients) is failure
    assert bool(due(message(), [one], Action.EXPIRED, reporter=REPORTER).recipients) is failure
    assert bool(due(message(), [one], Action.DELAYED, reporter=REPORTER).recipients) is delay


def test_only_those_who_asked_are_reported_and_silence_has_a_reason():
    asked, silent = recipient("a@x.example"), recipient("b@x.example", notify="NEVER")
    assert due(message(), [asked, silent], Action.FAILED, reporter=REPORTER).recipients == (asked,)
    assert "NOTIFY" in due(message(), [silent], Action.FAILED, reporter=REPORTER).why


# What


def test_a_failure_report_reads_back_with_all_its_fields():
    report = parsed(
        [recipient(orcpt="rfc822;Jane@Old.example"), recipient("joe@x.example", code=0, enhanced="", text="")],
        msg=message(envid="QQ 314159"),
    )
    assert report.get_content_type() == "multipart/report"
    assert report["content-type"].params["report-type"] == "delivery-status"
    assert report["auto-submitted"] == "auto-replied"
    assert report["to"] == "shop@acme.example"
    assert report["from"] == "Mail Delivery System <postmaster@relay.acme.example>"
    assert report["references"] == "<1@acme.example>"
    assert report["message-id"] == "<dsn@relay.acme.example>"
    assert not report.defects
    human, status, returned = parts(report)
    per_message, first, second = blocks(status)
    assert per_message["Reporting-MTA"] == "dns; relay.acme.example"
    assert per_message["Original-Envelope-Id"] == "QQ 314159"
    assert first["Original-Recipient"] == "rfc822; Jane@Old.example"
    assert first["Final-Recipient"] == "rfc822; jane@customer.example"
    assert (first["Action"], first["Status"]) == ("failed", "5.1.1")
    assert first["Diagnostic-Code"] == "smtp; 550 5.1.1 no such user"
    assert second["Diagnostic-Code"] is None
    assert (second["Action"], second["Status"]) == ("failed", "5.0.0")
    text = human.get_content()
    assert "Order 1042" in text
    assert "<jane@customer.example>" in text
    assert "550 5.1.1 no such user" in text
    assert "<joe@x.example>" in text
    assert "01HFABCDEF" in text
    assert returned.get_content_type() == "message/rfc822"
    assert returned.get_content()["subject"] == "Order 1042"


def test_passed_on_to_a_server_that_will_not_confirm_reports_relayed():
    taken = recipient(notify="SUCCESS", code=250, enhanced="2.0.0", text="queued")
    report = parsed([taken], Action.RELAYED)
    (_, relayed) = blocks(parts(report)[1])
    assert (relayed["Action"], relayed["Status"]) == ("relayed", "2.0.0")
    assert "does not confirm" in parts(report)[0].get_content()
    assert "Undelivered" not in report["subject"]


@pytest.mark.parametrize(
    ("notify", "told"),
    [("", False), ("FAILURE", False), ("NEVER", False), ("SUCCESS", True), ("SUCCESS,FAILURE", True)],
)
def test_success_is_reported_only_where_it_was_asked_for(notify, told):
    one = recipient(notify=notify)
    assert bool(due(message(), [one], Action.RELAYED, reporter=REPORTER).recipients) is told


def test_expired_reports_failed_and_delayed_says_until_when():
    temporary = recipient(code=451, enhanced="4.3.0", text="later")
    (_, expired) = blocks(parts(parsed([temporary], Action.EXPIRED))[1])
    assert (expired["Action"], expired["Status"]) == ("failed", "5.4.7")
    report = parsed([temporary], Action.DELAYED, expires_at=1_700_100_000.0)
    (_, delayed) = blocks(parts(report)[1])
    assert (delayed["Action"], delayed["Status"]) == ("delayed", "4.3.0")
    assert delayed["Will-Retry-Until"] == "Thu, 16 Nov 2023 02:00:00 +0000"
    assert "Thu, 16 Nov 2023 02:00:00 +0000" in parts(report)[0].get_content()


@pytest.mark.parametrize(
    ("code", "enhanced", "action", "status"),
    [
        (550, "5.7.1", Action.FAILED, "5.7.1"),
        (550, "", Action.FAILED, "5.1.1"),
        (552, "", Action.FAILED, "5.2.2"),
        (599, "", Action.FAILED, "5.0.0"),
        (0, "", Action.FAILED, "5.0.0"),
        (413, "", Action.FAILED, "5.0.0"),
        (550, "nonsense", Action.FAILED, "5.1.1"),
        (451, "4.7.1", Action.FAILED, "5.7.1"),
        (250, "2.0.0", Action.FAILED, "5.0.0"),
        (451, "4.7.1", Action.EXPIRED, "5.4.7"),
        (0, "", Action.EXPIRED, "5.4.7"),
        (550, "5.1.1", Action.EXPIRED, "5.1.1"),
        (421, "", Action.DELAYED, "4.3.2"),
        (451, "4.7.1", Action.DELAYED, "4.7.1"),
        (0, "", Action.DELAYED, "4.0.0"),
    ],
)
def test_status_fits_the_action(code, enhanced, action, status):
    assert status_code(recipient(code=code, enhanced=enhanced), action) == status


def test_ret_hdrs_and_large_originals_return_headers_only():
    for report in (parsed(msg=message(ret="HDRS")), parsed(body=b"x" * 70_000), parsed(body=None)):
        returned = parts(report)[2]
        assert returned.get_content_type() == "text/rfc822-headers"
        assert "Subject: Order 1042" in returned.get_content()
    assert parts(parsed(msg=message(ret="FULL")))[2].get_content_type() == "message/rfc822"


def test_giant_header_sections_are_cut_at_a_field():
    _, body = built(head=HEAD + b"X-A: b\r\n" * 40_000, body=None)
    assert len(body) < 40_000
    assert body.rpartition(b"\r\n\r\n--b1--")[0].endswith(b"X-A: b")


def test_the_original_is_returned_octet_for_octet():
    _, body = built(body=BODY)
    assert HEAD + b"\r\n" + BODY in body


def test_eight_bit_originals_are_returned_under_an_honest_label():
    head, body = built(body="Grüße\r\n".encode())
    assert b"Content-Transfer-Encoding: 8bit\r\n" in head
    assert "Grüße".encode() in body
    returned = parts(parsed(head="Subject: Grüße\r\n".encode()))[2]
    assert returned.get_content_type() == "message/global"
    assert returned["content-transfer-encoding"] == "base64"
    returned = parts(parsed(body=b"x" * 2000 + b"\r\n"))[2]
    assert returned["content-transfer-encoding"] == "base64"


def test_an_original_that_holds_the_boundary_does_not_cut_the_report():
    report = parsed(body=b"--b1\r\nhello\r\n--b1--\r\n--b1=\r\n")
    assert len(list(report.iter_parts())) == 3
    assert "--b1--" in parts(report)[2].get_content().get_content()


def test_utf8_recipients_have_their_own_type():
    one = recipient("jü@bücher.example", orcpt="utf-8;jü@bücher.example", text="größer")
    report = parsed([one])
    (_, block) = blocks(parts(report)[1])
    assert block["Final-Recipient"] == "utf-8; j\\x{FC}@b\\x{FC}cher.example"
    assert block["Original-Recipient"] == "utf-8; j\\x{FC}@b\\x{FC}cher.example"
    assert "jü@bücher.example" in parts(report)[0].get_content()
    assert built([one])[1].isascii()
    _, body = built([one], smtputf8=True)
    assert b"Content-Type: message/global-delivery-status\r\n" in body
    assert "Final-Recipient: utf-8; jü@bücher.example\r\n".encode() in body


def test_peer_text_cannot_add_fields_or_lines():
    evil = recipient(text="no\r\nFinal-Recipient: rfc822; x@y\r\n\r\n--b1--\x1b[2J\x00 " + "x" * 600)
    msg = message(facts=Facts(subject="a\r\nBcc: x@y.example", message_id="<a\r\nX: y@b>"), envid="a\r\nX-Evil: b")
    report = parsed([evil], msg=msg)
    assert report["references"] is None
    assert report["bcc"] is None
    _, status, _ = parts(report)
    per_message, block = blocks(status)
    assert block.get_all("Final-Recipient") == ["rfc822; jane@customer.example"]
    assert per_message["X-Evil"] is None
    _, body = built([evil], msg=msg)
    assert b"\x1b" not in body
    assert b"\x00" not in body


@given(
    st.text(max_size=80),
    st.text(max_size=80),
    st.text(max_size=60),
    st.binary(max_size=80),
    st.sampled_from(list(Action)),
)
def test_any_text_gives_a_report_with_three_parts(text, subject, envid, octets, action):
    original = octets.replace(b"\r", b"").replace(b"\n", b"\r\n")
    head, body = built(
        [recipient(text=text)], action, msg=message(facts=Facts(subject=subject), envid=envid), body=original
    )
    assert head.isascii()
    report = email.message_from_bytes(head + b"\r\n" + body, policy=email.policy.compat32)
    assert len(report.get_payload()) == 3
    assert [part.get_content_type() for part in report.get_payload()][1] == "message/delivery-status"
    assert len(report.get_payload()[1].get_payload()) == 2
    assert max(map(len, (head + b"\r\n" + body).split(b"\r\n"))) <= 998


def test_what_is_no_report_is_refused():
    with pytest.raises(ValueError, match="recipients"):
        build_dsn(
            message(),
            [],
            Action.FAILED,
            reporter=REPORTER,
            head=b"",
            body=None,
            now=0,
            message_id="<a@b>",
            boundary="b",
        )
    with pytest.raises(ValueError, match="somebody"):
        built(msg=message(sender=""))
    with pytest.raises(ValueError, match="boundary"):
        built(boundary='a"b')
