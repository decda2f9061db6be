"""The connection to a shared store: forms of URLs against real servers, absence, cancellation, lost answers."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from relay.redisdb.address import parse
from relay.redisdb.link import Link, LinkDown, LinkError, LinkFull, LinkRefused
from relay.redisdb.promises import look, weaknesses
from relay.redisdb.script import Needs, Script
from tests.fakes.redis_proxy import LossyProxy
from tests.fakes.redis_server import RedisServer, free_port

ECHO = Script("echo", b"#!lua\nreturn {ARGV[1], ARGV[2]}")
GROW = Script("grow", b"#!lua\nredis.call('APPEND', KEYS[1] .. ':x', ARGV[2]) return 1")
FREE = Script("free", f"#!lua {Needs.NO_ROOM}\nreturn redis.call('DEL', KEYS[1] .. ':x')".encode())
COUNT = Script("count", b"#!lua\nreturn redis.call('INCR', KEYS[1] .. ':n')")
SCRIPTS = (ECHO, GROW, FREE, COUNT)


class Open:
    """A link that ends with its block."""

    def __init__(self, url: str, **options: object) -> None:
        self.link = Link(parse(url), SCRIPTS, **options)  # type: ignore[arg-type]

    async def __aenter__(self) -> Link:
        await self.link.start()
        return self.link

    async def __aexit__(self, *_: object) -> None:
        await self.link.close()


async def echo(link: Link, word: str, **options: float) -> str:
    return (await link.call(ECHO, word, **options))[1].decode()  # type: ignore[no-any-return]


@pytest.mark.parametrize("protocol", [2, 3])
async def test_both_protocols_a_user_with_rights_and_a_database(server: RedisServer, protocol: int) -> None:
    rights = ("~{relay:a}*", "+@all", "-@dangerous", "+info")
    assert server.ask("ACL", "SETUSER", "mail", "on", ">s3cr:t", *rights) == "+OK"
    async with Open(f"redis://mail:s3cr%3At@127.0.0.1:{server.port}/2?name=a&protocol={protocol}") as link:
        assert await echo(link, "hello") == "hello"
    async with Open(f"redis://mail:s3cr%3At@127.0.0.1:{server.port}/2?name=b&protocol={protocol}") as link:
        with pytest.raises(LinkRefused, match=r"(?i)perm"):
            await link.call(COUNT)
    async with Open(f"redis://mail:wrong@127.0.0.1:{server.port}?protocol={protocol}") as link:
        with pytest.raises(LinkDown, match="refuses the login") as refused:
            await echo(link, "hello")
        assert "wrong" not in str(refused.value)


async def test_a_socket_of_this_machine(server: RedisServer) -> None:
    async with Open(f"unix://{server.socket}?name=a&db=1") as link:
        assert await echo(link, "hello") == "hello"


async def test_tls_is_verified(server: RedisServer, tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    async with LossyProxy(server.port, tls=context) as proxy:
        async with Open(f"rediss://127.0.0.1:{proxy.port}?ca_file={tmp_path / 'ca.pem'}") as link:
            assert await echo(link, "hello") == "hello"
        async with Open(f"rediss://127.0.0.1:{proxy.port}") as link:
            with pytest.raises(LinkDown, match=r"(?i)certificate"):
                await echo(link, "hello")


async def test_one_node_of_a_cluster_and_its_slots(new_server: Callable[..., RedisServer]) -> None:
    server = new_server(
        "--cluster-port", str(free_port()), "--cluster-enabled", "yes", "--cluster-require-full-coverage", "no"
    )
    assert server.ask("CLUSTER", "ADDSLOTSRANGE", "0", "16383") == "+OK"
    while "cluster_state:ok" not in _cluster_info(server):
        await asyncio.sleep(0.05)
    async with Open(f"redis+cluster://127.0.0.1:{server.port}") as link:
        assert await asyncio.gather(*(echo(link, f"w{n}") for n in range(50))) == [f"w{n}" for n in range(50)]
        assert [await link.call(COUNT) for _ in range(3)] == [1, 2, 3]


def _cluster_info(server: RedisServer) -> str:
    import socket

    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(b"CLUSTER INFO\r\n")
        return connection.recv(65536).decode()


async def test_sentinels_name_the_new_master_after_a_failover(
    new_server: Callable[..., RedisServer], tmp_path: Path
) -> None:
    master = new_server()
    copy = new_server("--replicaof", "127.0.0.1", str(master.port))
    port = free_port()
    conf = tmp_path / "sentinel.conf"
    conf.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\nsentinel monitor mail 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds mail 400\nsentinel failover-timeout mail 2000\n"
    )
    sentinel = RedisServer(port=port)
    process = await asyncio.create_subprocess_exec(
        *(_program(), str(conf), "--sentinel"), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        while not _answers(sentinel) or "connected_slaves:1" not in _info(master):
            await asyncio.sleep(0.1)
        async with Open(f"redis+sentinel://127.0.0.1:{port}/mail?min_replicas=0") as link:
            assert await link.call(COUNT, patience_s=10) == 1
            while "num-slaves=1" not in _sentinel(port) or "master_link_status:up" not in _info(copy):
                await asyncio.sleep(0.1)
            master.kill()
            assert await link.call(COUNT, patience_s=25) == 2
    finally:
        process.kill()
        await process.wait()
        sentinel.close()


def _sentinel(port: int) -> str:
    """How many copies of the master the sentinel knows."""
    import socket

    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"SENTINEL MASTER mail\r\n")
        words = connection.recv(65536).decode().split("\r\n")
    return f"num-slaves={words[words.index('num-slaves') + 2]}"


def _program() -> str:
    from tests.fakes.redis_server import find_server

    return find_server()


def _answers(server: RedisServer) -> bool:
    try:
        return server.ask("PING") == "+PONG"
    except OSError:
        return False


def _info(server: RedisServer) -> str:
    import socket

    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(b"INFO replication\r\n")
        return connection.recv(65536).decode()


async def test_copies_that_are_asked_for_must_have_it(new_server: Callable[..., RedisServer]) -> None:
    master = new_server()
    async with Open(f"{master.url}?min_replicas=1&timeout=1s") as link:
        with pytest.raises(LinkDown, match="0 of the 1 copies") as lonely:
            await link.call(COUNT)
        assert lonely.value.unsure
        new_server("--replicaof", "127.0.0.1", str(master.port))
        assert await link.call(COUNT, patience_s=15) >= 2


async def test_ten_thousand_cancellations_give_nobody_somebody_elses_answer(server: RedisServer) -> None:
    rng = random.Random(5)
    wrong: list[str] = []

    async def one(word: str) -> None:
        if await echo(link, word) != word:
            wrong.append(word)

    async with Open(server.url) as link:
        cancelled = 0
        for round_ in range(100):
            tasks = [asyncio.create_task(one(f"{round_}-{n}")) for n in range(200)]
            await asyncio.sleep(rng.random() * 0.002)
            for task in rng.sample(tasks, 100):
                cancelled += task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert await echo(link, "last") == "last"
    assert wrong == []
    assert cancelled > 2_000


async def test_calls_of_one_moment_travel_together_and_in_order(server: RedisServer) -> None:
    async with Open(server.url) as link:
        await link.call(COUNT)
        trips = link.status().trips
        assert await asyncio.gather(*(link.call(COUNT) for _ in range(60))) == list(range(2, 62))
        assert link.status().trips - trips <= 2


async def test_a_server_that_is_away_costs_nothing_and_is_noticed_when_it_is_back(server: RedisServer) -> None:
    told: list[str] = []
    async with Open(server.url, on_change=told.append) as link:
        await link.call(COUNT)
        server.kill()
        with pytest.raises(LinkDown):
            await link.call(COUNT)
        began = time.monotonic()
        for _ in range(1000):
            with pytest.raises(LinkDown, match=r"127\.0\.0\.1"):
                await link.call(COUNT)
        assert time.monotonic() - began < 1
        assert link.reason
        waiting = asyncio.create_task(link.call(COUNT, patience_s=20))
        await asyncio.sleep(0.1)
        server.start()
        assert await waiting == 2
        assert (link.reason, len(told), told[-1]) == ("", 2, "")
        assert "127.0.0.1" in told[0]


async def test_a_frozen_server_is_given_up_after_a_few_timeouts(server: RedisServer) -> None:
    async with Open(f"{server.url}?timeout=100ms") as link:
        await link.call(COUNT)
        server.freeze()
        began = time.monotonic()
        for _ in range(40):
            with pytest.raises(LinkDown):
                await link.call(COUNT)
        assert time.monotonic() - began < 5
        assert "does not answer in 0.1 s" in link.reason
        server.thaw()
        assert await link.call(COUNT, patience_s=20) >= 2


async def test_a_server_that_was_restarted_while_nobody_asked_costs_no_error(server: RedisServer) -> None:
    async with Open(server.url) as link:
        assert await link.call(COUNT) == 1
        server.stop()
        server.start()
        assert await link.call(COUNT) == 2  # the script is unknown there again, too


async def test_a_repeated_call_tells_its_script(server: RedisServer) -> None:
    async with LossyProxy(server.port) as proxy, Open(f"redis://127.0.0.1:{proxy.port}") as link:
        assert [word.decode() for word in await link.call(ECHO, "a")] == ["0", "a"]
        proxy.lose = 1
        assert [word.decode() for word in await link.call(ECHO, "b", patience_s=5)] == ["1", "b"]
        proxy.lose = 2
        with pytest.raises(LinkDown) as lost:
            await link.call(COUNT)
        assert lost.value.unsure


async def grow(link: Link) -> None:
    for _ in range(100):
        await link.call(GROW, b"x" * 200_000)


async def test_a_full_server_refuses_what_grows_and_takes_what_frees(new_server: Callable[..., RedisServer]) -> None:
    server = new_server("--maxmemory", "8mb", "--maxmemory-policy", "noeviction")
    async with Open(server.url) as link:
        with pytest.raises(LinkFull):
            await grow(link)
        assert link.reason == ""  # full is not away
        assert await link.call(FREE) == 1
        assert await link.call(GROW, b"x") == 1


async def test_what_a_server_does_not_promise_is_said(new_server: Callable[..., RedisServer]) -> None:
    durable = ("--appendonly", "yes", "--appendfsync", "always", "--maxmemory", "1gb")
    cases: list[tuple[tuple[str, ...], list[str]]] = [
        ((*durable, "--maxmemory-policy", "noeviction"), []),
        (("--appendonly", "no", "--maxmemory", "1gb"), ["appendonly is no"]),
        (("--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory", "1gb"), ["appendfsync is everysec"]),
        ((*durable, "--maxmemory-policy", "allkeys-lru"), ["allkeys-lru"]),
        ((*durable, "--maxmemory-policy", "volatile-ttl"), ["volatile-ttl"]),
        (("--appendonly", "yes", "--appendfsync", "always"), ["maxmemory is not set"]),
    ]
    for options, expected in cases:
        server = new_server(options=options)
        async with Open(server.url) as link:
            found = weaknesses(await look(link), spool=True, min_replicas=0)
        assert len(found) == len(expected), (options, found)
        for weakness, text in zip(found, expected, strict=True):
            assert text in weakness.text
            assert weakness.loses_mail is ("allkeys" in text)


async def test_closing_answers_those_who_wait(server: RedisServer) -> None:
    async with Open(server.url) as link:
        await link.call(COUNT)
        server.kill()
        waiting = asyncio.create_task(link.call(COUNT, patience_s=60))
        await asyncio.sleep(0.05)
        await link.close()
        with pytest.raises(LinkError):
            await waiting
        with pytest.raises(LinkDown, match="closed"):
            await link.call(COUNT)
