"""Commands and replies over real sockets: sequence, syntax, pipelining, half-close, what is not mail at all."""

from __future__ import annotations

import asyncio
import itertools
import re
import socket

import pytest

from relay.bridges.bridge import Bridge, BridgeLimits
from relay.envelope import Reply
from tests.fakes.acceptor import RecordingAcceptor
from tests.fakes.listener_rig import HOST, OPEN, PASSWORD, SHOP, listening

DATA = b"Subject: x\r\n\r\nhello\r\n.\r\n"


def closed_to_strangers() -> RecordingAcceptor:
    return RecordingAcceptor(logins={("shop", PASSWORD): SHOP})


async def test_a_message_arrives_as_it_was_sent() -> None:
    async with listening() as rig, rig.client() as client:
        greeting = await client.greeting()
        assert greeting == "220 relay.example ESMTP"
        await client.ask("EHLO client.example")
        await client.begin("a@b.example", "c@d.example", "e@f.example")
        client.send(b"Subject: x\r\n\r\n..dot\r\nend\r\n.\r\n")
        assert (await client.reply()).startswith("250 2.0.0 Ok: queued as ")
        assert await client.ask("QUIT") == "221 2.0.0 Bye"
        assert await client.rest() == ""
        (taken,) = rig.acceptor.messages
        assert (taken.sender, taken.recipients) == ("a@b.example", ("c@d.example", "e@f.example"))
        assert taken.content == b"Subject: x\r\n\r\n.dot\r\nend\r\n"
        session = taken.submission.session
        assert (session.peer, session.helo, session.protocol) == (HOST, "client.example", "ESMTP")


async def test_ehlo_offers_what_works_and_every_other_reply_has_an_enhanced_code() -> None:
    async with listening() as rig, rig.client() as client:
        lines = (await client.ehlo()).splitlines()
        offered = {line[4:] for line in lines[1:]}
        assert offered == {"PIPELINING", "SIZE 26214400", "ENHANCEDSTATUSCODES", "8BITMIME", "DSN", "SMTPUTF8"}
        for line in ("NOOP", "RSET", "HELP", "VRFY x", "EXPN x", "FOO", "MAIL", "RCPT", "DATA", "STARTTLS", "QUIT"):
            assert re.match(r"\d\d\d \d\.\d\.\d ", await client.ask(line)), line


async def test_helo_knows_no_parameters() -> None:
    async with listening() as rig, rig.client() as client:
        await client.greeting()
        assert await client.ask("HELO client.example") == "250 relay.example"
        assert (await client.ask("MAIL FROM:<a@b.example> SIZE=1")).startswith("555 5.5.4")
        assert await client.message() != ""
        assert rig.acceptor.messages[0].submission.session.protocol == "SMTP"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("EHLO", "501 5.5.4"),
        ("HELO", "501 5.5.4"),
        ("LHLO x", "500 5.5.1"),
        ("", "500 5.5.1"),
        ("   ", "500 5.5.1"),
        (" NOOP", "500 5.5.1"),
        ("NOOP\t", "250 2.0.0"),
        ("noop", "250 2.0.0"),
        ("nOoP", "250 2.0.0"),
        ("NOOP text", "250 2.0.0"),
        ("RSET text", "501 5.5.4"),
        ("QUIT text", "501 5.5.4"),
        ("VRFY", "501 5.5.4"),
        ("VRFY postmaster", "252 2.0.0"),
        ("VRFY nobody@nowhere.example", "252 2.0.0"),
        ("EXPN list", "502 5.5.1"),
        ("HELP " + "x" * 400, "214 2.0.0"),
        ("NOOP " + "x" * 600, "500 5.5.2"),
        ("TURN", "500 5.5.1"),
        ("ETRN x", "500 5.5.1"),
        ("BDAT 5 LAST", "500 5.5.1"),
        ("XCLIENT ADDR=192.0.2.1", "500 5.5.1"),
        ("XFORWARD ADDR=192.0.2.1", "500 5.5.1"),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 2", "500 5.5.1"),
        ("FOO%s%n{0}${jndi:x}", "500 5.5.1"),
        ("STARTTLS", "502 5.5.1"),
        ("AUTH PLAIN", "538 5.7.11"),
        ("RCPT TO:<a@b.example>", "503 5.5.1"),
        ("DATA", "503 5.5.1"),
        (b"NO\0OP", "500 5.5.2"),
        (b"NOOP \0", "500 5.5.2"),
        (b"NOOP a\rRSET", "500 5.5.2"),
        (b"NOOP \x1b[2J", "500 5.5.2"),
        (b"EHLO a\x7f", "500 5.5.2"),
        (b"EHLO b\xc3\xbc", "501 5.5.4"),
        (b"N\xd6\xd6P", "500 5.5.2"),
        (b"MAIL FROM:<a\0@b.example>", "500 5.5.2"),
        (b"MAIL FROM:<\xc3\xbc@b.example>", "553 5.6.7"),
        (b"MAIL FROM:<\xff@b.example> SMTPUTF8", "501 5.1.7"),
        ("MAIL FROM:<a@b.example> SIZE=26214401", "552 5.3.4"),
        ("EHLO localhost", "250-relay.example"),
        ("EHLO [192.0.2.1]", "250-relay.example"),
        ("EHLO [IPv6:::1]", "250-relay.example"),
        ("EHLO _x", "250-relay.example"),
        ("EHLO " + "x" * 300, "250-relay.example"),
    ],
    ids=repr,
)
async def test_one_reply_for_each_command_and_the_session_goes_on(line: str | bytes, expected: str) -> None:
    async with listening() as rig, rig.client() as client:
        await client.ehlo()
        assert (await client.ask(line)).startswith(expected)
        assert await client.ask("NOOP") == "250 2.0.0 Ok"


