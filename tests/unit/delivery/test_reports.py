"""Reports to senders: which failures are told, once, before they are settled (R35)."""

from __future__ import annotations

import pytest

from relay.envelope import RecipientStatus
from relay.errors import SpoolFull
from relay.outcome import RecipientOutcome
from tests.unit.delivery.rig import BODY, SPAM, TAKEN, UNKNOWN_USER, FaultySpool, Rig, node, pool

ONE = (pool(node("n1")),)


async def test_the_report_is_stored_before_the_failure_is_settled():
    async with Rig(pools=ONE) as rig:
        rig.nodes["n1"].always = UNKNOWN_USER
        rig.spool.log.clear()
        await rig.send()
        await rig.until(lambda: not rig.spool._kept)
        order = [name for name in rig.spool.log if name in ("store", "settle")]
        assert order[:3] == ["store", "store", "settle"]


async def test_a_crash_between_report_and_settlement_repeats_the_report():
    async with Rig(pools=ONE) as rig:
        rig.nodes["n1"].always = lambda outbound: [] if not outbound.sender else [_refused(outbound)]
        message = await rig.send()

        async def dead(*_, **__):
            raise SpoolFull("dead")

        rig.spool.settle = dead
        await rig.until(lambda: rig.seen.named("dsn.created"))
        kept = rig.spool._kept[message.id]
        assert kept.message.recipients[0].status is RecipientStatus.PENDING
        del rig.spool.settle
        kept.leases.clear()
        await rig.spool.recover(rig.clock())
        await rig.until(lambda: len(rig.seen.named("dsn.created")) == 2, within_s=200)


def _refused(outbound):
    return RecipientOutcome(outbound.recipients[0].address, UNKNOWN_USER)


async def test_a_report_goes_to_the_sender_through_the_pool_and_returns_the_message():
    async with Rig(pools=ONE) as rig:
        rig.nodes["n1"].answers = [SPAM]
        message = await rig.send()
        await rig.until(lambda: len(rig.calls) == 2)
        report = rig.calls[1]
        assert report.recipients == ("shop@acme.example",)
        assert b"554 5.7.1 spam" in report.content or b"spam" in report.content
        assert BODY.strip() in report.content
        assert message.id.encode() in report.content
        assert rig.seen.named("dsn.created")[0].data["dsn_id"] == report.id


async def test_a_report_that_fails_is_not_reported():
    async with Rig(pools=ONE) as rig:
        rig.nodes["n1"].always = UNKNOWN_USER
        await rig.send()
        await rig.until(lambda: not rig.spool._kept)
        assert len(rig.seen.named("dsn.created")) == 1
        (suppressed,) = rig.seen.named("dsn.suppressed")
        assert "null reverse-path" in suppressed.data["why"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"sender": ""}, "null reverse-path"),
        ({"sender": "mailer-daemon@relay.example"}, "own reporting address"),
        ({"sender": "nobody"}, "no domain"),
    ],
)
async def test_failures_nobody_can_be_told_of_are_settled_and_say_why(changes, why):
    async with Rig(pools=ONE) as rig:
        rig.nodes["n1"].always = UNKNOWN_USER
        await rig.send(**changes)
        await rig.until(lambda: not rig.spool._kept)
        assert why in rig.seen.named("dsn.suppressed")[0].data["why"]


async def test_reports_can_be_switched_off():
    async with Rig(pools=ONE, reports_enabled=False) as rig:
        rig.nodes["n1"].always = UNKNOWN_USER
        await rig.send()
        await rig.until(lambda: not rig.spool._kept)
        assert "switched off" in rig.seen.named("dsn.suppressed")[0].data["why"]


async def test_all_recipients_that_fail_together_are_in_one_report():
    async with Rig(pools=ONE) as rig:
        rig.nodes["n1"].answers = [UNKNOWN_USER]
        await rig.send("a@dest.example", "b@dest.example")
        await rig.until(lambda: rig.seen.named("dsn.created"))
        assert rig.seen.named("dsn.created")[0].data["recipients"] == ["a@dest.example", "b@dest.example"]


async def test_a_full_queue_of_undeliverable_mail_empties_itself():
    """Each failure needs room for its report first."""
    async with Rig(pools=ONE, spool=FaultySpool(max_messages=20), running=False) as rig:
        for _ in range(20):
            await rig.store()
        with pytest.raises(SpoolFull):
            await rig.store()
        rig.nodes["n1"].always = UNKNOWN_USER
        rig.start()
        await rig.until(lambda: not rig.spool._kept)
        assert len(rig.seen.named("dsn.created")) == 20


@pytest.mark.parametrize(
    ("domains", "sender"),
    [
        pytest.param([()], "MAILER-DAEMON@relay.example", id="any domain"),
        pytest.param([("acme.example", "relay.example")], "MAILER-DAEMON@relay.example", id="its own"),
        pytest.param([("zoo.example", "acme.example")], "MAILER-DAEMON@acme.example", id="that of the message"),
        pytest.param([("acme.example",), ()], "MAILER-DAEMON@relay.example", id="one node takes any"),
    ],
)
async def test_a_report_comes_from_a_domain_that_the_pool_can_send_for(domains, sender):
    nodes = [node(f"n{number}", sender_domains=frozenset(names)) for number, names in enumerate(domains)]
    async with Rig(pools=(pool(*nodes),)) as rig:
        for each in nodes:
            rig.nodes[each.name].always = lambda outbound: [_refused(outbound)] if outbound.sender else TAKEN
        message = await rig.send()
        (report,) = await rig.until(lambda: [call for call in rig.calls if call.id != message.id])
        assert f"<{sender}>".encode() in report.content.split(b"\r\n\r\n")[0]
