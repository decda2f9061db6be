"""B005, R16, B467: more clients than descriptors. The loop goes on, mail in progress is kept, and it ends with them."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from pathlib import Path

import pytest

from tests.scenario.clients import Client
from tests.scenario.conftest import Scene
from tests.scenario.harness import Relay, wait_for
from tests.scenario.test_audit_waiting import cpu_s

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(60)]

CROWD = 300
SPARE = 40


def restrict(relay: Relay) -> int:
    """Leave the only worker a few descriptors more than it has open; its process id."""
    (pid,) = relay.workers()
    limit = len(list(Path(f"/proc/{pid}/fd").iterdir())) + SPARE
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))
    return pid


def test_a_crowd_that_takes_all_descriptors_stops_neither_the_loop_nor_accepted_mail(scene: Scene) -> None:
    sink = scene.sink("sink")
    relay = scene.relay([sink.node(connections=1, idle_close="1s")], limits={"per_address": 1000})
    scene.excuse("listener.body: OSError")  # a large body needs a file
    with Client(relay.port) as before:
        assert before.send(b"X-Test-Name: first\r\n\r\nx\r\n")[0] == 250
        relay.wait_empty()
        pid = restrict(relay)
        with contextlib.ExitStack() as crowd:
            for size in (CROWD, 50):
                for _ in range(size):
                    client = crowd.enter_context(socket.socket())
                    client.setblocking(False)
                    client.connect_ex(("127.0.0.1", relay.port))
                time.sleep(1.5)  # the connection to the sink closes; the second crowd takes its place
            began, used = time.monotonic(), cpu_s(pid)
            # Who is in is served, and what is stored is delivered.
            assert before.send(b"X-Test-Name: second\r\n\r\n" + b"x" * 70 + b"\r\n" * 200_000)[0] in (250, 451, 452)
            assert before.send(b"X-Test-Name: third\r\n\r\nx\r\n")[0] == 250
            time.sleep(2.0)
            share = (cpu_s(pid) - used) / (time.monotonic() - began)
        left = time.monotonic()
        wait_for(lambda: greeted(relay.port), seconds=5, what="service after the crowd")
        recovered_s = time.monotonic() - left
    relay.wait_empty()
    scene.result(share=round(share, 2), recovered_s=round(recovered_s, 2), crowd=CROWD)
    assert not relay.events("node.deactivated"), "taken out for what this machine lacks"
    assert {"first", "third"} <= set(sink.names())
    assert share < 0.5
    assert recovered_s < 2.5
    assert relay.workers() == [pid], "the worker did not survive"


def greeted(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as client:
            client.settimeout(1)
            return client.recv(3) == b"220"
    except OSError:
        return False
