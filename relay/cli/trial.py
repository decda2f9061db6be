"""The test of a node that is in no configuration yet."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from relay.config.models.traffic import NODE_CLASSES, node_options
from relay.control.advice import advice
from relay.delivery.keeper import probed
from relay.errors import UpstreamError
from relay.events import Events
from relay.outcome import Status
from relay.router.disposition import describe
from relay.upstreams import make
from relay.upstreams.base import Setting


@dataclass(frozen=True, slots=True)
class Trial:
    ok: bool
    answer: str
    advice: str = ""
    steps: tuple[str, ...] = ()


def trial(kind: str, name: str, facts: Mapping[str, Any]) -> Trial:
    """Connect with the real driver. `facts`: the node as it would stand in the file, sound already."""

    async def work() -> Trial:
        node = NODE_CLASSES[kind].model_validate(facts)
        try:
            driver = make(kind, name, node_options(node), Setting(ehlo=socket.getfqdn()))
        except UpstreamError as error:
            return Trial(False, str(error))
        try:
            probe = await probed(driver, name, Events((), time.time))
        finally:
            await driver.close()
        well = probe.outcome.status is Status.DELIVERED
        return Trial(well, describe(probe.outcome), advice(probe.outcome), probe.steps)

    return asyncio.run(work())
