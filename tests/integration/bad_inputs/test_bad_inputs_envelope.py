"""B100-B136, R33-R36: odd envelopes through a whole relay: one reading of an address, and limits of nodes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from relay.spool import Standing
from tests.fakes.listener_rig import HOST
from tests.fakes.relay_rig import HOSTNAME, PASSWORD, node, relaying
from tests.fakes.smtp_server import CAPABILITIES, Message, SmtpServer, reply

CONTENT = b"Subject: x\r\n\r\nhello\r\n"


def reports(server: SmtpServer) -> list[Message]:
    return [message for message in server.messages if not message.sender]


def mails(server: SmtpServer) -> list[Message]:
    return [message for message in server.messages if message.sender]


# Addresses: as written → as the upstream must read it; None: refused at the door

ADDRESSES: dict[str, tuple[bytes, bytes | None]] = {
    "B107 encoded-word": (b"=?utf-8?q?a=0d=0aRCPT=20TO=3cevil=40x=3e?=@ok.example",) * 2,
    "B107 encoded-word with at": (b"=?utf-8?q?evil=40x.example?=@ok.example",) * 2,
    "B107 encoded domain": (b"a@=?utf-8?q?evil.example?=", None),
    "B108 comment": (b"a(x)@b.example", None),
    "B109 blank": (b"a b@c.example", None),
    "B110 quoted blank": (b'"a b"@c.example',) * 2,
    "B110 quoted quote": (rb'"a\"b"@c.example',) * 2,
    "B110 quoted backslash": (rb'"a\\"@c.example',) * 2,
    "B110 quoted at": (b'"a@b"@c.example',) * 2,
    "B110 empty": (b'""@c.example',) * 2,
    "B112 upper case": (b"A.B@C.Example",) * 2,
    "B112 literal": (b"a@[IPv6:2001:db8::1]",) * 2,
    "B112 port": (b"a@b.example:25", None),
    "B113 long": (b"a" * 65 + b"@b.example",) * 2,
    "B113 too long": (b"a" * 1000 + b"@b.example", None),
    "B114 source route": (b"@relay1.example,@relay2.example:u@c.example", b"u@c.example"),
    "B115 percent": (b"u%evil.example@c.example",) * 2,
    "B115 bang": (b"evil.example!u@c.example",) * 2,
    "B116 pipe": (b"|/bin/sh@c.example",) * 2,
    "B116 shell": (b"`id`${run{id}}@c.example",) * 2,
    "B116 include": (b'":include:/etc/passwd"@c.example',) * 2,
    "B117 SQL": (b"x'or'1'='1@c.example",) * 2,
    "B117 glob": (b"*{x}?@c.example",) * 2,
    "B106 NUL": (b"a\0@b.example", None),
    "B106 quoted CR": (b'"a\rb"@c.example', None),
}


async def test_the_upstream_reads_exactly_the_address_the_client_wrote(tmp_path: Path) -> None:
    """Each as sender and as recipient. The fake server reads up to the last bracket, so nothing can hide behind one."""
    async with SmtpServer() as sink, relaying(tmp_path, sink, limits={"errors": 100}) as rig:
        expected = []
        for name, (written, read) in ADDRESSES.items():
            async with rig.client() as client:
                await client.ehlo()
                mail = await client.ask(b"MAIL FROM:<" + written + b">")
                if read is None:
                    assert mail.startswith("50"), name
                    await client.ask("MAIL FROM:<a@b.example>")
                    assert (await client.ask(b"RCPT TO:<" + written + b">")).startswith("50"), name
                    continue
                assert mail.startswith("250"), (name, mail)
                assert (await client.ask(b"RCPT TO:<" + written + b">")).startswith("250"), name
                await client.ask("DATA")
                client.send(CONTENT + b".\r\n")
                assert (await client.reply()).startswith("250"), name
                expected.append(read.decode())
        await rig.settled()
        assert sorted(line.partition("> ")[0] for line in sink.said("MAIL")) == sorted(
            f"MAIL FROM:<{address}" for address in expected
        )
        assert sorted(sink.said("RCPT")) == sorted(f"RCPT TO:<{address}>" for address in expected)
        assert len(sink.messages) == len(expected)


async def test_brackets_in_a_quoted_local_part_never_reach_a_server(tmp_path: Path) -> None:
    """B110: legal by the grammar, read differently by servers; refused on the way out, and the sender is told."""
    evil = '"x> RCPT TO:<victim@y.example"@c.example'
    async with SmtpServer() as sink, relaying(tmp_path, sink) as rig:
        assert (await rig.send(CONTENT, "a@b.example", evil, "c@d.example")).startswith("250")
        await rig.settled()
        assert [message.recipients for message in mails(sink)] == [["c@d.example"]]
        (report,) = reports(sink)
        assert report.recipients == ["a@b.example"]
        assert b"Status: 5.1.3" in report.content
        assert not [line for line in sink.said("RCPT") if "victim" in line]


async def test_the_null_sender_is_kept_and_never_answered(tmp_path: Path) -> None:
    """B100, R35: no report about a report."""
    async with SmtpServer() as sink, relaying(tmp_path, sink) as rig:
        sink.at("rcpt", reply("550 5.1.1 no such user"), when="gone@")
        assert (await rig.send(CONTENT, "", "gone@d.example", "c@d.example")).startswith("250")
        await rig.settled()
        (message,) = sink.messages
        assert (message.sender, message.recipients) == ("", ["c@d.example"])
        assert len(rig.told("dsn.suppressed")) == 1


async def test_each_failed_recipient_is_reported_once(tmp_path: Path) -> None:
    async with SmtpServer() as sink, relaying(tmp_path, sink) as rig:
        sink.at("rcpt", reply("550 5.1.1 no <b>such</b> user \x1b[31m"), when="gone")
        await rig.send(CONTENT, "a@b.example", "gone1@d.example", "c@d.example", "gone2@d.example")
        await rig.settled()
        (report,) = reports(sink)
        found = re.findall(rb"Final-Recipient: rfc822; ?(\S+)", report.content)
        assert sorted(found) == [b"gone1@d.example", b"gone2@d.example"]
        assert b"\x1b" not in report.raw  # B415
        assert len(rig.told("dsn.created")) == 1


# SMTPUTF8: B118-B121

NO_UTF8 = [capability for capability in CAPABILITIES if capability != "SMTPUTF8"]


async def send_utf8(rig: Any, sender: str, recipient: str, content: bytes = CONTENT) -> str:
    async with rig.client() as client:
        await client.ehlo()
        assert (await client.ask(f"MAIL FROM:<{sender}> SMTPUTF8 BODY=8BITMIME".encode())).startswith("250")
        assert (await client.ask(f"RCPT TO:<{recipient}>".encode())).startswith("250")
        await client.ask("DATA")
        client.send(content + b".\r\n")
        return await client.reply()


async def test_an_international_message_goes_where_it_can_go_and_never_altered(tmp_path: Path) -> None:
    """B120: past the node that cannot take it, which stays in service."""
    async with SmtpServer(capabilities=NO_UTF8) as ascii_only, SmtpServer() as sink:
        nodes = [node(ascii_only, "ascii", priority=1), node(sink, "utf8", priority=2)]
        pools = [{"name": "main", "id": 7, "mta": "mta4", "rotation": "priority", "nodes": nodes}]
        async with relaying(tmp_path, nodes=[], pools=pools) as rig:
            assert (await send_utf8(rig, "ä@bücher.example", "ü@d.example")).startswith("250")
            assert (await rig.send(CONTENT)).startswith("250")
            await rig.settled()
        assert (sink.messages[0].sender, sink.messages[0].recipients) == ("ä@bücher.example", ["ü@d.example"])
        assert " SMTPUTF8" in sink.messages[0].mail
        assert [message.recipients for message in ascii_only.messages] == [["c@d.example"]]


async def test_an_international_message_that_no_node_can_take_is_reported(tmp_path: Path) -> None:
    async with SmtpServer(capabilities=NO_UTF8) as ascii_only, relaying(tmp_path, ascii_only) as rig:
        assert (await send_utf8(rig, "a@b.example", "ü@d.example")).startswith("250")
        await rig.settled()
        (report,) = ascii_only.messages
        assert (report.sender, report.recipients) == ("", ["a@b.example"])
        assert b"Status: 5.6.7" in report.content
        assert report.content.isascii()


async def test_smtputf8_that_nothing_needs_keeps_no_message_from_a_node(tmp_path: Path) -> None:
    """Some clients always say SMTPUTF8; with ASCII addresses and headers it changes nothing (as Postfix has it)."""
    async with SmtpServer(capabilities=NO_UTF8) as ascii_only, relaying(tmp_path, ascii_only) as rig:
        assert (await send_utf8(rig, "a@b.example", "c@d.example", CONTENT + "ü\r\n".encode())).startswith("250")
        assert (await send_utf8(rig, "a@b.example", "c@d.example", "Subject: ü\r\n\r\nx\r\n".encode())).startswith(
            "250"
        )
        await rig.settled()
        (taken,) = mails(ascii_only)
        assert taken.content.endswith("\r\nhello\r\nü\r\n".encode())
        assert len(reports(ascii_only)) == 1  # a header in UTF-8 does need it


@pytest.mark.parametrize(
    "path",
    [
        b"<\xc3\x28@b.example>",
        b"<\xed\xa0\x80@b.example>",
        "<a\u202eb@c.example>".encode(),
        "<a@\u200d.example>".encode(),
    ],
    ids=["invalid", "surrogate", "bidi", "ZWJ domain"],
)
async def test_broken_utf8_is_refused_at_the_door(path: bytes, tmp_path: Path) -> None:
    async with SmtpServer() as sink, relaying(tmp_path, sink) as rig, rig.client() as client:
        await client.ehlo()
        assert (await client.ask(b"MAIL FROM:" + path + b" SMTPUTF8")).startswith("501")
        await client.ask(b"MAIL FROM:<a@b.example> SMTPUTF8")
        assert (await client.ask(b"RCPT TO:" + path)).startswith("501")


# Limits of nodes: R33, R34


async def test_a_message_goes_only_where_it_fits(tmp_path: Path) -> None:
    """Told by the configuration, by the server's SIZE, and late by a 552."""
    async with SmtpServer() as small, SmtpServer(capabilities=["SIZE 20000"]) as sized, SmtpServer() as large:
        small.at("dot", reply("552 5.3.4 message too big"))
        nodes = [
            node(small, "a-configured", priority=1, max_size=10_000),
            node(sized, "b-announced", priority=2),
            node(small, "c-late", priority=3),
            node(large, "d-large", priority=4),
        ]
        pools = [{"name": "main", "id": 7, "mta": "mta4", "rotation": "priority", "nodes": nodes}]
        async with relaying(tmp_path, nodes=[], pools=pools) as rig:
            content = CONTENT + b"x" * 70 + b"\r\n" * 15_000
            assert (await rig.send(content)).startswith("250")
            await rig.settled()
            assert [event["node"] for event in rig.told("attempt.refused")] == ["b-announced", "c-late"]
            assert not rig.told("node.deactivated")
        assert large.messages[0].content.endswith(content[-30_000:])
        assert len(large.messages) == 1
        assert sized.messages == []


