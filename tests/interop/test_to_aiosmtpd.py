"""The relay delivers to Aiosmtpd."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.gateway import Certificates
from tests.interop.server_checks import Rig, ServerChecks, running
from tests.interop.servers.with_aiosmtpd import Aiosmtpd

pytestmark = [pytest.mark.interop, pytest.mark.scenario]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Rig]:
    yield from running(Aiosmtpd(certificates), tmp_path_factory.mktemp("aiosmtpd"), certificates)


class TestAiosmtpd(ServerChecks):
    pass