async def test_commands_out_of_order() -> None:
    async with listening() as rig, rig.client() as client:
        await client.greeting()
        assert (await client.ask("MAIL FROM:<a@b.example>")).startswith("503 5.5.1")
        await client.ask("EHLO x")
        ok = "MAIL FROM:<a@b.example>"
        assert await client.codes(ok, ok, "RCPT TO:<c@d.example>", "RSET", "RCPT TO:<c@d.example>", "DATA") == [
            "250",
            "503",
            "250",
            "250",
            "503",
            "503",
        ]
        assert await client.codes(ok, "EHLO x", "DATA", ok, "DATA") == ["250", "250", "503", "250", "503"]
        assert (await client.ask("RCPT TO:<c@d.example>")).startswith("250 2.1.5")
        assert (await client.ask("DATA text")).startswith("501")
        assert rig.acceptor.offered == 0


@pytest.mark.parametrize(
    "verb", ["GET / HTTP/1.1", "POST /x HTTP/1.1", "CONNECT x:25 HTTP/1.1", "Host: x", "OPTIONS *"]
)
async def test_http_is_sent_away_at_its_first_line(verb: str) -> None:
    async with listening() as rig, rig.client() as client:
        await client.greeting()
        client.send(
            f"{verb}\r\nContent-Length: 99\r\n\r\nEHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"
        )
        assert await client.rest() == "421 4.7.0 This is not HTTP\r\n"
        await rig.idle()
        assert rig.acceptor.offered == 0
        assert len(rig.records.named("session.refused")) == 1


async def test_ten_errors_end_the_session() -> None:
    async with listening() as rig, rig.client() as client:
        await client.ehlo()
        client.send(b"FOO\r\n" * 12 + b"NOOP\r\n")
        replies = (await client.rest()).splitlines()
        assert [reply[:9] for reply in replies] == ["500 5.5.1"] * 10 + ["421 4.7.0"]


@pytest.mark.parametrize("line", ["NOOP", "RSET", "EHLO x", "VRFY x", "HELP"])
async def test_a_hundred_commands_without_mail_end_the_session(line: str) -> None:
    async with listening() as rig, rig.client() as client:
        await client.greeting()
        client.send("HELO x\r\n" + f"{line}\r\n" * 120)
        replies = [reply for reply in (await client.rest()).splitlines() if reply[3:4] == " "]
        assert len(replies) <= 102
        assert replies[-1].startswith("421 4.7.0") or replies[-2].startswith("421 4.7.0")


async def test_mail_in_between_starts_the_count_of_idle_commands_anew() -> None:
    async with listening(max_idle_commands=5) as rig, rig.client() as client:
        await client.ehlo()
        for _ in range(5):
            assert await client.codes("NOOP", "RSET", "NOOP") == ["250"] * 3
            assert (await client.message()).startswith("250")