async def test_a_message_too_large_for_every_node_is_refused_at_mail_and_at_the_dot(tmp_path: Path) -> None:
    """R33: never taken only to be held."""
    async with SmtpServer() as sink:
        nodes = [node(sink, "a", max_size=10_000), node(sink, "b", max_size=20_000), node(sink, "c", weight=0)]
        async with relaying(tmp_path, nodes=nodes) as rig:
            async with rig.client() as client:
                await client.ehlo()
                assert (await client.ask("MAIL FROM:<a@b.example> SIZE=20001")).startswith("552 5.3.4")
                assert (await client.ask("MAIL FROM:<a@b.example> SIZE=19000")).startswith("250")
                await client.ask("RCPT TO:<c@d.example>")
                await client.ask("DATA")
                client.send(b"A: b\r\n\r\n" + b"x\r\n" * 6660 + b".\r\n")  # under the limit until our Received is added
                assert (await client.reply()).startswith("552 5.3.4")
            assert (await rig.send(b"A: b\r\n\r\n" + b"x\r\n" * 7000)).startswith("552 5.3.4")
            assert (await rig.send(b"A: b\r\n\r\n" + b"x\r\n" * 5000)).startswith("250")
            await rig.settled()
            assert len(sink.messages) == 1


async def test_a_message_every_server_calls_too_big_is_reported_once(tmp_path: Path) -> None:
    async with SmtpServer(capabilities=["SIZE 3000"]) as one, SmtpServer() as two:
        two.at("mail", reply("552 5.3.4 message size exceeds fixed limit"), when="a@b.example")
        async with relaying(tmp_path, one, two) as rig:
            await rig.send(CONTENT + b"x" * 70 + b"\r\n" * 3000)
            await rig.settled()
            assert len(rig.told("dsn.created")) == 1
        assert len(reports(one) + reports(two)) == 1
        assert mails(one) + mails(two) == []


