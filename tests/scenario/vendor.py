"""A vendor's API behind a relay: a server that checks the contract, misbehaves on request, and keeps what it took.

Runs in a thread of its own and has the face of a `Sink`. Calls with a key that was seen before get the old answer, as
the vendors that have such keys promise.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.fakes.vendor_contract import Understood
from tests.fakes.vendor_contracts import CONTRACTS
from tests.fakes.vendor_node import options_for
from tests.fakes.vendor_server import Do, Reply, Request, VendorServer

ULID = re.compile(rb"\b01[0-9A-HJKMNP-TV-Z]{24}\b")


@dataclass(frozen=True)
class Misdeed:
    """What to answer instead; `takes`: the message is taken all the same."""

    answer: Reply | Do
    takes: bool = False


Behaviour = Callable[[int, bool], Misdeed | None]
"""From the number of the call (probes and messages counted apart) and whether it is a probe."""


class Vendor:
    """One node's vendor."""

    def __init__(self, kind: str, behaviour: Behaviour = lambda _number, _probe: None, **options: Any) -> None:
        self.name = kind
        self.behaviour = behaviour
        self.calls = 0
        self.probes = 0
        self.taken: list[tuple[float, Understood, bytes]] = []
        self._options = options
        self._contract = CONTRACTS[kind]()
        self._answers: dict[str, Reply] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.server = VendorServer(self._handle)
        self._run(self.server.start())

    def node(self, **more: Any) -> dict[str, Any]:
        options = options_for(self.name, self.server.url, **self._options)
        return {"name": self.name, "type": self.name, **options, **more}

    def _handle(self, request: Request) -> Reply | Do:
        known = self._contract.probe(request)
        if known is not None:
            self.probes += 1
            misdeed = self.behaviour(self.probes, True)
            return known if misdeed is None else misdeed.answer
        understood = self._contract.read(request)
        self.calls += 1
        misdeed = self.behaviour(self.calls, False)
        if misdeed is not None and not misdeed.takes:
            return misdeed.answer
        answer = self._contract.success(understood)
        if understood.key and understood.key in self._answers:
            answer = self._answers[understood.key]
        else:
            self.taken.append((time.time(), understood, request.body))
            if understood.key:
                self._answers[understood.key] = answer
        return answer if misdeed is None else misdeed.answer

    def transactions(self) -> list[dict[str, Any]]:
        """What was taken, as a `Sink` tells it; a message that the vendor builds has the id from its metadata."""
        found = []
        for at, understood, body in list(self.taken):
            if understood.raw is not None:
                head, _, text = understood.raw.partition(b"\r\n\r\n")
            else:
                lines = [f"{name}: {value}" for name, value in understood.headers]
                found_id = ULID.search(body)
                head = "\r\n".join(
                    [*lines, f"Received: by a vendor id {found_id[0].decode() if found_id else ''}"]
                ).encode()
                text = (understood.text or "").replace("\n", "\r\n").encode()
            found.append(
                {
                    "at": at,
                    "from": understood.reverse_path,
                    "to": understood.recipients,
                    "head": head.decode("utf-8", "surrogateescape"),
                    "body": hashlib.sha256(text).hexdigest(),
                    "content": (understood.raw or b"").decode("utf-8", "surrogateescape"),
                }
            )
        return found

    def close(self) -> None:
        self._run(self.server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def check(self) -> None:
        """Every request kept the contract."""
        assert not self.server.faults, f"{self.name}: {self.server.faults[0]!r}"

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)
