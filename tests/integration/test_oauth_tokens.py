"""Tokens from a real HTTP server: renewed in time and once, rotated without loss; what is told when there are none."""

from __future__ import annotations

import asyncio
import json
import stat
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from relay.oauth.endpoint import Endpoint
from relay.oauth.source import NodeTokens
from relay.oauth.store import FileTokenStore, Stored, TokenStoreFault
from relay.outcome import Scope, Status
from relay.upstreams.oauth_options import TokenPlan
from relay.upstreams.tokens import TokenFault
from tests.fakes.token_server import Say, TokenServer, error

RACER = """
import asyncio, sys, time
from pathlib import Path
from relay.oauth.endpoint import Endpoint
from relay.oauth.source import NodeTokens
from relay.oauth.store import FileTokenStore
from relay.upstreams.oauth_options import TokenPlan

async def main(url, folder, rounds):
    endpoint = Endpoint()
    plan = TokenPlan(flow="refresh-token", token_url=url + "/token", client_id="client-1", refresh_token="r0")
    tell = lambda text, account: print("fault", text)
    tokens = NodeTokens("box", plan, ask=endpoint.post, store=FileTokenStore(Path(folder)), clock=time.time, tell=tell)
    for _ in range(rounds):
        token = await tokens.token()
        print("token", token, flush=True)
        await tokens.invalidate(token)
    await endpoint.close()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Rig:
    """Sources on one server, one folder and one clock."""

    def __init__(self, server: TokenServer, folder: Path) -> None:
        self.server = server
        self.clock = Clock()
        self.folder = folder / "oauth"
        self.store = FileTokenStore(self.folder)
        self.endpoint = Endpoint(httpx.Timeout(0.5))
        self.told: list[tuple[str, bool]] = []

    def source(self, **plan: Any) -> NodeTokens:
        facts = {"flow": "refresh-token", "client_id": "client-1", "refresh_token": "r0", **plan}
        return NodeTokens(
            "box",
            TokenPlan(token_url=f"{self.server.url}/token", **facts),
            ask=self.endpoint.post,
            store=self.store,
            clock=self.clock,
            tell=lambda text, account: self.told.append((text, account)),
        )

    async def stored(self) -> Stored:
        record = await self.store.load("box")
        assert record is not None
        return record


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with TokenServer() as server:
        made = Rig(server, tmp_path)
        yield made
        await made.endpoint.close()


async def fault_of(source: NodeTokens) -> Any:
    with pytest.raises(TokenFault) as caught:
        await source.token()
    return caught.value.outcome


async def test_one_request_serves_all_who_ask_at_once(rig: Rig) -> None:
    source = rig.source()
    assert await asyncio.gather(*(source.token() for _ in range(50))) == ["access-1"] * 50
    assert len(rig.server.forms) == 1


async def test_a_token_is_renewed_before_its_end_and_the_rotated_one_is_kept(rig: Rig) -> None:
    source = rig.source()
    assert await source.token() == "access-1"
    rig.clock.now += 3600 - 301
    assert await source.token() == "access-1"
    rig.clock.now += 2
    assert await source.token() == "access-2"
    assert [form["refresh_token"] for form in rig.server.forms] == ["r0", "r1"]
    record = await rig.stored()
    assert (record.version, record.refresh_token, record.access_token) == (
        2,
        next(iter(rig.server.refresh_tokens)),
        "access-2",
    )
    assert stat.S_IMODE((rig.folder / "box.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(rig.folder.stat().st_mode) == 0o700


async def test_a_short_life_does_not_mean_a_request_each_time(rig: Rig) -> None:
    rig.server.life_s = 60
    source = rig.source()
    for _ in range(5):
        assert await source.token() == "access-1"
    rig.clock.now += 46
    assert await source.token() == "access-2"


async def test_a_refused_token_is_replaced_and_an_older_one_is_not(rig: Rig) -> None:
    source = rig.source()
    first = await source.token()
    await source.invalidate(first)
    second = await source.token()
    assert (first, second) == ("access-1", "access-2")
    await source.invalidate(first)
    assert await source.token() == second


async def test_another_worker_takes_what_the_first_one_got(rig: Rig) -> None:
    one, two = rig.source(), rig.source()
    assert await one.token() == await two.token() == "access-1"
    assert len(rig.server.forms) == 1


async def test_a_rejected_token_is_not_taken_from_the_store_again(rig: Rig) -> None:
    one, two = rig.source(), rig.source()
    token = await one.token()
    await two.token()
    await one.invalidate(token)
    await two.invalidate(token)
    assert await one.token() == await two.token() == "access-2"


FAILURES: dict[str, tuple[Say, Status, Scope, str]] = {
    "expired": (
        error("invalid_grant", "AADSTS700082: expired"),
        Status.REFUSED,
        Scope.ACCOUNT,
        "invalid_grant: AADSTS700082: expired; the consent has ended or was withdrawn: `relay oauth login box`",
    ),
    "wrong secret": (
        error("invalid_client", "no", 401),
        Status.REFUSED,
        Scope.ACCOUNT,
        "invalid_client: no; check client_id",
    ),
    "500": (Say(500, b"oops"), Status.DEFERRED, Scope.NODE, "token endpoint: HTTP 500: oops"),
    "slow": (Say(hang=True), Status.DEFERRED, Scope.NODE, "gave no answer in time"),
    "busy": (Say(429, b"{}", (("Retry-After", "17"),)), Status.DEFERRED, Scope.QUOTA, "HTTP 429"),
    "moved": (Say(302, b"", (("Location", "http://127.0.0.1:9/"),)), Status.DEFERRED, Scope.NODE, "HTTP 302"),
    "huge": (Say(200, b"x" * 300_000), Status.DEFERRED, Scope.NODE, "larger than"),
}


@pytest.mark.parametrize(("say", "status", "scope", "words"), FAILURES.values(), ids=list(FAILURES))
async def test_a_failed_renewal_is_told_and_erases_nothing(
    rig: Rig, say: Say, status: Status, scope: Scope, words: str
) -> None:
    await rig.source().token()
    before = (rig.folder / "box.json").read_bytes()
    rig.clock.now += 4000
    source = rig.source()
    rig.server.script(say)
    outcome = await fault_of(source)
    assert (outcome.status, outcome.scope, outcome.phase, outcome.attempted) == (status, scope, "auth", False)
    assert words in outcome.text
    assert [(words in text, account) for text, account in rig.told] == [(True, scope is Scope.ACCOUNT)]
    assert (rig.folder / "box.json").read_bytes() == before
    assert (await fault_of(source)).text == outcome.text  # no second question at once
    assert len(rig.server.forms) == 2
    rig.clock.now += 6
    assert await source.token() == "access-2"


async def test_a_token_that_still_lives_goes_on_when_its_renewal_fails(rig: Rig) -> None:
    source = rig.source()
    await source.token()
    rig.clock.now += 3500
    rig.server.script(Say(503), times=2)
    assert await source.token() == "access-1"
    assert len(rig.told) == 1
    rig.clock.now += 75
    with pytest.raises(TokenFault):
        await source.token()


async def test_a_server_that_is_gone(tmp_path: Path) -> None:
    async with TokenServer() as server:
        rig = Rig(server, tmp_path)
        source = rig.source()
    outcome = await fault_of(source)
    assert (outcome.status, outcome.scope) == (Status.DEFERRED, Scope.NODE)
    assert "127.0.0.1" in outcome.text
    await rig.endpoint.close()


async def test_without_consent_the_operator_is_told_what_to_do(rig: Rig) -> None:
    outcome = await fault_of(rig.source(refresh_token=""))
    assert (outcome.status, outcome.scope) == (Status.REFUSED, Scope.ACCOUNT)
    assert "relay oauth login box" in outcome.text
    assert rig.server.forms == []


async def test_a_refresh_token_that_was_changed_in_the_configuration_is_used(rig: Rig) -> None:
    await rig.source().token()
    rig.server.refresh_tokens.add("fresh")
    assert await rig.source(refresh_token="fresh").token() == "access-2"
    assert rig.server.forms[-1]["refresh_token"] == "fresh"


async def test_who_gives_up_waiting_does_not_lose_the_rotated_token(rig: Rig) -> None:
    rig.server.delay = 0.2
    source = rig.source()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await source.token()
    await source.close()
    assert (await rig.stored()).refresh_token in rig.server.refresh_tokens
    rig.server.delay = 0
    assert await source.token() == "access-1"


async def test_what_cannot_be_stored_is_kept_in_memory_until_it_can(rig: Rig) -> None:
    class Full(FileTokenStore):
        full = True

        async def save(self, node: str, record: Stored, *, seen: int) -> bool:
            if self.full:
                raise TokenStoreFault("no space left on device")
            return await super().save(node, record, seen=seen)

    store = rig.store = Full(rig.folder)
    source = rig.source()
    assert await source.token() == "access-1"
    assert "could not be stored" in rig.told[0][0]
    rig.clock.now += 4000
    assert await source.token() == "access-2"
    assert [form["refresh_token"] for form in rig.server.forms] == ["r0", "r1"]
    store.full = False
    rig.clock.now += 4000
    assert await source.token() == "access-3"
    assert (await rig.stored()).refresh_token in rig.server.refresh_tokens
    assert not rig.server.revoked


async def test_a_damaged_record_is_named_and_left_alone(rig: Rig) -> None:
    rig.folder.mkdir()
    (rig.folder / "box.json").write_text("{")
    outcome = await fault_of(rig.source())
    assert (outcome.status, outcome.scope) == (Status.DEFERRED, Scope.NODE)
    assert "box.json is damaged" in outcome.text
    assert rig.server.forms == []
    assert (rig.folder / "box.json").read_text() == "{"


async def test_the_application_s_own_right(rig: Rig) -> None:
    rig.server.client_secret = "shh"
    source = rig.source(flow="client-credentials", client_secret="shh", scopes=("https://x/.default",))
    assert await source.token() == "access-1"
    assert rig.server.forms == [
        {
            "grant_type": "client_credentials",
            "client_id": "client-1",
            "client_secret": "shh",
            "scope": "https://x/.default",
        }
    ]
    assert not rig.folder.exists()


def key_file(folder: Path, key: rsa.RSAPrivateKey) -> str:
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    facts = {"type": "service_account", "client_email": "bot@p.example", "private_key": pem, "private_key_id": "k1"}
    path = folder / "account.json"
    path.write_text(json.dumps(facts))
    return str(path)


async def test_a_service_account_signs_for_the_mailbox(rig: Rig, tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    rig.server.public_key = key.public_key()
    plan = {"flow": "service-account", "key_file": key_file(tmp_path, key), "account": "news@acme.example"}
    assert await rig.source(scopes=("s1", "s2"), **plan).token() == "access-1"
    claims = rig.server.claims
    assert (claims["iss"], claims["sub"], claims["scope"]) == ("bot@p.example", "news@acme.example", "s1 s2")
    rig.server.public_key = rsa.generate_private_key(65537, 2048).public_key()
    outcome = await fault_of(rig.source(**plan))
    assert (outcome.scope, "Invalid JWT Signature" in outcome.text) == (Scope.ACCOUNT, True)


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (lambda path: None, "No such file"),
    "no JSON": (lambda path: _write(path, "-----BEGIN"), "is not JSON"),
    "another kind": (lambda path: _write(path, '{"type": "authorized_user"}'), "not the key file of a service account"),
    "no key": (
        lambda path: _write(path, '{"type": "service_account", "client_email": "a", "private_key": "x"}'),
        "no usable private key",
    ),
}


def _write(path: Path, text: str) -> None:
    path.write_text(text)


@pytest.mark.parametrize(("make", "words"), BROKEN.values(), ids=list(BROKEN))
async def test_a_key_file_that_cannot_be_used(
    rig: Rig, tmp_path: Path, make: Callable[[Path], None], words: str
) -> None:
    path = tmp_path / "key.json"
    make(path)
    outcome = await fault_of(rig.source(flow="service-account", key_file=str(path)))
    assert outcome.scope is Scope.ACCOUNT
    assert words in outcome.text
    assert str(path) in outcome.text


async def test_processes_do_not_race_a_rotating_refresh_token(tmp_path: Path) -> None:
    """Each refused token is renewed; a refresh token that was used twice would end the consent for all of them."""
    async with TokenServer(delay=0.05) as server:
        racers = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-c", RACER, server.url, str(tmp_path), "6", stdout=asyncio.subprocess.PIPE
            )
            for _ in range(3)
        ]
        said = [(await racer.communicate())[0].decode().split("\n") for racer in racers]
        assert [racer.returncode for racer in racers] == [0, 0, 0]
        assert not server.revoked
        assert not any(line.startswith("fault") for lines in said for line in lines)
        assert [sum(line.startswith("token") for line in lines) for lines in said] == [6, 6, 6]
        used = [form["refresh_token"] for form in server.forms]
        assert len(used) == len(set(used))
        assert len(used) <= 18
        last = await FileTokenStore(tmp_path).load("box")
        assert last is not None
        assert {last.refresh_token} == server.refresh_tokens


async def test_a_process_that_dies_in_its_turn_gives_it_back(tmp_path: Path) -> None:
    async with TokenServer(delay=30) as server:
        racer = await asyncio.create_subprocess_exec(sys.executable, "-c", RACER, server.url, str(tmp_path), "1")
        async with asyncio.timeout(20):
            while not server.forms:
                await asyncio.sleep(0.02)
        racer.kill()
        await racer.wait()
        async with asyncio.timeout(5), FileTokenStore(tmp_path).turn("box", patience_s=4):
            pass


async def test_a_record_that_changed_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    store = FileTokenStore(tmp_path)
    assert await store.save("box", Stored(version=1, refresh_token="a"), seen=0)
    assert not await store.save("box", Stored(version=1, refresh_token="b"), seen=0)
    record = await store.load("box")
    assert record is not None
    assert record.refresh_token == "a"
    assert await store.save("box", Stored(version=2, refresh_token="c"), seen=1)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden"])
async def test_a_name_that_leads_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(TokenStoreFault):
        await FileTokenStore(tmp_path).load(name)
