"""`relay oauth login` as a process against a real server: by device code, by browser, by a pasted address."""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.fakes.token_server import TokenServer, error

CONFIG = """\
version: 1
store: sqlite:var
workers: 1
bridges: [{{name: shop, credentials: [{{username: shop, password: "sha256:{hash}"}}]}}]
pools:
  - name: main
    id: 1
    default: true
    nodes:
      - name: box
        type: smtp
        preset: outlook
        username: news@acme.example
        oauth:
          client_id: client-1
          token_url: {url}/token
          device_url: {url}/device
          authorize_url: {url}/authorize
      - {{name: plain, type: sandbox}}
"""


class Relay:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def start(self, *args: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "relay", "-c", "relay.yaml", *args),
            cwd=self.folder,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "COLUMNS": "200"},
        )

    async def __call__(self, *args: str, paste: str = "") -> tuple[int, str, str]:
        process = await self.start(*args)
        out, err = await process.communicate(paste.encode())
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    @property
    def record(self) -> Path:
        return self.folder / "var" / "oauth" / "box.json"


@pytest.fixture
async def server() -> AsyncIterator[TokenServer]:
    async with TokenServer() as made:
        yield made


@pytest.fixture
def relay(server: TokenServer, tmp_path: Path) -> Relay:
    (tmp_path / "relay.yaml").write_text(CONFIG.format(url=server.url, hash="ab" * 32))
    return Relay(tmp_path)


async def page_of(process: asyncio.subprocess.Process) -> dict[str, str]:
    """Query of the page that was printed."""
    assert process.stdout is not None
    while line := (await process.stdout.readline()).decode():
        if found := re.search(r"http://\S+/authorize\?\S+", line):
            return {name: values[0] for name, values in parse_qs(urlsplit(found[0]).query).items()}
    raise AssertionError("no page was printed")


async def test_by_device_code(server: TokenServer, relay: Relay) -> None:
    server.pending = 1
    code, out, err = await relay("oauth", "login", "box")
    assert (code, err) == (0, "")
    assert "ABCD-EFGH" in out
    assert f"{server.url}/enter" in out
    assert json.loads(relay.record.read_text())["refresh_token"] in server.refresh_tokens
    assert stat.S_IMODE(relay.record.stat().st_mode) == 0o600
    assert "access-1" not in out
    status = json.loads((await relay("oauth", "status", "--json"))[1])
    assert [(row["node"], row["stored"], row["scope"]) for row in status] == [("box", True, "mail")]
    assert not any(token in json.dumps(status) for token in [*server.refresh_tokens, *server.issued])


async def test_by_browser_on_this_machine(server: TokenServer, relay: Relay) -> None:
    process = await relay.start("oauth", "login", "box", "--browser")
    page = await page_of(process)
    assert (page["scope"], page["login_hint"]) == (
        "https://outlook.office.com/SMTP.Send offline_access",
        "news@acme.example",
    )
    server.codes["c-1"] = page["code_challenge"]
    async with httpx.AsyncClient(trust_env=False) as browser:
        assert (await browser.get(page["redirect_uri"] + "favicon.ico")).status_code == 404
        landed = await browser.get(page["redirect_uri"], params={"code": "c-1", "state": page["state"]})
    assert landed.status_code == 200
    assert "c-1" not in landed.text
    _, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert server.forms[-1]["redirect_uri"] == page["redirect_uri"]
    assert relay.record.exists()


async def test_by_a_pasted_address(server: TokenServer, relay: Relay) -> None:
    process = await relay.start("oauth", "login", "box", "--paste")
    page = await page_of(process)
    server.codes["c-1"] = page["code_challenge"]
    _, err = await process.communicate(f"{page['redirect_uri']}?state={page['state']}&code=c-1\n".encode())
    assert (process.returncode, err) == (0, b"")
    assert relay.record.exists()


REFUSALS = {
    "wrong code": ("bad-code", "PKCE verification failed"),
}


@pytest.mark.parametrize(("paste", "words"), REFUSALS.values(), ids=list(REFUSALS))
async def test_a_login_that_fails_leaves_what_was_stored(
    server: TokenServer, relay: Relay, paste: str, words: str
) -> None:
    relay.record.parent.mkdir(parents=True)
    relay.record.write_text('{"version": 3, "refresh_token": "old"}')
    code, _, err = await relay("oauth", "login", "box", "--paste", paste=f"{paste}\n")
    assert code == os.EX_UNAVAILABLE
    assert words in err
    assert json.loads(relay.record.read_text())["refresh_token"] == "old"


async def test_consent_that_is_refused_on_the_device(server: TokenServer, relay: Relay) -> None:
    server.script(error("access_denied", "The user refused."))
    code, _, err = await relay("oauth", "login", "box")
    assert code == os.EX_UNAVAILABLE
    assert "access_denied: The user refused." in err
    assert not relay.record.exists()


async def test_a_login_over_a_damaged_record_and_a_logout(server: TokenServer, relay: Relay) -> None:
    relay.record.parent.mkdir(parents=True)
    relay.record.write_text("{")
    _, out, _ = await relay("oauth", "status")
    assert "is damaged" in out
    assert (await relay("oauth", "login", "box"))[0] == 0
    assert "logged in" in (await relay("oauth", "status"))[1]
    assert (await relay("oauth", "logout", "box"))[0] == 0
    assert not relay.record.exists()
    assert "not logged in: relay oauth login box" in (await relay("oauth", "status"))[1]


@pytest.mark.parametrize(("name", "words"), [("nobody", "there are: box, plain"), ("plain", "does not use OAuth 2")])
async def test_nodes_that_have_no_login(relay: Relay, name: str, words: str) -> None:
    code, _, err = await relay("oauth", "login", name)
    assert code == os.EX_DATAERR
    assert words in err
