"""Taking messages apart, and bringing header and envelope together: small cases with exact results."""

from __future__ import annotations

import pytest

from relay.envelope import Content
from relay.upstreams.api import CannotCarry
from relay.upstreams.mime_parts import take_apart
from relay.upstreams.parts import Addressed, Attachment, Mailbox, Parts, address
from relay.upstreams.readdress import readdress, says_envelope

FROM = b"From: Shop <shop@acme.example>\r\n"


def parts(head: bytes = b"", body: bytes = b"hi\r\n", sender: str = "a@acme.example") -> Parts:
    return take_apart(Content(FROM + head, body), sender)


def multi(kind: str, *pieces: bytes, head: bytes = b"") -> Parts:
    body = b"".join(b"--b\r\n" + piece + b"\r\n" for piece in pieces) + b"--b--\r\n"
    return parts(head + f"Content-Type: multipart/{kind}; boundary=b\r\n".encode(), body)


PNG = b"Content-Type: image/png\r\nContent-ID: <p@x>\r\n\r\npng"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"jane@x.example", [("", "jane@x.example")]),
        (b"Jane <jane@x.example>", [("Jane", "jane@x.example")]),
        (b'"Doe, Jane" <jane@x.example>, b@x.example', [("Doe, Jane", "jane@x.example"), ("", "b@x.example")]),
        (b'"a \\"b\\" c" <jane@x.example>', [('a "b" c', "jane@x.example")]),
        (b"=?utf-8?q?M=C3=BCller?= <m@x.example>", [("Müller", "m@x.example")]),
        ("Müller <m@x.example>".encode(), [("Müller", "m@x.example")]),
        (b"jane@x.example <jane@x.example>", [("", "jane@x.example")]),
        (b"Team: a@x.example, B <b@x.example>;", [("", "a@x.example"), ("B", "b@x.example")]),
        (b"undisclosed-recipients:;", []),
        (b"a@x.example, A@X.EXAMPLE", [("", "a@x.example")]),
        (b"Jane (home) <jane@x.example>", [("Jane", "jane@x.example")]),
        (b"nobody, just words", []),
        (b"", []),
        (b"<jane@x.example", []),
        (b'broken " quote <jane@x.example>', [("", "jane@x.example")]),
        (b"x\x07y <jane@x.example>", [("", "jane@x.example")]),
    ],
)
def test_mailboxes_are_told_apart(value: bytes, expected: list[tuple[str, str]]) -> None:
    assert [(box.name, box.address) for box in parts(b"To: " + value + b"\r\n").to] == expected


@pytest.mark.parametrize(
    ("charset", "octets", "expected"),
    [
        ("utf-8", "Grüße".encode(), "Grüße"),
        ("us-ascii", "Grüße".encode(), "Grüße"),
        ("", "Grüße".encode(), "Grüße"),
        ("", "Grüße".encode("cp1252"), "Grüße"),
        ("iso-8859-1", "5 €".encode("cp1252"), "5 €"),
        ("utf-8", "Grüße".encode("cp1252"), "Grüße"),
        ("no-such-set", "Grüße".encode(), "Grüße"),
        ("rot13", b"hi", "hi"),
        ("unicode_escape", b"\\x41", "\\x41"),
        ("gb2312", "您的订单镕".encode("gb18030"), "您的订单镕"),
    ],
)
def test_text_is_decoded_without_loss(charset: str, octets: bytes, expected: str) -> None:
    head = f"Content-Type: text/plain; charset={charset}\r\n".encode() if charset else b""
    assert parts(head, octets).text == expected


def test_line_ends_are_lf_and_nul_is_shown() -> None:
    assert parts(body=b"a\r\nb\r\nc\0d").text == "a\nb\nc\ufffdd"


@pytest.mark.parametrize(
    ("encoding", "octets", "expected"),
    [
        ("base64", b"aGVsbG8=\r\n", b"hello"),
        ("base64", b"aGVs\r\n bG8\r\n", b"hello"),
        ("base64", b"aGVs*bG8=", b"hello"),
        ("base64", b"", b""),
        ("BASE64 (comment)", b"aGVsbG8=", b"hello"),
        ("quoted-printable", b"a=3Db=\r\n c  \r\nd", b"a=b c\r\nd"),
        ("binary", b"a\xff", b"a\xff"),
    ],
)
def test_transfer_encodings(encoding: str, octets: bytes, expected: bytes) -> None:
    head = f"Content-Type: application/pdf; name=x.pdf\r\nContent-Transfer-Encoding: {encoding}\r\n".encode()
    (found,) = parts(head, octets).attachments
    assert found.content == expected


