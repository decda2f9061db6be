"""B158-B163, B190-B206, B210, R38: odd content through a whole relay, octet for octet."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import dkim

from relay.headers import CONTROLS, STAMPED, walk
from relay.signing import dns_record, keygen, parse_key
from tests.fakes.relay_rig import HOSTNAME, RelayRig, node, relaying
from tests.fakes.smtp_server import CAPABILITIES, Message, SmtpServer

MAIL = Path(__file__).parents[2] / "data" / "mail"
REMOVED = {*STAMPED, *CONTROLS, b"bcc", b"resent-bcc", b"return-path"}
BASE = b"From: a@b.example\r\nSubject: x\r\n"
CLIENT_SIGNATURE = b"DKIM-Signature: v=1; a=rsa-sha256; d=b.example; s=x; h=from:subject; bh=YQ==; b=YQ==\r\n"


def split(octets: bytes) -> tuple[bytes, bytes]:
    """Header section and body; content whose first line is no field has no header section."""
    if octets.startswith(b"From "):  # the separator line of a mailbox file
        octets = octets.partition(b"\r\n")[2]
    if octets.startswith(b"\r\n"):
        return b"", octets[2:]
    if not re.match(rb"[!-9;-~]+[ \t]*:", octets):
        return b"", octets
    head, blank, body = octets.partition(b"\r\n\r\n")
    return (head + b"\r\n", body) if blank else (octets, b"")


def expected_of(octets: bytes) -> bytes:
    """What must come last at the upstream: every field that is not ours to remove, and the body."""
    if octets and not octets.endswith(b"\r\n"):
        octets += b"\r\n"  # SMTP has no other way
    head, body = split(octets)
    return b"".join(field.raw for field in walk(head) if field.name not in REMOVED) + b"\r\n" + body


def arrived(sink: SmtpServer, recipient: str) -> Message:
    (message,) = [message for message in sink.messages if message.recipients == [recipient]]
    return message


# R38


UNREADABLE = {"blank-before-colon", "malformed-lines"}
"""dkimpy does not read these header sections at all."""

CONVERTED = {"long-line-5000", "long-header"}
"""Unsigned lines that no server must take are encoded or folded, see `relay.transcode`."""


async def test_the_corpus_arrives_octet_for_octet_and_signed(tmp_path: Path) -> None:
    """What was there before is there after, behind what the relay adds; signatures of clients and ours verify."""
    pem, _ = keygen("rsa", 1024)
    (tmp_path / "dkim.pem").write_bytes(pem)
    (tmp_path / "dkim.pem").chmod(0o600)
    ours = parse_key(pem, domain="acme.example", selector="s1")
    name, value = dns_record(ours)
    records = {f"{name}.".encode(): "".join(value).encode()}
    client_record = (MAIL / "client.txt").read_bytes().strip()
    keys = [{"domain": "acme.example", "selector": "s1", "key_file": str(tmp_path / "dkim.pem")}]
    paths = sorted(MAIL.glob("*.eml"))
    async with SmtpServer() as sink, relaying(tmp_path, sink, dkim=keys, line_endings="reject") as rig:
        async with rig.client() as client:
            await client.ehlo()
            for number, path in enumerate(paths):
                octets = path.read_bytes()
                stuffed = re.sub(rb"(?m)^\.", b"..", octets)
                if stuffed and not stuffed.endswith(b"\r\n"):
                    stuffed += b"\r\n"
                await client.begin("a@b.example", f"n{number}@d.example")
                client.send(stuffed + b".\r\n")
                assert (await client.reply()).startswith("250"), path.stem
        await rig.settled(within_s=30)
        assert len(sink.messages) == len(paths)
        signed_by_us = 0
        for number, path in enumerate(paths):
            message = arrived(sink, f"n{number}@d.example")
            added, received, rest = message.content.partition(b"Received: from client.example")
            assert received, path.stem
            assert [field.name for field in walk(added) if field.name != b"dkim-signature"] == list(STAMPED)
            if path.stem not in CONVERTED:
                assert rest.endswith(b"\r\n" + expected_of(path.read_bytes())), path.stem
            if b"d=acme.example; s=s1" in added and path.stem not in UNREADABLE:
                signed_by_us += 1
                verified = dkim.DKIM(message.content).verify(0, lambda name, timeout=5: records[name])
                assert verified, path.stem
            if path.stem.startswith("signed-"):
                index = added.lower().count(b"dkim-signature:")
                seen = dkim.DKIM(message.content).verify(index, lambda name, timeout=5: client_record)
                assert seen is (path.stem != "signed-covers-ours"), path.stem
        assert signed_by_us > 60
        assert sum(path.stem.startswith("signed-") for path in paths) > 5


# B158-B163, B190-B206, B210: name → content, reply, and what must be true of what arrives


def same(message: Message, content: bytes) -> None:
    assert message.content.endswith(b"\r\n" + expected_of(content))


def decoded_same(message: Message, content: bytes) -> None:
    """Encoded on the way, because no server must take it as it was; every reader sees the same text."""
    assert b"Content-Transfer-Encoding: quoted-printable" in message.content
    import quopri

    body = message.content.partition(b"\r\n\r\n")[2]
    assert max(map(len, message.raw.split(b"\r\n"))) <= 998
    assert quopri.decodestring(body).rstrip(b"\r\n") == content.partition(b"\r\n\r\n")[2].rstrip(b"\r\n")


def without(*names: bytes) -> Callable[[Message, bytes], None]:
    def check(message: Message, content: bytes) -> None:
        head = message.content.partition(b"\r\n\r\n")[0] + b"\r\n"
        assert not [f for f in walk(head) if f.name in names]
        same(message, content)

    return check


def stamped_once(message: Message, content: bytes) -> None:
    """B204, B205: what a client sends under our names is gone, ours is there once."""
    head = message.content.partition(b"\r\n\r\n")[0] + b"\r\n"
    fields = {name: [f.text for f in walk(head) if f.name == name] for name in STAMPED}
    assert fields[b"x-virtual-mta"] == [b"acme-42-mta4-pool-7"]
    assert [len(found) for found in fields.values()] == [1] * 4
    assert b"evil" not in head
    assert b"forged" not in head


def nested(depth: int) -> bytes:
    head = b"".join(
        b'Content-Type: multipart/mixed; boundary="b%d"\r\n\r\n--b%d\r\n' % (level, level) for level in range(depth)
    )
    tail = b"".join(b"\r\n--b%d--\r\n" % level for level in reversed(range(depth)))
    return BASE + b"MIME-Version: 1.0\r\n" + head + b"\r\ntext\r\n" + tail


HIDDEN_LINES = (
    b"From: =?utf-8?q?a=0d=0aBcc:_evil=40x?= <a@b.example>\r\nSubject: =?utf-8?b?eA0KQmNjOiBldmlsQHgNCg==?=\r\n"
)

PASSES: dict[str, tuple[bytes, Callable[[Message, bytes], None]]] = {
    "B158 998": (BASE + b"\r\n" + b"x" * 998 + b"\r\n", same),
    "B158 999": (BASE + b"\r\n" + b"x" * 999 + b"\r\n", decoded_same),
    "B158 5000": (BASE + b"\r\n" + b"x y" * 1700 + b"\r\n", decoded_same),
    "B158 million": (BASE + b"\r\n" + b"x" * 1_000_000 + b"\r\n", decoded_same),
    "B158 signed": (BASE + CLIENT_SIGNATURE + b"\r\n" + b"x" * 5000 + b"\r\n", same),
    "B159 dots": (BASE + b"\r\n.\r\n..\r\n...x\r\n.last\r\n", same),
    "B160 commands": (BASE + b"\r\nRSET\r\nQUIT\r\nMAIL FROM:<>\r\n", same),
    "B161 empty": (b"", same),
    "B161 headers only": (BASE, same),
    "B161 body only": (b"nothing but text\r\n", same),
    "B163 8-bit": (BASE + "Subject: ü\r\n\r\nü".encode() + b"\xff\r\n", same),
    "B190 fifty hops": (b"Received: from x by y; z\r\n" * 50 + BASE + b"\r\nx\r\n", same),
    "B190 own name twice": (f"Received: from x by {HOSTNAME}; z\r\n".encode() * 2 + BASE + b"\r\nx\r\n", same),
    "B191 no colon": (BASE + b"no colon here\r\nTo: c@d.example\r\n\r\nx\r\n", same),
    "B191 name with blank": (BASE + b"Bad Name: x\r\n: alone\r\n\r\nx\r\n", same),
    "B191 8-bit name": (BASE + b"Gr\xc3\xbc\xc3\x9fe: x\r\n\r\nx\r\n", same),
    "B191 long name": (BASE + b"N" * 900 + b": x\r\n\r\nx\r\n", same),
    "B191 first line blank": (b" begins so\r\n" + BASE + b"\r\nx\r\n", same),
    "B192 twice each": ((BASE + b"To: c@d.example\r\nMessage-ID: <1@b>\r\nDate: x\r\n") * 2 + b"\r\nx\r\n", same),
    "B193 two mailboxes": (b"From: a@b.example, c@d.example\r\n\r\nx\r\n", same),
    "B193 group": (b"From: staff: a@b.example;\r\n\r\nx\r\n", same),
    "B193 trick": (b"From: a@b.example <c@d.example>\r\n\r\nx\r\n", same),
    "B194 folds": (BASE + b"X-Long: a\r\n" + b" b\r\n" * 20_000 + b"\r\nx\r\n", same),
    "B194 fields": (BASE + b"X-A: b\r\n" * 990 + b"\r\nx\r\n", same),
    "B195 comments": (BASE + b"To: " + b"(" * 600 + b"\r\n\r\nx\r\n", same),
    "B195 quotes": (BASE + b"To: " + b'",<' * 16_000 + b"\r\n\r\nx\r\n", same),
    "B195 ids and dates": (BASE + b"Message-ID: <[]@@>\r\nDate: 99 Foo 99999 99:99:99 +9999\r\n\r\nx\r\n", same),
    "B196 nested": (nested(800), same),
    "B196 no boundary": (BASE + b"Content-Type: multipart/mixed\r\n\r\nx\r\n", same),
    "B196 odd boundary": (BASE + b'Content-Type: multipart/mixed; boundary=""; boundary=a\r\n\r\n--a\r\n', same),
    "B196 parts": (BASE + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\n" * 100_000, same),
    "B197 hidden line": (HIDDEN_LINES + b"\r\nx\r\n", same),
    "B199 file name": (
        BASE + b'Content-Disposition: attachment; filename="../../etc/x"; filename*0="a\\\r\n b"\r\n\r\nx\r\n',
        same,
    ),
    "B200 charset": (BASE + b"Content-Type: text/plain; charset=zlib_codec\r\n\r\nx\r\n", same),
    "B201 bad base64": (BASE + b"Content-Transfer-Encoding: base64\r\n\r\n!!!!\r\n", same),
    "B203 Bcc": (BASE + b"Bcc: evil@x.example\r\nResent-Bcc: f@x.example\r\n\r\nx\r\n", without(b"bcc", b"resent-bcc")),
    "B204 own names": (
        b"X-Virtual-MTA: evil\r\nx-feedtype : evil\r\nX-ZONE:\r\n evil\r\nX-ServerID: evil\r\n"
        b"X-Relay-Campaign: evil\r\nX-Relay-Lane: bulk\r\nX-Relay-Idempotency-Key: evil\r\nReturn-Path: <evil@x>\r\n"
        + f"Authentication-Results: {HOSTNAME}; dkim=pass header.d=forged\r\n".encode()
        + BASE
        + b"\r\nx\r\n",
        stamped_once,
    ),
    "B206 l tag": (BASE + CLIENT_SIGNATURE.replace(b"bh=", b"l=1; bh=") + b"\r\nx\r\n", same),
    "B210 GTUBE": (BASE + b"\r\nXJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X\r\n", same),
}

REFUSED: dict[str, tuple[bytes, str]] = {
    "B162 NUL in body": (BASE + b"\r\na\0b\r\n", "554 5.6.0"),
    "B162 NUL in head": (b"Subject: a\0b\r\n\r\nx\r\n", "554 5.6.0"),
    "B190 hops": (b"Received: from x by y; z\r\n" * 150 + BASE + b"\r\nx\r\n", "554 5.4.6"),
    "B190 own name": (f"Received: from x by {HOSTNAME}; z\r\n".encode() * 3 + BASE + b"\r\nx\r\n", "554 5.4.6"),
    "B194 300 kB": (b"X: " + b"y" * 300_000 + b"\r\n\r\nx\r\n", "552 5.3.4"),
    "B194 20000 fields": (b"X: y\r\n" * 20_000 + b"\r\nx\r\n", "552 5.3.4"),
}


async def test_odd_content_passes_untouched_or_is_refused_whole(tmp_path: Path) -> None:
    async with SmtpServer() as sink, relaying(tmp_path, sink, line_endings="reject") as rig:
        slowest = 0.0
        for number, (name, (content, _)) in enumerate(PASSES.items()):
            began = time.thread_time()
            reply = await rig.send(content, "a@b.example", f"n{number}@d.example")
            slowest = max(slowest, time.thread_time() - began)
            assert reply.startswith("250"), (name, reply)
        for name, (content, expected) in REFUSED.items():
            began = time.thread_time()
            reply = await rig.send(content)
            slowest = max(slowest, time.thread_time() - began)
            assert reply.startswith(expected), (name, reply)
        await rig.settled()
        assert len(sink.messages) == len(PASSES)
        for number, (name, (content, check)) in enumerate(PASSES.items()):
            message = arrived(sink, f"n{number}@d.example")
            assert re.search(rb"\r(?!\n)|(?<!\r)\n|\0", message.raw) is None, name
            check(message, content)
        assert slowest < 1.0
        await assert_sober(rig)


async def assert_sober(rig: RelayRig) -> None:
    """G1, B465: one log line for each event whatever peers sent, and nothing decoded became a line or a field."""
    for line in rig.log.lines:
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", line)
    hidden = [event for event in rig.told("message.accepted") if "Bcc:" in str(event)]
    assert hidden == []


async def test_from_is_enforced_on_one_clear_mailbox(tmp_path: Path) -> None:
    """B193: whatever another reader could take for the author is refused where senders are enforced."""
    bridges = [{"name": "local", "pool": "main", "networks": ["127.0.0.1/32"], "senders": ["@b.example"]}]
    good = [
        b"From: a@b.example\r\n",
        b'From: "x@evil.example" <a@b.example>\r\n',
        b"",
    ]
    bad = [
        b"From: a@b.example, c@b.example\r\n",
        b"From: a@evil.example\r\n",
        b"From: a@b.example, c@evil.example\r\n",
        b"From: a@b.example <c@evil.example>\r\n",
        b"From: a@evil.example <a@b.example>\r\n",
        b"From: a@b.example\r\nFrom: c@evil.example\r\n",
        b"From : c@evil.example\r\n",
        b"From: staff: c@evil.example;\r\n",
        b"From: a@b.example(\r\n",
        b"From: =?utf-8?q?a=40b.example?=\r\n",
        b"From: <a@b.example>x@evil.example\r\n",
        b"From: a@b.example\0@evil.example\r\n",
        b"fRoM:\r\n c@evil.example\r\n",
    ]
    async with SmtpServer() as sink, relaying(tmp_path, sink, bridges=bridges) as rig:
        for head in good:
            assert (await rig.send(head + b"Subject: x\r\n\r\nx\r\n")).startswith("250"), head
        for head in bad:
            reply = await rig.send(head + b"Subject: x\r\n\r\nx\r\n")
            assert reply.startswith(("550 5.7.1", "554 5.6.0")), (head, reply)
        async with rig.client() as client:
            await client.ehlo()
            assert (await client.ask("MAIL FROM:<a@evil.example>")).startswith("550 5.7.1")
            assert (await client.ask('MAIL FROM:<"a@b.example"@evil.example>')).startswith("550 5.7.1")
            assert (await client.ask("MAIL FROM:<>")).startswith("550 5.7.1")
        await rig.settled()
        assert len(sink.messages) == len(good)


# R34: what the upstream cannot take


async def test_eight_bit_is_converted_for_a_seven_bit_upstream_unless_it_is_signed(tmp_path: Path) -> None:
    """And a message that may not be changed goes through the node that takes it as it is, or is reported."""
    plain = [capability for capability in CAPABILITIES if capability not in ("8BITMIME", "SMTPUTF8")]
    text = "Grüße: das ist der Text\r\n".encode()
    head = BASE + b'MIME-Version: 1.0\r\nContent-Type: text/plain; charset="utf-8"\r\n'
    async with SmtpServer(capabilities=plain) as seven, SmtpServer() as eight:
        nodes = [node(seven, "a-seven", priority=1), node(eight, "b-eight", priority=2)]
        pools = [{"name": "main", "id": 7, "mta": "mta4", "rotation": "priority", "nodes": nodes}]
        async with relaying(tmp_path, nodes=[], pools=pools) as rig:
            await rig.send(head + b"\r\n" + text, "a@b.example", "plain@d.example")
            await rig.send(CLIENT_SIGNATURE + head + b"\r\n" + text, "a@b.example", "signed@d.example")
            await rig.settled()
        assert [message.recipients for message in seven.messages] == [["plain@d.example"]]
        converted = seven.messages[0]
        assert converted.raw.isascii()
        assert b"Content-Transfer-Encoding: quoted-printable\r\n" in converted.content
        assert b"Gr=C3=BC=C3=9Fe: das ist der Text" in converted.content
        assert [message.recipients for message in eight.messages] == [["signed@d.example"]]
        assert eight.messages[0].content.endswith(CLIENT_SIGNATURE + head + b"\r\n" + text)
        assert "BODY=8BITMIME" in eight.messages[0].mail


async def test_a_signed_message_no_node_can_carry_is_reported_and_never_altered(tmp_path: Path) -> None:
    async with SmtpServer(capabilities=["PIPELINING"]) as seven, relaying(tmp_path, seven) as rig:
        await rig.send(CLIENT_SIGNATURE + BASE + "\r\nGrüße\r\n".encode())
        await rig.settled()
        (report,) = seven.messages
        assert (report.sender, report.recipients) == ("", ["a@b.example"])
        assert report.raw.isascii()
        assert b"Status: 5.6.3" in report.content
