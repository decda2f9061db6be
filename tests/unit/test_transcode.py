"""Conversion for upstreams that take less: what readers decode stays, what fits stays octet for octet."""

from __future__ import annotations

import contextlib
import email
import email.policy
import re
import time
from email.header import decode_header, make_header
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.envelope import BodyFile, Content
from relay.transcode import MAX_LINE, CannotTranscode, transcode

MAIL = Path(__file__).parents[1] / "data" / "mail"


def split(octets: bytes) -> Content:
    if octets.startswith(b"\r\n"):
        return Content(b"", octets[2:])
    head, blank, body = octets.partition(b"\r\n\r\n")
    return Content(head + b"\r\n", body) if blank else Content(octets, b"")


def mail(name: str) -> Content:
    return split((MAIL / f"{name}.eml").read_bytes())


def convert(content: Content, **options) -> Content:
    return transcode(content, **({"eight_bit": True, "long_lines": True, "signed": False} | options))


def octets_of(content: Content) -> bytes:
    return content.head + b"\r\n" + content.body


def leaves(octets: bytes) -> list[bytes]:
    """Decoded content of every part, line ends aside, as the standard library reads them."""
    message = email.message_from_bytes(octets, policy=email.policy.compat32)
    return [
        (part.get_payload(decode=True) or b"").replace(b"\r\n", b"\n")
        for part in message.walk()
        if not part.is_multipart()
    ]


def is_legal(octets: bytes) -> bool:
    return octets.isascii() and max(map(len, octets.split(b"\r\n"))) <= MAX_LINE


CONVERTIBLE = sorted(
    path.stem
    for path in MAIL.glob("*.eml")
    if path.stem not in ("malformed-lines", "pgp-signed", "smtputf8", "nested-comments")
    and not path.stem.startswith("signed-")
)


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_corpus_becomes_legal_and_reads_the_same(name):
    content = mail(name)
    result = convert(content)
    assert is_legal(octets_of(result))
    if is_legal(octets_of(content)):
        assert result is content
    else:
        assert leaves(octets_of(result)) == leaves(octets_of(content))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("malformed-lines", "malformed line"),
        ("pgp-signed", "multipart/signed"),
        ("smtputf8", "8-bit octets in to"),
        ("nested-comments", "line of From .* without a blank"),
    ],
)
def test_what_cannot_be_converted_is_refused(name, why):
    with pytest.raises(CannotTranscode, match=why):
        convert(mail(name))


def test_nothing_changes_under_a_client_signature():
    content = mail("signed-8bit")
    with pytest.raises(CannotTranscode, match="DKIM"):
        convert(content, signed=True)
    plain = mail("signed-relaxed")
    assert convert(plain, signed=True) is plain


def test_only_what_is_asked_for_is_changed():
    content = split("Subject: ü\r\n\r\nGrüße\r\n".encode() + b"x" * 2000 + b"\r\n")
    assert convert(content, eight_bit=False, long_lines=False) is content
    result = convert(content, eight_bit=False)
    assert result.head.startswith("Subject: ü\r\n".encode())
    assert max(map(len, result.body.split(b"\r\n"))) <= 76


MIXED = (
    b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="b b"\r\nX-Kept:  odd \t blanks\r\n'
    b"Content-Transfer-Encoding: 8BIT (comment)\r\n\r\n"
    b"preamble\r\n--b b\r\nContent-Type: text/plain; charset=latin1\r\ncontent-transfer-encoding:8bit\r\n\r\n"
    b"Gr\xfc\xdfe \r\n.\r\n--b bx is no delimiter\r\n--b b  \r\n\r\nkept  \r\nas it is=\r\n"
    b"--b b\r\nContent-Type: image/png\r\nContent-Transfer-Encoding: binary\r\n\r\n"
    b"\x00\xff\x80\r\n\r\n--b b--\r\nepilogue\r\n"
)


