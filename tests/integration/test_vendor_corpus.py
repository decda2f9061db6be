"""Every driver with every message of the corpus, against a server that checks the vendor's contract field by field.

What arrives is compared with a reading of the message by the standard library, not by the driver's own eyes. What a
driver leaves to other nodes is listed here, each with its reason, and was not sent.
"""

from __future__ import annotations

import email
import email.message
import re
from collections.abc import Iterator

import pytest

from relay.outcome import Outcome, Scope, Status
from relay.transcode import CannotTranscode, transcode
from tests.fakes.vendor_contract import Understood
from tests.fakes.vendor_contracts import FROM_HEADERS, RAW, REBUILT
from tests.fakes.vendor_corpus import TEXTS, Case, corpus
from tests.fakes.vendor_node import VendorNode, joined, letter, split, vendor_node

SEVEN_BIT = ("sparkpost", "mandrill")
ACTED_ON = {"ses": rb"x-ses-", "mailgun": rb"x-mailgun-", "sparkpost": rb"x-msys-api", "mandrill": rb"x-mc-"}
"""Header fields that choose the account's settings: the only ones a raw driver takes out."""

LEFT_BY_REBUILT = {
    "pgp-signed", "smime-opaque", "report", "partial",  # would be nothing any more
    "boundary-missing", "unknown-encoding", "odd-alternative",  # cannot be taken apart without a loss
    "two-from", "from-list", "from-trick", "two-subjects", "unknown-charset",  # say different things to readers
}  # fmt: skip
CALENDAR, TWICE = {"calendar"}, {"header-twice", "controls", "signed-covers-ours"}
LEFT = {
    "sendgrid": TWICE,
    "postmark": CALENDAR,
    "elasticemail": CALENDAR | TWICE,
    "mailjet": CALENDAR | TWICE | {"reply-to-two", "subject-900"},
    "smtp2go": CALENDAR,
    "brevo": CALENDAR
    | TWICE
    | {"reply-to-two", "inline-image", "pictures-and-file", "picture-in-mixed"}
    | {"five-megabytes"},
    "zeptomail": CALENDAR | TWICE | {"subject-900"},
    "resend": CALENDAR | TWICE,
    "mailersend": CALENDAR | {"reply-to-two"},
    "mumara-one": CALENDAR | TWICE,
}
LEFT["sendinblue"] = LEFT["brevo"]

LOST = {"message-id", "date", "sender"}
LOST_MORE = {
    "mailjet": {"list-id", "x-mailer"},
    "sendgrid": {"x-smtpapi"},
}
KEPT = {"postmark": {"message-id"}, "mumara-one": set[str](), "sendgrid": set[str]()}
OWN = {"from", "to", "cc", "bcc", "subject", "reply-to", "mime-version", "received", "return-path", "dkim-signature"}


async def _send(node: VendorNode, case: Case, limit: int) -> list[Outcome]:
    """In calls for as many recipients as the router grants at most."""
    outcomes: list[Outcome] = []
    for at in range(0, len(case.recipients), limit):
        message = letter(case.octets, case.recipients[at : at + limit])
        outcomes += [result.outcome for result in await node.send_all(message)]
    return outcomes


def _is_left(outcomes: list[Outcome]) -> bool:
    """Left to other nodes, before anything was sent."""
    left = [o.status is Status.REFUSED for o in outcomes]
    assert all(left) or not any(left)
    if left[0]:
        for outcome in outcomes:
            assert not outcome.attempted, outcome
            assert outcome.scope is Scope.MESSAGE
            assert outcome.enhanced in ("5.6.3", "5.3.4")
            assert len(outcome.text) > 20
    else:
        assert {o.status for o in outcomes} == {Status.DELIVERED}, outcomes[0]
    return left[0]


@pytest.mark.parametrize("kind", RAW)
async def test_raw_drivers_change_nothing_and_keep_the_envelope_apart(kind: str) -> None:
    left = set()
    async with vendor_node(kind) as node:
        limit = node.contract.recipients
        for case in corpus():
            node.contract.seen.clear()
            try:
                expected = _expected(kind, case)
            except CannotTranscode:
                continue  # refused by rendering, for every node that is 7-bit
            before = len(node.server.requests)
            if _is_left(await _send(node, case, min(limit, 100))):
                assert len(node.server.requests) == before, "it was sent all the same"
                left.add(case.name)
                continue
            assert [a for seen in node.contract.seen for a in seen.envelope] == list(case.recipients)
            for seen in node.contract.seen:
                assert seen.raw == expected, case.name
    assert left == ({"subject-braces"} if kind == "sparkpost" else set())


