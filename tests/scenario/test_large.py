"""Messages whose body is a file from the moment it is received."""

from __future__ import annotations

import pytest

from tests.scenario.audit import audit
from tests.scenario.clients import RECIPIENT, Client, Ledger, message_bytes
from tests.scenario.conftest import Scene

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(60)]

SIZES = (100_000, 300_000, 3_000_000)
"""In memory, just above what a session gathers before it writes, and well above."""


def test_a_large_message_arrives_whole_with_its_first_attempt(scene: Scene) -> None:
    sink = scene.sink("one", lean=True)
    relay = scene.relay([sink.node()])
    ledger = Ledger()
    with Client(relay.port) as client:
        for size in SIZES:
            content = message_bytes(f"m{size}", size=size)
            ledger.sends(f"m{size}", content, [RECIPIENT])
            ledger.answered(f"m{size}", *client.send(content))
    relay.wait_empty()
    result = audit(ledger, relay, [sink])
    scene.result(result)
    result.check(bound=0)
    assert not relay.events("attempt.deferred")
    assert len(ledger.promised) == len(relay.events("attempt.delivered")) == len(SIZES)
