"""The benchmark's own source, probe and fallback sink agree about what was sent."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.client import STRIDE, numbered
from bench.load import end, listens
from bench.measure import last_count
from tests.scenario.harness import free_port, wait_for

ROOT = Path(__file__).resolve().parents[2]


class FallbackSink:
    def __init__(self) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "bench.fallback_sink", str(self.port)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True)

    def count(self) -> int:
        """End it; how many messages it says it took."""
        end(self.process)
        assert self.process.stdout is not None
        with self.process.stdout as told:
            return last_count(told.read()) or 0


@pytest.fixture
def sink() -> Iterator[FallbackSink]:
    made = FallbackSink()
    try:
        wait_for(lambda: listens(made.port), what="the sink")
        yield made
    finally:
        end(made.process)


def client(sink: FallbackSink, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.client", *options, "--port", str(sink.port)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("more", [(), ("--fresh",), ("--recipients", "3", "--size", "300000"), ("--rate", "200")])
def test_every_message_of_the_source_is_counted(sink: FallbackSink, more: tuple[str, ...]) -> None:
    done = client(sink, "source", "--sessions", "4", "--messages", "50", *more)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["seconds"] > (0.2 if "--rate" in more else 0)
    assert sink.count() == 50


def test_connections_take_turns_with_the_logins() -> None:
    assert [numbered("app:secret", number) for number in (0, 1, 12)] == ["app:secret", "app1:secret", "app12:secret"]
    turns = [connection * STRIDE % 10_000 for connection in range(10_000)]
    assert len(set(turns)) == 10_000


def test_the_source_comes_from_the_address_it_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = [sys.executable, "-m", "bench.client", "source", "--address", "127.0.0.2"]
        with subprocess.Popen(
            [*command, "--port", str(server.getsockname()[1])], cwd=ROOT, stderr=subprocess.DEVNULL
        ) as source:
            server.settimeout(30)
            link, peer = server.accept()
            link.close()
            source.wait(30)
    assert peer[0] == "127.0.0.2"


def test_a_refusal_ends_the_source_with_an_error(sink: FallbackSink) -> None:
    done = client(sink, "source", "--login", "app:secret")  # the sink answers 250 where a login gets 235
    assert done.returncode != 0
    assert "RefusedError" in done.stderr
    assert sink.count() == 0


def test_the_probe_times_each_message_until_its_input_ends(sink: FallbackSink) -> None:
    command = [sys.executable, "-m", "bench.client", "probe", "--every", "0.001", "--port", str(sink.port)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as probe:
        assert sink.process.stdout is not None
        sink.process.stdout.read(1)  # its first message is there
        told, _ = probe.communicate(timeout=30)
    times = json.loads(told)["milliseconds"]
    assert all(0 < time < 5000 for time in times)
    assert len(times) >= 1
    assert sink.count() == len(times)
