"""What MAIL and RCPT accept: RFC 5321 paths, one reading of each, parameters checked to the letter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.envelope import Reply
from relay.errors import AcceptanceError
from relay.listener.paths import MailCommand, decode_xtext, parse_mail, parse_rcpt, recipient_key


def mail(argument: str | bytes, esmtp: bool = True) -> MailCommand:
    return parse_mail(argument.encode() if isinstance(argument, str) else argument, esmtp=esmtp)


def rcpt(argument: str | bytes, smtputf8: bool = False):
    octets = argument.encode() if isinstance(argument, str) else argument
    return parse_rcpt(octets, esmtp=True, smtputf8=smtputf8, own_domain="relay.example")


def refusal(parse, argument, **kwargs) -> str:
    with pytest.raises(AcceptanceError) as caught:
        parse(argument, **kwargs)
    reply = caught.value.reply
    assert reply.text.isprintable()
    return f"{reply.code} {reply.enhanced}"


def value_or_reply(parse, argument, **kwargs):
    try:
        return parse(argument, **kwargs)
    except AcceptanceError as error:
        return error.reply


LONG_LABEL = "a" * 63
GOOD_ADDRESSES = [
    "a@b.example",
    "A.b-c+d@B.Example",
    "!#$%&'*+-/=?^_`{|}~@b.example",
    "a@localhost",
    "a@[192.0.2.7]",
    "a@[IPv6:2001:db8::1]",
    '"a b"@c.example',
    r'"a\"b"@c.example',
    r'"a\\"@c.example',
    '"a@b"@c.example',
    '""@c.example',
    '"x> RCPT TO:<y"@c.example',
    '"(c)"@c.example',
    "u%evil@c.example",
    "evil!u@c.example",
    "`id`@c.example",
    "|/bin/sh@c.example",
    "/etc/passwd@c.example",
    "${run{id}}@c.example",
    "'or'1'='1@c.example",
    "a@xn--bcher-kva.example",
    f"a@{LONG_LABEL}.example",
    "a@1.2.3.4.example",
    "a" * 65 + "@b.example",
    "=?utf-8?q?a=0d=0aRCPT_TO:=3cevil=40x=3e?=@ok.example".replace(":", "."),
]


@pytest.mark.parametrize("address", GOOD_ADDRESSES)
def test_an_address_comes_out_exactly_as_it_was_written(address: str) -> None:
    assert mail(f"FROM:<{address}>").sender == address
    assert rcpt(f"TO:<{address}>").address == address


BAD_PATHS = {
    "missing close": "<a@b.example",
    "missing open": "a@b.example>",
    "doubled brackets": "<<a@b.example>>",
    "text behind": "<a@b.example>x",
    "two addresses": "<a@b.example>,<c@d.example>",
    "two at signs": "<a@b@c.example>",
    "no domain": "<nodomain>",
    "empty domain": "<a@>",
    "empty local part": "<@b.example>",
    "comment in local part": "<a(x)@b.example>",
    "comment in front": "<(x)a@b.example>",
    "comment behind": "<a@b.example(y)>",
    "shell substitution": "<$(id)@c.example>",
    "raw blank": "<a b@c.example>",
    "leading dot": "<.a@b.example>",
    "trailing dot in local part": "<a.@b.example>",
    "two dots in local part": "<a..b@c.example>",
    "two dots in domain": "<a@b..example>",
    "leading hyphen": "<a@-b.example>",
    "trailing hyphen": "<a@b-.example>",
    "underscore in domain": "<a@b_c.example>",
    "trailing dot in domain": "<a@b.example.>",
    "label of 64": f"<a@{'a' * 64}.example>",
    "domain of 256": f"<a@{'.'.join(['a' * 50] * 6)}>",
    "A-label that decodes to nothing": "<a@xn--\u0061-.example>",
    "IPv4 literal out of range": "<a@[999.1.1.1]>",
    "IPv6 literal of letters": "<a@[IPv6:zz]>",
    "literal without end": "<a@[192.0.2.1>",
    "port": "<a@b.example:25>",
    "local part of a thousand": f"<{'a' * 1000}@b.example>",
    "path over 256": f"<{'a' * 245}@b.example>",
    "open quote": '<"a@b.example>',
    "quote inside atom": '<a"b"@c.example>',
    "text behind quote": '<"a"b@c.example>',
    "backslash outside quotes": r"<a\@b@c.example>",
    "encoded-word with colon": "<=?utf-8?q?RCPT_TO:?=@ok.example>",
    "source route without address": "<@a.example,@b.example:>",
    "source route with junk": "<@a.example;u@c.example>",
    "only an open bracket": "<",
    "nothing": "",
}


@pytest.mark.parametrize("path", BAD_PATHS.values(), ids=BAD_PATHS.keys())
def test_a_malformed_path_is_501_for_sender_and_recipient(path: str) -> None:
    assert refusal(mail, f"FROM:{path}") in ("501 5.1.7", "501 5.1.8")
    assert refusal(rcpt, f"TO:{path}") in ("501 5.1.3", "501 5.1.2")


def test_a_second_address_after_a_blank_is_a_malformed_parameter() -> None:
    assert refusal(mail, "FROM:<a@b.example> <c@d.example>") == "501 5.5.4"


@pytest.mark.parametrize("octet", [0, 9, 10, 13, 27, 127])
@pytest.mark.parametrize("shape", [b"<a%bb@c.example>", b'<"a%bb"@c.example>', b"<a@b%bc.example>"])
def test_control_octets_are_refused_also_inside_quotes(octet: int, shape: bytes) -> None:
    path = shape % bytes((octet,))
    assert refusal(mail, b"FROM:" + path).startswith("501")
    assert refusal(rcpt, b"TO:" + path).startswith("501")


def test_the_null_reverse_path_is_empty_and_no_recipient() -> None:
    assert mail("FROM:<>") == MailCommand("")
    assert mail("FROM:<> SIZE=7") == MailCommand("", 7)
    assert refusal(rcpt, "TO:<>") == "501 5.1.3"


def test_missing_brackets_and_blanks_after_the_colon_are_tolerated() -> None:
    assert mail("FROM:a@b.example").sender == "a@b.example"
    assert mail("FROM:  <a@b.example>").sender == "a@b.example"
    assert mail("from:<a@b.example>").sender == "a@b.example"
    assert mail("FROM:a@b.example SIZE=3") == MailCommand("a@b.example", 3)
    assert refusal(mail, "FROM :<a@b.example>") == "501 5.5.4"
    assert refusal(rcpt, "TO <a@b.example>") == "501 5.5.4"
    assert refusal(mail, "TO:<a@b.example>") == "501 5.5.4"


def test_a_source_route_is_dropped() -> None:
    assert rcpt("TO:<@a.example,@b.example:u@c.example>").address == "u@c.example"


def test_postmaster_without_domain_is_completed() -> None:
    assert rcpt("TO:<Postmaster>").address == "Postmaster@relay.example"
    assert refusal(mail, "FROM:<postmaster>") == "501 5.1.7"


# UTF-8


def test_non_ascii_needs_smtputf8() -> None:
    assert refusal(mail, "FROM:<ü@b.example>") == "553 5.6.7"
    assert refusal(mail, "FROM:<a@bücher.example>") == "553 5.6.7"
    assert refusal(rcpt, "TO:<ü@b.example>") == "553 5.6.7"
    assert mail("FROM:<ü@bücher.example> SMTPUTF8") == MailCommand("ü@bücher.example", smtputf8=True)
    assert rcpt("TO:<ü@bücher.example>", smtputf8=True).address == "ü@bücher.example"


def test_utf8_addresses_are_stored_in_nfc() -> None:
    assert rcpt("TO:<u\u0308@b.example>", smtputf8=True).address == "ü@b.example"


@pytest.mark.parametrize(
    "path",
    [
        b"<\xff@b.example>",
        b"<\xed\xa0\x80@b.example>",
        b"<\xc0\xaf@b.example>",
        "<a\u202eb@c.example>".encode(),
        "<a\u200bb@c.example>".encode(),
        "<a\u00a0b@c.example>".encode(),
        "<a\u0085b@c.example>".encode(),
        "<a\u2028b@c.example>".encode(),
        "<a@b\u3002example>".encode(),
        "<a@\u200d.example>".encode(),
        "<a@b\u00fc-.example>".encode(),
        b"<a@\xff.example>",
    ],
    ids=["invalid", "surrogate", "over-long", "bidi", "zero width", "nbsp", "NEL", "LS", "dot", "ZWJ", "hyphen", "bad"],
)
def test_utf8_that_is_broken_or_invisible_is_refused(path: bytes) -> None:
    assert refusal(rcpt, b"TO:" + path, smtputf8=True) in ("501 5.1.3", "501 5.1.2")
    assert refusal(mail, b"FROM:" + path + b" SMTPUTF8") in ("501 5.1.7", "501 5.1.8")


# Parameters


def test_mail_parameters_are_read() -> None:
    command = mail("FROM:<a@b.example> size=00012 BODY=8bitmime RET=hdrs ENVID=a+2Bb AUTH=<> SMTPUTF8")
    assert command == MailCommand("a@b.example", size=12, smtputf8=True, ret="HDRS", envid="a+b")
    assert mail("FROM:<a@b.example> AUTH=a+40b") == MailCommand("a@b.example")


MAIL_PARAMETERS = {
    "SIZE": "501 5.5.4",
    "SIZE=": "501 5.5.4",
    "SIZE=abc": "501 5.5.4",
    "SIZE=-1": "501 5.5.4",
    "SIZE=1e9": "501 5.5.4",
    "SIZE=²": "501 5.5.4",
    "SIZE=" + "9" * 100: "552 5.3.4",
    "SIZE=" + "9" * 5000: "552 5.3.4",
    "SIZE=1 SIZE=2": "501 5.5.4",
    "SIZE=1 size=2": "501 5.5.4",
    "BODY": "501 5.5.4",
    "BODY=": "501 5.5.4",
    "BODY=foo": "501 5.5.4",
    "BODY=BINARYMIME": "501 5.5.4",
    "SMTPUTF8=1": "501 5.5.4",
    "RET": "501 5.5.4",
    "RET=ALL": "501 5.5.4",
    "ENVID": "501 5.5.4",
    "ENVID=+00": "501 5.5.4",
    "ENVID=a+0D+0Ab": "501 5.5.4",
    "ENVID=+2": "501 5.5.4",
    "ENVID=+2b": "501 5.5.4",
    "ENVID=+FF": "501 5.5.4",
    "ENVID=" + "a" * 10_000: "501 5.5.4",
    "AUTH": "501 5.5.4",
    "AUTH=a+0D+0Ab": "501 5.5.4",
    "AUTH=a+zz": "501 5.5.4",
    "XYZ": "555 5.5.4",
    "NOTIFY=NEVER": "555 5.5.4",
    "=x": "501 5.5.4",
    "-A=x": "501 5.5.4",
    "A=b=c": "501 5.5.4",
}


@pytest.mark.parametrize(("words", "expected"), MAIL_PARAMETERS.items(), ids=[k[:30] for k in MAIL_PARAMETERS])
def test_bad_mail_parameters(words: str, expected: str) -> None:
    assert refusal(mail, f"FROM:<a@b.example> {words}") == expected


def test_parameters_need_ehlo() -> None:
    assert refusal(mail, "FROM:<a@b.example> SIZE=1", esmtp=False) == "555 5.5.4"
    assert mail("FROM:<a@b.example>", esmtp=False).sender == "a@b.example"


def test_rcpt_parameters_are_read_and_decoded() -> None:
    recipient = rcpt("TO:<a@b.example> notify=success,Delay ORCPT=rfc822;a+2Bx@b.example")
    assert (recipient.notify, recipient.orcpt) == ("SUCCESS,DELAY", "rfc822;a+x@b.example")
    assert rcpt("TO:<a@b.example> NOTIFY=NEVER").notify == "NEVER"
    assert rcpt("TO:<a@b.example> ORCPT=utf-8;\\x{FC}@b.example").orcpt == "utf-8;ü@b.example"
    assert rcpt("TO:<a@b.example> ORCPT=utf-8;ü@b.example", smtputf8=True).orcpt == "utf-8;ü@b.example"


RCPT_PARAMETERS = {
    "NOTIFY": "501 5.5.4",
    "NOTIFY=": "501 5.5.4",
    "NOTIFY=NEVER,SUCCESS": "501 5.5.4",
    "NOTIFY=SUCCESS,SUCCESS": "501 5.5.4",
    "NOTIFY=SUCCESS,": "501 5.5.4",
    "NOTIFY=ALWAYS": "501 5.5.4",
    "ORCPT": "501 5.5.4",
    "ORCPT=rfc822": "501 5.5.4",
    "ORCPT=rfc822;": "501 5.5.4",
    "ORCPT=;a@b": "501 5.5.4",
    "ORCPT=rfc822;a+0D+0Ab": "501 5.5.4",
    "ORCPT=rfc822;a+00": "501 5.5.4",
    "ORCPT=rfc822;" + "a" * 10_000: "501 5.5.4",
    "ORCPT=utf-8;\\x{D800}": "501 5.5.4",
    "ORCPT=utf-8;\\x{FFFFFF}": "501 5.5.4",
    "ORCPT=utf-8;\\x{0D}\\x{0A}": "501 5.5.4",
    "ORCPT=utf-8;ü@b.example": "501 5.5.4",
    "ORCPT=rfc822;a@b ORCPT=rfc822;a@b": "501 5.5.4",
    "SIZE=1": "555 5.5.4",
    "X=y": "555 5.5.4",
}


@pytest.mark.parametrize(("words", "expected"), RCPT_PARAMETERS.items(), ids=[k[:30] for k in RCPT_PARAMETERS])
def test_bad_rcpt_parameters(words: str, expected: str) -> None:
    assert refusal(rcpt, f"TO:<a@b.example> {words}") == expected


def test_xtext_decodes_to_printable_ascii_only() -> None:
    assert decode_xtext(b"a+2Bb+3D") == "a+b="
    assert decode_xtext(b"") == ""


def test_recipients_are_one_mailbox_when_only_the_case_of_the_domain_differs() -> None:
    assert recipient_key("Bob@EXAMPLE.org") == recipient_key("Bob@example.org")
    assert recipient_key("Bob@example.org") != recipient_key("bob@example.org")
    assert recipient_key('"A@B"@EXAMPLE.org') == '"A@B"@example.org'


PIECES = st.sampled_from([*'<>@.,:;()[]\\" ab=+-_1xn', "xn--", "ü", "\u202e", "IPv6:", "192.0.2.1", "\x00", "\r"])


@given(st.lists(PIECES, max_size=24).map("".join), st.booleans())
def test_any_path_gives_one_clean_address_or_a_refusal(text: str, utf8: bool) -> None:
    """What is accepted is found literally in what was written: nothing is decoded, completed or repaired."""
    outcome = value_or_reply(rcpt, f"TO:<{text}>", smtputf8=utf8)
    if isinstance(outcome, Reply):
        assert outcome.code in (501, 553, 555)
        return
    address = outcome.address
    if text.lower() == "postmaster":
        return
    assert address in text
    local, _, domain = address.rpartition("@")
    assert local
    assert domain
    assert address.isprintable()
    assert utf8 or address.isascii()


@given(st.binary(max_size=60))
def test_any_octets_give_a_value_or_a_refusal(octets: bytes) -> None:
    for parse in (mail, rcpt):
        for prefix in (b"FROM:<a@b.example> ", b"TO:<a@b.example> ", b"FROM:", b"TO:", b""):
            outcome = value_or_reply(parse, prefix + octets)
            assert not isinstance(outcome, Reply) or 500 <= outcome.code < 560
