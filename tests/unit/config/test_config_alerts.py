"""`alerts` in the configuration: one way for each target, names that lead somewhere, secrets that stay secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from relay.config import InvalidConfig, load
from relay.config.models import Config
from relay.config.models.alerts import AlertsModel, AlertTargetModel
from tests.unit.config.config_files import text_with


def test_everything_is_watched_without_a_setting() -> None:
    alerts = Config(version=1).alerts
    assert (alerts.nodes, alerts.cap, alerts.queue_age, alerts.expiry) == (True, 80, 900.0, 14 * 86400.0)
    assert alerts.targets == ()


@pytest.mark.parametrize("key", ["cap", "queue_age", "expiry"])
def test_off_is_off(key: str) -> None:
    assert getattr(AlertsModel.model_validate({key: "off"}), key) is None


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({}, "exactly one"),
        ({"webhook": "crm", "apprise": "slack://a/b/c"}, "exactly one"),
        ({"email": ["ops@acme.example"]}, "needs bridges"),
        ({"email": ["nonsense"], "bridges": ["b"]}, "address"),
        ({"apprise": "no-url"}, "not an Apprise URL"),
        ({"apprise": "syslog://localhost"}, "not used from here"),
        ({"apprise": "MAILTO://u:p@h"}, "not used from here"),
        ({"webhook": "crm", "rules": ["weather"]}, "rules"),
    ],
    ids=["none", "two", "no-bridge", "no-address", "no-url", "syslog", "mailto", "no-rule"],
)
def test_targets_that_cannot_be(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        AlertTargetModel.model_validate({"name": "ops", **keys})


def test_an_apprise_url_is_a_secret() -> None:
    assert "T0KEN" not in repr(AlertTargetModel.model_validate({"name": "chat", "apprise": "slack://T0KEN/b/c"}))


def loaded(folder: Path, target: str, **sections: str) -> Any:
    path = folder / "relay.yaml"
    path.write_text(text_with(alerts=f"alerts:\n  targets:\n{target}", **sections))
    return load(path)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("    - {name: a, webhook: crm}\n", 'there is no webhook "crm"'),
        ("    - {name: a, email: [o@acme.example], bridges: [shopp]}\n", 'did you mean "shop"?'),
        ("    - {name: a, apprise: 'json://h'}\n    - {name: a, apprise: 'json://h'}\n", "is there twice"),
    ],
    ids=["webhook", "bridge", "twice"],
)
def test_names_lead_somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, says: str) -> None:
    monkeypatch.setenv("PW", "s3cret")
    with pytest.raises(InvalidConfig, match=r"relay\.yaml:\d+:\d+") as caught:
        loaded(tmp_path, target)
    assert says in str(caught.value)


def test_one_pool_for_mail_about_itself_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PW", "s3cret")
    pools = (
        "pools:\n  - {name: main, id: 1, default: true, nodes: [{name: n1, type: sandbox}]}\n"
        "  - {name: other, id: 2, nodes: [{name: n2, type: sandbox}]}\n"
    )
    found = loaded(tmp_path, "    - {name: a, email: [o@acme.example], bridges: [shop]}\n", pools=pools)
    assert any("all bridges of this target lead into one pool" in str(warning) for warning in found.warnings)
