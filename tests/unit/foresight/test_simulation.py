"""The simulation against what can be worked out by hand, and against itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from relay.bridges.bridge import Bridge
from relay.envelope import Lane
from relay.events import Event
from relay.foresight.simulation import Failure, Report, Simulation
from relay.foresight.traffic import plain, read_sample, replayed, steady
from relay.pools.health import HealthPolicy
from relay.pools.pool import Cap, Pool, Rotation
from relay.schedule import RetryPolicy
from tests.unit.delivery.rig import node, pool

START = 1_800_000_000.0
BRIDGE = Bridge(name="b", pool="p")
MAIL = Path(__file__).parents[2] / "data" / "mail"


async def simulated(
    pools: Sequence[Pool],
    messages: int,
    per_hour: float = float("inf"),
    *,
    failures: Sequence[Failure] = (),
    recipients: int = 1,
    bridges: Sequence[Bridge] = (BRIDGE,),
    latency_s: float = 0.5,
    **policies: Any,
) -> Report:
    given = {"health": HealthPolicy(), "retry": RetryPolicy(), "shares": {}, **policies}
    simulation = Simulation(pools, failures=failures, latency_s={"": latency_s}, start=START, **given)
    return await simulation.run(
        steady([plain(recipients=recipients)], bridges, messages=messages, per_hour=per_hour, start=START)
    )


def hourly(limit: int) -> tuple[Cap, ...]:
    return (Cap(window_s=3600.0, limit=limit),)


async def test_turns_are_shared_as_the_rotation_says() -> None:
    one = pool(node("a", weight=5), node("b", weight=2), node("c", weight=3), rotation=Rotation.WEIGHTED)
    report = await simulated([one], 1000, 3600)
    assert {name: found.recipients for name, found in report.nodes.items()} == {"a": 500, "b": 200, "c": 300}
    assert (report.delivered, report.expired, report.wait(1.0), report.peak) == (1000, 0, 0.0, 0)


async def test_a_cap_bites_when_it_is_full_and_the_backlog_clears_when_it_has_room() -> None:
    """1,500 in half an hour through 1,000 an hour: full after 20 minutes, the rest goes when the first hour is over."""
    report = await simulated([pool(node("a", caps=hourly(1000)))], 1500, 3000)
    found = report.nodes["a"]
    assert found.recipients == report.delivered == 1500
    bite = found.caps[3600.0]
    assert (bite.limit, bite.first) == (1000, pytest.approx(1200, abs=5))
    assert report.peak == pytest.approx(500, abs=2)
    assert report.cleared_at == pytest.approx(3600 + 600, abs=30)
    assert report.wait(1.0) == pytest.approx(2400, abs=30)
    assert report.wait(0.5) == 0.0


async def test_connections_and_latency_bound_the_rate() -> None:
    """One connection, half a second for each."""
    report = await simulated([pool(node("a", connections=1))], 100)
    assert report.cleared_at == pytest.approx(50.0)
    assert report.wait(1.0) == pytest.approx(49.5)


async def test_a_failing_node_gives_its_mail_to_the_other_and_comes_back_after_a_test() -> None:
    failures = [Failure("a", 600.0, 2000.0)]
    report = await simulated([pool(node("a"), node("b"))], 3600, 3600, failures=failures)
    down, up = report.nodes["a"], report.nodes["b"]
    assert report.delivered == 3600
    assert down.faults == 1
    # Taken out at 600, tested every 900 s: 1500 fails, 2400 passes.
    assert down.down_s == pytest.approx(1800, abs=5)
    assert down.recipients == pytest.approx(900, abs=5)
    assert up.recipients == 3600 - down.recipients


async def test_when_nobody_is_well_mail_waits_for_the_test_and_the_oldest_is_given_up() -> None:
    failures = [Failure("a", 0.0, 3000.0)]
    waited = await simulated([pool(node("a"))], 100, 360, failures=failures)
    assert (waited.delivered, waited.expired) == (100, 0)
    # Out with the first message, tested at 900, 1800, 2700 and then 3600.
    assert waited.wait(1.0) == pytest.approx(3600, abs=61)
    short = RetryPolicy(intervals_s=(60.0,), max_age_s=1800.0)
    gone = await simulated([pool(node("a"))], 100, 360, failures=failures, retry=short)
    assert gone.expired == 100
    assert gone.delivered == 0


async def test_recipients_beyond_what_a_node_takes_at_once_go_in_batches() -> None:
    report = await simulated([pool(node("a", max_recipients=10, caps=hourly(1000)))], 10, recipients=35)
    assert report.delivered == 10
    assert (report.nodes["a"].recipients, report.nodes["a"].attempts) == (350, 40)


async def test_lanes_and_pools_are_those_of_the_bridges() -> None:
    bulk = Bridge(name="bulk", pool="q", lane=Lane.BULK)
    report = await simulated([pool(node("a")), pool(node("z"), name="q")], 10, bridges=[BRIDGE, bulk])
    assert {name: found.recipients for name, found in report.nodes.items()} == {"a": 5, "z": 5}
    lost = await simulated([pool(node("a"))], 4, bridges=[BRIDGE, bulk])
    assert (lost.delivered, lost.expired) == (2, 2)


async def test_the_same_seed_gives_the_same_report() -> None:
    pools = [pool(node("a", caps=hourly(50)), node("b"), node("c"), rotation=Rotation.RANDOM)]
    first, second = [await simulated(pools, 500, 2000) for _ in range(2)]
    assert first == second


async def test_no_cap_is_ever_exceeded() -> None:
    one = pool(node("a", caps=(Cap(window_s=1.0, limit=3), Cap(window_s=3600.0, limit=700))))
    report = await simulated([one], 1000, 100_000)
    assert report.cleared_at > 3600
    assert report.delivered == 1000


def test_a_sample_is_read_as_the_relay_would_see_it(tmp_path: Path) -> None:
    folder = read_sample(MAIL)
    assert len(folder) == len(list(MAIL.glob("*.eml")))
    single = read_sample(MAIL / "plain.eml")
    assert single[0].size == len((MAIL / "plain.eml").read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    box = tmp_path / "box"
    text = "X-Relay-Campaign: spring\nFrom: shop@acme.example\nTo: a@x.example,\n b@x.example\nCc: c@x.example\n\nhi\n"
    box.write_text(f"From shop Thu Jan  1 00:00:00 2026\n{text}\nFrom shop Thu Jan  1 00:00:00 2026\n{text}")
    first, second = read_sample(box)
    assert first == second
    assert (first.recipients, first.campaign, first.facts.from_domain) == (3, "spring", "acme.example")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="no message"):
        read_sample(empty)


def test_history_comes_again_at_its_pace_through_the_bridges_there_are() -> None:
    def accepted(at: float, bridge: str, recipients: int) -> Event:
        data = {"bridge": bridge, "recipients": ["x"] * recipients, "size": 5, "sender": "a@acme.example"}
        return Event("message.accepted", at, "info", "id", data)

    events = [accepted(100.0, "b", 2), accepted(103.0, "gone", 1), accepted(110.0, "b", 1)]
    first, second = replayed(events, [BRIDGE], start=START)
    assert (first.received_at, len(first.recipients), first.facts.from_domain) == (START, 2, "acme.example")
    assert (second.received_at, second.pool) == (START + 10, "p")