async def test_everything_piped_at_once_is_answered_in_order_after_a_half_close() -> None:
    async with listening() as rig, rig.client() as client:
        transaction = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nRCPT TO:<bad\r\nDATA\r\n" + DATA
        client.send(b"EHLO x\r\n" + transaction * 3 + b"NOOP\r\nQUIT\r\n")
        client.writer.write_eof()
        replies = [reply[:3] for reply in (await client.rest()).splitlines() if reply[3] == " "]
        assert replies == ["220", "250", *["250", "250", "501", "354", "250"] * 3, "250", "221"]
        assert len(rig.acceptor.messages) == 3


async def test_half_close_after_the_final_dot_still_gets_its_250() -> None:
    async with listening() as rig, rig.client() as client:
        rig.acceptor.gate = asyncio.Event()
        await client.ehlo()
        await client.begin()
        client.send(DATA)
        client.writer.write_eof()
        await rig.acceptor.committing.wait()
        rig.acceptor.gate.set()
        assert (await client.rest()).startswith("250 2.0.0 Ok")
        assert len(rig.acceptor.messages) == 1


async def test_an_early_end_of_input_closes_at_once() -> None:
    async with listening() as rig, rig.client() as client:
        await client.greeting()
        client.send(b"NOO")
        client.writer.write_eof()
        assert await client.rest() == ""


async def test_early_talkers_are_served_once() -> None:
    async with listening() as rig:
        with socket.create_connection((HOST, rig.port)) as sock:
            sock.sendall(b"EHLO x\r\nNOOP\r\nQUIT\r\n")
            reader, writer = await asyncio.open_connection(sock=sock)
            text = (await reader.read()).decode()
            writer.close()
        assert [line[:3] for line in text.splitlines() if line[3] == " "] == ["220", "250", "250", "221"]


async def test_quit_twice_is_answered_once() -> None:
    async with listening() as rig, rig.client() as client:
        await client.ehlo()
        client.send(b"QUIT\r\nQUIT\r\n")
        assert await client.rest() == "221 2.0.0 Bye\r\n"


async def test_pipelined_replies_leave_together_and_commands_may_arrive_octet_by_octet() -> None:
    async with listening() as rig, rig.client() as client:
        await client.ehlo()
        for octet in b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n" + DATA:
            client.send(bytes((octet,)))
            await asyncio.sleep(0)
        assert [(await client.reply())[:3] for _ in range(4)] == ["250", "250", "354", "250"]


async def test_the_next_transaction_may_come_with_the_final_dot() -> None:
    async with listening() as rig, rig.client() as client:
        await client.ehlo()
        await client.begin("one@b.example")
        client.send(DATA + b"MAIL FROM:<two@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n" + DATA)
        assert [(await client.reply())[:3] for _ in range(5)] == ["250", "250", "250", "354", "250"]
        assert [taken.sender for taken in rig.acceptor.messages] == ["one@b.example", "two@b.example"]


