"""One real server for all contract suites of a worker; each test has a name of its own on it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.fakes.redis_server import RedisServer, find_server

_numbers = itertools.count()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    if not find_server():
        pytest.skip("no valkey-server or redis-server is installed")
    server = RedisServer(options=("--appendonly", "yes", "--appendfsync", "no")).start()
    yield server
    server.close()


@pytest.fixture
def fresh_url(redis_server: RedisServer) -> Callable[[], str]:
    """URLs of stores that are empty."""
    return lambda: f"{redis_server.url}?name=t{next(_numbers)}&timeout=5s"
