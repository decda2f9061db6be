"""`relay bridge`: the file is changed as its owner would do it, or not at all."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from relay.bridges.credentials import parse_secret
from relay.config import values
from relay.config.change import edit
from relay.config.load import load
from tests.unit.cli.conftest import CONFIG, Cli

LISTS_AT_THE_KEY = """\
version: 1
store: sqlite:var
bridges:
- name: shop
  pool: main
  credentials:
  - username: shop
    password: "${PW}"

# Where mail goes
pools:
- name: main
  id: 1
  default: true
  nodes:
  - {name: box, type: sandbox}
"""
JSON = json.dumps(
    {
        "version": 1,
        "store": "sqlite:var",
        "bridges": [{"name": "shop", "pool": "main", "credentials": [{"username": "shop", "password": "${PW}"}]}],
        "pools": [{"name": "main", "id": 1, "default": True, "nodes": [{"name": "box", "type": "sandbox"}]}],
    }
)


def logins(path: Path) -> dict[str, list[str]]:
    return {b.name: [c.username for c in b.credentials] for b in values.bridges(load(path).config)}


def test_an_added_bridge_can_log_in_with_the_password_that_is_printed_once(cli: Cli, config: Path) -> None:
    ended = cli("bridge", "add", "news", "--sender", "@acme.example", "--json")
    assert ended.code == 0
    token = ended.json["password"]
    assert token not in config.read_text()
    added = values.bridges(load(config).config)[1]
    assert (added.name, added.pool, added.senders) == ("news", "main", ("@acme.example",))
    secret = parse_secret(added.credentials[0].secret)
    assert secret.verify(token.encode())
    assert not secret.verify(f"{token}x".encode())


def test_every_line_that_stood_in_the_file_stands_there_still(cli: Cli, config: Path) -> None:
    assert cli("bridge", "add", "news").code == 0
    assert cli("bridge", "add", "shop", "--username", "shop-2").code == 0
    after = config.read_text().splitlines()
    assert [line for line in CONFIG.splitlines() if line not in after] == []
    assert cli("bridge", "revoke", "news").code == 0
    assert cli("bridge", "revoke", "shop", "--username", "shop-2").code == 0
    assert config.read_text() == CONFIG


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(LISTS_AT_THE_KEY, None, id="lists not indented"),
        pytest.param(JSON, None, id="JSON"),
        pytest.param(CONFIG.replace("  # the shop", "  # the shop\n\n    # oddly indented"), None, id="odd comments"),
        pytest.param(CONFIG.replace("pools:", "\n# Where mail goes\npools:"), None, id="comment of the next section"),
        pytest.param(CONFIG.replace("\n", "\r\n"), None, id="CRLF"),
        pytest.param("\ufeff" + CONFIG, None, id="byte order mark"),
        pytest.param(CONFIG.rstrip("\n"), None, id="no line end at the end"),
        pytest.param(
            CONFIG.replace("sandbox}", "sandbox, headers: {X-Long: " + "x" * 200 + "}}"), None, id="long line"
        ),
    ],
)
def test_the_layout_of_the_file_is_kept(cli: Cli, config: Path, before: str, after: str | None) -> None:
    config.write_bytes(before.encode())
    assert cli("bridge", "add", "news").code == 0
    assert cli("bridge", "add", "shop", "--username", "shop-2").code == 0
    assert logins(config) == {"shop": ["shop", "shop-2"], "news": ["news"]}
    assert cli("bridge", "revoke", "shop", "--username", "shop-2").code == 0
    assert cli("bridge", "revoke", "news").code == 0
    assert config.read_bytes().decode() == (before if after is None else after)


def test_the_file_that_holds_the_bridges_is_the_one_that_is_changed(cli: Cli, config: Path) -> None:
    lines = CONFIG.split("bridges:\n")[1].split("pools:\n")
    (config.parent / "bridges.yaml").write_text(f"bridges:\n{lines[0]}")
    (config.parent / "more.yaml").write_text('bridges:\n  - {name: old, networks: ["192.0.2.1/32"]}  # printer\n')
    main = f"version: 1\nstore: sqlite:var\ninclude: [bridges.yaml, more.yaml]\npools:\n{lines[1]}"
    config.write_text(main)
    assert "bridges.yaml" in cli("bridge", "add", "news").out
    assert "more.yaml" in cli("bridge", "add", "old", "--username", "printer").out
    assert logins(config) == {"shop": ["shop"], "news": ["news"], "old": ["printer"]}
    assert "more.yaml" in cli("bridge", "revoke", "old", "--username", "printer").out
    assert logins(config) == {"shop": ["shop"], "news": ["news"], "old": []}
    assert "# printer" in (config.parent / "more.yaml").read_text()
    assert config.read_text() == main


def test_a_configuration_without_bridges_gets_its_first(cli: Cli, config: Path) -> None:
    for bridges in ("", "bridges: []\n", "bridges: [\n]  # none yet\n"):
        pools = "pools:\n  - {name: main, id: 1, default: true, nodes: [{name: n, type: sandbox}]}  # so far\n"
        config.write_text(f"version: 1\nstore: sqlite:var\n{bridges}{pools}")
        ended = cli("bridge", "add", "news")
        assert ended.code == 0, (bridges, ended.err)
        assert logins(config) == {"news": ["news"]}
        assert "# so far" in config.read_text()


def test_a_bridge_with_networks_gets_its_first_login(cli: Cli, config: Path) -> None:
    for entry in (
        '- {name: printer, networks: ["192.0.2.1/32"]}',
        '- name: printer\n    networks: ["192.0.2.1/32"]  # 1',
    ):
        config.write_text(CONFIG.replace("bridges:\n", f"bridges:\n  {entry}\n"))
        assert cli("bridge", "add", "printer", "--username", "p").code == 0
        assert logins(config) == {"printer": ["p"], "shop": ["shop"]}
        assert cli("bridge", "revoke", "printer", "--username", "p").code == 0
        assert logins(config) == {"printer": [], "shop": ["shop"]}


def test_revoking_the_last_login_of_a_bridge_removes_it(cli: Cli, config: Path) -> None:
    assert cli("bridge", "revoke", "shop", "--username", "shop").code == 0
    assert logins(config) == {}
    assert "# the shop" in config.read_text()
    assert cli("bridge", "add", "shop").code == 0
    assert logins(config) == {"shop": ["shop"]}


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["add", "news", "--pool", "nope"], os.EX_DATAERR, "no pool is called 'nope'; there are: main"),
        (["add", "news", "--username", "shop"], os.EX_DATAERR, "the login shop exists already"),
        (["add", "shop"], os.EX_DATAERR, "the login shop exists already"),
        (["add", "shop", "--username", "x", "--pool", "main"], os.EX_USAGE, "bridge shop exists"),
        (["add", "news", "--sender", "not a sender"], os.EX_CONFIG, "nothing was changed"),
        (["add", ""], os.EX_CONFIG, "nothing was changed"),
        (["revoke", "nope"], os.EX_DATAERR, "there are: shop"),
        (["revoke", "shop", "--username", "nope"], os.EX_DATAERR, "it has: shop"),
    ],
)
def test_what_cannot_be_done_changes_nothing_and_tells_why(
    cli: Cli, config: Path, args: list[str], code: int, said: str
) -> None:
    ended = cli("bridge", *args)
    assert (ended.code, ended.out) == (code, "")
    assert said in ended.err
    assert config.read_text() == CONFIG


def test_the_file_keeps_its_mode_and_a_link_stays_a_link(cli: Cli, config: Path, tmp_path: Path) -> None:
    real = tmp_path / "real.yaml"
    config.rename(real)
    real.chmod(0o640)
    config.symlink_to(real)
    assert cli("bridge", "add", "news").code == 0
    assert config.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert "news" in logins(config)
    assert sorted(path.name for path in real.parent.iterdir()) == ["conf", "real.yaml"]


def test_changes_at_the_same_time_are_all_kept(cli: Cli, config: Path) -> None:
    def add(name: str) -> None:
        edit(
            config,
            config,
            lambda text: text.add("bridges", {"name": name, "networks": [f"192.0.2.{name[1:]}/32"]}),
            bool,
        )

    names = [f"b{n}" for n in range(8)]
    threads = [threading.Thread(target=add, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = load(config)
    assert {b.name for b in found.config.bridges} == {"shop", *names}


def test_lists_are_told_for_people_and_for_scripts(cli: Cli, config: Path) -> None:
    assert "shop" in cli("bridge", "list").out
    assert cli("bridge", "list", "--json").json == [
        {
            "name": "shop",
            "pool": "main",
            "usernames": ["shop"],
            "networks": [],
            "senders": [],
            "lane": "transactional",
            "share": 1,
            "delivery": "queue",
        }
    ]
    (pool,) = cli("pool", "list", "--json").json
    assert (pool["name"], pool["nodes"], pool["bridges"]) == ("main", ["box"], ["shop"])
    assert "main (default)" in cli("pool", "list").out
