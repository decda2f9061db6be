"""The OpenAPI document against the server it describes: generated requests, sound and unsound, and no answer that the
document does not know; above all no 500.

`RELAY_FUZZ=1000` makes so many examples of each operation instead of the few that every run can afford.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from relay.admin.app import make_app
from relay.admin.context import Context
from tests.scenario.admin_rig import CONFIG, AdminRig

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(3600)]

EXAMPLES = int(os.environ.get("RELAY_FUZZ", "2"))


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminRig]:
    rig = AdminRig(tmp_path_factory.mktemp("fuzz"), [], text=CONFIG)
    try:
        yield rig.start()
        faults = {f"{event['where']}: {event['error']}" for event in rig.relay.events("relay.fault")}
        assert not faults
        assert "Traceback" not in rig.relay.log()
        assert rig.is_up()
        rig.relay.cli("check")  # whatever was asked for, the files are sound
    finally:
        rig.close()


def document() -> dict[str, Any]:
    """As a server makes it; it needs nothing of a relay."""
    made: dict[str, Any] = make_app(cast("Context", SimpleNamespace(tell=None))).openapi()
    return made


def fuzzed() -> Any:
    raw = document()
    del raw["paths"]["/api/v1/stream"]  # ends only with its client; tests of its own are about it
    return schemathesis.openapi.from_dict(raw)


schemathesis.serializer.alias("message/rfc822", "application/octet-stream")
schema = fuzzed()


def test_the_server_shows_this_document(rig: AdminRig) -> None:
    shown = rig.client("viewer").get("/openapi.json").json()
    assert shown == document()
    assert shown["openapi"].startswith("3.1")


EXCLUDED: list[Any] = [
    positive_data_acceptance,  # what fits the schema may still be refused: a host that is none, a name that is taken
    ignored_auth,  # `test_every_path_asks_for_its_role`; wrong logins of bridges are answered slowly on purpose
]


def stay_here(case: Any) -> None:
    """Nodes that are tested or used lead to nobody."""
    if isinstance(case.body, dict):
        for node in (case.body, *(each for each in _listed(case.body.get("nodes")) if isinstance(each, dict))):
            if isinstance(node.get("host"), str):
                node["host"] = "127.0.0.1"
                if type(node.get("port")) is int:
                    node["port"] = 1


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES < 50,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_what_the_document_says_is_true(case: Any, rig: AdminRig) -> None:
    headers = {"Authorization": f"Bearer {rig.token('admin')}"}
    stay_here(case)
    if case.path.startswith("/api/v1/messages") and case.method == "POST":
        headers = {"Authorization": "Basic YXBwOmFwcC1wYXNzd29yZA=="}
    case.call_and_validate(headers=headers, excluded_checks=EXCLUDED, timeout=60, base_url=rig.url)
