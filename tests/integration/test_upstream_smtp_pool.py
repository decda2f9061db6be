"""The connections of a node: reuse, bounds, death in idleness, and what waiting deliveries hear when it is down."""

from __future__ import annotations

import asyncio

import pytest

from relay.outcome import Scope, Status
from tests.fakes.smtp_server import CLOSE, HANG, Do, SmtpServer, reply
from tests.fakes.upstream import kinds, send, smtp_node

OK = (Status.DELIVERED, Scope.RECIPIENT)
NODE = (Status.DEFERRED, Scope.NODE)
UNCERTAIN = (Status.UNCERTAIN, Scope.MESSAGE)


async def test_messages_share_a_connection_up_to_the_limit_and_then_get_a_new_one() -> None:
    async with SmtpServer() as server:
        async with smtp_node(server, messages_per_connection=3) as node:
            for _ in range(7):
                assert kinds(await send(node)) == [OK]
        assert [m.connection for m in server.messages] == [1, 1, 1, 2, 2, 2, 3]
        assert len(server.said("QUIT")) == 3
        assert server.said("EHLO") == ["EHLO relay.example"] * 3


async def test_never_more_connections_than_allowed_and_all_waiting_messages_go() -> None:
    async with SmtpServer() as server:
        server.at("dot", Do(delay=0.01))
        async with smtp_node(server, connections=3) as node:
            results = await asyncio.gather(*[send(node) for _ in range(30)])
        assert all(kinds(r) == [OK] for r in results)
        assert server.peak == 3
        assert len(server.messages) == 30


async def test_the_last_used_connection_is_used_first_and_the_others_close_when_idle() -> None:
    async with SmtpServer() as server:
        server.at("dot", Do(delay=0.05), times=3)
        async with smtp_node(server, idle_close=0.2) as node:
            await asyncio.gather(*[send(node) for _ in range(3)])
            assert server.open == 3
            for _ in range(12):
                assert kinds(await send(node)) == [OK]
                await asyncio.sleep(0.03)
            assert len({m.connection for m in server.messages[3:]}) == 1
            assert server.open == 1
            assert len(server.said("QUIT")) == 2
            async with asyncio.timeout(2):
                await server.until(gone=True)
        assert server.connections == 3


