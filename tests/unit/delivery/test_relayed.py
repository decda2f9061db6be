"""Success that was asked for is told by us when nobody after us will (RFC 3461 §5.2.2)."""

from __future__ import annotations

import pytest

from relay.bridges.bridge import Bridge
from relay.envelope import Recipient
from tests.unit.delivery.rig import UNKNOWN_USER, Rig, each

BRIDGES = [Bridge(name="app", pool="p"), Bridge(name="direct", pool="p", direct=True)]


@pytest.mark.parametrize("bridge", BRIDGES, ids=["queue", "direct"])
async def test_an_upstream_without_dsn_makes_us_report_relayed(bridge):
    async with Rig() as rig:
        for scripted in rig.nodes.values():
            scripted.always = each(b=UNKNOWN_USER)
        recipients = (
            Recipient(address="a@dest.example", notify="SUCCESS"),
            Recipient(address="b@dest.example", notify="SUCCESS,FAILURE"),
            Recipient(address="c@dest.example"),
        )
        reply = await rig.submit(bridge, recipients=recipients)
        assert reply.code == 250
        told = await rig.until(lambda: len(rig.seen.named("dsn.created")) == 2 and rig.seen.named("dsn.created"))
        assert {(event.data["action"], *event.data["recipients"]) for event in told} == {
            ("relayed", "a@dest.example"),
            ("failed", "b@dest.example"),
        }


async def test_success_that_nobody_asked_for_is_not_told():
    async with Rig() as rig:
        await rig.submit(BRIDGES[0], recipients=(Recipient(address="a@dest.example", notify="FAILURE"),))
        await rig.until(lambda: rig.calls)
        await rig.turn()
        assert not rig.seen.named("dsn.created")
        assert not rig.seen.named("dsn.suppressed")
