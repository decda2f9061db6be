"""The Grafana board and the alert rules of `deploy/`: every metric, label and value they name is in a real scrape."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.fakes.http_receiver import Receiver
from tests.fakes.promql import grouped, legend, selectors
from tests.fakes.smtp_server import reply
from tests.interop.programs import needs, unpacked
from tests.scenario.admin_rig import AdminRig
from tests.scenario.clients import Ledger, submit
from tests.scenario.conftest import Scene
from tests.scenario.harness import wait_for

pytestmark = pytest.mark.scenario

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
BOARD = DEPLOY / "grafana" / "relay.json"
RULES = DEPLOY / "prometheus" / "alerts.yml"

OF_PROMETHEUS = {"instance", "job"}
"""Labels that the scrape itself adds."""

LATER = {
    "session.refused", "relay.fault", "relay.reload_failed", "relay.reload_returned", "message.quarantined",
}  # fmt: skip
"""Events that a well relay does not have; their names are compared with the code instead."""


def expressions() -> list[tuple[str, str, str]]:
    """Where, expression, text with labels in it."""
    found = []
    for panel in json.loads(BOARD.read_text())["panels"]:
        found += [(panel["title"], target["expr"], target["legendFormat"]) for target in panel["targets"]]
    for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]:
        found.append((rule["alert"], rule["expr"], json.dumps(rule["annotations"])))
    return found


def scrape(scene: Scene) -> dict[str, list[dict[str, str]]]:
    """Metric → labels of its samples, of a relay that has done a bit of everything."""
    receiver = Receiver()
    upstream = scene.upstream("a")
    upstream.at("rcpt", reply("550 5.1.1 no such user"), times=1)
    upstream.at("rcpt", reply("450 4.2.0 later"), times=1)
    hooks = [{"url": receiver.url, "secret": "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3", "allow_private": True}]
    node = upstream.node(caps={"hour": 1000, "day": 10000})
    rig = AdminRig(scene.directory, [node], webhooks=hooks)
    try:
        rig.start()
        admin = rig.client("admin")
        submit(rig.relay.port, ["m0", "m1", "m2"], ledger=Ledger())
        rig.relay.wait_empty()
        rig.sender("app", "wrong").post("/api/v1/messages", json={"from": "a@b.example", "to": ["c@d.example"]})
        admin.post("/api/v1/nodes/a/pause", json={"reason": "look"})
        submit(rig.relay.port, ["m3"], ledger=Ledger())
        wait_for(lambda: "relay_queue_oldest_time_seconds{" in admin.get("/metrics").text, what="mail that waits")
        text = admin.get("/metrics").text
    finally:
        rig.close()
        receiver.close()
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(dict(sample.labels))
    return found


def test_board_and_rules_name_what_is_there(scene: Scene) -> None:
    metrics = scrape(scene)
    events = set(re.findall(r'"((?:session|message|node|relay)\.[a-z_]+)"', Path("relay/events.py").read_text()))
    assert events >= LATER
    checked = 0
    for where, expression, text in expressions():
        labels: set[str] = set(OF_PROMETHEUS)
        for selector in selectors(expression):
            if selector.metric == "up":
                continue
            assert selector.metric in metrics, f"{where}: {selector.metric}"
            rows = metrics[selector.metric]
            labels |= set(rows[0])
            for label, operator, value in selector.matchers:
                assert label in set(rows[0]) | OF_PROMETHEUS, f"{where}: {selector.metric} has no label {label}"
                if label in OF_PROMETHEUS or "$" in value or operator in ("!=", "!~"):
                    continue
                for one in value.split("|") if operator == "=~" else [value]:
                    there = any(re.fullmatch(one, row[label]) for row in rows)
                    assert there or one in LATER, f'{where}: no {selector.metric} with {label}="{one}"'
            checked += 1
        assert grouped(expression) | legend(text) <= labels, where
    assert checked > 25


def test_the_check_sees_what_is_wrong() -> None:
    (selector,) = selectors('sum by (x) (relay_nonsense{nope=~"a|b"})')
    assert (selector.metric, selector.matchers) == ("relay_nonsense", (("nope", "=~", "a|b"),))
    assert grouped("sum by (x, y) (a) / on (z) b") == {"x", "y", "z"}
    assert legend("{{node}} in {{ $labels.pool }}") == {"node", "pool"}


def test_every_panel_has_a_place_of_its_own() -> None:
    taken: set[tuple[int, int]] = set()
    board: dict[str, Any] = json.loads(BOARD.read_text())
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


@needs("promtool")
@pytest.mark.interop
def test_promtool_accepts_the_rules_and_a_scrape() -> None:
    from relay.metrics import exposition
    from tests.unit.test_metrics import NODE, WORKER

    program = unpacked("usr/bin/promtool") or "promtool"
    done = subprocess.run([program, "check", "rules", RULES], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    text = exposition("1.2.3", [WORKER], [NODE], {})
    lint = subprocess.run([program, "check", "metrics"], input=text, capture_output=True, timeout=60)
    assert lint.returncode == 0, lint.stdout + lint.stderr
