"""From the final dot to the reply: 250 after the store and never otherwise, and nothing kept that was refused."""

from __future__ import annotations

import asyncio

import pytest

from relay.acceptance import OWN_HOPS
from relay.bridges.bridge import Bridge, BridgeLimits, Credential
from relay.envelope import BodyFile, Content, Lane, Recipient
from relay.errors import SpoolError, SpoolFull, SpoolUnhealthy, StateUnavailable
from relay.state import Candidate
from tests.unit.delivery.rig import BODY, DOWN, GREYLISTED, HEAD, TAKEN, Rig, hourly, node, pool

APP = Bridge(name="app", pool="p", feedtype="transactional")
CAPPED = Bridge(name="app", pool="p", limits=BridgeLimits(caps=hourly(3)))


async def used(rig: Rig) -> int:
    usage = await rig.state.usage([Candidate("bridge:app", CAPPED.limits.caps)], now=rig.clock())
    return usage["bridge:app"][0].used


async def test_a_message_is_stored_before_the_client_hears_250_and_its_id_is_in_the_reply():
    async with Rig(running=False) as rig:
        rig.nodes["n1"].hangs = rig.nodes["n2"].hangs = asyncio.Event()
        reply = await rig.submit(APP)
        assert (reply.code, reply.enhanced) == (250, "2.0.0")
        (message,) = await rig.in_spool()
        assert message.id in reply.text
        assert (message.bridge, message.pool, message.feedtype) == ("app", "p", "transactional")
        (accepted,) = rig.seen.named("message.accepted")
        assert accepted.message_id == message.id
        assert accepted.data["recipients"] == ["a@dest.example"]


async def test_it_goes_out_at_once_with_our_trace_and_what_was_missing():
    async with Rig() as rig:
        await rig.submit(APP)
        await rig.turn()
        (call,) = rig.calls
        assert b"Received: from client" in call.content
        assert b"id " + call.id.encode() in call.content
        assert b"\r\nDate: " in call.content
        assert b"\r\nMessage-ID: <" in call.content
        assert call.content.endswith(BODY)


@pytest.mark.parametrize(
    ("error", "code", "enhanced"),
    [
        (SpoolFull("full"), 452, "4.3.1"),
        (SpoolUnhealthy("fsync failed"), 451, "4.3.0"),
        (SpoolError("?"), 451, "4.3.0"),
    ],
    ids=["full", "unhealthy", "other"],
)
async def test_a_store_that_fails_is_a_temporary_refusal(error, code, enhanced):
    async with Rig(running=False) as rig:
        rig.spool.fail["store"] = [error]
        reply = await rig.submit(APP)
        assert (reply.code, reply.enhanced) == (code, enhanced)
        assert await rig.in_spool() == []
        assert not rig.seen.named("message.accepted")
        assert (await rig.submit(APP)).code == 250


@pytest.mark.parametrize("fresh", [True, False], ids=["leased", "waiting"])
async def test_what_was_stored_too_late_is_refused_and_not_delivered(fresh):
    async with Rig() as rig:
        if not fresh:
            rig.dispatcher.takes_fresh = lambda message: False
        reply = await rig.submit(APP, within_s=-1.0)
        assert (reply.code, reply.enhanced) == (451, "4.4.5")
        await rig.turn()
        assert await rig.in_spool() == []
        assert not rig.calls
        assert not rig.seen.named("message.accepted")


async def test_what_was_stored_too_late_is_not_delivered_when_it_cannot_be_removed_at_once():
    async with Rig() as rig:
        rig.spool.fail["settle"] = [SpoolFull("full")]
        reply = await rig.submit(APP, within_s=-1.0)
        assert reply.code == 451
        await rig.turn()
        assert not rig.calls
        await rig.dispatcher.stop(asyncio.get_running_loop().time())
        assert await rig.in_spool() == []


async def test_what_was_stored_too_late_and_is_on_its_way_is_said_to_be():
    async with Rig() as rig:
        rig.dispatcher.takes_fresh = lambda message: False
        rig.nodes["n1"].hangs = rig.nodes["n2"].hangs = asyncio.Event()
        real = rig.spool.store

        async def store(message, content, *, lease):
            made = await real(message, content, lease=lease)
            rig.dispatcher.stored(message)
            await rig.until(lambda: rig.calls)
            return made

        rig.spool.store = store
        reply = await rig.submit(APP, within_s=-1.0)
        assert reply.code == 451
        assert "second copy" in rig.seen.named("relay.fault")[-1].data["error"]


async def test_bridge_caps_make_the_client_wait_and_count_only_what_was_taken():
    async with Rig(running=False) as rig:
        assert (await rig.submit(CAPPED, "a@d.example", "b@d.example")).code == 250
        refused = await rig.submit(CAPPED, "a@d.example", "b@d.example")
        assert (refused.code, refused.enhanced) == (452, "4.7.1")
        assert "in 36" in refused.text
        assert await used(rig) == 2
        rig.spool.fail["store"] = [SpoolFull("full")]
        assert (await rig.submit(CAPPED)).code == 452
        assert await used(rig) == 2
        assert (await rig.submit(CAPPED)).code == 250
        assert await used(rig) == 3


async def test_a_refused_direct_delivery_does_not_count_against_the_bridge():
    direct = Bridge(name="app", pool="p", direct=True, limits=BridgeLimits(caps=hourly(3)))
    async with Rig(running=False) as rig:
        rig.nodes["n1"].always = rig.nodes["n2"].always = GREYLISTED
        assert (await rig.submit(direct)).code == 451
        assert await used(rig) == 0


