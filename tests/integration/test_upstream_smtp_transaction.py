"""Transactions against a scripted server: what is said, and what each answer comes to; with and without pipelining."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.envelope import BodyFile, Content
from relay.outcome import Scope, Status
from relay.upstreams.base import Capabilities, OutboundRecipient
from tests.fakes.smtp_server import CAPABILITIES, Do, SmtpServer, reply
from tests.fakes.upstream import BODY, HEAD, Rendered, kinds, send, smtp_node

OK = (Status.DELIVERED, Scope.RECIPIENT)


@pytest.fixture(params=["pipelining", "one by one"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[SmtpServer]:
    offered = [c for c in CAPABILITIES if request.param == "pipelining" or c != "PIPELINING"]
    async with SmtpServer(capabilities=offered) as server:
        yield server


async def test_a_message_arrives_octet_for_octet(server: SmtpServer) -> None:
    async with smtp_node(server) as node:
        [outcome] = await send(node)
    assert (outcome.status, outcome.code, outcome.enhanced, outcome.phase) == (Status.DELIVERED, 250, "2.0.0", "dot")
    assert outcome.vendor_id == "000001"
    [message] = server.messages
    assert message.content == HEAD + b"\r\n" + BODY
    assert message.sender == "a@b.example"
    assert message.recipients == ["x@y.example"]
    assert message.ehlo == "relay.example"


async def test_the_null_sender_is_said_as_empty_path(server: SmtpServer) -> None:
    async with smtp_node(server) as node:
        assert kinds(await send(node, sender="")) == [OK]
    assert server.messages[0].mail.startswith("MAIL FROM:<> ")


async def test_pipelining_is_used_exactly_where_it_is_offered() -> None:
    for offered, option, one_read in (("yes", "auto", True), ("yes", "off", False), ("no", "auto", False)):
        capabilities = [c for c in CAPABILITIES if offered == "yes" or c != "PIPELINING"]
        async with SmtpServer(capabilities=capabilities) as server, smtp_node(server, pipelining=option) as node:
            server.at("mail", reply("550 5.1.8 no"))
            await send(node)
            assert bool(server.said("DATA")) == one_read


@pytest.mark.parametrize("size", [300_000, 1_000_000])
@pytest.mark.parametrize("kept_as", ["file", "bytes"])
async def test_a_large_body_arrives_octet_for_octet(
    server: SmtpServer, tmp_path: Path, size: int, kept_as: str
) -> None:
    lines = b"".join(b".%d\r\n..\r\ntext %d\r\n" % (i, i) for i in range(size // 20))
    body: bytes | BodyFile = lines
    if kept_as == "file":
        path = tmp_path / "body"
        path.write_bytes(lines)
        body = BodyFile(path, len(lines))
    async with smtp_node(server) as node:
        assert kinds(await send(node, body=body)) == [OK]
        assert kinds(await send(node)) == [OK]
    assert server.messages[0].content == HEAD + b"\r\n" + lines
    assert server.connections == 1


async def test_a_missing_body_file_is_our_trouble_not_the_nodes(server: SmtpServer, tmp_path: Path) -> None:
    async with smtp_node(server) as node:
        [outcome] = await send(node, body=BodyFile(tmp_path / "gone", 10))
        assert (outcome.status, outcome.scope) == (Status.DEFERRED, Scope.MESSAGE)
        assert kinds(await send(node)) == [OK]
    assert len(server.messages) == 1


async def test_each_recipient_gets_its_own_answer(server: SmtpServer) -> None:
    server.at("rcpt", reply("550 5.1.1 no such user"), when="bad@")
    server.at("rcpt", reply("450 4.2.0 greylisted"), when="grey@")
    server.at("rcpt", reply("452 4.5.3 too many recipients"), when="fifth@")
    async with smtp_node(server) as node:
        outcomes = await send(
            node, "one@y.example", "bad@y.example", "grey@y.example", "two@y.example", "fifth@y.example"
        )
        assert kinds(outcomes) == [
            OK,
            (Status.REFUSED, Scope.RECIPIENT),
            (Status.DEFERRED, Scope.RECIPIENT),
            OK,
            (Status.DEFERRED, Scope.RECIPIENT),
        ]
        assert outcomes[4].retry_after_s == 0.0
        assert outcomes[4].enhanced == "4.5.3"
        assert server.messages[0].recipients == ["one@y.example", "two@y.example"]
        assert kinds(await send(node)) == [OK]
    assert server.connections == 1, "partial success leaves a sound connection"


async def test_too_many_recipients_for_the_first_one_is_not_a_matter_of_batches(server: SmtpServer) -> None:
    server.at("rcpt", reply("452 4.5.3 too many recipients"))
    async with smtp_node(server) as node:
        [outcome] = await send(node)
    assert (outcome.status, outcome.scope, outcome.retry_after_s) == (Status.DEFERRED, Scope.RECIPIENT, None)


async def test_a_node_that_relays_is_not_blamed_for_one_foreign_recipient(server: SmtpServer) -> None:
    denied = "454 4.7.1 <x@y.example>: Relay access denied"
    async with smtp_node(server) as node:
        server.at("rcpt", reply(denied), times=1)
        assert kinds(await send(node)) == [(Status.DEFERRED, Scope.NODE)]  # nothing shows that it may relay at all
        assert kinds(await send(node)) == [OK]
        server.at("rcpt", reply(denied), times=1)
        assert kinds(await send(node)) == [(Status.DEFERRED, Scope.RECIPIENT)]
        server.at("rcpt", reply("554 5.7.1 Relay access denied"), times=1)
        assert kinds(await send(node)) == [(Status.REFUSED, Scope.ACCOUNT)]


async def test_relaying_denied_for_all_is_the_accounts_and_for_one_of_many_the_recipients(server: SmtpServer) -> None:
    server.at("rcpt", reply("554 5.7.1 Relay access denied"), when="far@")
    async with smtp_node(server) as node:
        assert kinds(await send(node, "far@y.example")) == [(Status.REFUSED, Scope.ACCOUNT)]
        assert kinds(await send(node, "far@y.example", "near@y.example")) == [(Status.REFUSED, Scope.RECIPIENT), OK]


@pytest.mark.parametrize("data_answer", ["354 go", "554 5.5.1 no valid recipients", "503 5.5.1 RCPT first"])
async def test_all_recipients_refused_sends_no_content_and_keeps_the_connection(
    server: SmtpServer, data_answer: str
) -> None:
    server.at("rcpt", reply("550 5.1.1 no"), times=2)
    server.at("data", reply(data_answer), times=1 if "PIPELINING" in server.capabilities else 0)
    server.at("dot", reply("554 5.5.1 no valid recipients"), times=1 if data_answer.startswith("354") else 0)
    if "PIPELINING" not in server.capabilities:
        server._rules = [rule for rule in server._rules if rule.step == "rcpt"]
    async with smtp_node(server) as node:
        assert kinds(await send(node, "a@y.example", "b@y.example")) == [(Status.REFUSED, Scope.RECIPIENT)] * 2
        assert server.messages == []
        assert kinds(await send(node)) == [OK]
    assert server.connections == 1
    assert server.said("RSET") == ["RSET"], "the server still held an envelope"
    assert server.messages[0].content == HEAD + b"\r\n" + BODY


async def test_354_after_a_refused_sender_ends_the_connection_without_content() -> None:
    async with SmtpServer() as server, smtp_node(server) as node:
        server.at("mail", reply("550 5.7.1 sender refused"), times=1)
        server.at("rcpt", reply("503 5.5.1 MAIL first"), times=1)
        server.at("data", reply("354 go"), times=1)
        server.at("dot", reply("250 2.0.0 taken, whatever it was"), times=1)
        assert kinds(await send(node)) == [(Status.REFUSED, Scope.MESSAGE)]
        assert [m.content for m in server.messages] == [b""]
        assert kinds(await send(node)) == [OK]
        assert server.connections == 2


@pytest.mark.parametrize(
    ("step", "answer", "expected"),
    [
        ("mail", "552 5.3.4 message too big", (Status.REFUSED, Scope.MESSAGE)),
        ("mail", "530 5.7.0 authentication required", (Status.REFUSED, Scope.ACCOUNT)),
        ("mail", "550 5.1.8 sender refused", (Status.REFUSED, Scope.MESSAGE)),
        ("mail", "451 4.3.0 later", (Status.DEFERRED, Scope.MESSAGE)),
        ("mail", "421 4.3.0 closing", (Status.DEFERRED, Scope.NODE)),
        ("mail", "450 4.7.1 rate limit exceeded", (Status.DEFERRED, Scope.QUOTA)),
        ("rcpt", "421 4.3.0 closing", (Status.DEFERRED, Scope.NODE)),
        ("data", "421 4.3.0 closing", (Status.DEFERRED, Scope.NODE)),
        ("data", "451 4.3.0 later", (Status.DEFERRED, Scope.MESSAGE)),
        ("data", "554 5.6.0 no", (Status.REFUSED, Scope.MESSAGE)),
        ("data", "250 2.0.0 Ok", (Status.DEFERRED, Scope.NODE)),
        ("data", "503 5.5.1 out of order", (Status.DEFERRED, Scope.NODE)),
        ("rcpt", "354 go", (Status.DEFERRED, Scope.NODE)),
        ("mail", "354 go", (Status.DEFERRED, Scope.NODE)),
        ("dot", "251 2.0.0 fine", OK),
        ("dot", "354 more", (Status.UNCERTAIN, Scope.MESSAGE)),
        ("dot", "399 what", (Status.UNCERTAIN, Scope.MESSAGE)),
        ("dot", "000 what", (Status.UNCERTAIN, Scope.MESSAGE)),
        ("dot", "421 4.3.2 closing", (Status.DEFERRED, Scope.NODE)),
        ("dot", "451 4.7.1 later", (Status.DEFERRED, Scope.MESSAGE)),
        ("dot", "550 5.7.1 spam", (Status.REFUSED, Scope.MESSAGE)),
        ("dot", "454 Throttling failure: Maximum sending rate exceeded", (Status.DEFERRED, Scope.QUOTA)),
        ("dot", "250 5.1.1 the basic code decides", OK),
    ],
)
async def test_an_answer_at_each_step(
    server: SmtpServer, step: str, answer: str, expected: tuple[Status, Scope]
) -> None:
    server.at(step, reply(answer), times=1)
    async with smtp_node(server) as node:
        [outcome] = await send(node)
        assert (outcome.status, outcome.scope) == expected
        assert outcome.attempted
        assert outcome.phase == step
        if outcome.code:
            assert outcome.code == int(answer[:3])
        assert kinds(await send(node)) == [OK], "the next message is not touched"
    assert server.messages[-1].content == HEAD + b"\r\n" + BODY


async def test_a_text_from_the_upstream_is_cleaned_and_cut(server: SmtpServer) -> None:
    server.at("dot", Do(say=b"550 5.7.1 \x1b[31m<b>%s</b> \xff" + b"y" * 5000 + b"\r\n"))
    async with smtp_node(server) as node:
        [outcome] = await send(node)
    assert outcome.text.startswith("[31m<b>%s</b>")
    assert len(outcome.text) == 500
    assert outcome.text.isprintable()


async def test_parameters_follow_what_the_server_offers(server: SmtpServer) -> None:
    rcpt = OutboundRecipient(address="x@y.example", notify="NEVER", orcpt="rfc822;old@y.example")
    async with smtp_node(server) as node:
        await send(node, rcpt, body="\u00fc\r\n".encode(), smtputf8=True, ret="HDRS", envid="e 1")  # type: ignore[arg-type]
        size = len(HEAD) + 2 + 4
        assert server.messages[0].mail == (
            f"MAIL FROM:<a@b.example> SIZE={size} BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=e+201"
        )
        assert server.messages[0].rcpts == ["RCPT TO:<x@y.example> NOTIFY=NEVER ORCPT=rfc822;old@y.example"]


async def test_nothing_is_said_that_is_not_offered() -> None:
    rcpt = OutboundRecipient(address="x@y.example", notify="NEVER", orcpt="rfc822;old@y.example")
    async with SmtpServer(capabilities=[]) as server, smtp_node(server) as node:
        render = Rendered(Content(HEAD, b"\xff\r\n"))
        await send(node, rcpt, render=render, ret="HDRS", envid="e")  # type: ignore[arg-type]
        assert server.messages[0].mail == "MAIL FROM:<a@b.example>"
        assert server.messages[0].rcpts == ["RCPT TO:<x@y.example>"]
        assert render.asked == [Capabilities(eight_bit=False)]


async def test_a_server_that_only_knows_helo_is_served() -> None:
    async with SmtpServer() as server, smtp_node(server) as node:
        server.at("ehlo", reply("502 5.5.1 what"), when="EHLO")
        assert kinds(await send(node)) == [OK]
        assert server.messages[0].ehlo == "relay.example"


@pytest.mark.parametrize(
    ("more", "sender", "recipient"),
    [
        ({"smtputf8": True}, "a@b.example", "x@y.example"),
        ({}, "\u00fc@b.example", "x@y.example"),
        ({}, "a@b.example", "\u00fc@y.example"),
    ],
)
async def test_what_needs_smtputf8_is_refused_where_it_is_not_offered(
    more: dict[str, object], sender: str, recipient: str
) -> None:
    async with SmtpServer(capabilities=["PIPELINING"]) as server, smtp_node(server) as node:
        [outcome] = await send(node, recipient, sender=sender, **more)
        assert (outcome.status, outcome.scope, outcome.enhanced) == (Status.REFUSED, Scope.MESSAGE, "5.6.7")
        assert not outcome.attempted
        assert not server.said("MAIL")


async def test_utf8_addresses_pass_where_smtputf8_is_offered(server: SmtpServer) -> None:
    async with smtp_node(server) as node:
        assert kinds(await send(node, "\u00fc@y.example", sender="\u00e4@b.example")) == [OK]
    assert server.messages[0].recipients == ["\u00fc@y.example"]


async def test_a_message_above_the_announced_size_is_not_offered() -> None:
    async with SmtpServer(capabilities=["SIZE 1000"]) as server, smtp_node(server) as node:
        [outcome] = await send(node, body=b"x" * 1000)
        assert (outcome.code, outcome.enhanced, outcome.attempted) == (552, "5.3.4", False)
        assert not server.said("MAIL")
        assert kinds(await send(node)) == [OK]


@pytest.mark.parametrize("evil", ["x\r\nRCPT TO:<evil@y.example>", "x>\nDATA", "x\0@y", "x> SIZE=1 <@y"])
async def test_an_address_that_could_speak_smtp_is_refused_for_itself_alone(server: SmtpServer, evil: str) -> None:
    async with smtp_node(server) as node:
        outcomes = await send(node, "a@y.example", evil, "b@y.example")
        assert kinds(outcomes) == [OK, (Status.REFUSED, Scope.RECIPIENT), OK]
        assert not outcomes[1].attempted
        assert kinds(await send(node, sender=evil)) == [(Status.REFUSED, Scope.MESSAGE)]
    assert server.messages[0].recipients == ["a@y.example", "b@y.example"]
    assert len(server.said("RCPT")) == 2
