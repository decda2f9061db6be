"""Caps that vendors tell: merged with the operator's, asked again, and never a reason to stop."""

from __future__ import annotations

import asyncio

import pytest

from relay.delivery.fleet import Fleet
from relay.delivery.quotas import Quotas, effective
from relay.events import Events
from relay.pools.pool import Cap, Node, Pool, Rotation

SECOND, DAY = Cap(window_s=1.0, limit=14, source="SES account"), Cap(window_s=86400.0, limit=200, source="SES account")


@pytest.mark.parametrize(
    ("own", "vendors", "expected"),
    [
        ((), (), ()),
        ((), (DAY, SECOND), (SECOND, DAY)),
        ((Cap(window_s=86400.0, limit=50),), (DAY,), (Cap(window_s=86400.0, limit=50),)),
        (
            (Cap(window_s=86400.0, limit=5000, spread=True), Cap(window_s=3600.0, limit=9)),
            (DAY,),
            (Cap(window_s=3600.0, limit=9), Cap(window_s=86400.0, limit=200, spread=True, source="SES account")),
        ),
        ((Cap(window_s=86400.0, limit=200),), (DAY,), (Cap(window_s=86400.0, limit=200),)),
    ],
    ids=["none", "the vendor's alone", "the operator's is smaller", "the vendor's is smaller", "equal"],
)
def test_in_each_window_the_smaller_one_holds(
    own: tuple[Cap, ...], vendors: tuple[Cap, ...], expected: tuple[Cap, ...]
) -> None:
    assert effective(own, vendors) == expected


class Vendor:
    """A driver that tells a quota."""

    tells_quota = True

    def __init__(self, *answers: tuple[Cap, ...] | Exception | None) -> None:
        self.answers = list(answers)

    async def quota(self) -> tuple[Cap, ...] | None:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        """Nothing to end."""


class Plain:
    """A driver without."""


class Rig:
    """Quotas over one pool of nodes with these drivers."""

    def __init__(self, **drivers: object) -> None:
        self.pool = Pool(
            name="main",
            id=1,
            internal_name="acme-1-m-pool-1",
            mta="m",
            zone="z",
            feedtype="t",
            rotation=Rotation.RANDOM,
            nodes=tuple(Node(name=name, pool="main", type="ses") for name in drivers),
        )
        self.seen: list[list[tuple[Cap, ...]]] = []
        self.events: list[object] = []
        self.fleet = Fleet([self.pool], drivers, lambda _: None)  # type: ignore[arg-type]
        self.quotas = Quotas(self.fleet, Events([self], lambda: 0.0), self._changed)

    def emit(self, event: object) -> None:
        self.events.append(event)

    def _changed(self) -> None:
        self.seen.append([node.caps for node in self.quotas.over({"main": self.pool})["main"].nodes])


async def test_what_changed_is_told_once() -> None:
    raised = Cap(window_s=86400.0, limit=1000, source="SES account")
    rig = Rig(ses=Vendor((DAY,), (DAY,), None, (raised,)), smtp=Plain())
    pools = {"main": rig.pool}
    assert rig.quotas.over(pools)["main"] is rig.pool
    assert await rig.quotas.refresh()
    assert await rig.quotas.refresh()
    assert not await rig.quotas.refresh(), "no answer is asked for again soon, and what was told holds"
    assert rig.quotas.over(pools)["main"].nodes[0].caps == (DAY,)
    assert await rig.quotas.refresh()
    assert rig.seen == [[(DAY,), ()], [(raised,), ()]]
    assert rig.quotas.over(pools)["main"].nodes[1] is rig.pool.nodes[1]


async def test_a_driver_that_breaks_over_it_changes_nothing() -> None:
    rig = Rig(ses=Vendor(RuntimeError("x")))
    assert not await rig.quotas.refresh()
    assert rig.seen == []
    assert len(rig.events) == 1


async def test_nobody_to_ask_is_a_complete_answer() -> None:
    silent = Vendor()
    silent.tells_quota = False
    rig = Rig(a=Plain(), b=silent)
    assert await rig.quotas.refresh()
    assert rig.seen == []


async def test_a_node_that_is_gone_is_forgotten_and_a_new_one_is_asked_at_once() -> None:
    rig = Rig(ses=Vendor((DAY,)))
    task = asyncio.create_task(rig.quotas.run())
    while not rig.seen:
        await asyncio.sleep(0)
    other = Vendor((SECOND,))
    fresh = Rig(ses2=other)
    rig.pool = fresh.pool
    rig.fleet.replace({"main": fresh.pool}, {"ses2": other})  # type: ignore[dict-item]
    rig.quotas.look_anew()
    while len(rig.seen) < 2:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert rig.seen[1] == [(SECOND,)]