async def test_without_the_state_a_capped_bridge_waits_and_others_go_on():
    async with Rig(running=False) as rig:
        rig.state.away = StateUnavailable("away")
        assert (await rig.submit(CAPPED)).code == 451
        assert (await rig.submit(APP)).code == 250


async def test_a_message_that_goes_round_in_circles_is_refused():
    hop = b"Received: from x by relay.example (relay) with ESMTP id 1; Fri, 15 Jan 2027 08:00:00 +0000\r\n"
    async with Rig(running=False) as rig:
        reply = await rig.submit(APP, content=Content(hop * OWN_HOPS + HEAD, BODY))
        assert (reply.code, reply.enhanced) == (554, "5.4.6")
        assert (await rig.submit(APP, content=Content(hop * (OWN_HOPS - 1) + HEAD, BODY))).code == 250


async def test_a_bridge_of_a_pool_that_is_gone_is_a_temporary_refusal():
    async with Rig(running=False) as rig:
        reply = await rig.submit(Bridge(name="app", pool="gone"))
        assert reply.code == 451
        assert "gone" in rig.seen.named("relay.fault")[0].data["error"]


async def test_the_sender_policy_covers_the_from_field():
    strict = Bridge(name="app", pool="p", senders=("@acme.example",))
    async with Rig(running=False, bridges=(strict,)) as rig:
        assert (await rig.submit(strict)).code == 250
        forged = HEAD.replace(b"acme", b"other")
        assert (await rig.submit(strict, content=Content(forged, BODY))).code == 550


async def test_shutting_down_and_a_sick_spool_are_said_at_mail():
    async with Rig(running=False) as rig:
        assert rig.acceptance.check_open(1000) is None
        rig.spool.unhealthy_reason = lambda: "fsync failed"
        assert rig.acceptance.check_open(1000).code == 451
        rig.spool.unhealthy_reason = lambda: ""
        rig.spool.full_reason = lambda size=0: "full"
        assert rig.acceptance.check_open(1000).code == 452
        rig.acceptance.close()
        assert rig.acceptance.check_open(1000).code == 421


@pytest.mark.parametrize(("may_choose", "lane"), [(True, Lane.BULK), (False, Lane.TRANSACTIONAL)])
async def test_only_bridges_that_may_choose_choose_their_lane(may_choose, lane):
    head = HEAD + b"X-Relay-Lane: bulk\r\n"
    async with Rig(running=False) as rig:
        await rig.submit(Bridge(name="app", pool="p", may_choose=may_choose), content=Content(head, BODY))
        (message,) = await rig.in_spool()
        assert message.lane is lane


async def test_a_large_body_is_read_where_the_spool_keeps_it(tmp_path):
    path = tmp_path / "body"
    path.write_bytes(b"x\r\n" * 1000)
    async with Rig() as rig:
        offered = []
        real = rig.dispatcher.offer
        rig.dispatcher.offer = lambda lease, content: (offered.append(content), real(lease, content))
        assert (await rig.submit(APP, content=Content(HEAD, BodyFile(path, 3000)))).code == 250
        assert offered == [None]
        await rig.until(lambda: rig.calls)


async def test_bridges_are_known_by_the_gate():
    bridge = Bridge(name="app", pool="p", credentials=(Credential(username="u", secret="secret"),))
    async with Rig(running=False, bridges=(bridge,)) as rig:
        assert await rig.acceptance.authenticate("u", "secret", peer="192.0.2.1") == bridge
        assert rig.acceptance.bridge_for("192.0.2.1") is None
        assert rig.acceptance.admits(bridge)


@pytest.mark.parametrize("answer", [TAKEN, GREYLISTED, DOWN], ids=["taken", "deferred", "down"])
async def test_what_was_promised_is_delivered_or_there(answer):
    async with Rig(pools=(pool(node("n1")),)) as rig:
        rig.nodes["n1"].always = rig.nodes["n1"].well = answer
        for number in range(50):
            recipients = (Recipient(address=f"r{number}@dest.example"),)
            assert (await rig.submit(APP, recipients=recipients)).code == 250
        await rig.turn(200)
        delivered = len(rig.seen.named("attempt.delivered"))
        assert delivered + len(await rig.in_spool()) == 50


@pytest.mark.parametrize(
    ("fields", "may_choose", "ignored"),
    [
        pytest.param(b"X-Relay-Campaign: spring-2026\r\n", False, [], id="fine"),
        pytest.param(b"X-Relay-Campaign: spring sale!\r\n", False, ["x-relay-campaign"], id="not a tag"),
        pytest.param(b"X-Relay-Rotation: random\r\nX-Relay-Lane: bulk\r\n", True, [], id="may choose"),
        pytest.param(
            b"X-Relay-Rotation: random\r\nX-Relay-Lane: bulk\r\n",
            False,
            ["x-relay-rotation", "x-relay-lane"],
            id="may not choose",
        ),
        pytest.param(b"X-Relay-Rotation: clockwise\r\n", True, ["x-relay-rotation"], id="no such mode"),
        pytest.param(b"Bcc: a@dest.example\r\nX-Zone: mine\r\n", False, [], id="others are removed silently"),
    ],
)
async def test_control_fields_without_effect_are_told(fields, may_choose, ignored):
    async with Rig(running=False) as rig:
        bridge = Bridge(name="app", pool="p", may_choose=may_choose)
        assert (await rig.submit(bridge, content=Content(fields + HEAD, BODY))).code == 250
        (accepted,) = rig.seen.named("message.accepted")
        assert [word.partition(":")[0] for word in accepted.data.get("ignored_headers", [])] == ignored