def test_alternative_related_and_attached_find_their_places() -> None:
    inner = (
        b'Content-Type: multipart/related; boundary=r\r\n\r\n--r\r\nContent-Type: text/html\r\n\r\n<img src="cid:p@x">'
        b"\r\n--r\r\n" + PNG + b"\r\n--r--"
    )
    found = multi("mixed", b"\r\nplain", inner, b"Content-Type: text/csv; name=t.csv\r\n\r\n1,2")
    assert (found.text, found.html) == ("plain", '<img src="cid:p@x">')
    assert found.pictures == (
        Attachment(filename="part-1.png", kind="image/png", content=b"png", cid="p@x", inline=True),
    )
    assert found.files == (Attachment(filename="t.csv", kind="text/csv", content=b"1,2"),)


def test_a_picture_that_nobody_shows_is_a_file() -> None:
    found = multi("mixed", b"Content-Type: text/html\r\n\r\nno picture", PNG)
    assert [part.inline for part in found.attachments] == [False]


def test_messages_inside_arrive_octet_for_octet() -> None:
    inside = b"From: a@b\r\nSubject: x\r\n\r\nFrom the start\r\n.dots\r\n"
    found = multi("mixed", b"\r\ntext", b"Content-Type: message/rfc822\r\n\r\n" + inside)
    assert found.attachments == (Attachment(filename="part-1.eml", kind="message/rfc822", content=inside),)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("attachment; filename=a.pdf", "a.pdf"),
        ('attachment; filename="../../etc/passwd"', ".._.._etc_passwd"),
        ("attachment; filename*=utf-8''%E2%82%AC.pdf", "€.pdf"),
        ('attachment; filename="=?utf-8?b?w7wucGRm?="', "ü.pdf"),
        ("attachment; filename*0=long; filename*1=er.pdf", "longer.pdf"),
        ('attachment; filename="exe\u202efdp.x"', "exe_fdp.x"),
        ("attachment", "part-1.bin"),
    ],
)
def test_file_names_are_decoded_and_harmless(value: str, expected: str) -> None:
    piece = f"Content-Type: application/octet-stream\r\nContent-Disposition: {value}\r\n\r\nx".encode()
    (found,) = multi("mixed", b"\r\ntext", piece).attachments
    assert found.filename == expected


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"Content-Type: multipart/signed; boundary=b\r\n", "signed MIME"),
        (b"Content-Type: multipart/encrypted; boundary=b\r\n", "encrypted MIME"),
        (b"Content-Type: application/pkcs7-mime\r\n", "S/MIME"),
        (b"Content-Type: multipart/report; boundary=b\r\n", "a report"),
        (b"Content-Type: message/external-body; access-type=x\r\n", "kept elsewhere"),
        (b"Content-Type: multipart/mixed\r\n", "without its boundary"),
        (b"Content-Type: multipart/mixed; boundary=other\r\n", "without its boundary"),
        (b"Content-Transfer-Encoding: x-uuencode\r\n", "unknown transfer encoding"),
        (b"Content-Transfer-Encoding: base64\r\n", "damaged base64"),
        (b"Subject: a\r\nSubject: b\r\n", "2 different fields subject"),
        (b"From: other@x.example\r\n", "2 different fields from"),
    ],
)
def test_what_would_not_be_the_same_message_is_refused(head: bytes, words: str) -> None:
    with pytest.raises(CannotCarry, match=words):
        parts(head, b"--b\r\n\r\nx y z\r\n--b--\r\n" if b"base64" not in head else b"abcde")


def test_depth_and_number_of_parts_are_bounded() -> None:
    nested = b"\r\ntext"
    for level in range(60):
        mark = f"b{level}".encode()
        nested = b"Content-Type: multipart/mixed; boundary=" + mark + b"\r\n\r\n--" + mark + b"\r\n" + nested
        nested += b"\r\n--" + mark + b"--\r\n"
    with pytest.raises(CannotCarry, match="levels"):
        multi("mixed", nested)
    with pytest.raises(CannotCarry, match="1000 parts"):
        multi("mixed", *[b"\r\n"] * 1001)


def test_other_fields_go_along_as_they_are() -> None:
    head = (
        b"Received: from a\r\nDKIM-Signature: v=1\r\nX-Long: one\r\n two\r\nBcc: c@x\r\nX-Word: =?utf-8?q?=C3=BC?=\r\n"
        b"MIME-Version: 1.0\r\nno field at all\r\nContent-Language: de\r\nX-Raw: K\xc3\xb6ln\r\n"
    )
    found = parts(head)
    assert found.headers == (
        ("X-Long", "one two"),
        ("X-Word", "=?utf-8?q?=C3=BC?="),
        ("X-Raw", "=?utf-8?b?S8O2bG4=?="),
    )
    assert found.fields(frozenset({"x-raw"})) == [("X-Long", "one two"), ("X-Word", "=?utf-8?q?=C3=BC?=")]


