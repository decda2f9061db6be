"""`relay secret`: keys, sealing in place, rotation; comments stay and nothing is shown."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from relay.config.load import load
from tests.unit.cli.conftest import Cli, Ended

MAIN = """\
version: 1  # by hand
store: sqlite:var
secrets: {key_file: conf/secret.key}
include: [pools.yaml]
bridges:
  - name: shop
    pool: main
    credentials:
      - {username: shop, password: 'it''s plain'}   # the shop
"""
POOLS = """\
pools:
  - name: main
    id: 1
    default: true
    nodes:
      # the first one
      - name: one
        type: smtp
        host: h.example
        username: u
        password: first-secret   # from the vendor
        headers: {X-A: b}
      - {name: two, type: smtp, host: h.example, username: u, password: "second: \\"secret\\""}
      - {name: three, type: smtp, host: h.example, username: u, password: "${PW}"}
      - name: four
        type: smtp
        preset: gmail
        username: me@acme.example
        oauth: {client_id: c}
"""
SECRETS = ("it's plain", "first-secret", 'second: "secret"', "second: \\")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "relay.yaml").write_text(MAIN)
    (tmp_path / "pools.yaml").write_bytes(POOLS.replace("\n", "\r\n").encode())
    return tmp_path


def call(cli: Cli, *args: str, code: int = 0, input: str = "") -> Ended:
    ended = cli("-c", "relay.yaml", "secret", *args, input=input)
    assert ended.code == code, ended.err
    assert not any(secret in ended.out + ended.err for secret in SECRETS)
    return ended


def test_a_key_is_private_is_not_printed_and_is_never_overwritten(cli: Cli, tmp_path: Path) -> None:
    ended = call(cli, "keygen")
    path = tmp_path / "conf" / "secret.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = path.read_text().strip()
    assert key not in ended.out
    assert "conf/secret.key" in ended.out
    assert "left alone" in call(cli, "keygen", code=os.EX_CANTCREAT).err
    assert path.read_text().strip() == key


def test_seal_replaces_plain_secrets_in_place_and_leaves_all_else(cli: Cli, files: Path) -> None:
    call(cli, "keygen")
    before = load("relay.yaml").config
    assert "3 to be sealed" in call(cli, "seal", "--dry-run", code=1).out
    out = call(cli, "seal").out
    assert "pools.yaml:11:19: pools[0].nodes[0].password" in out
    assert load("relay.yaml").config == before
    assert not load("relay.yaml").warnings
    main, pools = (files / "relay.yaml").read_text(), (files / "pools.yaml").read_bytes().decode()
    assert not any(secret in main + pools for secret in SECRETS)
    assert main.splitlines()[:8] == MAIN.splitlines()[:8]
    assert main.splitlines()[8].endswith('}"}   # the shop')
    lines = pools.split("\r\n")
    assert lines[10].startswith('        password: "${sealed:v1:')
    assert lines[10].endswith('}"   # from the vendor')
    expected = POOLS.split("\n")
    assert [line for n, line in enumerate(lines) if n not in (10, 12)] == [
        line for n, line in enumerate(expected) if n not in (10, 12)
    ]
    assert "Nothing was to be sealed" in call(cli, "seal").out
    assert cli("-c", "relay.yaml", "check").code == 0


def test_keys_are_rotated_without_a_gap(cli: Cli, files: Path) -> None:
    call(cli, "keygen")
    call(cli, "seal")
    before = load("relay.yaml").config
    call(cli, "keygen", "--rotate")
    key_file = files / "conf" / "secret.key"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    new, old = key_file.read_text().split()
    assert load("relay.yaml").config == before
    assert "Nothing was to be sealed" in call(cli, "seal").out
    assert "3 sealed" in call(cli, "seal", "--again").out
    key_file.write_text(new)
    assert load("relay.yaml").config == before
    key_file.write_text(old)
    ended = cli("-c", "relay.yaml", "check")
    assert ended.code == os.EX_CONFIG
    assert ended.err.count("was sealed with key") + ended.out.count("was sealed with key") == 3


def test_set_writes_a_secret_that_was_not_there_and_one_that_was(cli: Cli, files: Path) -> None:
    call(cli, "keygen")
    call(cli, "set", "two", "password", input="changed $ecret ${X}\n")
    call(cli, "set", "four", "oauth.client_secret", input="client\n")
    call(cli, "set", "three", "password", input="three\n")
    nodes = load("relay.yaml").config.pools[0].nodes
    assert nodes[1].password.get_secret_value() == "changed $ecret ${X}"  # type: ignore[attr-defined]
    assert nodes[2].password.get_secret_value() == "three"  # type: ignore[attr-defined]
    assert nodes[3].oauth.client_secret.get_secret_value() == "client"  # type: ignore[attr-defined]
    assert "# from the vendor" in (files / "pools.yaml").read_text()


def test_set_tells_which_keys_there_are(cli: Cli, files: Path) -> None:
    call(cli, "keygen")
    assert "there are: four, one, three, two" in call(cli, "set", "five", code=os.EX_DATAERR).err
    ended = call(cli, "set", "one", "pasword", code=os.EX_DATAERR)
    assert "password, oauth.client_secret, oauth.refresh_token" in ended.err
    before = (files / "pools.yaml").read_bytes()
    ended = call(cli, "set", "one", "oauth.client_secret", input="x\n", code=os.EX_CONFIG)
    assert "has no mapping oauth" in ended.err
    assert (files / "pools.yaml").read_bytes() == before


def test_encrypt_prints_what_can_be_pasted(cli: Cli, files: Path) -> None:
    call(cli, "keygen")
    text = call(cli, "encrypt", input="first-secret\n").out.strip()
    (files / "pools.yaml").write_text(POOLS.replace("first-secret", f'"{text}"'))
    assert load("relay.yaml").config.pools[0].nodes[0].password.get_secret_value() == "first-secret"  # type: ignore[attr-defined]


def test_list_shows_forms_and_no_secret(cli: Cli, files: Path) -> None:
    call(cli, "keygen")
    call(cli, "set", "two", "password", input="x\n")
    rows = call(cli, "list", "--json").json
    assert [(row["key"], row["form"]) for row in rows] == [
        ("bridges[0].credentials[0].password", "plain"),
        ("pools[0].nodes[0].password", "plain"),
        ("pools[0].nodes[1].password", "sealed"),
        ("pools[0].nodes[2].password", "elsewhere"),
    ]


def test_without_a_key_nothing_is_changed(cli: Cli, files: Path) -> None:
    for args in (["seal"], ["set", "one", "password"], ["encrypt"]):
        assert "relay secret keygen" in call(cli, *args, code=os.EX_CONFIG, input="x\n").err
    assert (files / "relay.yaml").read_text() == MAIN


def test_an_anchor_is_not_lost(cli: Cli, files: Path) -> None:
    call(cli, "keygen")
    text = POOLS.replace("first-secret", "&p first-secret").replace('"${PW}"', "*p")
    (files / "pools.yaml").write_text(text)
    ended = call(cli, "seal", code=os.EX_CONFIG)
    assert "line 11, column 19: the value has an anchor" in ended.err
    assert (files / "pools.yaml").read_text() == text


@pytest.mark.parametrize(
    "written", ["|-\n          block-secret", ">-\n          block-secret"], ids=["literal", "folded"]
)
def test_block_scalars(cli: Cli, files: Path, written: str) -> None:
    call(cli, "keygen")
    (files / "pools.yaml").write_text(POOLS.replace("first-secret   # from the vendor", written))
    before = load("relay.yaml").config
    call(cli, "seal")
    assert load("relay.yaml").config == before
    assert "block-secret" not in (files / "pools.yaml").read_text()
