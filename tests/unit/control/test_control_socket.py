"""The control socket between commands and workers: answers, errors, silence, strangers."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from relay.control import client, protocol
from relay.control.client import LocalShard, RemoteShard, connect, open_shards
from relay.control.protocol import (
    LINE_LIMIT,
    ControlError,
    Invalid,
    NotPermitted,
    TryAgain,
    UnknownName,
    socket_path,
)
from relay.control.server import ControlServer
from relay.errors import ConfigError, SpoolError


class FakeOperator:
    """Answers of an operator, scripted by the name of the operation."""

    def __init__(self, **answers: Any) -> None:
        self._answers = answers
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        async def answer(**args: Any) -> Any:
            self.asked.append((name, args))
            result = self._answers[name]
            if isinstance(result, Exception):
                raise result
            return await result() if callable(result) else result

        return answer


@asynccontextmanager
async def serving(folder: Path, **answers: Any) -> AsyncIterator[ControlServer]:
    server = ControlServer(FakeOperator(**answers), socket_path(folder, "0"))  # type: ignore[arg-type]
    await server.start()
    try:
        yield server
    finally:
        await server.close()


@asynccontextmanager
async def connected(folder: Path) -> AsyncIterator[RemoteShard]:
    shard = await connect(folder, "0")
    assert shard is not None
    try:
        yield shard
    finally:
        shard.close()


async def test_answers_come_in_order_over_one_connection(tmp_path: Path) -> None:
    async with serving(tmp_path, status={"a": 1}, nodes=[1, 2]), connected(tmp_path) as shard:
        assert [await shard.call("status"), await shard.call("nodes")] == [{"a": 1}, [1, 2]]


async def test_only_the_owner_may_connect_from_the_first_moment(tmp_path: Path) -> None:
    async with serving(tmp_path):
        assert stat.S_IMODE(socket_path(tmp_path, "0").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("raised", "heard"),
    [
        (UnknownName("no node is called 'x'"), UnknownName),
        (ConfigError("relay.yaml:1:1: no"), Invalid),
        (SpoolError("disk"), ControlError),
        (KeyError("secret-in-the-code"), ControlError),
        (RuntimeError("a bug"), ControlError),
    ],
)
async def test_errors_of_the_relay_arrive_as_what_they_are(
    tmp_path: Path, raised: Exception, heard: type[ControlError]
) -> None:
    async with serving(tmp_path, status=raised, nodes=[]), connected(tmp_path) as shard:
        with pytest.raises(ControlError) as caught:
            await shard.call("status")
        assert type(caught.value) is heard
        assert await shard.call("nodes") == []  # the conversation goes on


@pytest.mark.parametrize(
    "line", [b"nonsense\n", b"{}\n", b"[]\n", b'{"op":"__class__"}\n', b'{"op":"_known","args":{"name":"x"}}\n', b"\n"]
)
async def test_what_is_no_request_gets_an_error_and_reaches_nothing(tmp_path: Path, line: bytes) -> None:
    async with serving(tmp_path) as server:
        reader, writer = await asyncio.open_unix_connection(str(socket_path(tmp_path, "0")))
        writer.write(line)
        assert b'"error"' in await reader.readline()
        assert server._operator.asked == []  # type: ignore[attr-defined]
        writer.close()


async def test_a_line_without_end_is_cut_off(tmp_path: Path) -> None:
    async def pour(writer: asyncio.StreamWriter) -> None:
        for _ in range(100):
            writer.write(b"x" * LINE_LIMIT)
            await writer.drain()

    async with serving(tmp_path):
        _, writer = await asyncio.open_unix_connection(str(socket_path(tmp_path, "0")))
        with pytest.raises(ConnectionError):
            await pour(writer)
        writer.close()


async def test_a_folder_with_a_very_long_name_is_served_all_the_same(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    assert len(str(socket_path(folder, "0"))) > 108
    async with serving(folder, status="ok"), connected(folder) as shard:
        assert await shard.call("status") == "ok"
    assert not list(folder.iterdir())


async def test_a_worker_that_does_not_answer_is_reported_after_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(protocol.OPERATIONS, "status", 0.05)
    never = asyncio.Event()
    async with serving(tmp_path, status=never.wait), connected(tmp_path) as shard:
        with pytest.raises(TryAgain, match="worker 0 did not answer"):
            await shard.call("status")


async def test_a_worker_that_ends_during_a_call_says_so(tmp_path: Path) -> None:
    begun, never = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        begun.set()
        await never.wait()

    async with serving(tmp_path, status=hang) as server, connected(tmp_path) as shard:
        call = asyncio.create_task(shard.call("status"))
        await begun.wait()
        await server.close()
        with pytest.raises(TryAgain, match="stopping"):
            await call


async def test_a_socket_file_that_nobody_listens_on_is_a_stopped_worker(tmp_path: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(socket_path(tmp_path, "0")))
    left.close()
    assert await connect(tmp_path, "0") is None
    async with serving(tmp_path, status="new"), connected(tmp_path) as shard:
        assert await shard.call("status") == "new"


async def test_another_users_folder_is_named_as_that(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may go everywhere")
    tmp_path.chmod(0)
    try:
        with pytest.raises(NotPermitted, match="another user"):
            await connect(tmp_path, "0")
    finally:
        tmp_path.chmod(0o700)


# Finding the shards


@asynccontextmanager
async def stopped(shard: str) -> AsyncIterator[Any]:
    yield FakeOperator(status=f"local {shard}")


async def test_running_and_stopped_shards_look_the_same(tmp_path: Path) -> None:
    async with serving(tmp_path, status="remote"), open_shards(tmp_path, ["0", "1"], stopped, lambda _: None) as found:
        assert [await shard.call("status") for shard in found] == ["remote", "local 1"]
        assert [(shard.name, shard.running) for shard in found] == [("0", True), ("1", False)]


async def test_a_shard_that_somebody_holds_and_nobody_answers_for_is_reported_and_not_waited_for_for_ever(
    tmp_path: Path,
) -> None:
    with pytest.raises(TryAgain, match="process 4711 holds"):
        async with open_shards(tmp_path, ["0"], stopped, lambda _: 4711, patience_s=0.2):
            pass


async def test_a_worker_that_starts_meanwhile_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LOOK_AGAIN_S", 0.01)
    looked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def owner(_: str) -> int:
        loop.call_soon_threadsafe(looked.set)
        return 4711

    async def look() -> str:
        async with open_shards(tmp_path, ["0"], stopped, owner) as found:
            return str(await found[0].call("status"))

    looking = asyncio.create_task(look())
    await looked.wait()
    async with serving(tmp_path, status="up"):
        assert await looking == "up"


async def test_two_commands_on_a_stopped_relay_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LOOK_AGAIN_S", 0.01)
    owners: list[int | None] = [None, 4711, 4711, None]
    tries = 0

    @asynccontextmanager
    async def taken_at_first(_: str) -> AsyncIterator[Any]:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise SpoolError("in use by process 4711")
        yield FakeOperator()

    async with open_shards(tmp_path, ["0"], taken_at_first, lambda _: owners.pop(0)) as found:
        assert isinstance(found[0], LocalShard)
    assert not owners


async def test_a_shard_that_cannot_be_opened_for_another_reason_is_no_matter_of_waiting(tmp_path: Path) -> None:
    @asynccontextmanager
    async def broken(_: str) -> AsyncIterator[Any]:
        raise SpoolError("written by a newer release")
        yield

    with pytest.raises(SpoolError, match="newer release"):
        async with open_shards(tmp_path, ["0"], broken, lambda _: None, patience_s=60):
            pass