async def test_a_connection_has_an_age(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.upstreams.smtp_pool.MAX_AGE_S", 0.05)
    async with SmtpServer() as server, smtp_node(server) as node:
        assert kinds(await send(node)) == [OK]
        await asyncio.sleep(0.06)
        assert kinds(await send(node)) == [OK]
        assert server.connections == 2


async def test_an_idle_connection_that_the_server_closed_is_not_used() -> None:
    async with SmtpServer() as server, smtp_node(server) as node:
        assert kinds(await send(node)) == [OK]
        server.disconnect()
        async with asyncio.timeout(2):
            await server.until(gone=True)
        [outcome] = await send(node)
        assert (outcome.status, outcome.scope) == OK
        assert [connection for connection, line in server.commands if line.startswith("MAIL")] == [1, 2]


@pytest.mark.parametrize(("warm_s", "asked"), [(0.0, [1, 2]), (60.0, [1, 1, 2])], ids=["rested", "warm"])
async def test_what_an_idle_connection_has_to_say_is_heard(
    monkeypatch: pytest.MonkeyPatch, warm_s: float, asked: list[int]
) -> None:
    """One that rested is asked before MAIL; on one that was in use just now MAIL finds out, and nothing is lost."""
    monkeypatch.setattr("relay.upstreams.smtp_pool.WARM_S", warm_s)
    async with SmtpServer() as server, smtp_node(server) as node:
        assert kinds(await send(node)) == [OK]
        server.talk(b"421 4.4.2 idle\r\n")  # written to the socket at once; the loop has not read it yet
        assert kinds(await send(node)) == [OK]
        assert [connection for connection, line in server.commands if line.startswith("MAIL")] == asked
        assert len(server.messages) == 2


@pytest.mark.parametrize("pipelining", ["auto", "off"])
@pytest.mark.parametrize(
    "how",
    [CLOSE, Do(say=b"421 4.4.2 idle too long\r\n", then="close"), Do(say=b"garbage\r\n")],
    ids=["close", "421", "garbage"],
)
async def test_a_reused_connection_that_dies_before_mail_is_answered_is_replaced_once(pipelining: str, how: Do) -> None:
    async with SmtpServer() as server, smtp_node(server, pipelining=pipelining) as node:
        assert kinds(await send(node)) == [OK]
        server.at("mail", how, times=1)
        assert kinds(await send(node)) == [OK]
        assert server.connections == 2
        server.at("mail", how, times=2)
        [outcome] = await send(node)
        assert (outcome.status, outcome.scope) == NODE
        assert outcome.attempted
        assert server.connections == 3, "a fresh connection that fails is not replaced"


@pytest.mark.parametrize(("step", "expected"), [("rcpt", NODE), ("data", NODE), ("dot", UNCERTAIN)])
async def test_a_reused_connection_that_dies_later_is_not_replaced(step: str, expected: tuple[Status, Scope]) -> None:
    async with SmtpServer() as server, smtp_node(server) as node:
        assert kinds(await send(node)) == [OK]
        server.at(step, CLOSE, times=1)
        assert kinds(await send(node)) == [expected]
        assert server.connections == 1


async def test_a_dead_node_costs_one_connection_and_all_who_wait_hear_the_same() -> None:
    async with SmtpServer() as server:
        server.at("connect", Do(say=b"554 no service today\r\n", delay=0.05))
        async with smtp_node(server, connections=4) as node:
            results = await asyncio.gather(*[send(node) for _ in range(20)])
        assert server.connections == 1
    outcomes = [o for r in results for o in r]
    assert {(o.status, o.scope, o.code, o.text, o.attempted) for o in outcomes} == {
        (*NODE, 554, "no service today", False)
    }


async def test_a_hanging_node_costs_one_timeout_for_everybody() -> None:
    async with SmtpServer() as server:
        server.at("connect", HANG)
        loop = asyncio.get_running_loop()
        async with smtp_node(server, timeouts={"greeting": 0.2}) as node:
            began = loop.time()
            results = await asyncio.gather(*[send(node) for _ in range(40)])
            assert loop.time() - began < 0.4
        assert all(kinds(r) == [NODE] for r in results)
        assert server.connections == 1


async def test_a_node_that_is_well_again_is_used_again() -> None:
    async with SmtpServer() as server:
        server.at("connect", reply("421 4.3.2 restarting"), times=1)
        async with smtp_node(server) as node:
            assert kinds(await send(node)) == [NODE]
            results = await asyncio.gather(*[send(node) for _ in range(5)])
        assert all(kinds(r) == [OK] for r in results)


async def test_those_who_wait_are_not_failed_by_a_refused_extra_connection_while_others_work() -> None:
    async with SmtpServer() as server:
        server.at("connect", reply("421 4.7.0 too many connections"), skip=1)
        server.at("dot", Do(delay=0.05))
        async with smtp_node(server, connections=2) as node:
            assert kinds(await send(node)) == [OK]
            results = await asyncio.gather(*[send(node) for _ in range(6)])
        got = [kinds(r)[0] for r in results]
        assert (Status.DEFERRED, Scope.QUOTA) in got
        assert OK in got
        assert set(got) == {OK, (Status.DEFERRED, Scope.QUOTA)}


async def test_waiting_ends_at_the_deadline_and_says_nothing_about_the_node() -> None:
    async with SmtpServer() as server:
        server.at("dot", Do(delay=0.5))
        async with smtp_node(server, connections=1) as node:
            slow = asyncio.create_task(send(node))
            await server.until(connections=1)
            [outcome] = await send(node, within=0.1)
            assert (outcome.status, outcome.scope, outcome.attempted) == (Status.DEFERRED, Scope.MESSAGE, False)
            assert kinds(await slow) == [OK]


@pytest.mark.parametrize("seed", range(20))
async def test_cancelled_deliveries_at_any_moment_lose_no_connection_and_mix_no_answers(seed: int) -> None:
    import random

    rng = random.Random(seed)
    async with SmtpServer() as server:
        server.at("rcpt", reply("550 5.1.1 no"), when="bad")
        async with smtp_node(server, connections=3) as node:
            tasks = [asyncio.create_task(send(node, "bad@y.example" if i % 2 else "ok@y.example")) for i in range(30)]
            for task in rng.sample(tasks, 15):
                for _ in range(rng.randrange(6)):
                    await asyncio.sleep(0)
                await asyncio.sleep(rng.random() * 0.002)
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            for i, result in enumerate(results):
                if isinstance(result, asyncio.CancelledError):
                    continue
                assert kinds(result) == [(Status.REFUSED, Scope.RECIPIENT) if i % 2 else OK]
            assert kinds(await send(node)) == [OK]
        assert server.peak <= 6, "three in use, and as many that are being ended"


async def test_close_lets_running_deliveries_finish() -> None:
    async with SmtpServer() as server:
        server.at("dot", Do(delay=0.1))
        async with smtp_node(server) as node:
            running = asyncio.create_task(send(node))
            await server.until(connections=1)
            await asyncio.sleep(0.02)
            await node.close()
            assert kinds(await running) == [OK]
