"""`relay init` as a process: the node is tested against a real server before anything is written."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.config.load import load
from tests.fakes.smtp_server import SmtpServer

SECRET = "s3cret-word"


class Run:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "conf" / "relay.yaml"

    async def __call__(self, *args: str, answers: str = "", **environment: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "relay", "init", *args),
            cwd=self.folder,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "COLUMNS": "200", **environment},
        )
        out, err = await process.communicate(answers.encode())
        assert process.returncode is not None
        assert SECRET not in out.decode() + err.decode()
        return process.returncode, out.decode(), err.decode()


@pytest.fixture
async def server() -> AsyncIterator[SmtpServer]:
    async with SmtpServer(users={"relay": SECRET}) as made:
        yield made


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def at(server: SmtpServer) -> list[str]:
    return ["--type", "smtp", "--host", server.host, "--port", str(server.port), "--tls", "none", "--username", "relay"]


async def test_a_password_that_is_typed_is_tested_and_sealed(
    server: SmtpServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = await run(*at(server), answers=f"{SECRET}\n")
    assert (code, err) == (0, "")
    assert "ok " in out
    assert server.logins == [("PLAIN", "relay", True)]
    assert server.messages == []
    text = run.path.read_text()
    assert SECRET not in text
    assert '"${sealed:v1:' in text
    key = run.folder / "conf" / "secret.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    monkeypatch.chdir(run.folder)
    loaded = load(run.path)
    assert loaded.config.pools[0].nodes[0].password.get_secret_value() == SECRET  # type: ignore[attr-defined]
    assert not loaded.warnings


async def test_a_password_of_the_environment_stays_there(server: SmtpServer, run: Run) -> None:
    code, out, _ = await run(*at(server), SMARTHOST_PASSWORD=SECRET)
    assert code == 0
    assert server.logins == [("PLAIN", "relay", True)]
    assert 'password: "${SMARTHOST_PASSWORD}"' in run.path.read_text()
    assert not (run.folder / "conf" / "secret.key").exists()
    assert "export" not in out


async def test_a_wrong_password_writes_nothing(server: SmtpServer, run: Run) -> None:
    code, out, err = await run(*at(server), answers="wrong\n")
    assert code == os.EX_UNAVAILABLE
    assert "535 5.7.8 authentication failed" in out
    assert "check username and password" in out
    assert "nothing was written" in err
    assert not list((run.folder).rglob("*"))


async def test_without_the_password_nobody_connects(server: SmtpServer, run: Run) -> None:
    code, out, _ = await run(*at(server))
    assert code == 0
    assert "SMARTHOST_PASSWORD is not known yet" in out
    assert "export SMARTHOST_PASSWORD" in out
    assert server.connections == 0