def test_a_name_twice_is_one_when_alike_and_refused_when_not() -> None:
    assert parts(b"X-A: 1\r\nx-a: 1\r\n").fields(frozenset()) == [("X-A", "1")]
    twice = parts(b"X-A: 1\r\nx-a: 2\r\n")
    assert twice.fields(frozenset(), once=False) == [("X-A", "1"), ("x-a", "2")]
    with pytest.raises(CannotCarry, match="twice"):
        twice.fields(frozenset())


def test_without_an_author_the_reverse_path_speaks() -> None:
    assert take_apart(Content(b"Subject: x\r\n", b""), "a@acme.example").sender == Mailbox("", "a@acme.example")
    with pytest.raises(CannotCarry, match="no From"):
        take_apart(Content(b"Subject: x\r\n", b""), "")


# Addresses

A, B, C = (Mailbox(name, f"{name.lower()}@x.example") for name in "ABC")


def shown(*to: Mailbox, cc: tuple[Mailbox, ...] = ()) -> Parts:
    return Parts(subject="", sender=A, to=to, cc=cc)


@pytest.mark.parametrize(
    ("message", "envelope", "expected"),
    [
        pytest.param(shown(A, cc=(B,)), "a b", Addressed((A,), (B,), ()), id="as shown"),
        pytest.param(shown(A), "a b", Addressed((A,), (), (Mailbox("", B.address),)), id="one is hidden"),
        pytest.param(shown(A, B, cc=(C,)), "b", Addressed((B,), (), (), dropped=2), id="the others have it already"),
        pytest.param(shown(cc=(A, B)), "a b", Addressed((A,), (B,), ()), id="somebody must be in To"),
        pytest.param(shown(), "a", Addressed((Mailbox("", A.address),), (), ()), id="hidden alone"),
        pytest.param(
            shown(),
            "a b c",
            Addressed((Mailbox("", A.address),), (), (), left=(B.address, C.address)),
            id="hidden ones",
        ),
        pytest.param(
            shown(C), "a b", Addressed((Mailbox("", A.address),), (), (), left=(B.address,), dropped=1), id="a list"
        ),
        pytest.param(shown(A, cc=(A,)), "a", Addressed((A,), (), ()), id="in To and in Cc"),
    ],
)
def test_header_and_envelope_are_brought_together(message: Parts, envelope: str, expected: Addressed) -> None:
    assert address(message, [f"{name}@x.example" for name in envelope.split()]) == expected


def head(*lines: str) -> Content:
    return Content("".join(f"{line}\r\n" for line in lines).encode(), b"body\r\n")


@pytest.mark.parametrize(
    ("content", "envelope", "expected"),
    [
        pytest.param(head("From: s@x", "To: a@x"), ["a@x"], head("From: s@x", "To: a@x"), id="as shown"),
        pytest.param(head("To: A@X"), ["a@x"], head("To: A@X"), id="in another case"),
        pytest.param(head("To: a@x"), ["a@x", "b@x"], head("Bcc: b@x", "To: a@x"), id="one is hidden"),
        pytest.param(
            head("To: A <a@x>, B <b@x>", "Cc: c@x"), ["b@x"], head("To: B <b@x>"), id="the others have it already"
        ),
        pytest.param(
            head("DKIM-Signature: v=1", "To: list@x", "Subject: s"),
            ["a@x"],
            head("Bcc: a@x", "Subject: s"),
            id="a list",
        ),
        pytest.param(
            head("DKIM-Signature: v=1", "To: a@x"), ["a@x", "b@x"], head("Bcc: b@x", "DKIM-Signature: v=1", "To: a@x"),
            id="a signature stays where To does",
        ),
    ],
)  # fmt: skip
def test_the_header_section_is_brought_to_the_envelope(
    content: Content, envelope: list[str], expected: Content
) -> None:
    assert readdress(content, envelope, drop=True).content == expected


def test_a_header_section_that_says_the_envelope_is_not_touched() -> None:
    content = head("To: a@x", "Cc: b@x")
    assert readdress(content, ["b@x", "a@x"], drop=False).content is content
    assert says_envelope(content, ["a@x", "b@x"])
    assert not says_envelope(content, ["a@x"])
    assert not says_envelope(content, ["a@x", "b@x", "c@x"])
    assert not says_envelope(head("To: a@x, a@x"), ["a@x"]), "whether doubles are merged is the vendor's secret"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (head("Resent-To: b@x", "To: a@x"), "resent"),
        (head("no field", "To: a@x"), "no field"),
        (head("To: a@x, b@x"), "refuse"),
    ],
)
def test_a_header_section_that_cannot_be_trusted_is_refused(content: Content, words: str) -> None:
    with pytest.raises(CannotCarry, match=words):
        readdress(content, ["a@x"], drop=False)
