"""The relay delivers to SmtpServer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.gateway import Certificates
from tests.interop.programs import needs
from tests.interop.server_checks import Rig, ServerChecks, running
from tests.interop.servers.with_node import SmtpServer

pytestmark = [pytest.mark.interop, pytest.mark.scenario, needs("smtp-server")]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Rig]:
    yield from running(SmtpServer(certificates), tmp_path_factory.mktemp("node"), certificates)


class TestSmtpServer(ServerChecks):
    pass
