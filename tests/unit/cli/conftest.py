"""Commands called in this process the way the shell calls them: exit code, standard output and error."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from relay.cli import main

CONFIG = """\
# kept by hand
version: 1
store: sqlite:var
workers: 1
bridges:
  # the shop
  - name: shop
    pool: main
    credentials:
      - {username: shop, password: "${PW}"}  # in the vault
pools:
  - name: main
    id: 1
    default: true
    nodes:
      - {name: box, type: sandbox}
"""


@dataclass
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return orjson.loads(self.out)


Cli = Callable[..., Ended]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """`cli("status", "--json")`; `input` is what standard input holds. In an empty folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PW", "s3cret-of-shop")
    monkeypatch.delenv("RELAY_CONFIG", raising=False)

    def call(*args: str, input: str = "") -> Ended:
        monkeypatch.setattr("sys.stdin", io.StringIO(input))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(args))
        said = capsys.readouterr()
        code = ended.value.code
        assert "Traceback" not in said.err
        return Ended(code if isinstance(code, int) else 0, said.out, said.err)

    return call


@pytest.fixture
def config(cli: Cli, tmp_path: Path) -> Path:
    path = tmp_path / "conf" / "relay.yaml"
    path.parent.mkdir()
    path.write_text(CONFIG)
    return path
