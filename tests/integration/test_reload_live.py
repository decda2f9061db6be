"""What a reload changes on a running relay, one thing at a time, with mail on its way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from relay.control.protocol import TryAgain, socket_path
from relay.errors import ConfigError
from relay.signing.keys import keygen
from tests.fakes.listener_rig import Client
from tests.fakes.relay_rig import PASSWORD, RelayRig, config_with, node, relaying
from tests.fakes.smtp_server import Do, SmtpServer, reply

CONTENT = b"Subject: x\r\n\r\nhello\r\n"
SLOW = Do(delay=0.5)


@pytest.fixture
def dkim_key(tmp_path: Path) -> Path:
    pem, _ = keygen("rsa", 1024)
    path = tmp_path / "dkim.pem"
    path.write_bytes(pem)
    path.chmod(0o600)
    return path


async def until(condition: Any, within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)


async def logged_in(client: Client) -> Client:
    await client.ehlo()
    assert (await client.login("app", PASSWORD)).startswith("235")
    return client


def with_bridge(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**config, "bridges": [config["bridges"][0], {**config["bridges"][1], **changes}]}


def asked_for(server: SmtpServer, verb: str) -> bool:
    return any(line.startswith(verb) for _, line in server.commands)


async def test_an_attempt_ends_with_the_node_it_began_with_and_the_next_has_another(tmp_path: Path) -> None:
    async with SmtpServer() as old, SmtpServer() as new, relaying(tmp_path, old) as rig:
        old.at("dot", SLOW)
        await rig.send(CONTENT, "first@b.example")
        await until(lambda: asked_for(old, "DATA"))
        rig.write(config_with([node(new)]))
        await rig.worker.reload()
        await rig.send(CONTENT, "second@b.example")
        await rig.settled()
        assert [message.sender for message in old.messages] == ["first@b.example"]
        assert [message.sender for message in new.messages] == ["second@b.example"]
        # What is left of the old one says goodbye: it has no connection any more.
        await until(lambda: not old.open)


async def test_a_node_whose_options_change_gets_a_new_driver_and_keeps_its_counts_and_caps(tmp_path: Path) -> None:
    async with SmtpServer() as old, SmtpServer() as new:
        before = node(old, "n", caps={"hour": 3})
        async with relaying(tmp_path, nodes=[before]) as rig:
            old.at("dot", SLOW, times=1)
            await rig.send(CONTENT, "first@b.example")
            await until(lambda: asked_for(old, "DATA"))
            rig.write(config_with([node(new, "n", caps={"hour": 3})]))
            await rig.worker.reload()
            for name in ("second", "third", "fourth"):
                await rig.send(CONTENT, f"{name}@b.example")
            await rig.settled(1)
            assert [message.sender for message in old.messages] == ["first@b.example"]
            assert [message.sender for message in new.messages] == ["second@b.example", "third@b.example"]
            rig.write(config_with([node(new, "n", caps={"hour": 4})]))
            await rig.worker.reload()
            await rig.settled()
            assert len(new.messages) == 3


async def test_mail_of_a_pool_that_is_removed_is_kept_and_listed_and_goes_when_it_is_back(tmp_path: Path) -> None:
    async with SmtpServer() as sink, relaying(tmp_path, sink) as rig:
        config = config_with([node(sink)])
        sink.at("mail", reply("451 4.3.0 later"), times=1)
        await rig.send(CONTENT)
        await rig.settled(1)
        gone = {**config["pools"][0], "name": "other", "id": 9}
        rig.write({**config, "pools": [gone], "bridges": [{**b, "pool": "other"} for b in config["bridges"]]})
        assert (await rig.worker.reload())["unrouted"] == {"main": 1}
        await until(lambda: any("not configured" in str(e["why"]) for e in rig.told("route.held")))
        told = rig.told("route.held")[-1]["why"][0]
        assert "relay queue drop --pool main" in told
        assert (await rig.send(CONTENT, "other@b.example")).startswith("250")
        await rig.settled(1)
        rig.write(config)
        assert (await rig.worker.reload())["unrouted"] == {}
        await rig.settled()
        assert sorted(message.sender for message in sink.messages) == ["a@b.example", "other@b.example"]


async def test_a_session_goes_on_when_its_bridge_changes_and_ends_when_its_password_does(tmp_path: Path) -> None:
    async with SmtpServer() as sink, relaying(tmp_path, sink) as rig, rig.client() as raw:
        config = config_with([node(sink)])
        client = await logged_in(raw)
        assert (await client.message(sender="a@b.example")).startswith("250")
        rig.write(with_bridge(config, senders=["@acme.example"]))
        await rig.worker.reload()
        assert (await client.ask("MAIL FROM:<a@b.example>")).startswith("550")
        assert (await client.message(sender="a@acme.example")).startswith("250")
        # A transaction that is open when its bridge is given another pool goes where the bridge leads now.
        assert await client.codes("MAIL FROM:<b@acme.example>", "RCPT TO:<c@d.example>", "DATA") == [
            "250",
            "250",
            "354",
        ]
        other = {**config["pools"][0], "name": "other", "id": 9}
        rig.write({**config, "pools": [other], "bridges": with_bridge(config, pool="other")["bridges"][1:]})
        await rig.worker.reload()
        client.send(CONTENT + b".\r\n")
        assert (await client.reply()).startswith("250")
        await rig.settled()
        assert [told["pool"] for told in rig.told("message.accepted")] == ["main", "main", "other"]
        credentials = [{"username": "app", "password": "another-word"}]
        rig.write(with_bridge(config, credentials=credentials))
        await rig.worker.reload()
        client.send(b"MAIL FROM:<a@b.example>\r\n")
        assert (await client.rest()).startswith("421 4.7.0")


async def test_headers_hostname_signature_limits_and_log_level_are_those_of_the_new_configuration(
    tmp_path: Path, dkim_key: Path
) -> None:
    async with SmtpServer() as sink, relaying(tmp_path, sink) as rig, rig.client() as client:
        await client.ehlo()
        config = config_with([node(sink)])
        rig.write(
            {
                **config,
                "hostname": "other.example.com",
                "headers": {"X-Relayed-By": "acme"},
                "dkim": [{"domain": "b.example", "selector": "s1", "key_file": str(dkim_key)}],
                "limits": {"size": "2kB", "per_address": 500},
                "log": {"level": "warning"},
            }
        )
        lines = len(rig.told("relay.reloaded"))
        assert (await rig.worker.reload())["needs_restart"] == []
        assert len(rig.told("relay.reloaded")) == lines  # below the level by now
        assert (await client.ask("MAIL FROM:<a@b.example> SIZE=3000")).startswith("552")
        assert "SIZE 2048" in await client.ask("EHLO c.example")
        await rig.send(b"From: a@b.example\r\n" + CONTENT)
        await rig.settled()
        (message,) = sink.messages
        assert message.ehlo == "other.example.com"
        assert b"by other.example.com" in message.content
        assert b"X-Relayed-By: acme\r\n" in message.content
        assert b"DKIM-Signature:" in message.content
        assert not rig.told("message.accepted")


async def test_what_was_put_right_is_tested_at_once(tmp_path: Path) -> None:
    """Nobody waits a quarter of an hour for the next re-check after the password was corrected."""
    async with SmtpServer() as sink:
        wrong = {**node(sink, "n"), "port": 1}
        health = {"recheck_every": "1h", "recheck_for": "2h"}
        async with relaying(tmp_path, nodes=[wrong], health=health) as rig:
            await rig.send(CONTENT)
            await until(lambda: rig.told("node.deactivated"))
            rig.write(config_with([node(sink, "n")], health=health))
            await rig.worker.reload()
            await rig.settled()
            assert len(sink.messages) == 1
            assert rig.told("node.recovered")


BREAKS = {"reload": {"watch": "30s"}, "health": {"recheck_every": "1h", "recheck_for": "2h"}}


async def test_what_breaks_delivery_is_undone_and_said(tmp_path: Path) -> None:
    async with SmtpServer() as sink, relaying(tmp_path, nodes=[node(sink, "n")], **BREAKS) as rig:
        await rig.send(CONTENT)
        await rig.settled()
        await rig.worker.plant.tally.flush()
        rig.write(config_with([{**node(sink, "n"), "port": 1}], **BREAKS))
        await rig.worker.reload()
        assert rig.worker.reloader.status()["watched_until"]
        await rig.send(CONTENT, "second@b.example")
        await until(lambda: rig.told("relay.reload_returned"))
        await rig.settled()
        assert [message.sender for message in sink.messages] == ["a@b.example", "second@b.example"]
        status = rig.worker.reloader.status()
        assert "pool main has no node left (n: " in status["returned"]["why"]
        assert (status["generation"], status["watched_until"]) == (2, None)


@pytest.mark.parametrize("case", ["switched off", "never delivered", "an old node fails as well"])
async def test_what_does_not_tell_against_a_reload_is_left(case: str, tmp_path: Path) -> None:
    async with SmtpServer() as sink, SmtpServer() as untouched:
        nodes = [node(sink, "n")]
        if case == "an old node fails as well":
            nodes.append(node(untouched, "m"))
        more = {**BREAKS, "reload": {"watch": "30s", "auto_return": case != "switched off"}}
        async with relaying(tmp_path, nodes=nodes, **more) as rig:
            if case != "never delivered":
                await rig.send(CONTENT)
                await rig.settled()
                await rig.worker.plant.tally.flush()
            rig.write(config_with([{**nodes[0], "port": 1}, *nodes[1:]], **more))
            await rig.worker.reload()
            await untouched.stop()
            await rig.send(CONTENT, "second@b.example")
            await until(lambda: len(rig.told("node.deactivated")) == len(nodes))
            await asyncio.sleep(1.2)  # twice the pause between two looks
            assert not rig.told("relay.reload_returned")
            assert rig.worker.reloader.status()["generation"] == 1


@contextlib.asynccontextmanager
async def sibling(rig: RelayRig, **answers: Any) -> AsyncIterator[list[str]]:
    """Another worker as the leader sees it. An answer is a result, an error, or None: it breaks off."""
    heard: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            heard.append(name := orjson.loads(line)["op"])
            if answers[name] is None:
                break
            writer.write(orjson.dumps(answers[name]) + b"\n")
        writer.close()

    server = await asyncio.start_unix_server(serve, socket_path(rig.directory / "var", "1"))
    try:
        yield heard
    finally:
        server.close()


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        ({"error": "no such key", "kind": "invalid"}, ConfigError, "worker 1 refuses it, .*: no such key"),
        ({"error": "internal fault", "kind": "unavailable"}, ConfigError, "worker 1 refuses it, .*: internal fault"),
        (None, TryAgain, "worker 1"),
    ],
    ids=["refuses", "fails", "dies"],
)
async def test_when_one_worker_cannot_none_changes(answer: Any, error: type[Exception], says: str, tmp_path: Path):
    async with SmtpServer() as sink, relaying(tmp_path, sink, workers=2) as rig:
        async with sibling(rig, reload_prepare=answer, reload_abort={"result": {}}) as heard:
            rig.write(config_with([{"name": "fresh", "type": "sandbox"}], workers=2))
            with pytest.raises(error, match=says):
                await rig.worker.reload()
        assert heard[0] == "reload_prepare"
        assert "reload_commit" not in heard
        assert rig.worker.plant.fleet.names() == [f"node-{sink.port}"]
        assert rig.worker.reloader.status()["generation"] == 0
        assert rig.told("relay.reload_failed")
        assert says.partition(",")[0] in rig.worker.reloader.status()["failure"]["error"]
        await rig.worker.reload()
        assert rig.worker.plant.fleet.names() == ["fresh"]
        assert rig.worker.reloader.status()["failure"] is None


async def test_who_dies_after_the_decision_changes_nothing_about_it(tmp_path: Path) -> None:
    async with SmtpServer() as sink, relaying(tmp_path, sink, workers=2) as rig:
        async with sibling(rig, reload_prepare={"result": {}}, reload_commit=None) as heard:
            rig.write(config_with([{"name": "fresh", "type": "sandbox"}], workers=2))
            done = await rig.worker.reload()
        assert heard == ["reload_prepare", "reload_commit"]
        assert (done["generation"], done["workers"]) == (1, 2)
        assert rig.worker.plant.fleet.names() == ["fresh"]


async def test_a_worker_follows_a_leader_that_was_lost_after_the_decision(tmp_path: Path) -> None:
    from relay.app.frozen import freeze
    from relay.config.load import load

    async with SmtpServer() as sink, relaying(tmp_path, sink, workers=2) as rig:
        rig.write(config_with([{"name": "fresh", "type": "sandbox"}], workers=2))
        shared = rig.worker._shared.configuration
        shared.offer(freeze(load(rig.directory / "relay.yaml")))
        await rig.worker.reloader.prepare(1)
        assert rig.worker.plant.fleet.names() == [f"node-{sink.port}"]
        shared.commit()
        await until(lambda: rig.worker.plant.fleet.names() == ["fresh"])
        assert rig.worker.reloader.status()["generation"] == 1
