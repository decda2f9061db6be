"""Header text for people: decoded, bounded, without anything that moves a cursor or ends a line."""

from __future__ import annotations

import time
import unicodedata
from email.header import decode_header, make_header

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.headers import clean, encode_mailbox, encode_text, mail_date, readable


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"Order 1042", "Order 1042"),
        (b"=?utf-8?q?Gr=C3=BC=C3=9Fe?= aus Bonn", "Grüße aus Bonn"),
        (b"=?utf-8?Q?a_b?=", "a b"),
        (b"=?utf-8?b?w7w=?=  =?utf-8?b?w7w=?=", "üü"),
        (b"=?utf-8?b?w7w=?=\r\n =?iso-8859-1?q?=FC?= x", "üü x"),
        (b"=?utf-8?b?YWI?= =?utf-8?b?w?=", "ab =?utf-8?b?w?="),  # padding forgotten; no base64 at all
        (b"=?utf-8?q?=C3?= =?utf-8?q?=BC?=", "ü"),  # a character cut in two by its writer
        (b"=?utf-8*de?q?=C3=BC?=", "ü"),
        (b"=?iso-2022-jp?b?GyRCJDRDbUo4GyhC?=", "ご注文"),
        (b"=?x-nothing?q?a?=", "=?x-nothing?q?a?="),
        (b"=?hex?b?AA==?=", "=?hex?b?AA==?="),
        (b"=?unicode_escape?q?=5Cu0041?=", "=?unicode_escape?q?=5Cu0041?="),
        (b"=?utf-8?q?a=0D=0ABcc:_x=40y?=", "a Bcc: x@y"),
        (b"=?utf-8?b?4oCuZXhlLnBkZg==?=", "exe.pdf"),
        (b"Gr\xc3\xbc\xc3\x9fe", "Grüße"),
        (b"Gr\xfc\xdfe", "Gr\ufffd\ufffde"),
        (b"a\x1b[31mred\x00", "a [31mred"),
        (b"=?utf-8?b?broken", "=?utf-8?b?broken"),
        (b"", ""),
    ],
)
def test_readable(value, text):
    assert readable(value) == text


@given(st.binary(max_size=200) | st.text(max_size=60).map(lambda t: b"=?utf-8?b?" + encode_text("ü" + t)))
def test_readable_never_fails_and_holds_no_controls(value):
    text = readable(value)
    assert len(text) <= 200
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in text)


@pytest.mark.parametrize("value", [b"=?" * 100_000, b"=?utf-8?q?a?= " * 20_000, b"=?utf-8?b?" + b"A" * 300_000 + b"?="])
def test_readable_is_bounded(value):
    started = time.process_time()
    readable(value)
    assert time.process_time() - started < 0.1


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=120))
def test_encoded_text_reads_back(text):
    value = encode_text(text)
    assert value.isascii()
    assert max(map(len, value.split(b"\r\n"))) <= max(78, len(text))
    if not text.isascii():
        assert str(make_header(decode_header(value.decode().replace("\r\n", "")))) == text


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("", b"a@b.example"),
        ("Acme Shop", b"Acme Shop <a@b.example>"),
        ('Doe, "Jo"', b'"Doe, \\"Jo\\"" <a@b.example>'),
        ("Grüße", b"=?utf-8?b?R3LDvMOfZQ==?= <a@b.example>"),
    ],
)
def test_encode_mailbox(name, field):
    assert encode_mailbox(name, "a@b.example") == field


def test_mail_date():
    assert mail_date(1_700_000_000.9) == b"Tue, 14 Nov 2023 22:13:20 +0000"


def test_clean_makes_one_line():
    assert clean("a\r\nb\tc\x00 \u2028d") == "a b c d"
    assert clean("a b c d", 6) == "a b c"
    assert clean("x" * 900) == "x" * 500
