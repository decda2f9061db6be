"""Mail that waits: put into a pool whose node is paused, so that all of it stays in the queue."""

from __future__ import annotations

from dataclasses import replace

from bench.load import Load, Source
from bench.peers import WAITING, Relay
from tests.scenario.harness import wait_for

SESSIONS = 50
SIZE = 1024
"""Octets of a message that only waits: what waits costs by its number, not by its size."""


def fill(relay: Relay, messages: int) -> None:
    """Put this many into the pool `waiting` and see that they are there.

    Raises:
        RuntimeError, AssertionError: they are not.
    """
    relay.pause("paused")
    put(relay, Load(sessions=SESSIONS, size=SIZE, address=WAITING), messages)


def put(relay: Relay, load: Load, messages: int) -> None:
    """Send to a paused node."""
    load = replace(load, sessions=min(load.sessions, messages))
    with Source(load, relay.port, messages, own=True) as source:
        source.finish()
    wait_for(lambda: relay.queued() == messages, what=f"a queue of {messages}")
