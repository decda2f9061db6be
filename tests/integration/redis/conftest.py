"""A server for each test that does something to it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.fakes.redis_server import RedisServer, find_server

_numbers = itertools.count()


@pytest.fixture
def new_server() -> Iterator[Callable[..., RedisServer]]:
    """Starts servers that end with the test."""
    if not find_server():
        pytest.skip("no valkey-server or redis-server is installed")
    servers: list[RedisServer] = []

    def start(*more: str, **options: object) -> RedisServer:
        servers.append(RedisServer(**options))  # type: ignore[arg-type]
        return servers[-1].start(*more)

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def server(new_server: Callable[..., RedisServer]) -> RedisServer:
    return new_server()
