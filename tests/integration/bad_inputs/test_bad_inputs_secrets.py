"""B070-B090: what a client or an operator keeps secret is in no line, no file, no answer."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest

from relay.control.protocol import socket_path
from relay.errors import ConfigError
from tests.fakes.listener_rig import HOST
from tests.fakes.relay_rig import PASSWORD, RelayRig, config_with, node, relaying
from tests.fakes.smtp_server import SmtpServer, reply

GUESS = "guessed-word-77c1"
UPSTREAM = "upstream-word-1f9e"


def b64(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def forms(*secrets: str) -> list[bytes]:
    """Every shape in which one of these could stand somewhere."""
    found = []
    for secret in secrets:
        for user in ("app", "relay", "nobody"):
            found += [b64(f"\0{user}\0{secret}"), b64(f"{user}\0{user}\0{secret}")]
        found += [secret, b64(secret), repr(secret.encode()), secret.encode().hex()]
    return [form.encode() for form in found]


async def ask(rig: RelayRig, operation: str, **args: Any) -> bytes:
    """One operation of the control socket, as the command line asks it."""
    reader, writer = await asyncio.open_unix_connection(str(socket_path(rig.directory / "var", "0")), limit=2**24)
    writer.write(json.dumps({"op": operation, "args": args}).encode() + b"\n")
    answer = await reader.readline()
    writer.close()
    assert answer
    return answer


async def logins(rig: RelayRig) -> None:
    """Good and bad AUTH dialogues, well-formed and not, with the secrets in every place of them."""
    plain = b64(f"\0app\0{PASSWORD}")
    dialogues = [
        [f"AUTH PLAIN {plain}", "MAIL FROM:<a@b.example>"],
        ["AUTH PLAIN", plain],
        ["AUTH LOGIN", b64("app"), b64(PASSWORD)],
        [f"AUTH LOGIN {b64('app')}", b64(PASSWORD)],
        [f"AUTH PLAIN {b64(f'{chr(0)}nobody{chr(0)}{GUESS}')}"],
        [f"AUTH PLAIN {b64(f'app{chr(0)}{GUESS}')}"],
        [f"AUTH PLAIN {plain[:-1]}!"],
        [f"AUTH PLAIN {plain}\tx"],
        [f"AUTH {PASSWORD}"],
        [f"AUTH CRAM-MD5 {plain}"],
        ["AUTH LOGIN", b64("app"), PASSWORD],  # in clear where base64 is due
        [PASSWORD],  # where a command is due
        [plain],
        [f"AUTHPLAIN {plain}"],
        [f"EHLO {b64('x')}", f"NOOP {PASSWORD}"],
    ]
    for lines in dialogues:
        async with rig.client() as client:
            await client.ehlo()
            for line in lines:
                answer = await client.ask(line)
                assert PASSWORD not in answer
                assert GUESS not in answer


async def test_no_secret_is_in_any_line_file_or_answer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with SmtpServer(users={"relay": UPSTREAM}) as sink:
        nodes = [node(sink, "primary", username="relay", password=UPSTREAM)]
        async with relaying(tmp_path, nodes=nodes) as rig:
            await logins(rig)
            assert (await rig.send(b"Subject: x\r\n\r\nhello\r\n")).startswith("250")
            await rig.settled()
            assert sink.messages[0].user == "relay"
            # A server that throws the login back at us, in a test and in a delivery.
            blob = b64(f"\0relay\0{UPSTREAM}")
            sink.at("auth", reply(f"535 5.7.8 {UPSTREAM} / {blob} is wrong"))
            answers = [await ask(rig, "node_test", names=["primary"])]
            sink.disconnect()
            await rig.send(b"Subject: x\r\n\r\nhello\r\n")
            async with asyncio.timeout(10):
                while not rig.told("node.deactivated"):
                    await asyncio.sleep(0.01)
            (entry,) = await rig.entries()
            # A configuration with the secrets in the wrong places.
            wrong = config_with(nodes)
            wrong["bridges"][1]["credentials"][0]["password"] = f"$6$salt${PASSWORD}"
            wrong["hostname"] = f"{GUESS} {PASSWORD}"
            rig.write(wrong)
            answers.append(await ask(rig, "reload"))
            with pytest.raises(ConfigError) as refusal:
                await rig.worker.reload()
            answers.append(str(refusal.value).encode())
            for operation in ("status", "nodes"):
                answers.append(await ask(rig, operation))
            answers.append(await ask(rig, "entries", selection={}, limit=10))
            answers.append(await ask(rig, "show", message_id=entry.message.id))
            answers.append(await ask(rig, "explain", message_id=entry.message.id))
            sink.forget()
            await rig.settled()
            told = rig.octets_written
            inside = repr(rig.worker.gate.registry) + repr(vars(rig.worker.gate)) + repr(rig.worker._settings.config)
        printed = "".join(capfd.readouterr()).encode()
        assert b"session.auth_failed" in told
        assert b"535 5.7.8" in told
        everything = b"\n".join([told, printed, inside.encode(), *answers])
        assert not [form for form in forms(PASSWORD, GUESS, UPSTREAM) if form in everything]


async def test_strangers_cannot_tell_users_from_others_nor_guess_for_long(tmp_path: Path) -> None:
    """B081-B083: same answers; three guesses a session, then slower, then no more, and others are served."""
    async with SmtpServer() as sink, relaying(tmp_path, sink) as rig:
        async with rig.client() as client:
            await client.ehlo()
            assert (
                await client.login("app", "wrong")
                == await client.login("nobody", "wrong")
                == "535 5.7.8 Authentication failed"
            )
            client.send(f"AUTH PLAIN {b64(f'{chr(0)}app{chr(0)}wrong')}\r\nNOOP\r\n")
            assert [line[:3] for line in (await client.rest()).splitlines()] == ["535", "421"]
        assert (await rig.send(b"Subject: x\r\n\r\nhello\r\n")).startswith("250")
        assert len(rig.told("session.auth_failed")) == 3


async def test_an_auth_response_ends_in_crlf_as_every_line(tmp_path: Path) -> None:
    """B030 inside AUTH: one rule for the whole listener."""
    async with SmtpServer() as sink, relaying(tmp_path, sink, line_endings="reject") as rig, rig.client() as client:
        await client.ehlo()
        assert (await client.ask("AUTH PLAIN")).startswith("334")
        client.send(b64(f"\0app\0{PASSWORD}") + "\nMAIL FROM:<a@b.example>\r\n")
        assert (await client.rest()).startswith("500 5.5.2")
    async with SmtpServer() as sink, relaying(tmp_path, sink, line_endings="normalize") as rig, rig.client() as client:
        await client.ehlo()
        await client.ask("AUTH PLAIN")
        client.send(b64(f"\0app\0{PASSWORD}") + "\n")
        assert (await client.reply()).startswith("235")


async def test_nothing_is_relayed_for_a_stranger(tmp_path: Path) -> None:
    """B070, R40 with the real gate: only AUTH or a listed network opens the relay."""
    bridges = [{"name": "app", "pool": "main", "credentials": [{"username": "app", "password": PASSWORD}]}]
    async with SmtpServer() as sink, relaying(tmp_path, sink, bridges=bridges) as rig, rig.client() as client:
        await client.ehlo()
        lines = ["MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "DATA", "VRFY c", "MAIL FROM:<>"]
        assert set(await client.codes(*lines)) == {"530"}
        assert (await client.login("app", PASSWORD)).startswith("235")
        assert (await client.message()).startswith("250")
        await rig.settled()
        assert len(sink.messages) == 1
        assert sink.host == HOST
