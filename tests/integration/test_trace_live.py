"""A trace over a whole relay: both sides of a delivery, and no secret and no content in it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from relay.control.protocol import UnknownName
from tests.fakes.relay_rig import PASSWORD, RelayRig, node, relaying
from tests.fakes.smtp_server import SmtpServer

CONTENT = b"Subject: private-subject\r\n\r\nprivate-body\r\n"


async def lines(rig: RelayRig, **wanted: str) -> list[dict[str, Any]]:
    answer = await rig.worker.operator.trace(listener="me" + str(wanted), **wanted)
    assert answer["dropped"] == 0
    return answer["lines"]


async def test_a_delivery_is_heard_on_both_sides(tmp_path: Path) -> None:
    async with SmtpServer(users={"up": "up-word-9"}) as sink:
        nodes = [node(sink, "n", username="up", password="up-word-9")]
        async with relaying(tmp_path, nodes=nodes) as rig:
            await rig.send(CONTENT)  # the connection to the node is there before anybody listens
            await rig.settled()
            assert await lines(rig) == []
            assert await lines(rig, node="n") == []
            async with rig.client() as client:
                await client.ehlo()
                assert (await client.login("app", PASSWORD)).startswith("235")
                await client.message(CONTENT)
            await rig.settled()
            heard = await lines(rig)
            said = [f"{line['side']} {'<>'[line['ours']]} {line['text']}" for line in heard]
            for expected in (
                "client < AUTH PLAIN (credentials)",
                "client > 235 2.7.0 ",
                "client < DATA",
                "client > 250 2.0.0 Ok: queued as ",
                "node > MAIL FROM:<a@b.example>",
                "node < 354 ",
                "node < 250 2.0.0",
            ):
                assert any(line.startswith(expected) for line in said), (expected, said)
            everything = str(heard)
            assert not any(word in everything for word in (PASSWORD, "up-word-9", "private-", "Received"))
            assert {line["name"] for line in await lines(rig, node="n")} == {"n"}


async def test_a_login_at_a_node_is_masked(tmp_path: Path) -> None:
    async with SmtpServer(users={"up": "up-word-9"}) as sink:
        nodes = [node(sink, "n", username="up", password="up-word-9")]
        async with relaying(tmp_path, nodes=nodes) as rig:
            await lines(rig)
            await rig.send(CONTENT)
            await rig.settled()
            heard = str(await lines(rig))
            assert "EHLO relay.example.com" in heard
            assert "AUTH PLAIN (credentials)" in heard
            assert "up-word-9" not in heard
            assert "private-" not in heard
            assert base64.b64encode(b"\0up\0up-word-9").decode() not in heard


async def test_an_unknown_node_is_said(tmp_path: Path) -> None:
    async with SmtpServer() as sink, relaying(tmp_path, sink) as rig:
        with pytest.raises(UnknownName, match="no node is called"):
            await lines(rig, node="nobody")
