"""The relay delivers to Exim."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.gateway import Certificates
from tests.interop.programs import needs
from tests.interop.server_checks import Rig, ServerChecks, running
from tests.interop.servers.exim import Exim

pytestmark = [pytest.mark.interop, pytest.mark.scenario, needs("exim"), needs("root")]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Rig]:
    yield from running(Exim(certificates), tmp_path_factory.mktemp("exim"), certificates)


class TestExim(ServerChecks):
    pass