def test_parts_that_fit_are_spliced_octet_for_octet():
    result = octets_of(convert(split(MIXED)))
    assert b"\r\n--b b  \r\n\r\nkept  \r\nas it is=\r\n--b b\r\n" in result
    assert b"X-Kept:  odd \t blanks\r\n" in result
    assert b"Content-Transfer-Encoding: 7bit\r\n\r\npreamble" in result
    assert b"content-transfer-encoding: quoted-printable\r\n\r\nGr=FC=DFe=20\r\n" in result
    assert b"Content-Transfer-Encoding: base64\r\n\r\nAP+ADQo=\r\n" in result
    assert result.endswith(b"--b b--\r\nepilogue\r\n")


def test_text_without_mime_is_labelled():
    utf8, latin1 = convert(mail("eight-bit-raw")), convert(mail("latin1-raw"))
    assert b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n" in utf8.head
    assert b"charset=unknown-8bit\r\n" in latin1.head
    assert utf8.head.startswith(mail("eight-bit-raw").head)


def test_header_text_and_names_become_words_and_read_the_same():
    head = (
        'Subject: Re: Grüße an  Ömer =?utf-8?q?a?= ü b\r\nFrom: Jürgen "Q." Müller (c) <j@x.example>\r\n'
        'To: Ä: a@x.example, "Ö, Ü" <b@x.example>;\r\nContent-Type: text/plain; name="ü \\"q\\".txt"\r\n'
    ).encode()
    result = convert(Content(head, b"x\r\n"))
    assert is_legal(result.head)
    message = email.message_from_bytes(result.head + b"\r\n", policy=email.policy.compat32)
    assert str(make_header(decode_header(message["subject"].replace("\r\n", "")))) == "Re: Grüße an  Ömer a ü b"
    modern = email.message_from_bytes(result.head + b"\r\n", policy=email.policy.default)
    assert [a.addr_spec for a in modern["from"].addresses] == ["j@x.example"]
    assert modern["from"].addresses[0].display_name == "Jürgen Q. Müller"
    assert [(a.display_name, a.addr_spec) for a in modern["to"].addresses] == [
        ("", "a@x.example"),
        ("Ö, Ü", "b@x.example"),
    ]
    assert modern["content-type"].params["name"] == 'ü "q".txt'


def test_latin1_header_text_is_labelled_honestly():
    assert convert(mail("latin1-subject")).head.count(b"=?unknown-8bit?b?") == 1


@pytest.mark.parametrize(
    "head",
    [
        "From: jü@x.example\r\n", "From: a <jü@x.example>\r\n", "From: a@x.example (ü)\r\n", "Message-ID: <ü@x>\r\n",
        'From: "ü <a@x.example>\r\n', "Grüße: x\r\n", "Content-Type: text/plain; name=ü\r\n", "List-Unsubscribe: <http://ü>\r\n",
    ],
)  # fmt: skip
def test_header_octets_with_no_ascii_form_are_refused(head):
    with pytest.raises(CannotTranscode):
        convert(Content(head.encode(), b"x\r\n"))


def test_long_header_lines_are_folded_at_blanks_and_unfold_to_the_same():
    content = mail("long-header")
    result = convert(content)
    assert result.head.replace(b"\r\n ", b" ") == content.head.replace(b"\r\n ", b" ")
    with pytest.raises(CannotTranscode, match="without a blank"):
        convert(Content(b"X-A: " + b"x" * 1200 + b"\r\n", b"\r\n"))


def part(encoding: bytes, body: bytes, kind: bytes = b"text/plain") -> Content:
    head = b"MIME-Version: 1.0\r\nContent-Type: " + kind + b"\r\nContent-Transfer-Encoding: " + encoding + b"\r\n"
    return Content(head, body)


