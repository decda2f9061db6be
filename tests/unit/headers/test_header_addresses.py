"""One clear mailbox, or none."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.headers import Mailboxes, domain_of, parse_mailboxes
from relay.headers.addresses import _COMMON, _mailboxes, tokens_of


@pytest.mark.parametrize(
    ("value", "addresses"),
    [
        (b" shop@acme.example", ["shop@acme.example"]),
        (b"<shop@acme.example>", ["shop@acme.example"]),
        (b'"Doe, Jo" <jo@Acme.Example>', ["jo@Acme.Example"]),
        (b'"Doe, \\"Jo\\" <x@evil.example>" <jo@acme.example>', ["jo@acme.example"]),
        (b"John Q. Public <jo@acme.example>", ["jo@acme.example"]),
        (b"a@acme.example (Jo)", ["a@acme.example"]),
        (b"(Jo (real)) a@acme.example", ["a@acme.example"]),
        (b"(\\) <x@y>) a@acme.example", ["a@acme.example"]),
        (b"=?utf-8?q?good=40acme=2Eexample?= <bad@other.example>", ["bad@other.example"]),
        (b"=?utf-8?q?a=40b?=@acme.example", ["=?utf-8?q?a=40b?=@acme.example"]),
        (b"a@acme.example <a@ACME.example>", ["a@ACME.example"]),
        (b"[Desk] Jo <jo@acme.example>", ["jo@acme.example"]),
        (b'"very odd@local"@acme.example', ['"very odd@local"@acme.example']),
        (b"jo@[192.0.2.7]", ["jo@[192.0.2.7]"]),
        (b"J\xc3\xbcrgen <j\xc3\xbc@b\xc3\xbccher.example>", ["jü@bücher.example"]),
        (b"a@x.example, B <b@y.example>", ["a@x.example", "b@y.example"]),
        (b"a@x.example,", ["a@x.example"]),
        (b"Jo\r\n <jo@acme.example>", ["jo@acme.example"]),
        (b"", []),
        (b"  ", []),
    ],
)
def test_clear_lists(value, addresses):
    assert parse_mailboxes(value) == Mailboxes(tuple(addresses))


def test_groups_are_told_apart():
    assert parse_mailboxes(b"Shop: a@x.example, b@y.example;") == Mailboxes(("a@x.example", "b@y.example"), True)
    assert parse_mailboxes(b"undisclosed-recipients:;") == Mailboxes((), True)


@pytest.mark.parametrize(
    "value",
    [
        b"good@acme.example<bad@other.example>",
        b"good@acme.example <bad@other.example>",
        b"Doe, Jo <jo@acme.example>",
        b"<@relay.example:jo@acme.example>",
        b"jo @acme.example",
        b"jo@acme.example jo@acme.example",
        b"<jo@acme.example> <x@y.example>",
        b"<jo@acme.example",
        b'"jo <jo@acme.example>',
        b"(jo jo@acme.example",
        b"jo)@acme.example",
        b"jo@acme..example",
        b".jo@acme.example",
        b"jo.@acme.example",
        b"jo@-acme.example",
        b"jo@acme.example.",
        b"jo@",
        b"@acme.example",
        b"jo",
        b"<>",
        b"jo@acme\0.example",
        b"jo\x07 <jo@acme.example>",
        b"j\xfc@acme.example",
        b"a: b: c@d.example;",
        b"group: a@x.example",
        b"a@x.example;",
        b"jo@[192.0.2.7",
        b"Re: hello <jo@acme.example>",
        b"jo(c)@acme.example",
        b"jo@acme.example" * 4000,
    ],
)
def test_what_readers_could_read_differently_is_none(value):
    assert parse_mailboxes(value) is None


@given(st.text(alphabet='ab.@<>," ()\\[]:;é\t=?-', max_size=30))
def test_the_fast_form_and_the_scanner_agree(text):
    value = text.encode()
    tokens = tokens_of(value)
    slow = None if tokens is None else _mailboxes(tokens)
    assert parse_mailboxes(value) == slow


def test_the_fast_form_takes_the_usual_mail():
    assert _COMMON.fullmatch(b' "Acme Shop" <shop@acme.example>')
    assert _COMMON.fullmatch(b" Acme Shop <shop@acme.example>")


@given(st.binary(max_size=60))
def test_any_octets_give_an_answer(value):
    found = parse_mailboxes(value)
    for address in found.addresses if found else ():
        assert "@" in address
        assert address.isprintable() or not address.isascii()


@pytest.mark.parametrize(
    "value",
    [
        b"(" * 30_000,
        b"(" * 15_000 + b")" * 15_000,
        b'",<' * 10_000,
        b"a " * 15_000,
        b"a@b.example," * 2_500,
        b"\\" * 30_000,
    ],
)
def test_hostile_values_take_linear_time(value):
    started = time.process_time()
    parse_mailboxes(value)
    assert time.process_time() - started < 1  # quadratic would be ten and more


def test_domain_of():
    assert domain_of("Jo@ACME.example") == "acme.example"
    assert domain_of('"a@b"@acme.example') == "acme.example"
    assert domain_of("") == ""
