"""B062, B088, B220-B242, R28: a configuration is taken over whole or not at all, under load and under fire."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from relay.errors import ConfigError
from tests.fakes.listener_rig import HOST, Client
from tests.fakes.relay_rig import PASSWORD, RelayRig, config_with, node, relaying
from tests.fakes.smtp_server import SmtpServer, reply

CONTENT = b"Subject: x\r\n\r\nhello\r\n"
SECOND = {"name": "second", "pool": "main", "credentials": [{"username": "second", "password": "second-word"}]}


async def until_told(rig: RelayRig, name: str, count: int = 1) -> list[dict[str, Any]]:
    async with asyncio.timeout(10):
        while len(found := rig.told(name)) < count:
            await asyncio.sleep(0.005)
    return found


async def test_bridges_come_and_go_with_a_hang_up(tmp_path: Path) -> None:
    """R28, B088, B242: sessions of unchanged bridges stay, others end at their next MAIL, queued mail still leaves."""
    async with SmtpServer() as sink, relaying(tmp_path, sink) as rig:
        config = config_with([node(sink)])
        sink.at("mail", reply("451 4.3.0 later"))
        async with rig.client() as steady, rig.client() as revoked:
            await steady.ehlo()
            await revoked.ehlo()
            assert (await revoked.login("app", PASSWORD)).startswith("235")
            assert (await revoked.message(sender="queued@b.example")).startswith("250")
            await revoked.ask("MAIL FROM:<open@b.example>")
            rig.write({**config, "bridges": [config["bridges"][0], SECOND]})
            os.kill(os.getpid(), signal.SIGHUP)
            await until_told(rig, "relay.reloaded")
            # The transaction that was open may end; nothing new begins.
            assert await revoked.codes("RCPT TO:<c@d.example>", "DATA") == ["250", "354"]
            revoked.send(CONTENT + b".\r\n")
            answer = await revoked.reply()
            assert answer.startswith(("250", "4")), answer
            revoked.send(b"MAIL FROM:<a@b.example>\r\n")
            assert (await revoked.rest()).startswith("421 4.7.0")
            assert (await steady.message(sender="steady@b.example")).startswith("250")
            async with rig.client() as client:
                await client.ehlo()
                assert (await client.login("app", PASSWORD)).startswith("535")
                assert (await client.login("second", "second-word")).startswith("235")
        sink.forget()
        await rig.settled()
        assert {"queued@b.example", "steady@b.example"} <= {message.sender for message in sink.messages}
        assert ("open@b.example" in {message.sender for message in sink.messages}) == answer.startswith("250")


BROKEN = {
    "gone": None,
    "empty": "",
    "half written": json.dumps(config_with([]))[:300],
    "not text": "\x00\x01",
    "unknown key": json.dumps({**config_with([]), "bridgs": []}),
    "no such pool": json.dumps({**config_with([]), "bridges": [{**SECOND, "pool": "gone"}]}),
    "no such certificate": json.dumps(
        {
            **config_with([]),
            "listeners": [{"bind": f"{HOST}:0", "tls": "implicit", "cert": "gone.pem", "key": "gone.pem"}],
        }
    ),
    "alias bomb": "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]\n" for n in range(1, 9)),
    "deep": "[" * 10_000,
    "python tag": "a: !!python/object/apply:os.system [id]\n",
}


async def test_a_broken_file_changes_nothing_and_says_where(tmp_path: Path) -> None:
    async with SmtpServer() as sink, relaying(tmp_path, sink) as rig:
        before = rig.worker.gate.registry
        for number, (name, text) in enumerate(BROKEN.items(), 1):
            if text is None:
                (tmp_path / "relay.yaml").unlink()
            else:
                rig.write(text)
            os.kill(os.getpid(), signal.SIGHUP)
            told = await until_told(rig, "relay.reload_failed", number)
            assert told[-1]["error"], name
            assert rig.worker.gate.registry is before, name
        assert (await rig.send(CONTENT)).startswith("250")
        assert not rig.told("relay.reloaded")
        await rig.settled()


async def test_random_changes_of_a_good_file_are_taken_whole_or_not_at_all(tmp_path: Path) -> None:
    """R28 over a running relay; `tests/unit/config/test_config_fuzz.py` has the same without one."""
    rng = random.Random(28)
    async with SmtpServer() as sink, relaying(tmp_path, sink) as rig:
        good = json.dumps({**config_with([node(sink)]), "store": f"sqlite:{tmp_path / 'var'}"})
        taken = refused = 0
        for _ in range(120):
            at = rng.randrange(len(good))
            text = good[:at] + rng.choice(["", " ", "x", ",", "}", "'", "\n", "0", "ü"]) + good[at + rng.randrange(4) :]
            (tmp_path / "relay.yaml").write_text(text)
            before = rig.worker.gate.registry
            try:
                await rig.worker.reload()
            except ConfigError:
                refused += 1
                assert rig.worker.gate.registry is before
            else:
                taken += 1
                assert len(rig.told("relay.reloaded")) == taken
        rig.write(good)
        await rig.worker.reload()
        assert (taken > 5, refused > 50) == (True, True)
        assert (await rig.send(CONTENT)).startswith("250")
        await rig.settled()


async def test_a_hundred_hang_ups_are_few_reloads_and_the_last_file_wins(tmp_path: Path) -> None:
    """B241, with mail on the way: no session is dropped, no message refused."""
    async with SmtpServer() as sink, relaying(tmp_path, sink) as rig, rig.client() as client:
        config = config_with([node(sink)])
        await client.ehlo()
        for number in range(100):
            word = {**SECOND, "credentials": [{"username": "second", "password": f"word-{number}"}]}
            rig.write({**config, "bridges": [*config["bridges"], word]})
            os.kill(os.getpid(), signal.SIGHUP)
            if number % 10 == 0:
                assert (await client.message()).startswith("250")
        async with asyncio.timeout(10):
            while await logs_in(rig, "word-99") != "235":
                await asyncio.sleep(0.02)
        assert (await client.message()).startswith("250")
        assert len(rig.told("relay.reloaded")) < 60
        assert not rig.told("relay.reload_failed")
        await rig.settled()
        assert len(sink.messages) == 11


async def logs_in(rig: RelayRig, word: str) -> str:
    async with rig.client() as client:
        await client.ehlo()
        return (await client.login("second", word))[:3]


async def test_a_renewed_certificate_is_served_and_a_broken_one_is_not(tmp_path: Path) -> None:
    """B062, R31."""
    first, second = trustme.CA(), trustme.CA()
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def install(authority: trustme.CA) -> None:
        leaf = authority.issue_cert("localhost", "127.0.0.1")
        cert.write_bytes(b"".join(part.bytes() for part in leaf.cert_chain_pems))
        key.write_bytes(leaf.private_key_pem.bytes())
        key.chmod(0o600)

    async def trusts(rig: RelayRig, authority: trustme.CA) -> bool:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        try:
            reader, writer = await asyncio.open_connection(HOST, rig.port, ssl=context, server_hostname="localhost")
        except ssl.SSLError:
            return False
        assert (await Client(reader, writer).greeting()).startswith("220")
        writer.close()
        return True

    install(first)
    listeners = [{"bind": f"{HOST}:0", "tls": "implicit", "cert": str(cert), "key": str(key)}]
    async with SmtpServer() as sink, relaying(tmp_path, sink, listeners=listeners) as rig:
        assert await trusts(rig, first)
        install(second)
        os.kill(os.getpid(), signal.SIGHUP)
        await until_told(rig, "relay.reloaded")
        assert await trusts(rig, second)
        assert not await trusts(rig, first)
        cert.write_bytes(b"-----BEGIN CERTIFICATE-----\ngarbage\n")
        os.kill(os.getpid(), signal.SIGHUP)
        (told,) = await until_told(rig, "relay.reload_failed")
        assert "cert.pem" in told["error"]
        assert await trusts(rig, second)


async def test_a_hang_up_while_starting_is_harmless(tmp_path: Path) -> None:
    """B468: the signal that comes before there is anything to reload."""

    async def as_early_as_can_be() -> None:
        while signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
            await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGHUP)

    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    shot = asyncio.create_task(as_early_as_can_be())
    try:
        async with SmtpServer() as sink, relaying(tmp_path, sink) as rig:
            assert shot.done()
            await until_told(rig, "relay.reloaded")
            await until_told(rig, "relay.started")
            assert (await rig.send(CONTENT)).startswith("250")
            await rig.settled()
    finally:
        signal.signal(signal.SIGHUP, previous)


@pytest.mark.parametrize("change", ["drain", "store", "workers", "log.format", "listeners"])
async def test_what_needs_a_restart_is_named_and_left(change: str, tmp_path: Path) -> None:
    async with SmtpServer() as sink, relaying(tmp_path, sink) as rig:
        config: dict[str, Any] = {**config_with([node(sink)]), "store": f"sqlite:{tmp_path / 'var'}"}
        match change:
            case "drain":
                config["drain"] = "6s"
            case "store":
                config["store"] = f"sqlite:{tmp_path / 'elsewhere'}"
            case "workers":
                config["workers"] = 2
            case "log.format":
                config["log"] = {"format": "json"}
            case "listeners":
                with socket.create_server((HOST, 0)) as free:
                    port = free.getsockname()[1]
                config["listeners"] = [{"bind": f"{HOST}:{port}"}]
        rig.write(json.dumps(config))
        assert (await rig.worker.reload())["needs_restart"] == [change]
        await rig.send(CONTENT)
        await rig.settled()
        assert not (tmp_path / "elsewhere").exists()
        config = config_with([node(sink)])
        rig.write(config)
        assert (await rig.worker.reload())["needs_restart"] == []
