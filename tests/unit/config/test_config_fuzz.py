# ruff: noqa: E501 - long lines are data
"""Whatever happens to a good file, loading ends in a configuration or in a list of faults, and tells no secret."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from relay.config import InvalidConfig, load, values
from relay.config.yaml12 import parse, to_data

CONF = Path(__file__).parents[3] / "conf"
SECRETS = ("hunter2-plain", "s3cret-of-shop", "s3cret-of-node", "pw-of-redis")
ENVIRONMENT = {"PW": "s3cret-of-shop", "NODE_PW": "s3cret-of-node"}
GOOD = """\
version: 1
hostname: relay.acme.example
store: {spool: sqlite:var/x, state: 'redis://:pw-of-redis@127.0.0.1:6379/0'}
workers: 2
mtas: [{id: mta4, zone: us-1}]
listeners: [{bind: "127.0.0.1:2525"}, {bind: "[::1]:2525", proxy: {trusted: [192.0.2.0/24]}}]
limits: {size: 10MB, idle: 30s, connections: 10}
retry: {schedule: [1m, 5m], max_age: 1d, jitter: 0.1}
headers: {X-A: a}
dsn: {pool: main}
bridges:
  - name: shop
    pool: main
    credentials: [{username: shop, password: '${PW}'}, {username: shop2, password: hunter2-plain}]
    networks: [192.0.2.7/32]
    senders: ['@acme.example']
    limits: {hour: {limit: 5, spread: true}, day: 10}
pools:
  - name: main
    id: 1
    default: true
    nodes:
      - {name: a, type: smtp, host: h.example, username: u, password: '${NODE_PW}', caps: {hour: 5}, verify: {hostname: x.example}}
      - {name: b, type: sandbox, fail: [{mode: delay, delay: 1s, rate: 0.5}], from: {email: a@b.example}}
nodes: [{name: c, type: sandbox, pool: main}]
"""
Q = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=12),
    st.sampled_from(["${PW}", "${UNSET}", "${file:/nowhere}", "${", "$$", "no", "1e3", "../x", "0.0.0.0/0", "x" * 300]),
    st.lists(st.integers() | st.text(max_size=3), max_size=3),
    st.dictionaries(st.sampled_from(["name", "type", "limit", "smtp", "zzz", "é"]), st.integers(), max_size=3),
)


def attempt(text: bytes) -> str:
    """Load; all that was said."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "relay.yaml"
        file.write_bytes(text)
        try:
            loaded = load(file, environment=ENVIRONMENT, base=Path(folder))
        except InvalidConfig as caught:
            refusal = caught
        else:
            values.pools(loaded.config)
            values.bridges(loaded.config)
            values.options_of_nodes(loaded.config)
            return "".join(map(str, loaded.warnings))
    assert refusal.faults
    assert all(fault.what and fault.place.file.startswith(folder) for fault in refusal.faults)
    return str(refusal) + "".join(map(str, refusal.warnings))


def spots(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path into the data."""
    found = [path] if path else []
    if isinstance(data, dict):
        for key, value in data.items():
            found += spots(value, (*path, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            found += spots(value, (*path, index))
    return found


TREE = to_data(parse(GOOD.encode(), "good")[0])
SPOTS = spots(TREE)
CHANGES = st.lists(
    st.tuples(st.sampled_from(SPOTS), st.sampled_from(["replace", "remove", "double", "rename"]), ODD),
    min_size=1,
    max_size=4,
)


def changed(changes: list[tuple[tuple[Any, ...], str, Any]]) -> Any:
    data = copy.deepcopy(TREE)
    for path, action, value in changes:
        holder: Any = data
        try:
            for part in path[:-1]:
                holder = holder[part]
            holder[path[-1]]
        except (KeyError, IndexError, TypeError):
            continue
        last = path[-1]
        match action:
            case "replace" if not isinstance(holder, str):
                holder[last] = value
            case "remove" if not isinstance(holder, str):
                del holder[last]
            case "double" if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[last]))
            case "rename" if isinstance(holder, dict):
                holder[f"{last}x"] = holder.pop(last)
    return data


def test_the_good_file_is_good() -> None:
    assert "faults" not in attempt(GOOD.encode())


def test_no_secret_shows_when_the_configuration_and_its_values_are_printed(tmp_path: Path) -> None:
    (tmp_path / "relay.yaml").write_text(GOOD)
    loaded = load(tmp_path / "relay.yaml", environment=ENVIRONMENT, base=tmp_path)
    bridges, options = values.bridges(loaded.config), values.options_of_nodes(loaded.config)
    printed = f"{loaded} {loaded!r} {bridges!r} {options!r} {values.state_place(loaded.config)!r}"
    assert "shop2" in printed
    assert not [secret for secret in SECRETS if secret in printed]


@Q
@given(CHANGES)
@example([(("pools", 0, "nodes", 0), "replace", {"smtp": 1})])
@example([(("pools",), "replace", None)])
@example([(("pools", 0), "replace", None), (("bridges", 0), "replace", 5)])
@example([(("mtas",), "replace", [])])
@example([(("pools", 0, "nodes"), "replace", "text")])
@example([(("limits", "size"), "replace", "9" * 18 + "GB")])
def test_changed_values_give_a_configuration_or_faults(changes: list[tuple[tuple[Any, ...], str, Any]]) -> None:
    said = attempt(json.dumps(changed(changes), ensure_ascii=False).encode())
    assert not [secret for secret in SECRETS if secret in said]


@Q
@given(
    st.integers(0, len(GOOD) - 1),
    st.integers(0, 12),
    st.binary(max_size=6) | st.text("\n \t:{}[]-'\"&*!#|>%@`$?,", max_size=6).map(str.encode),
)
def test_changed_octets_give_a_configuration_or_faults(at: int, cut: int, put: bytes) -> None:
    text = GOOD.encode()
    said = attempt(text[:at] + put + text[at + cut :])
    # A cut may put half a secret where a name belongs; a whole one is never said.
    assert not [secret for secret in SECRETS[1:3] if secret in said]


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(SPOTS))
def test_a_secret_that_slipped_into_any_place_is_never_told(path: tuple[Any, ...]) -> None:
    data = changed([(path, "replace", "${PW}")])
    said = attempt(json.dumps(data).encode())
    assert "s3cret-of-shop" not in said


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(SPOTS))
def test_a_literal_secret_that_slipped_into_a_wrong_place_is_not_told_by_shape_faults(path: tuple[Any, ...]) -> None:
    data = changed([(path, "replace", "Hunter2 Plain!")])  # no name, host, number or choice
    said = attempt(json.dumps(data).encode())
    assert "Hunter2" not in said
