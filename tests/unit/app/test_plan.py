"""What a plan says of two configurations, and what it never shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from relay.app.plan import plan
from relay.app.settings import Settings
from relay.config.load import load

BASE: dict[str, Any] = {
    "version": 1,
    "workers": 1,
    "bridges": [
        {"name": "shop", "pool": "main", "credentials": [{"username": "shop", "password": "old-word"}]},
        {"name": "news", "pool": "main", "networks": ["192.0.2.0/24"]},
    ],
    "pools": [
        {
            "name": "main",
            "id": 1,
            "nodes": [
                {"name": "a", "type": "smtp", "host": "mx.example", "username": "u", "password": "node-word"},
                {"name": "b", "type": "sandbox", "caps": {"hour": 100}},
            ],
        },
        {"name": "aside", "id": 2, "nodes": [{"name": "c", "type": "sandbox"}]},
    ],
}


def settings(folder: Path, config: dict[str, Any]) -> Settings:
    path = folder / "relay.yaml"
    path.write_text(json.dumps(config))
    return Settings(path, load(path))


def planned(folder: Path, change: Any, **more: Any) -> dict[str, Any]:
    after = json.loads(json.dumps(BASE))
    change(after)
    volumes = {"by_bridge": {"shop": 1000, "news": 400}, "by_node": {"a": 1300, "b": 100}, "waiting": {}, **more}
    return plan(settings(folder, BASE), settings(folder, after), **volumes)


def test_the_same_is_no_change(tmp_path: Path) -> None:
    found = planned(tmp_path, lambda _: None)
    assert (found["changed"], found["changes"], found["routes"], found["needs_restart"]) == (False, [], [], [])
    assert not any(pool["affected"] for pool in found["pools"])


def test_items_routes_volumes_and_ceilings(tmp_path: Path) -> None:
    def change(after: dict[str, Any]) -> None:
        after["bridges"][1]["pool"] = "aside"
        after["pools"][0]["rotation"] = "weighted"
        after["pools"][0]["nodes"][1] |= {"caps": {"hour": 200}, "weight": 3}
        after["pools"][0]["nodes"].append({"name": "d", "type": "sandbox"})
        after["pools"][1]["nodes"] = [{"name": "e", "type": "sandbox", "weight": 0}]
        after["headers"] = {"X-A": "b"}

    found = planned(tmp_path, change)
    said = {(c["what"], c["kind"], c["name"]): c["differences"] for c in found["changes"]}
    assert said == {
        ("changed", "setting", "headers"): [{"key": "headers.X-A", "before": None, "after": "b"}],
        ("changed", "pool", "main"): [{"key": "rotation", "before": "round-robin", "after": "weighted"}],
        ("changed", "node", "b"): [
            {"key": "weight", "before": "1", "after": "3"},
            {"key": "caps.hour.limit", "before": "100", "after": "200"},
        ],
        ("added", "node", "d"): [],
        ("added", "node", "e"): [],
        ("removed", "node", "c"): [],
        ("changed", "bridge", "news"): [{"key": "pool", "before": "main", "after": "aside"}],
    }
    assert found["routes"] == [{"bridge": "news", "before": "main", "after": "aside", "day": 400}]
    main, aside = found["pools"]
    assert (main["day_before"], main["day_after"], main["hour_before"]) == (1400, 1000, None)
    assert [(n["node"], n["day_before"], n["day_after"], n["hour_after"]) for n in main["nodes"]] == [
        ("a", 1300, 200, None),
        ("b", 100, 600, 200),
        ("d", 0, 200, None),
    ]
    assert (aside["day_after"], aside["over_ceiling"], aside["hour_after"]) == (400, 400, 0)


def test_secrets_are_compared_and_not_shown(tmp_path: Path) -> None:
    def change(after: dict[str, Any]) -> None:
        after["bridges"][0]["credentials"][0]["password"] = "new-word"
        after["pools"][0]["nodes"][0]["password"] = "other-node-word"

    found = planned(tmp_path, change)
    assert [[d["key"] for d in c["differences"]] for c in found["changes"]] == [
        ["password"],
        ["credentials[shop].password"],
    ]
    assert not any(word in json.dumps(found) for word in ("old-word", "new-word", "node-word"))


def test_mail_of_a_pool_that_would_go_is_named_and_what_needs_a_restart(tmp_path: Path) -> None:
    def change(after: dict[str, Any]) -> None:
        del after["pools"][1]
        after["workers"] = 3

    found = planned(tmp_path, change, waiting={"aside": 7, "main": 2})
    assert found["unrouted"] == {"aside": 7}
    assert found["needs_restart"] == ["workers"]
    assert [(pool["pool"], pool["hour_after"]) for pool in found["pools"]] == [("main", None), ("aside", 0)]