async def test_recipients_beyond_what_a_node_takes_go_in_batches(tmp_path: Path) -> None:
    """R34, B409: by configuration, and when the server says 452 after some."""
    everybody = [f"r{number}@d.example" for number in range(25)]
    async with SmtpServer() as configured:
        async with relaying(tmp_path, nodes=[node(configured, "a", max_recipients=10)]) as rig:
            await rig.send(CONTENT, "a@b.example", *everybody)
            await rig.settled()
        assert sorted(len(message.recipients) for message in configured.messages) == [5, 10, 10]
        assert sorted(r for message in configured.messages for r in message.recipients) == sorted(everybody)
    (tmp_path / "other").mkdir()
    async with SmtpServer() as telling:
        for count in (7, 14, 21):
            telling.at("rcpt", reply("452 4.5.3 too many recipients"), when=f"r{count}@", times=1)
        async with relaying(tmp_path / "other", telling) as rig:
            await rig.send(CONTENT, "a@b.example", *everybody)
            await rig.settled()
        assert sorted(r for message in telling.messages for r in message.recipients) == sorted(everybody)


async def test_a_thousand_recipients_are_taken_and_the_next_must_wait(tmp_path: Path) -> None:
    """B131, B132: and the same one twice is one."""
    async with SmtpServer() as sink, relaying(tmp_path, sink) as rig, rig.client() as client:
        await client.ehlo()
        await client.ask("MAIL FROM:<a@b.example>")
        names = [f"r{number}@d.example" for number in range(1000)]
        client.send("".join(f"RCPT TO:<{name}>\r\n" for name in [*names, "r1@D.EXAMPLE", "over@d.example"]))
        assert [(await client.reply())[:9] for _ in range(1002)] == ["250 2.1.5"] * 1001 + ["452 4.5.3"]
        await client.ask("DATA")
        client.send(CONTENT + b".\r\n")
        assert (await client.reply()).startswith("250")
        client.send(b"QUIT\r\n")
        await client.rest()
        await rig.settled()
        assert sorted(r for message in sink.messages for r in message.recipients) == sorted(names)
        assert {len(message.recipients) for message in sink.messages} == {100}