def test_mislabelled_quoted_printable_keeps_its_escapes():
    result = convert(part(b"quoted-printable", b"a=20b \xfc=\r\nc" + b"=C3=BC" * 400 + b"\r\n"))
    assert result.body.startswith(b"a=20b =FC=\r\nc=C3=BC")
    assert is_legal(result.body)
    assert leaves(octets_of(result)) == [b"a b \xfcc" + b"\xc3\xbc" * 400 + b"\n"]


def test_base64_in_one_line_is_wrapped_and_with_8_bit_refused():
    body = b"QUJD" * 1000 + b"QQ=="
    result = convert(part(b"base64", body, b"image/png"))
    assert result.body.replace(b"\r\n", b"") == body
    assert max(map(len, result.body.split(b"\r\n"))) == 76
    with pytest.raises(CannotTranscode, match="base64"):
        convert(part(b"base64", b"QUJD\xff\r\n", b"image/png"))


@pytest.mark.parametrize(
    ("head", "body", "why"),
    [
        (b"Content-Type: multipart/mixed\r\n", b"--a\r\n\r\n\xff\r\n--a--\r\n", "boundary"),
        (b"Content-Type: multipart/mixed; boundary=a; boundary=b\r\n", b"--a\r\n\r\n\xff\r\n--a--\r\n", "boundary"),
        (b"Content-Type: multipart/mixed; boundary*0=a\r\n", b"--a\r\n\r\n\xff\r\n--a--\r\n", "boundary"),
        (b"Content-Type: multipart/mixed; boundary=a\r\n", b"\xff\r\n", "no parts"),
        (b"Content-Type: multipart/mixed; boundary=a\r\n", b"\xff\r\n--a\r\n\r\nx\r\n--a--\r\n", "outside"),
        (b"Content-Type: multipart/mixed; boundary=a\r\n", b"--a\r\n\r\nx\r\n--a--\r\n\xff\r\n", "outside"),
        (b"Content-Type: text/plain\r\nContent-Type: text/html\r\n", b"\xff\r\n", "content-type"),
        (b"Content-Transfer-Encoding: x-uuencode\r\n", b"\xff\r\n", "unknown transfer encoding"),
        (b"Content-Type: message/delivery-status\r\n", b"\xff\r\n", "may not be encoded"),
    ],
)
def test_unclear_structure_is_refused(head, body, why):
    with pytest.raises(CannotTranscode, match=why):
        convert(Content(head, body))


def test_internationalized_reports_may_be_encoded():
    head = b"Content-Type: message/global-delivery-status\r\nMIME-Version: 1.0\r\n"
    result = convert(Content(head, "Final-Recipient: utf-8; jü@x.example\r\n".encode()))
    assert result.body == b"Final-Recipient: utf-8; j=C3=BC@x.example\r\n"


def test_depth_and_number_of_parts_are_bounded():
    body = b"\xff\r\n"
    for level in range(60):
        body = (
            b"--b%d\r\nContent-Type: multipart/mixed; boundary=b%d\r\n\r\n" % (level + 1, level)
            + body
            + b"\r\n--b%d--\r\n" % (level + 1)
        )
    with pytest.raises(CannotTranscode, match="levels"):
        convert(Content(b"Content-Type: multipart/mixed; boundary=b60\r\n", body))
    many = b"--a\r\n\r\n\xff\r\n" * 5000 + b"--a--\r\n"
    with pytest.raises(CannotTranscode, match="parts"):
        convert(Content(b"Content-Type: multipart/mixed; boundary=a\r\n", many))


def test_forwarded_messages_are_converted_inside():
    result = convert(mail("forwarded"))
    assert b"Content-Transfer-Encoding: 7bit\r\n" in result.body
    assert b"Gr=C3=BC=C3=9Fe von innen" in result.body


text_lines = st.lists(
    st.sampled_from([b"", b".", b" ", b"a ", b"\t", b"=", b"From x", b"\xc3\xbc", b"\xff", b"word " * 30, b"x" * 1100]),
    max_size=12,
)


