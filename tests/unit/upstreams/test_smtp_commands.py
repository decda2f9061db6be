"""Command lines: parameters where they are due, addresses as given, and no address that ends its own line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.envelope import Content
from relay.upstreams import smtp_commands
from relay.upstreams.base import Capabilities, Outbound, OutboundRecipient


async def nothing(_: Capabilities) -> Content:
    return Content(b"", b"")


def outbound(sender: str = "a@b.example", ret: str = "", envid: str = "") -> Outbound:
    return Outbound(id="1", sender=sender, recipients=(), render=nothing, size=0, ret=ret, envid=envid)


def mail(out: Outbound, *, size: int = 0, eight_bit: bool = False, smtputf8: bool = False, dsn: bool = False) -> bytes:
    return smtp_commands.mail(out, size=size, eight_bit=eight_bit, smtputf8=smtputf8, dsn=dsn)


def test_mail_carries_only_what_is_offered() -> None:
    full = outbound(ret="HDRS", envid="QQ+1 x")
    assert mail(full) == b"MAIL FROM:<a@b.example>\r\n"
    assert mail(full, size=99, eight_bit=True, smtputf8=True, dsn=True) == (
        b"MAIL FROM:<a@b.example> SIZE=99 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ+2B1+20x\r\n"
    )
    assert mail(outbound("")) == b"MAIL FROM:<>\r\n"
    assert mail(outbound("\u00fc@b.example"), smtputf8=True) == "MAIL FROM:<\u00fc@b.example> SMTPUTF8\r\n".encode()


@pytest.mark.parametrize(
    ("notify", "orcpt", "line"),
    [
        ("", "", b"RCPT TO:<x@y.example>\r\n"),
        ("SUCCESS,FAILURE", "", b"RCPT TO:<x@y.example> NOTIFY=SUCCESS,FAILURE\r\n"),
        ("NEVER", "rfc822;x+1@y.example", b"RCPT TO:<x@y.example> NOTIFY=NEVER ORCPT=rfc822;x+2B1@y.example\r\n"),
        ("", "utf-8;\u00fc\\@y.example", b"RCPT TO:<x@y.example> ORCPT=utf-8;\\x{FC}\\x{5C}@y.example\r\n"),
        ("", "rfc822;\u00fc@y.example", b"RCPT TO:<x@y.example>\r\n"),
        ("", "no type", b"RCPT TO:<x@y.example>\r\n"),
        ("EVIL\r\nRSET", "a b;c", b"RCPT TO:<x@y.example>\r\n"),
    ],
)
def test_rcpt_parameters(notify: str, orcpt: str, line: bytes) -> None:
    recipient = OutboundRecipient(address="x@y.example", notify=notify, orcpt=orcpt)
    assert smtp_commands.rcpt(recipient, dsn=True) == line
    assert smtp_commands.rcpt(recipient, dsn=False) == b"RCPT TO:<x@y.example>\r\n"


@given(st.text(max_size=60), st.text(max_size=20), st.text(max_size=60), st.text(max_size=40))
def test_whatever_is_safe_stays_one_line(address: str, notify: str, orcpt: str, envid: str) -> None:
    if not smtp_commands.is_safe(address):
        return
    recipient = OutboundRecipient(address=address, notify=notify, orcpt=orcpt)
    for line in (smtp_commands.rcpt(recipient, dsn=True), mail(outbound(address, "FULL", envid), dsn=True)):
        assert line.endswith(b"\r\n")
        assert not any(c < 32 or c == 127 for c in line[:-2])
        assert line.count(b">") == 1


@pytest.mark.parametrize("address", ["a\r\n@b", "a\n@b", "a\0@b", "a>@b", "<a@b", "a\x7f@b", "a\t@b", "\udcff@b"])
def test_an_address_that_could_leave_its_line_is_not_safe(address: str) -> None:
    assert not smtp_commands.is_safe(address)


@given(st.text(st.characters(min_codepoint=1, max_codepoint=126), max_size=50))
def test_xtext_can_be_read_back(text: str) -> None:
    encoded = smtp_commands.xtext(text)
    assert all("!" <= c <= "~" and c != "=" for c in encoded)
    parts = encoded.split("+")
    assert parts[0] + "".join(chr(int(p[:2], 16)) + p[2:] for p in parts[1:]) == text