async def test_data_after_only_refused_recipients_is_refused_and_its_body_hardly_run() -> None:
    async with listening() as rig, rig.client() as client:
        await client.ehlo()
        client.send(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<bad\r\nDATA\r\n")
        assert [(await client.reply())[:9] for _ in range(3)] == ["250 2.1.0", "501 5.1.3", "554 5.5.1"]
        client.send(b"Subject: x\r\nTo: y\r\n\r\nMAIL FROM:<evil@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n.\r\n")
        replies = (await client.rest()).splitlines()
        assert [reply[:3] for reply in replies] == ["500", "500", "500", "421"]
        assert rig.acceptor.offered == 0


async def test_mail_refused_then_the_rest_pipelined_is_503() -> None:
    async with listening() as rig, rig.client() as client:
        rig.acceptor.refused_senders["no@b.example"] = Reply(550, "5.7.1", "Sender not allowed")
        await client.ehlo()
        client.send(b"MAIL FROM:<no@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n")
        assert await client.reply() == "550 5.7.1 Sender not allowed"
        assert [(await client.reply())[:9] for _ in range(2)] == ["503 5.5.1"] * 2
    (event,) = rig.records.named("message.rejected")
    assert (event["stage"], event["bridge"]) == ("mail", "open")


async def test_recipients_over_the_limit_wait_and_the_others_are_taken() -> None:
    async with listening(max_recipients=100) as rig, rig.client() as client:
        await client.ehlo()
        await client.ask("MAIL FROM:<a@b.example>")
        client.send(b"".join(b"RCPT TO:<r%d@d.example>\r\n" % number for number in range(103)) + b"DATA\r\n")
        replies = [(await client.reply())[:9] for _ in range(104)]
        assert replies == ["250 2.1.5"] * 100 + ["452 4.5.3"] * 3 + ["354 End d"]
        client.send(DATA)
        assert (await client.reply()).startswith("250")
        assert len(rig.acceptor.messages[0].recipients) == 100
        assert len(rig.records.named("message.rejected")) == 1


async def test_a_flood_of_recipients_is_ended() -> None:
    async with listening(max_recipients=100) as rig, rig.client() as client:
        await client.ehlo()
        client.send(
            b"MAIL FROM:<a@b.example>\r\n" + b"".join(b"RCPT TO:<r%d@d.example>\r\n" % n for n in range(20_000))
        )
        replies = (await client.rest()).splitlines()
        assert replies[-1].startswith("421 4.7.0")
        assert len(replies) < 300


async def test_a_recipient_given_twice_is_one_copy_unless_its_local_part_differs() -> None:
    async with listening() as rig, rig.client() as client:
        await client.ehlo()
        await client.begin("a@b.example", "c@d.example", "c@D.Example", "C@d.example")
        client.send(DATA)
        await client.reply()
        assert rig.acceptor.messages[0].recipients == ("c@d.example", "C@d.example")


async def test_a_bridge_may_have_smaller_limits_than_the_listener() -> None:
    bridge = Bridge(name="small", pool="p", networks=OPEN.networks, limits=BridgeLimits(size=1000, recipients=2))
    async with listening(bridge=bridge) as rig, rig.client() as client:
        await client.ehlo()
        assert (await client.ask("MAIL FROM:<a@b.example> SIZE=1001")).startswith("552 5.3.4")
        assert await client.codes("MAIL FROM:<a@b.example>", *[f"RCPT TO:<{n}@d.example>" for n in range(3)]) == [
            "250",
            "250",
            "250",
            "452",
        ]
        await client.ask("DATA")
        client.send(b"x" * 990 + b"\r\n" + DATA)
        assert (await client.reply()).startswith("552 5.3.4")


async def test_dsn_and_utf8_parameters_reach_the_acceptor_decoded() -> None:
    async with listening() as rig, rig.client() as client:
        await client.ehlo()
        assert await client.codes(
            "MAIL FROM:<ü@b.example> SMTPUTF8 BODY=8BITMIME RET=HDRS ENVID=a+2Bb",
            "RCPT TO:<c@bücher.example> NOTIFY=FAILURE,DELAY ORCPT=rfc822;c+3Dx@d.example",
            "DATA",
        ) == ["250", "250", "354"]
        client.send("Subject: ü\r\n\r\nx\r\n.\r\n")
        await client.reply()
        submission = rig.acceptor.messages[0].submission
        assert (submission.sender, submission.ret, submission.envid) == ("ü@b.example", "HDRS", "a+b")
        assert (submission.smtputf8, submission.eight_bit) == (True, True)
        (recipient,) = submission.recipients
        assert (recipient.notify, recipient.orcpt) == ("FAILURE,DELAY", "rfc822;c=x@d.example")
        assert submission.session.protocol == "UTF8SMTP"
        assert (await client.message()).startswith("250")
        assert rig.acceptor.messages[1].submission.session.protocol == "ESMTP"


async def test_a_closed_store_and_a_revoked_bridge_are_heard_at_mail() -> None:
    async with listening() as rig, rig.client() as client:
        await client.ehlo()
        rig.acceptor.closed = Reply(452, "4.3.1", "No room")
        assert await client.ask("MAIL FROM:<a@b.example>") == "452 4.3.1 No room"
        rig.acceptor.closed = None
        rig.acceptor.revoked.add("open")
        rig.acceptor.bridges.clear()
        client.send(b"MAIL FROM:<a@b.example>\r\n")
        assert (await client.rest()).startswith("421 4.7.0")


async def test_a_renamed_bridge_for_the_same_network_is_taken_up_by_open_sessions() -> None:
    async with listening() as rig, rig.client() as client:
        await client.ehlo()
        rig.acceptor.revoked.add("open")
        rig.acceptor.bridges[:] = [Bridge(name="renewed", pool="p", networks=OPEN.networks)]
        assert (await client.message()).startswith("250")
        assert rig.acceptor.messages[0].submission.bridge.name == "renewed"


@pytest.mark.parametrize("length", [5, 20_000, 60_000])
async def test_an_over_long_line_is_refused_in_step(length: int) -> None:
    async with listening() as rig, rig.client() as client:
        await client.ehlo()
        client.send(b"NOOP " + b"x" * length + b"\r\nRSET\r\n")
        assert (await client.reply())[:9] == ("250 2.0.0" if length == 5 else "500 5.5.2")
        assert await client.reply() == "250 2.0.0 Ok"


async def test_a_line_without_end_is_cut() -> None:
    async with listening() as rig, rig.client() as client:
        await client.ehlo()
        client.send(b"x" * 1_000_000)
        assert (await client.rest()).startswith("500 5.5.2")


async def test_a_bare_lf_line_ends_the_session_unless_line_ends_are_normalised() -> None:
    async with listening() as rig, rig.client() as client:
        await client.ehlo()
        client.send(b"NOOP\nRSET\r\n")
        assert (await client.rest()).startswith("500 5.5.2")
    async with listening(line_endings="normalize") as rig, rig.client() as client:
        await client.ehlo()
        client.send(b"NOOP\nMAIL FROM:<a@b.example>\nRCPT TO:<c@d.example>\r\nDATA\n")
        assert [(await client.reply())[:3] for _ in range(4)] == ["250", "250", "250", "354"]
        client.send(b"Subject: x\n\nhello\n.\n..dot\n\r\n.\r\n")
        assert (await client.reply()).startswith("250")
        assert rig.acceptor.messages[0].content == b"Subject: x\r\n\r\nhello\r\n\r\n.dot\r\n\r\n"


async def test_tls_and_random_octets_on_a_clear_port_do_no_harm() -> None:
    async with listening() as rig:
        for octets in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n" * 5, bytes(range(256)) * 16):
            async with rig.client() as client:
                await client.greeting()
                client.send(octets)
                client.writer.write_eof()
                assert all(line[0] in "45" for line in (await client.rest()).splitlines())
        async with rig.client() as client:
            await client.ehlo()
            assert (await client.message()).startswith("250")


LINES = ["EHLO x", "MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "DATA", "RSET", "AUTH PLAIN AHNob3AAeA=="]
NO_LIMITS = {"max_errors": 0, "max_auth_failures": 0, "max_idle_commands": 0}


def assert_nothing_taken(rig, text: str, commands: int) -> None:
    replies = [line for line in text.splitlines() if line[3] == " "]
    assert len(replies) == commands + 2  # greeting and QUIT
    assert not any(line.startswith(("250 2.1", "354", "235")) for line in replies)
    assert rig.acceptor.offered == 0


async def test_without_login_or_network_no_order_of_commands_takes_a_recipient() -> None:
    """Every order of up to three commands on a fresh connection."""
    async with listening(closed_to_strangers(), auth_without_tls=True, **NO_LIMITS) as rig:
        for order in (order for length in (1, 2, 3) for order in itertools.product(LINES, repeat=length)):
            async with rig.client() as client:
                client.send("".join(f"{line}\r\n" for line in (*order, "QUIT")))
                assert_nothing_taken(rig, await client.rest(), len(order))


async def test_no_order_of_five_commands_after_ehlo_takes_a_recipient() -> None:
    async with listening(closed_to_strangers(), auth_without_tls=True, **NO_LIMITS) as rig:
        for first in LINES:
            orders = [(first, *rest) for rest in itertools.product(LINES, repeat=4)]
            async with rig.client() as client:
                client.send("".join(f"{line}\r\n" for order in orders for line in ("EHLO x", *order)) + "QUIT\r\n")
                assert_nothing_taken(rig, await client.rest(), 6 * len(orders))