def _expected(kind: str, case: Case) -> bytes:
    content = split(case.octets)
    if kind in SEVEN_BIT:
        content = transcode(content, eight_bit=True, long_lines=False, signed=False)
    octets = b"".join(content.chunks())
    if case.name == "vendor-controls" and kind in ACTED_ON:
        octets = re.sub(rb"(?im)^" + ACTED_ON[kind] + rb"[^\r]*\r\n", b"", octets)
    return octets


async def test_a_message_of_two_signatures_goes_to_ses_with_the_topmost() -> None:
    octets = next(c.octets for c in corpus() if c.name == "signed-relaxed")
    async with vendor_node("ses") as node:
        await node.send(
            letter(b"DKIM-Signature: v=1; d=ours.example;\r\n b=abc\r\n" + octets, ["jane@customer.example"])
        )
        (seen,) = node.contract.seen
    assert seen.raw is not None
    assert seen.raw.startswith(b"DKIM-Signature: v=1; d=ours.example;\r\n b=abc\r\n")
    assert seen.raw.count(b"DKIM-Signature:") == 1
    assert octets.endswith(seen.raw.partition(b"b=abc\r\n")[2])


@pytest.mark.parametrize("kind", FROM_HEADERS)
async def test_where_the_header_decides_it_says_what_the_envelope_says(kind: str) -> None:
    left = set()
    async with vendor_node(kind) as node:
        for case in corpus():
            node.contract.seen.clear()
            if _is_left(await _send(node, case, 100)):
                left.add(case.name)
                continue
            (seen,) = node.contract.seen
            got = [a.lower() for a in seen.envelope]
            assert set(got) == {a.lower() for a in case.recipients}, case.name
            shown = {a.lower() for _, a in (*seen.to, *seen.cc)}
            assert not shown & {a.lower() for _, a in seen.bcc}, case.name
            assert seen.raw is not None
            if case.name in ("partly-delivered", "mailing-list", "folded-to"):
                assert seen.raw.partition(b"\r\n\r\n")[2] == joined(case.octets).partition(b"\r\n\r\n")[2]
            elif not re.search(rb"(?im)^bcc:", split(case.octets).head):
                # Bcc was added and removed again: what arrives is what was sent.
                assert seen.raw == joined(case.octets), case.name
    odd = {"malformed-lines", "mbox-line", "text-as-head", "first-line-blank-begun"}  # lines that are no fields
    assert left == odd | {"resent"} | ({"five-megabytes"} if kind == "msgraph" else set())


@pytest.mark.parametrize("kind", REBUILT)
async def test_what_is_built_anew_says_the_same(kind: str) -> None:
    left = set()
    async with vendor_node(kind) as node:
        for case in corpus():
            node.contract.seen.clear()
            before = len(node.server.requests)
            if _is_left(await _send(node, case, min(node.contract.recipients, 100))):
                assert len(node.server.requests) == before, "it was sent all the same"
                left.add(case.name)
                continue
            _compare_recipients(case, node.contract.seen)
            for seen in node.contract.seen:
                if seen.raw is not None:
                    assert seen.raw == joined(case.octets)
                else:
                    _compare(kind, case, seen)
    raw = {"pgp-signed", "smime-opaque", "report", "partial", "boundary-missing", "unknown-encoding", "odd-alternative"}
    raw |= {"two-subjects", "two-from", "unknown-charset", "calendar"}
    if kind == "smtp2go":  # those that show their recipients go raw there
        assert left == (LEFT_BY_REBUILT | LEFT[kind]) - raw
    else:
        assert left == LEFT_BY_REBUILT | LEFT[kind]


def _compare_recipients(case: Case, seen: list[Understood]) -> None:
    got = [a.lower() for understood in seen for a in understood.recipients]
    assert len(got) == len(set(got)), f"{case.name}: somebody gets it twice"
    assert set(got) == {a.lower() for a in case.recipients}, case.name
    header = " ".join(re.findall(r"(?im)^(?:to|cc):((?:[^\r]|\r\n[ \t])*)", case.octets.decode("latin-1"))).lower()
    for understood in seen:
        assert understood.to or understood.raw is not None, "a vendor needs somebody in To"
        shown = [a.lower() for _, a in (*understood.to, *understood.cc)]
        hidden = [a for a in shown if a not in header]
        assert not hidden or understood.recipients == [understood.to[0][1]], f"{case.name}: {hidden} would be seen"


ODD_HEADS = {"blank-before-colon", "malformed-lines", "mbox-line", "text-as-head", "first-line-blank-begun"}
"""The standard library ends the header section at a line that is no field; the relay at the blank line."""


