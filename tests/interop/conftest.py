"""Every test here starts whole relays and speaks with programs of others; one relay serves all tests of a process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.gateway import Certificates, Gateway, Passage
from tests.scenario.sink import Sink


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def passage(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Passage]:
    """A relay with all three kinds of listener in front of one server that takes everything."""
    folder: Path = tmp_path_factory.mktemp("passage")
    sink = Sink(folder, "sink")
    gateway = Gateway(folder, certificates, [sink.node()])
    try:
        sink.start()
        gateway.start()
        yield Passage(gateway, sink)
    finally:
        gateway.close()
        sink.close()
