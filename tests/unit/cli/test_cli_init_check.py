"""The first minutes: `init`, `check`, `schema`."""

from __future__ import annotations

import os
import shlex
import stat
import sys
from pathlib import Path

import orjson
import pytest

from relay.config.load import load
from tests.unit.cli.conftest import Cli


def test_init_writes_a_configuration_that_is_valid_and_private(cli: Cli, tmp_path: Path) -> None:
    ended = cli("init", "--type", "sandbox")
    assert ended.code == 0
    path = tmp_path / "conf" / "relay.yaml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not load(path).warnings
    assert orjson.loads((tmp_path / "conf" / "relay.schema.json").read_bytes())["type"] == "object"
    assert cli("check").code == 0


def test_init_keeps_only_the_hash_of_the_password_it_prints(cli: Cli, tmp_path: Path) -> None:
    out = cli("init", "--type", "sandbox").out
    password = next(line.split()[1] for line in out.splitlines() if line.strip().startswith("password"))
    assert len(password) > 20
    assert password not in (tmp_path / "conf" / "relay.yaml").read_text()


def test_the_lines_that_init_prints_are_commands_of_this_program(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["relay"])  # a runner of tests may have been called as `-c`
    out = cli("init", "my conf", "--type", "sandbox").out
    lines = [shlex.split(line) for line in out.splitlines() if " -c " in line]
    assert [line[line.index("-c") + 2] for line in lines] == ["run", "send", "status"]
    for line in lines:
        assert line[line.index("-c") + 1] == "my conf/relay.yaml"
        assert cli(line[line.index("-c") + 2], "--help").code == 0
    status = lines[2]
    assert cli(*status[status.index("-c") :]).code == 0


def test_init_asks_for_what_is_not_given(cli: Cli, tmp_path: Path) -> None:
    ended = cli("init", input='smtp\nnone\nmail.example.com\nimplicit\n\nrelay: "user" $1\n')
    assert ended.code == 0
    assert "SMARTHOST_PASSWORD" in ended.out
    config = load(tmp_path / "conf" / "relay.yaml", environment={"SMARTHOST_PASSWORD": "x"}).config
    (node,) = config.pools[0].nodes
    assert (node.type, node.host, node.port, node.tls) == ("smtp", "mail.example.com", 465, "implicit")  # type: ignore[union-attr]
    assert node.username == 'relay: "user" $1'  # type: ignore[union-attr]


def test_init_asks_again_for_what_makes_no_sense(cli: Cli) -> None:
    ended = cli("init", "--no-test", "--host", "mail.example.com", input="tls13\nnone\n99999\n2500\n\n")
    assert ended.code == 0
    assert "port: 2500" in Path("conf/relay.yaml").read_text()


def test_init_without_answers_says_which_options_to_give(cli: Cli, tmp_path: Path) -> None:
    ended = cli("init", input="")
    assert ended.code == os.EX_USAGE
    assert "--type sandbox" in ended.err
    assert not (tmp_path / "conf").exists()


def test_init_with_a_preset_and_oauth_asks_nothing(cli: Cli) -> None:
    keys = ["oauth.client_id=abc", "oauth.tenant=acme.example", "caps.day=700"]
    args = ["--type", "smtp", "--preset", "outlook", "--username", "me@acme.example"]
    ended = cli("init", *args, *(f"--set={key}" for key in keys))
    assert (ended.code, ended.err) == (0, "")
    assert "oauth login outlook" in ended.out
    (node,) = load("conf/relay.yaml").config.pools[0].nodes
    assert (node.name, node.host, node.caps.day.limit) == ("outlook", "smtp.office365.com", 700)  # type: ignore[attr-defined, union-attr]
    assert node.oauth.tenant == "acme.example"  # type: ignore[attr-defined]


