"""How much nodes may send: what their caps come to in an hour. Pure, over the rows of `Overview.nodes`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """Recipients an hour over several nodes.

    Attributes:
        now: of the nodes that may be used now; all: of every node.
        used: handed to nodes with caps in the last hour, as far as a window of an hour tells.
        boundless: nodes without caps that may be used; what they take is in no figure.
        available, nodes: how many.
    """

    now: int
    all: int
    used: int
    boundless: int
    available: int
    nodes: int


def hourly(caps: Iterable[Mapping[str, Any]]) -> int | None:
    """Most recipients in any hour under all of these caps; None without caps. A longer window lets all it has go in
    one hour, a shorter one repeats."""
    limits = [cap["limit"] * max(1.0, HOUR_S / cap["window_s"]) for cap in caps]
    return int(min(limits)) if limits else None


def ceiling(nodes: Iterable[Mapping[str, Any]]) -> Ceiling:
    now = every = used = boundless = available = count = 0
    for node in nodes:
        count += 1
        is_free = not node["unavailable"]
        available += is_free
        most = hourly(node["caps"])
        if most is None:
            boundless += is_free
            continue
        every += most
        now += most if is_free else 0
        used += max((cap["used"] for cap in node["caps"] if cap["window_s"] <= HOUR_S), default=0)
    return Ceiling(now=now, all=every, used=used, boundless=boundless, available=available, nodes=count)