@given(text_lines, st.booleans())
def test_any_text_decodes_to_itself(lines, ended):
    body = b"\r\n".join(lines) + (b"\r\n" if ended else b"")
    content = part(b"8bit", body)
    result = convert(content)
    assert is_legal(octets_of(result))
    if result is not content:
        message = email.message_from_bytes(octets_of(result))
        assert message.get_payload(decode=True) == body


@given(st.binary(max_size=400), st.sampled_from([b"image/png", b"application/octet-stream"]))
def test_any_octets_decode_to_themselves(body, kind):
    content = part(b"binary", body + b"\xff", kind)
    message = email.message_from_bytes(octets_of(convert(content)))
    assert message.get_payload(decode=True) == body + b"\xff"


@given(
    st.lists(
        st.sampled_from(
            [b"\r\n", b"--a", b"--a--", b"--ab", b"\xff", b"Content-Type: multipart/mixed; boundary=ab", b"x: y"]
        ),
        max_size=14,
    )
)
def test_any_multipart_becomes_legal_or_is_refused(pieces):
    content = Content(b"Content-Type: multipart/mixed; boundary=a\r\n", b"".join(pieces))
    try:
        result = convert(content)
    except CannotTranscode:
        return
    assert is_legal(octets_of(result))
    assert re.findall(rb"(?m)^--a(?:--)?\r?$", result.body) == re.findall(rb"(?m)^--a(?:--)?\r?$", content.body)


@pytest.mark.parametrize(
    "line", [b"text \xc3\xbc\r\n", b"\xff" * 70_000 + b"\r\n", b"\r\n\xff"], ids=["lines", "endless", "cut"]
)
def test_a_body_file_is_converted_as_its_octets(tmp_path, line):
    body = (line * (700_000 // len(line) + 1))[:700_001]
    (tmp_path / "body").write_bytes(body)
    for kind in (b"text/plain", b"image/png"):
        content = part(b"8bit", body, kind)
        from_file = convert(Content(content.head, BodyFile(tmp_path / "body", len(body))), scratch=tmp_path / "out")
        whole = convert(content)
        assert from_file.head == whole.head
        assert from_file.body == BodyFile(tmp_path / "out", len(whole.body))
        assert (tmp_path / "out").read_bytes() == whole.body
        assert email.message_from_bytes(octets_of(whole)).get_payload(decode=True) == body


def test_a_body_file_that_fits_is_left_and_needs_no_room(tmp_path):
    (tmp_path / "body").write_bytes(b"plain\r\n")
    content = Content(b"Subject: x\r\n", BodyFile(tmp_path / "body", 7))
    assert convert(content) is content
    (tmp_path / "body").write_bytes(b"\xff\r\n")
    with pytest.raises(CannotTranscode, match="room"):
        convert(Content(b"Subject: x\r\n", BodyFile(tmp_path / "body", 3)))
    (tmp_path / "body").write_bytes(b"")
    empty = Content("Subject: ü\r\n".encode(), BodyFile(tmp_path / "body", 0))
    assert convert(empty).head == b"Subject: =?utf-8?b?w7w=?=\r\n"


@pytest.mark.parametrize(
    "content",
    [
        part(b"quoted-printable", b"=" * 3_000_000),
        part(b"8bit", b"\xff" * 3_000_000),
        Content(b"Content-Type: multipart/mixed; boundary=a\r\n", b"\xff--a" * 300_000),
        Content(b"Subject: " + b"\xc3\xbc " * 60_000 + b"\r\n", b"\r\n"),
        Content(b"X-A: " + b" " * 200_000 + b"x\r\n", b"\r\n"),
    ],
    ids=["qp", "8bit", "delimiters", "subject", "blanks"],
)
def test_hostile_content_takes_linear_time(content):
    started = time.process_time()
    with contextlib.suppress(CannotTranscode):
        convert(content)
    assert time.process_time() - started < 3
