"""Whether a message costs the same whatever else the relay holds and knows: the relay beside itself."""

from __future__ import annotations

from bench.load import Load
from bench.peers import LOGIN, STAMPS, Kind, Relay, Shape
from bench.scenarios import MOST_LOGINS, Scenario
from bench.targets import Target

TOLERANCE = 0.1
QUEUED, QUEUED_QUICKLY = 100_000, 10_000


def _relay(name: str, **shape: int) -> Kind:
    return Kind(name, Relay, STAMPS, shape=Shape(**shape))


def _is_flat(of: Kind, over: Kind) -> tuple[Target, ...]:
    return (
        Target(of=of.name, column="cpu_us", over=over.name, most=1 + TOLERANCE),
        Target(of=of.name, column="delivered", over=over.name, least=1 - TOLERANCE),
    )


def _beside(name: str, title: str, note: str, load: Load, messages: int, base: Kind, *others: Kind) -> Scenario:
    targets = tuple(target for other in others for target in _is_flat(other, base))
    kinds = (base, *others)
    return Scenario(
        name=name, title=title, note=note, load=load, messages=messages, kinds=kinds, base=base.name, targets=targets
    )


_ONE, _POOLS = _relay("1 pool"), _relay("500 pools", pools=500)
_BRIDGE, _BRIDGES = _relay("1 bridge"), _relay("10,000 bridges", bridges=10_000)


def scenarios(*, quick: bool) -> tuple[Scenario, ...]:
    most = QUEUED_QUICKLY if quick else QUEUED
    ten, thousand, many = (_relay(f"{n:,} queued", queued=n) for n in (10, 1000, most))
    return (
        _beside(
            "flat-queued",
            "20 sessions, 4 kB, while others wait in a pool whose node is paused",
            "the queue was filled before; clients are admitted by network",
            Load(sessions=20),
            5000,
            ten,
            thousand,
            many,
        ),
        _beside(
            "flat-pools",
            "20 sessions, 4 kB, all to one pool of many",
            "every pool has a node; clients are admitted by network",
            Load(sessions=20),
            5000,
            _ONE,
            _POOLS,
        ),
        _beside(
            "flat-pools-all",
            "100 sessions, 4 kB, each with the next of 500 bridges, connections kept",
            "one pool for all bridges, or one for each; this project's own source, AUTH once a session",
            Load(sessions=100, login=LOGIN),
            5000,
            _relay("500 bridges, 1 pool", bridges=500),
            _relay("500 bridges, 500 pools", bridges=500, pools=500),
        ),
        _beside(
            "flat-bridges",
            "20 sessions, 4 kB, each with a bridge of its own, connections kept",
            "this project's own source, AUTH once a session",
            Load(sessions=20, login=LOGIN),
            5000,
            _BRIDGE,
            _BRIDGES,
        ),
        _beside(
            "flat-bridges-all",
            "20 sessions, 4 kB, a new connection with the next bridge's AUTH for each message",
            f"mail of {MOST_LOGINS:,} of the bridges, a message of each before; this project's own source",
            Load(sessions=20, fresh=True, login=LOGIN),
            4000,
            _BRIDGE,
            _BRIDGES,
        ),
    )