INIT_FAULTS: dict[str, tuple[list[str], int, str]] = {
    "unknown type": (["--type", "smpt"], os.EX_USAGE, "none of smtp, sandbox"),
    "unknown preset": (["--preset", "gmial", "--username", "u"], os.EX_USAGE, 'did you mean "gmail"?'),
    "secret on the command line": (["--type", "smtp", "--set", "password=x"], os.EX_USAGE, "can be seen by others"),
    "no pair": (["--type", "smtp", "--set", "password"], os.EX_USAGE, "is not KEY=VALUE"),
    "unknown key": (["--type", "sandbox", "--set", "zzz=1"], os.EX_CONFIG, "zzz"),
    "no answer": (["--type", "smtp"], os.EX_USAGE, "no answer"),
}


@pytest.mark.parametrize(("args", "code", "words"), INIT_FAULTS.values(), ids=list(INIT_FAULTS))
def test_init_that_cannot_be_is_told_and_leaves_nothing(
    cli: Cli, tmp_path: Path, args: list[str], code: int, words: str
) -> None:
    ended = cli("init", *args)
    assert ended.code == code
    assert words in ended.err
    assert not list(tmp_path.rglob("*"))


def test_init_never_overwrites(cli: Cli, config: Path) -> None:
    before = config.read_bytes()
    ended = cli("init", "--type", "sandbox")
    assert (ended.code, config.read_bytes()) == (os.EX_CANTCREAT, before)
    assert "left alone" in ended.err


@pytest.mark.parametrize(
    "args",
    [
        ["--bind", "nonsense"],
        ["--bind", "0.0.0.0:2525"],  # logins would pass in clear text
        ["--bridge", ""],
        ["--cert", "no.pem", "--key", "no.key"],
    ],
)
def test_init_that_cannot_be_valid_tells_why_and_leaves_nothing(cli: Cli, tmp_path: Path, args: list[str]) -> None:
    ended = cli("init", "--type", "sandbox", *args)
    assert ended.code == os.EX_CONFIG
    assert "nothing was written" in ended.err
    assert not (tmp_path / "conf" / "relay.yaml").exists()


def test_init_where_nothing_can_be_written_is_73(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = cli("init", "file/conf", "--type", "sandbox")
    assert ended.code == os.EX_CANTCREAT
    assert "file/conf" in ended.err


def test_check_tells_all_faults_with_place_and_suggestion(cli: Cli, config: Path) -> None:
    config.write_text(
        config.read_text().replace("pool: main", "pool: mian").replace("type: sandbox", "type: sandbox, weigth: 2")
    )
    ended = cli("check")
    assert ended.code == os.EX_CONFIG
    assert not ended.out
    assert "conf/relay.yaml:8:11: bridges[0].pool" in ended.err
    assert 'did you mean "main"?' in ended.err
    assert 'did you mean "weight"?' in ended.err
    faults = cli("check", "--json").json
    assert faults["ok"] is False
    assert len(faults["faults"]) >= 2
    assert {"place", "key", "what", "hint"} == set(faults["faults"][0])


def test_check_shows_no_secret(cli: Cli, config: Path) -> None:
    config.write_text(config.read_text().replace("${PW}", "hunter2-plain") + "pools2: hunter3\n")
    for ended in (cli("check"), cli("check", "--json"), cli("bridge", "list", "--json"), cli("status")):
        assert "hunter" not in ended.out + ended.err
        assert "s3cret" not in ended.out + ended.err


def test_check_of_a_sound_configuration_counts_what_it_holds(cli: Cli, config: Path) -> None:
    ended = cli("check")
    assert ended.code == 0
    assert "ok (1 file, 1 bridge, 1 pool, 1 node)" in ended.out
    assert cli("check", "--json").json == {"ok": True, "faults": [], "warnings": []}


def test_check_loads_the_keys_that_a_start_would_load(cli: Cli, config: Path) -> None:
    Path("bad.pem").write_text("-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----\n")
    config.write_text(config.read_text() + "dkim:\n  - {domain: acme.example, selector: s1, key_file: bad.pem}\n")
    ended = cli("check")
    assert ended.code == os.EX_CONFIG
    assert "bad.pem" in ended.err


def test_schema_is_json_that_knows_the_keys(cli: Cli) -> None:
    schema = cli("schema").json
    assert {"bridges", "pools", "listeners", "store"} <= set(schema["properties"])