def _compare(kind: str, case: Case, seen: Understood) -> None:
    if case.name in ODD_HEADS:
        body = case.octets.partition(b"\r\n\r\n")[2].decode()
        assert seen.text == body.replace("\r\n", "\n"), case.name
        return
    message = email.message_from_bytes(joined(case.octets))
    name = case.name
    texts: dict[str, email.message.Message] = {}
    files: list[tuple[email.message.Message, bytes]] = []
    for part, octets in _leaves(message):
        if part.get_content_type() == "text/x-amp-html":
            continue
        attached = part.get_content_disposition() == "attachment" or part.get_filename()
        if (
            not attached
            and part.get_content_type() in ("text/plain", "text/html")
            and part.get_content_type() not in texts
        ):
            texts[part.get_content_type()] = part
        elif not attached and part.get_content_type() == "text/calendar":
            assert seen.calendar is not None
        else:
            files.append((part, octets))
    if kind in ("brevo", "sendinblue") and "text/html" not in texts:
        assert seen.html is None
    for media, got in (("text/plain", seen.text), ("text/html", seen.html)):
        if media in texts:
            _same_text(case, texts[media], got)
        else:
            # Vendors want a body, also of a message that is nothing but files.
            assert got is None or (got == " " and seen.files), f"{name}: {media} out of nowhere"
    got_files = sorted(file.content for file in seen.files)
    for part, octets in files:
        if part.get_content_type() == "message/rfc822" or "digest" in name:
            assert any(content in case.octets for content in got_files), name
        else:
            assert octets in got_files, f"{name}: {part.get_content_type()} is lost"
    assert len(got_files) == len(files), name
    if seen.html:
        for cid in re.findall(r"cid:([^\"' >]+)", seen.html):
            assert any(file.cid == cid.replace("%40", "@") for file in seen.files), f"{name}: {cid} is shown nowhere"
    _compare_head(kind, case, message, seen)


def _leaves(message: email.message.Message) -> Iterator[tuple[email.message.Message, bytes]]:
    if message.get_content_type() == "message/rfc822":
        yield message, b""
    elif message.is_multipart():
        for part in message.get_payload():
            assert isinstance(part, email.message.Message)
            yield from _leaves(part)
    else:
        octets = message.get_payload(decode=True)
        yield message, octets if isinstance(octets, bytes) else b""


def _same_text(case: Case, part: email.message.Message, got: str | None) -> None:
    octets = part.get_payload(decode=True)
    assert isinstance(octets, bytes)
    charset = part.get_content_charset() or ""
    if case.name.startswith("charset-"):
        expected = TEXTS[case.name.removeprefix("charset-")]
    elif case.name == "html-only-windows-1252":
        expected = "<p>Größe: 5 €</p>"
    else:
        try:
            expected = octets.decode(charset or "utf-8")
        except (UnicodeDecodeError, LookupError):
            expected = octets.decode("cp1252")
    expected = expected.replace("\r\n", "\n")
    if not expected.strip("\n") and got == " ":
        return  # an empty body; vendors want something in it
    assert got == expected or (got or "").rstrip("\n") == expected.rstrip("\n"), case.name


def _compare_head(kind: str, case: Case, message: email.message.Message, seen: Understood) -> None:
    name = case.name
    subject = re.search(rb"(?im)^subject[ \t]*:((?:[^\r]|\r\n[ \t])*)", split(case.octets).head)
    if subject is not None and b"=?" not in subject[1] and name != "latin1-subject":
        assert seen.subject.strip() == subject[1].replace(b"\r\n", b"").decode().strip(), name
    elif subject is not None and name not in ("latin1-subject", "hidden-line-in-subject"):
        decoded = email.header.make_header(
            email.header.decode_header(subject[1].replace(b"\r\n", b"").decode().strip())
        )
        assert " ".join(seen.subject.split()) == " ".join(str(decoded).split()), name
    assert "\n" not in seen.subject
    if message.get("from"):
        assert seen.sender[1] in str(message["from"]), name
    else:
        assert seen.sender[1] == "bounce@acme.example"
    if name == "reply-to-two":
        assert seen.reply_to == [("Help", "help@acme.example"), ("", "desk@acme.example")]
    if name == "reply-to-name":
        assert seen.reply_to == [("Hilfe für Sie", "help@acme.example")]
    got = {(header.lower(), " ".join(value.split())) for header, value in seen.headers}
    lost = (LOST | LOST_MORE.get(kind, set())) - KEPT.get(kind, set())
    for header, value in message.items():
        lower = header.lower()
        if lower in OWN or lower in lost or lower.startswith("content-") or not header.isascii() or " " in header:
            continue
        if lower == "list-id" and kind == "mailjet":
            continue
        expected = " ".join(str(value).split())
        if name == "header-8bit" and lower == "x-place":
            ((words, charset),) = email.header.decode_header(dict(got)["x-place"])
            assert words.decode(charset) == "Köln"  # type: ignore[union-attr,arg-type]
        else:
            assert (lower, expected) in got, f"{name}: {header} is lost or changed"
    if name == "stamped" and kind == "postmark":
        assert ("x-pm-keepid", "true") in got