# Nothing into nowhere: B125, B135, B136, R36


async def test_a_message_beyond_the_room_is_452_at_mail(tmp_path: Path) -> None:
    async with (
        SmtpServer() as sink,
        relaying(tmp_path, sink, spool={"max_bytes": "1MB"}) as rig,
        rig.client() as client,
    ):
        await client.ehlo()
        assert (await client.ask("MAIL FROM:<a@b.example> SIZE=2000000")).startswith("452 4.3.1")
        assert (await client.message()).startswith("250")
    async with SmtpServer() as sink, relaying(tmp_path, sink, spool={"min_free": 2**50}) as rig, rig.client() as client:
        await client.ehlo()
        assert (await client.ask("MAIL FROM:<a@b.example>")).startswith("452 4.3.1")
        assert (await client.ask("RCPT TO:<c@d.example>")).startswith("503")


async def test_the_cap_of_a_bridge_is_4xx_with_the_time_it_opens(tmp_path: Path) -> None:
    """B136: recipients count, and a refused message counts nothing."""
    bridges = [{"name": "local", "pool": "main", "networks": ["127.0.0.1/32"], "limits": {"hour": 3}}]
    async with SmtpServer() as sink, relaying(tmp_path, sink, bridges=bridges) as rig:
        assert (await rig.send(CONTENT, "a@b.example", "one@d.example", "two@d.example")).startswith("250")
        refused = await rig.send(CONTENT, "a@b.example", "three@d.example", "four@d.example")
        assert re.fullmatch(r"45\d 4\.7\.1 .* in \d+ seconds", refused)
        assert (await rig.send(CONTENT, "a@b.example", "three@d.example")).startswith("250")
        assert (await rig.send(CONTENT)).startswith("45")
        await rig.settled()
        assert len(sink.messages) == 2


