"""A relay that comes back with another number of workers still owns all of its mail."""

from __future__ import annotations

import pytest

from tests.scenario.audit import audit
from tests.scenario.clients import Ledger, send_all
from tests.scenario.conftest import Scene
from tests.scenario.harness import wait_for

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(60)]


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_mail_of_workers_that_are_no_more_is_delivered(scene: Scene, end: str) -> None:
    """Three workers have a queue each; one worker comes back and delivers everything, once."""
    sink = scene.sink("one")
    relay = scene.relay([sink.node(caps={"hour": 1})], workers=3)
    ledger = Ledger()
    send_all(relay.port, [f"w{n}" for n in range(90)], ledger=ledger, sessions=9)
    relay.stop() if end == "stop" else relay.kill()
    pool = {**relay.config["pools"][0], "nodes": [sink.node()]}
    relay.write({**relay.config, "pools": [pool], "workers": 1})
    relay.start()
    wait_for(lambda: len(sink.names()) >= 90, what="delivery of all mail")
    relay.wait_empty()
    result = audit(ledger, relay, [sink])
    scene.result(result)
    assert len(ledger.promised) == 90
    result.check(bound=0 if end == "stop" else None)
