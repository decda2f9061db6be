"""What every scenario gets: a folder, programs that end with it, and one JSON line about the result."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.scenario.audit import Audit
from tests.scenario.harness import Relay, base_config, free_port
from tests.scenario.sink import Sink
from tests.scenario.upstream import Upstream

RESULT = "scenario"

P = TypeVar("P")


class Scene:
    """Starts programs for one test and ends them."""

    def __init__(self, directory: Path, name: str, record: Any) -> None:
        self.directory = directory
        self._name = name
        self._record = record
        self._began = time.monotonic()
        self._open: list[Any] = []
        self._relays: list[Relay] = []
        self._excused: list[str] = []

    def sink(self, name: str, **options: Any) -> Sink:
        sink = Sink(self.directory, name, **options)
        self._open.append(sink)
        return sink.start()

    def upstream(self, name: str, **options: Any) -> Upstream:
        upstream = Upstream(name, **options)
        self._open.append(upstream)
        return upstream

    def relay(
        self,
        nodes: list[dict[str, Any]],
        *,
        module: str = "relay",
        environment: Mapping[str, str] | None = None,
        start: bool = True,
        **config: Any,
    ) -> Relay:
        """A relay with one pool of these nodes; `config` replaces top-level keys."""
        port = free_port()
        relay = Relay(self.directory, base_config(port, nodes, **config), port, module=module, environment=environment)
        self._open.append(relay)
        self._relays.append(relay)
        return relay.start() if start else relay

    def owns(self, program: P) -> P:
        """A program that ends with the test."""
        self._open.append(program)
        return program

    def watches(self, *relays: Relay) -> None:
        """Relays whose logs are looked at in the end."""
        self._relays += relays

    def excuse(self, pattern: str) -> None:
        """`relay.fault` lines that fit are part of this test."""
        self._excused.append(pattern)

    def result(self, audit: Audit | None = None, *, bound: int = 0, **more: Any) -> None:
        """The one line about this test."""
        line = {
            "test": self._name,
            "lost": len(audit.lost) if audit else 0,
            "duplicates": audit.duplicates if audit else 0,
            "bound": audit.named if audit and not bound else bound,
            "seconds": round(time.monotonic() - self._began, 1),
            **more,
        }
        self._record(RESULT, json.dumps(line))

    def close(self) -> None:
        for program in reversed(self._open):
            program.close()

    def check_logs(self) -> None:
        """No relay may have told of a fault of its own that the test does not know of."""
        for relay in self._relays:
            log = relay.log()
            assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:4000]
            assert "never retrieved" not in log
            faults = [
                event
                for event in relay.events("relay.fault")
                if not any(re.search(pattern, f"{event['where']}: {event['error']}") for pattern in self._excused)
            ]
            assert not faults, faults[:5]


@pytest.fixture
def scene(tmp_path: Path, request: pytest.FixtureRequest, record_property: Any) -> Iterator[Scene]:
    made = Scene(tmp_path, request.node.name, record_property)
    try:
        yield made
    finally:
        made.close()
    made.check_logs()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the results also when tests ran in other processes."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, ())]
    lines = [
        value for report in reports if report.when == "call" for key, value in report.user_properties if key == RESULT
    ]
    if lines:
        terminalreporter.section("scenarios")
        for line in lines:
            terminalreporter.write_line(line)
