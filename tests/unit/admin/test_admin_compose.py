"""From JSON and raw octets to canonical content."""

from __future__ import annotations

import email
from email.policy import default
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.admin.services.compose import Canonical, Unfit, canonical, compose, safe_name
from relay.admin.services.envelope_of import envelope_of
from relay.envelope import Reply
from relay.listener.body import BodyLimits

LIMITS = BodyLimits(memory_limit=10**9, normalize=True)


@pytest.mark.parametrize(
    ("raw", "head", "body"),
    [
        (b"A: 1\r\n\r\nx\r\n", b"A: 1\r\n", b"x\r\n"),
        (b"A: 1\n\nx\n", b"A: 1\r\n", b"x\r\n"),
        (b"A: 1\r\n\r\nx", b"A: 1\r\n", b"x\r\n"),
        (b"A: 1\r\n\r\n.\r\n..\r\n.x\r\n", b"A: 1\r\n", b".\r\n..\r\n.x\r\n"),
        (b"A: 1\n\n.\n..\n.x\n", b"A: 1\r\n", b".\r\n..\r\n.x\r\n"),
        (b"A: 1\r\n\r\n", b"A: 1\r\n", b""),
        (b".A", b"", b".A\r\n"),
        (b"", b"", b""),
    ],
    ids=["crlf", "lf", "no end", "dots", "dots after lf", "no body", "dot first", "empty"],
)
def test_content_is_what_data_would_have_made_of_it(raw: bytes, head: bytes, body: bytes) -> None:
    made = canonical(raw, LIMITS)
    assert isinstance(made, Canonical)
    assert (made.head, made.body) == (head, body)


@pytest.mark.parametrize(
    ("raw", "limits", "code"),
    [
        (b"A: 1\n\nx\n", BodyLimits(memory_limit=10**9, normalize=False), 554),
        (b"A: 1\r\n\r\nx\0\r\n", LIMITS, 554),
        (b"A: 1\r\n\r\n" + b"x" * 2000, BodyLimits(max_size=1000, memory_limit=10**9), 552),
        (b"DKIM-Signature: a=b\n\nx\n", LIMITS, 554),
    ],
    ids=["bare lf", "nul", "size", "repair of what is signed"],
)
def test_what_smtp_refuses_is_refused(raw: bytes, limits: BodyLimits, code: int) -> None:
    reply = canonical(raw, limits)
    assert isinstance(reply, Reply)
    assert reply.code == code


@given(st.binary(max_size=400) | st.text("a.\r\n: ", max_size=60).map(str.encode))
@settings(max_examples=300, deadline=None)
def test_any_octets_are_content_or_refused(raw: bytes) -> None:
    made = canonical(raw, LIMITS)
    if isinstance(made, Canonical):
        whole = made.head + b"\r\n" + made.body
        assert whole.count(b"\r") == whole.count(b"\n") == whole.count(b"\r\n")
        again = canonical(whole, LIMITS)
        if not whole.startswith(b"\r\n"):  # a body without a head, that looks like one
            assert isinstance(again, Canonical)


def parsed(fields: dict[str, Any]) -> email.message.EmailMessage:
    whole = {"from": "a@acme.example", "to": "b@x.example", **fields}
    message = email.message_from_string(compose(whole).raw.decode(), policy=default)
    assert isinstance(message, email.message.EmailMessage)
    return message


@pytest.mark.parametrize(
    ("given_", "name", "address"),
    [
        ("a@acme.example", "", "a@acme.example"),
        ("Acme <a@acme.example>", "Acme", "a@acme.example"),
        ('"Acme, Inc." <a@acme.example>', "Acme, Inc.", "a@acme.example"),
        ({"name": 'O"Neil; x', "email": "a@acme.example"}, 'O"Neil; x', "a@acme.example"),
        ({"email": "ü@acme.example", "name": "Ü"}, "Ü", "ü@acme.example"),
        ("Ä <a@xn--bcher-kva.example>", "Ä", "a@xn--bcher-kva.example"),
    ],
)
def test_addresses_keep_their_names(given_: Any, name: str, address: str) -> None:
    (found,) = parsed({"from": given_})["from"].addresses
    assert (found.display_name, found.addr_spec) == (name, address)


@pytest.mark.parametrize(
    "given_",
    ["", "a", "@x", "a@", "a@b@c <x", "a b@x.example", "<a@x.example", "a@x.example>", "a@x.example, b@x.example", 5,
     None, "a@x.example\r\nBcc: y@x.example", {"email": "a@x.example\n"}, {"name": "only"}],
)  # fmt: skip
def test_what_is_no_address(given_: Any) -> None:
    with pytest.raises(Unfit) as caught:
        parsed({"from": given_})
    assert caught.value.where == "from"


HOSTILE = st.text(st.sampled_from('a b\r\n\0\t:<>@,;"\\=?\u2028\u202eé\ud800.'), max_size=30)


@given(st.dictionaries(HOSTILE, HOSTILE, max_size=3), HOSTILE, HOSTILE, HOSTILE)
@settings(max_examples=300, deadline=None)
def test_nothing_becomes_a_header_that_was_not_asked_for(
    headers: dict[str, str], subject: str, name: str, filename: str
) -> None:
    fields = {
        "from": {"name": name, "email": "a@acme.example"},
        "to": "b@x.example",
        "subject": subject,
        "text": "x",
        "headers": headers,
        "attachments": [{"content": "YQ==", "filename": filename}],
    }
    try:
        raw = compose(fields).raw
    except Unfit:
        return
    message = email.message_from_bytes(raw, policy=default)
    allowed = {"from", "to", "subject", "mime-version", "content-type"} | {key.lower() for key in headers}
    assert {key.lower() for key in message} <= allowed
    assert raw.count(b"\r\n") == raw.count(b"\n") == raw.count(b"\r")


@pytest.mark.parametrize(
    ("name", "safe"),
    [("a.txt", "a.txt"), ("../../x", "_.._x"), ("C:\\x", "C__x"), ("", "attachment"), ("...", "attachment"),
     ("a\u202etxt.exe", "a_txt.exe"), ("x" * 5000, "x" * 150)],
)  # fmt: skip
def test_file_names_are_only_names(name: str, safe: str) -> None:
    assert safe_name(name) == safe


@pytest.mark.parametrize(
    ("head", "sender", "recipients"),
    [
        ("From: A <a@x.example>\r\nTo: b@x.example, C <c@x.example>\r\nBcc: d@x.example", "a@x.example",
         ("b@x.example", "c@x.example", "d@x.example")),
        ("From: a@x.example\nSender: s@x.example\nTo: b@x.example, b@x.example", "s@x.example", ("b@x.example",)),
        ("Subject: none", "", ()),
    ],
)  # fmt: skip
def test_the_envelope_of_a_header_section(head: str, sender: str, recipients: tuple[str, ...]) -> None:
    assert envelope_of(head.encode() + b"\r\n\r\nTo: body@x.example\r\n") == (sender, recipients)
