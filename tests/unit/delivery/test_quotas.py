"""Caps that vendors tell: merged with the operator's, asked again, and never a reason to stop."""

from __future__ import annotations

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


class Plain:
    """A driver without."""


def _rig(**drivers: object) -> tuple[Quotas, list[list[tuple[str, tuple[Cap, ...]]]], list[str]]:
    pool = Pool(
        name="main",
        id=1,
        internal_name="acme-1-m-pool-1",
        mta="m",
        zone="z",
        feedtype="t",
        rotation=Rotation.RANDOM,
        nodes=tuple(Node(name=name, pool="main", type="ses") for name in drivers),
    )
    seen: list[list[tuple[str, tuple[Cap, ...]]]] = []
    faults: list[str] = []

    class Sink:
        def emit(self, event: object) -> None:
            faults.append(str(event))

    fleet = Fleet([pool], drivers, lambda _: None)  # type: ignore[arg-type]
    quotas = Quotas(
        [pool],
        fleet,
        Events([Sink()], lambda: 0.0),  # type: ignore[list-item]
        lambda pools: seen.append([(n.name, n.caps) for p in pools for n in p.nodes]),
    )
    return quotas, seen, faults


async def test_what_changed_is_told_once() -> None:
    raised = Cap(window_s=86400.0, limit=1000, source="SES account")
    quotas, seen, _ = _rig(ses=Vendor((DAY,), (DAY,), None, (raised,)), smtp=Plain())
    assert await quotas.refresh(["ses"])
    assert await quotas.refresh(["ses"])
    assert not await quotas.refresh(["ses"]), "no answer is asked for again soon, and what was told holds"
    assert await quotas.refresh(["ses"])
    assert seen == [[("ses", (DAY,)), ("smtp", ())], [("ses", (raised,)), ("smtp", ())]]


async def test_a_driver_that_breaks_over_it_changes_nothing() -> None:
    quotas, seen, faults = _rig(ses=Vendor(RuntimeError("x")))
    assert not await quotas.refresh(["ses"])
    assert seen == []
    assert len(faults) == 1


async def test_without_anybody_to_ask_it_ends() -> None:
    silent = Vendor()
    silent.tells_quota = False
    quotas, seen, _ = _rig(a=Plain(), b=silent)
    await quotas.run()
    assert seen == []
