"""Upstreams that hang, hang up, or talk nonsense at every step: certain before the final dot, uncertain after it.

Each case ends with the server well again and one more message, which must arrive untouched: nothing of a broken
connection may reach the next one.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator

import pytest

from relay.envelope import Content
from relay.outcome import Scope, Status
from relay.upstreams.smtp import SmtpUpstream
from relay.upstreams.smtp_wire import LINE_LIMIT
from tests.fakes.smtp_server import CAPABILITIES, CLOSE, HANG, RESET, Do, SmtpServer, reply
from tests.fakes.upstream import BODY, HEAD, Rendered, kinds, outbound, send, smtp_node

OK = (Status.DELIVERED, Scope.RECIPIENT)
NODE = (Status.DEFERRED, Scope.NODE)
UNCERTAIN = (Status.UNCERTAIN, Scope.MESSAGE)
BEFORE_MAIL = ("connect", "ehlo")
ENVELOPE = ("mail", "rcpt", "data")
SHORT = dict.fromkeys(("connect", "greeting", "ehlo", "mail", "rcpt", "data", "block", "dot"), 0.15)
WHOLE = HEAD + b"\r\n" + BODY


@pytest.fixture(params=["pipelining", "one by one"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[SmtpServer]:
    offered = [c for c in CAPABILITIES if request.param == "pipelining" or c != "PIPELINING"]
    async with SmtpServer(capabilities=offered) as server:
        yield server


async def assert_well_again(server: SmtpServer, node: SmtpUpstream) -> None:
    server.forget()
    taken = len(server.messages)
    body = b"the next one\r\n"
    assert kinds(await send(node, "next@y.example", body=body)) == [OK]
    assert server.messages[taken].content == HEAD + b"\r\n" + body
    assert server.messages[taken].recipients == ["next@y.example"]


@pytest.mark.parametrize("how", [CLOSE, RESET, HANG], ids=["close", "reset", "hang"])
@pytest.mark.parametrize("step", [*BEFORE_MAIL, *ENVELOPE, "dot"])
async def test_silence_at_each_step(server: SmtpServer, step: str, how: Do) -> None:
    server.at(step, how)
    async with smtp_node(server, timeouts=SHORT) as node:
        [outcome] = await send(node)
        assert (outcome.status, outcome.scope) == (UNCERTAIN if step == "dot" else NODE)
        assert outcome.phase == {"connect": "greeting"}.get(step, step)
        assert outcome.attempted == (step not in BEFORE_MAIL)
        assert outcome.text == "no answer in time" if how is HANG else "connection" in outcome.text
        await assert_well_again(server, node)


@pytest.mark.parametrize("how", [CLOSE, RESET, HANG], ids=["close", "reset", "hang"])
async def test_silence_in_the_middle_of_a_large_body_is_certain(server: SmtpServer, how: Do) -> None:
    server.at("body", how, after=100_000)
    async with smtp_node(server, timeouts=SHORT) as node:
        assert kinds(await send(node, body=b"0123456789012345678901234567890123456789\r\n" * 500_000)) == [NODE]
        assert server.messages == []
        await assert_well_again(server, node)
        server.disconnect()  # full buffers keep our end of the connection from the hanging server


async def test_a_refusal_in_the_middle_of_a_large_body_is_heard(server: SmtpServer) -> None:
    server.at("body", Do(say=b"552 5.3.4 enough\r\n", then="hang"), after=100_000)
    async with smtp_node(server) as node:
        [outcome] = await send(node, body=b"0123456789\r\n" * 2_000_000)
        assert (outcome.status, outcome.scope, outcome.code) == (Status.REFUSED, Scope.MESSAGE, 552)
        assert server.messages == []
        await assert_well_again(server, node)


async def test_taken_but_unanswered_is_uncertain_and_offered_once(server: SmtpServer) -> None:
    server.at("dot", Do(say=b"", then="close", store=True), times=1)
    async with smtp_node(server) as node:
        assert kinds(await send(node, "a@y.example", "b@y.example")) == [UNCERTAIN] * 2
        assert len(server.messages) == 1
        await assert_well_again(server, node)
    assert len(server.messages) == 2


async def test_refused_recipients_stay_refused_when_the_rest_is_uncertain(server: SmtpServer) -> None:
    server.at("rcpt", reply("550 5.1.1 no"), when="bad@")
    server.at("dot", CLOSE)
    async with smtp_node(server) as node:
        outcomes = await send(node, "good@y.example", "bad@y.example")
        assert kinds(outcomes) == [UNCERTAIN, (Status.REFUSED, Scope.RECIPIENT)]


GARBAGE = {
    "ssh": b"SSH-2.0-OpenSSH_9.6\r\n",
    "http": b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n",
    "megabyte": b"2" * 2**20,
    "nul": b"250 o\0k\r\n",
    "half a line": b"250 almo",
    "endless": b"250-more\r\n" * 10_000,
    "mixed codes": b"250-yes\r\n550 no\r\n",
    "separator": b"250_ok\r\n",
    "code 099": b"099 x\r\n",
    "code 999": b"999 x\r\n",
    "two digits": b"25 x\r\n",
    "bare LF": b"250 ok\n",
    "bare CR": b"250 ok\r250 ok\r",
    "long line": b"250 " + b"x" * LINE_LIMIT + b"\r\n",
    "unended multi-line": b"250-a\r\n250-b\r\n",
}


@pytest.mark.parametrize("what", GARBAGE)
@pytest.mark.parametrize("step", [*BEFORE_MAIL, *ENVELOPE, "dot"])
async def test_garbage_at_each_step(server: SmtpServer, step: str, what: str) -> None:
    server.at(step, Do(say=GARBAGE[what], then="close"))
    async with smtp_node(server) as node:
        [outcome] = await send(node)
        assert (outcome.status, outcome.scope) == (UNCERTAIN if step == "dot" else NODE)
        assert outcome.text
        assert outcome.text.isprintable()
        assert server.messages == [] or step == "dot"
        await assert_well_again(server, node)


@pytest.mark.parametrize("step", [*BEFORE_MAIL, *ENVELOPE])
async def test_two_replies_for_one_command_before_the_dot(server: SmtpServer, step: str) -> None:
    usual = {"connect": b"220 hi\r\n", "ehlo": b"250 hi\r\n", "data": b"354 go\r\n"}.get(step, b"250 2.0.0 Ok\r\n")
    server.at(step, Do(say=usual + b"250 2.0.0 Ok: queued as FALSE\r\n"), times=1)
    async with smtp_node(server, pipelining="off" if step in ENVELOPE else "auto") as node:
        assert kinds(await send(node)) == [NODE]
        assert server.messages == []
        await assert_well_again(server, node)
    assert server.connections == 2


async def test_shifted_replies_of_a_pipelined_envelope_never_become_a_delivery() -> None:
    async with SmtpServer() as server, smtp_node(server) as node:
        server.at("mail", Do(also=b"250 2.1.5 Ok\r\n"), times=1)
        assert kinds(await send(node)) == [NODE]
        assert server.messages == []
        await assert_well_again(server, node)


@pytest.mark.parametrize(
    "how", [Do(say=b"250 2.0.0 Ok\r\n"), Do(say=b"garbage\r\n"), Do(say=b"")], ids=["shifted", "garbage", "lost"]
)
async def test_a_server_that_loses_its_way_in_pipelining_is_spoken_to_one_by_one(how: Do) -> None:
    async with SmtpServer() as server, smtp_node(server, timeouts={"data": 0.2}) as node:
        server.at("data", how, times=1)
        assert kinds(await send(node)) == [NODE]
        await assert_well_again(server, node)
        server.at("mail", reply("550 5.1.8 no"))
        before = len(server.said("DATA"))
        assert kinds(await send(node)) == [(Status.REFUSED, Scope.MESSAGE)]
        assert len(server.said("DATA")) == before, "DATA was sent along with MAIL"


async def test_two_replies_at_the_dot_are_uncertain(server: SmtpServer) -> None:
    server.at("dot", Do(say=b"250 2.0.0 Ok\r\n250 2.0.0 Ok: queued as FALSE\r\n"), times=1)
    async with smtp_node(server) as node:
        assert kinds(await send(node)) == [UNCERTAIN]
        await assert_well_again(server, node)
    assert server.connections == 2


async def test_goodbye_behind_the_last_answer_does_not_cast_doubt_on_it(server: SmtpServer) -> None:
    server.at("dot", Do(also=b"421 4.4.2 closing\r\n", then="close"), times=1)
    async with smtp_node(server) as node:
        assert kinds(await send(node)) == [OK]
        await assert_well_again(server, node)
    assert server.connections == 2


async def test_close_right_behind_the_last_answer_does_not_cast_doubt_on_it(server: SmtpServer) -> None:
    server.at("dot", Do(then="close"), times=1)
    async with smtp_node(server) as node:
        assert kinds(await send(node)) == [OK]
        await assert_well_again(server, node)
    assert server.connections == 2


async def test_goodbye_in_the_middle_of_the_envelope_is_the_answer(server: SmtpServer) -> None:
    server.at("rcpt", Do(say=b"421 4.3.2 shutting down\r\n", then="close"), when="two@")
    async with smtp_node(server) as node:
        outcomes = await send(node, "one@y.example", "two@y.example")
        assert kinds(outcomes) == [NODE, NODE]
        assert {o.code for o in outcomes} == {421}
        assert server.messages == []
        await assert_well_again(server, node)


async def test_talk_before_the_first_command_on_a_fresh_connection(server: SmtpServer) -> None:
    server.at("ehlo", Do(also=b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 go\r\n250 2.0.0 Ok\r\n"), times=1)
    async with smtp_node(server) as node:
        assert kinds(await send(node)) == [NODE]
        assert server.said("MAIL") == []
        await assert_well_again(server, node)


async def test_talk_on_an_idle_connection_kills_it_and_pairs_with_nothing(server: SmtpServer) -> None:
    async with smtp_node(server) as node:
        assert kinds(await send(node)) == [OK]
        server.talk(b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 go\r\n250 2.0.0 Ok: queued as FALSE\r\n")
        await asyncio.sleep(0)
        await assert_well_again(server, node)
        assert server.connections == 2
        assert len(server.messages) == 2


async def test_replies_octet_by_octet_are_fine(server: SmtpServer) -> None:
    for step in ("mail", "rcpt", "data", "dot"):
        server.at(step, Do(pace=0.001))
    async with smtp_node(server) as node:
        assert kinds(await send(node)) == [OK]


async def test_a_reply_that_trickles_ends_at_the_step_limit(server: SmtpServer) -> None:
    server.at("mail", Do(say=b"250 2.1.0 " + b"slow " * 100 + b"\r\n", pace=0.02))
    async with smtp_node(server, timeouts={"mail": 0.2}) as node:
        [outcome] = await send(node)
        assert (outcome.status, outcome.scope, outcome.text) == (*NODE, "no answer in time")


@pytest.mark.parametrize("step", [*BEFORE_MAIL, *ENVELOPE, "dot"])
async def test_the_callers_deadline_comes_before_the_limits_of_the_phases(server: SmtpServer, step: str) -> None:
    server.at(step, HANG)
    loop = asyncio.get_running_loop()
    async with smtp_node(server) as node:
        began = loop.time()
        assert kinds(await send(node, within=0.2)) == [UNCERTAIN if step == "dot" else NODE]
        assert loop.time() - began < 1.0


async def test_each_answer_of_a_slow_envelope_has_the_limit_of_its_own(server: SmtpServer) -> None:
    server.at("rcpt", Do(delay=0.1))
    async with smtp_node(server, timeouts={"rcpt": 0.3, "mail": 0.3, "data": 0.3}) as node:
        assert kinds(await send(node, *[f"r{i}@y.example" for i in range(5)])) == [OK] * 5


async def test_quit_is_never_waited_for_by_a_result_and_not_long_by_close(
    server: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.upstreams.smtp_wire.QUIT_WAIT_S", 0.2)
    server.at("quit", HANG)
    loop = asyncio.get_running_loop()
    async with smtp_node(server, messages_per_connection=1) as node:
        began = loop.time()
        assert kinds(await send(node)) == [OK]
        assert kinds(await send(node)) == [OK]
        assert loop.time() - began < 0.19
        began = loop.time()
    assert loop.time() - began < 1.0
    assert server.connections == 2


async def test_connection_refused_and_unknown_host_are_the_nodes() -> None:
    async with SmtpServer() as server:
        port = server.port
    gone = SmtpServer()
    gone.port = port
    async with smtp_node(gone) as node:
        [outcome] = await send(node)
        assert (outcome.status, outcome.scope, outcome.phase, outcome.attempted) == (*NODE, "connect", False)
        assert "refused" in outcome.text.lower() or "connect" in outcome.text.lower()
    async with smtp_node(gone, host="no-such-host.invalid") as node:
        [outcome] = await send(node)
        assert (outcome.status, outcome.scope, outcome.phase, outcome.attempted) == (*NODE, "connect", False)
        assert "no-such-host.invalid cannot be resolved" in outcome.text


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EMFILE, "Too many open files"), OSError(errno.ENOBUFS, "No buffer space"),
     socket.gaierror(socket.EAI_SYSTEM, "System error")],
    ids=["descriptors", "buffers", "resolver"],
)  # fmt: skip
async def test_what_this_machine_lacks_is_not_held_against_the_node(
    server: SmtpServer, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    async def create_connection(*args: object, **kwargs: object) -> None:
        raise error

    async with smtp_node(server) as node:
        with monkeypatch.context() as patch:
            patch.setattr(asyncio.get_running_loop(), "create_connection", create_connection)
            [outcome] = await send(node)
        assert (outcome.status, outcome.scope, outcome.attempted) == (Status.DEFERRED, Scope.MESSAGE, False)
        assert "this machine" in outcome.text
        await assert_well_again(server, node)


async def test_the_connection_comes_from_the_source_address(server: SmtpServer) -> None:
    async with smtp_node(server, source_address="127.0.0.1") as node:
        assert kinds(await send(node)) == [OK]
    async with smtp_node(server, source_address="192.0.2.1") as node:
        [outcome] = await send(node)
        assert (outcome.status, outcome.scope, outcome.phase) == (*NODE, "connect")


async def test_capabilities_are_read_anew_on_each_connection(server: SmtpServer) -> None:
    render = Rendered(Content(HEAD, "\u00fc\r\n".encode()))
    async with smtp_node(server, messages_per_connection=1) as node:
        await send(node, render=render)
        server.capabilities = ["DSN"]
        await send(node, render=render)
    assert [asked.eight_bit for asked in render.asked] == [True, False]
    assert "BODY=8BITMIME" in server.messages[0].mail
    assert server.messages[1].mail == "MAIL FROM:<a@b.example>"


@pytest.mark.parametrize("step", ["connect", "mail", "dot"])
async def test_a_cancelled_delivery_leaves_no_connection_that_could_be_used_again(
    server: SmtpServer, step: str
) -> None:
    server.at(step, HANG, times=1)
    async with smtp_node(server) as node:
        task = asyncio.create_task(send(node))
        await server.until(connections=1)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await assert_well_again(server, node)
    assert server.connections == 2


async def test_a_render_that_raises_gives_the_connection_back_sound(server: SmtpServer) -> None:
    async def broken(_: object) -> Content:
        raise RuntimeError("bug")

    async with smtp_node(server) as node:
        assert kinds(await send(node)) == [OK]
        with pytest.raises(RuntimeError):
            await node.deliver(outbound(render=broken), deadline=asyncio.get_running_loop().time() + 5)
        await assert_well_again(server, node)
    assert server.connections == 1