async def test_a_pool_without_a_node_that_sends_keeps_mail_and_says_why(tmp_path: Path) -> None:
    """B135: held and listed, not lost and not refused for good."""
    async with SmtpServer() as sink, relaying(tmp_path, nodes=[node(sink, "idle", weight=0)]) as rig:
        assert (await rig.send(CONTENT)).startswith("250")
        await rig.settled(left=1)
        (entry,) = await rig.entries()
        assert entry.standing is Standing.QUEUED
        assert "weight 0" in str(rig.told("message.held")) or "weight 0" in entry.reason
        assert sink.connections == 0


async def test_a_relay_that_points_at_itself_ends_the_circle(tmp_path: Path) -> None:
    """R36: a few rounds, one report about it, which goes round too and is given up without another."""
    itself = {"name": "itself", "type": "smtp", "host": HOST, "tls": "none"}
    async with relaying(tmp_path, nodes=lambda port: [{**itself, "port": port}]) as rig:
        assert (await rig.send(CONTENT)).startswith("250")
        await rig.settled()
        rounds = rig.told("message.accepted")
        assert len(rounds) <= 8
        assert "5.4.6" in str(rig.told("attempt.refused"))
        assert len(rig.told("dsn.created")) == 1
        assert len(rig.told("dsn.suppressed")) == 1
        assert not rig.told("node.deactivated")


async def test_a_login_of_one_bridge_gives_nothing_of_another(tmp_path: Path) -> None:
    """B133 over a session: what AUTH opened decides, not the network the client is in."""
    bridges = [
        {"name": "local", "pool": "main", "networks": ["127.0.0.1/32"], "senders": ["@local.example"]},
        {
            "name": "app",
            "pool": "main",
            "senders": ["@app.example"],
            "credentials": [{"username": "app", "password": PASSWORD}],
        },
    ]
    async with SmtpServer() as sink, relaying(tmp_path, sink, bridges=bridges) as rig, rig.client() as client:
        await client.ehlo()
        assert await client.codes("MAIL FROM:<a@app.example>", "MAIL FROM:<a@local.example>", "RSET") == [
            "550",
            "250",
            "250",
        ]
        assert (await client.login("app", PASSWORD)).startswith("235")
        assert await client.codes("MAIL FROM:<a@local.example>", "MAIL FROM:<a@app.example>") == ["550", "250"]
        assert HOSTNAME in await client.ask("EHLO again")
