"""What is a trouble, when it is over, and when it is told. Pure.

A trouble is known by its key, for example `node:primary`: as long as it lasts there is one issue of that key. It comes
from two sides. Events say exactly what happened and when, also of what is over between two looks; looks at the nodes,
queues and files find what no event told, for example after the control process was away. Both may say the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from relay.events import Event
from relay.pools.health import UNTESTED

CAP_MIN_WINDOW_S = 3600.0
"""Caps of seconds and minutes pace the mail; they are full all the time and nobody's trouble."""

CAP_AGAIN = 0.9
"""A cap that was told is over when its fill falls below this part of the threshold, lest it flutters."""


class Rule(StrEnum):
    """Words of `alerts.targets[].rules`."""

    NODE = "node"
    CAP = "cap"
    QUEUE = "queue"
    RELOAD = "reload"
    EXPIRY = "expiry"
    SPOOL = "spool"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """
    Attributes:
        error: in the words of who knows: the upstream's reply, the fault of the file.
        since: epoch seconds.
        is_there: a look has just seen it; what an event tells may be over by now.
    """

    key: str
    rule: Rule
    error: str
    since: float
    node: str = ""
    pool: str = ""
    is_there: bool = True


@dataclass(frozen=True, slots=True)
class Over:
    """The trouble of a key ended at `at`; `how` in words."""

    key: str
    at: float
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """As configured; 0 or False: not watched."""

    nodes: bool = True
    cap: int = 80
    queue_age_s: float = 900.0
    reload: bool = True
    expiry_s: float = 14 * 86400.0
    spool: bool = True


RELOAD_FAILED, RELOAD_RETURNED = "reload:failed", "reload:returned"


def node_key(node: str) -> str:
    return f"{Rule.NODE}:{node}"


def of_event(event: Event, thresholds: Thresholds) -> list[Trouble | Over]:
    """What an event begins or ends."""
    data, at = event.data, event.at
    match event.name:
        case "node.deactivated" | "node.check_failed" if thresholds.nodes:
            node = str(data["node"])
            error = str(data["test_status"])
            return [
                Trouble(
                    key=node_key(node), rule=Rule.NODE, error=error, since=at, node=node,
                    pool=str(data.get("pool", "")), is_there=False,
                )
            ]  # fmt: skip
        case "node.recovered":
            return [Over(node_key(str(data["node"])), at, "a test passed and the node is in use again")]
        case "node.ready":
            return [Over(node_key(str(data["node"])), at, "its first test passed")]
        case "node.resumed":
            return [Over(node_key(str(data["node"])), at, f"resumed by {data.get('by') or 'an operator'}")]
        case "relay.reload_failed" if thresholds.reload:
            return [Trouble(key=RELOAD_FAILED, rule=Rule.RELOAD, error=str(data["error"]), since=at, is_there=False)]
        case "relay.reload_returned" if thresholds.reload:
            error = f"delivery broke after the reload and the configuration before it is back: {data['why']}"
            return [Trouble(key=RELOAD_RETURNED, rule=Rule.RELOAD, error=error, since=at, is_there=False)]
        case "relay.reloaded":
            how = "a reload succeeded"
        case "relay.started":
            how = "the relay was started anew and read its files"
        case _:
            return []
    return [Over(RELOAD_FAILED, at, how), Over(RELOAD_RETURNED, at, how)]


def of_nodes(rows: Sequence[Mapping[str, Any]], open_keys: Collection[str], now: float) -> list[Trouble | Over]:
    """Nodes as they stand now; `open_keys`: keys of issues that are open."""
    found: list[Trouble | Over] = []
    there = set()
    for row in rows:
        key = node_key(row["name"])
        there.add(key)
        if row["status"] == "inactive" and row["test_status"] != UNTESTED:
            found.append(
                Trouble(
                    key=key, rule=Rule.NODE, error=row["test_status"], since=row["since"] or now, node=row["name"],
                    pool=row["pool"],
                )
            )  # fmt: skip
        elif row["status"] == "active" and key in open_keys:
            found.append(Over(key, now, "the node is in use again"))
    gone = [key for key in open_keys if key.startswith(node_key("")) and key not in there]
    return found + [Over(key, now, "the node was removed from the configuration") for key in gone]


def of_caps(
    rows: Sequence[Mapping[str, Any]], percent: int, open_keys: Collection[str], now: float
) -> list[Trouble | Over]:
    """Caps as they are filled now."""
    found: list[Trouble] = []
    for row in rows:
        for cap in row["caps"]:
            key = f"{Rule.CAP}:{row['name']}:{cap['window_s']:g}"
            threshold = percent * (CAP_AGAIN if key in open_keys else 1.0)
            if not percent or cap["window_s"] < CAP_MIN_WINDOW_S or cap["used"] * 100 < threshold * cap["limit"]:
                continue
            used = f"{cap['used']} of {cap['limit']} recipients in {_window(cap['window_s'])}"
            found.append(
                Trouble(
                    key=key, rule=Rule.CAP, error=f"{used} ({100 * cap['used'] // cap['limit']} %)", since=now,
                    node=row["name"], pool=row["pool"],
                )
            )  # fmt: skip
    return found + ended(Rule.CAP, found, open_keys, now, "the cap has room again")


@dataclass(frozen=True, slots=True)
class Oldest:
    """The oldest message of a pool that is queued and not held. `why`: it waits."""

    pool: str
    received_at: float
    why: str


def of_queues(oldest: Sequence[Oldest], age_s: float, open_keys: Collection[str], now: float) -> list[Trouble | Over]:
    """Pools whose mail waits too long."""
    found: list[Trouble] = []
    for each in oldest:
        if age_s and now - each.received_at > age_s:
            error = f"the oldest message of pool {each.pool} has waited for {_span(now - each.received_at)}"
            error += f": {each.why}" if each.why else ""
            found.append(
                Trouble(key=f"{Rule.QUEUE}:{each.pool}", rule=Rule.QUEUE, error=error, since=now, pool=each.pool)
            )
    return found + ended(Rule.QUEUE, found, open_keys, now, "no message waits that long any more")


def of_workers(
    unhealthy: Mapping[str, str], is_watched: bool, open_keys: Collection[str], now: float
) -> list[Trouble | Over]:
    """`unhealthy`: shard of each worker that answered → why it takes no mail, or empty."""
    found = [
        Trouble(key=f"{Rule.SPOOL}:{shard}", rule=Rule.SPOOL, error=f"worker {shard} takes no mail: {why}", since=now)
        for shard, why in unhealthy.items()
        if why and is_watched
    ]
    answered = {f"{Rule.SPOOL}:{shard}" for shard in unhealthy}
    # Of a worker that is silent nothing is known: its issue stays as it is.
    concerned = [key for key in open_keys if key in answered] if is_watched else open_keys
    return found + ended(Rule.SPOOL, found, concerned, now, "the worker takes mail again")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiring:
    """Something with an end: `what` in words, `id` for the key."""

    id: str
    what: str
    ends: float
    remedy: str
    node: str = ""
    pool: str = ""


def of_expiries(
    things: Sequence[Expiring], within_s: float, open_keys: Collection[str], now: float
) -> list[Trouble | Over]:
    """Certificates and consents that end soon, or have ended."""
    found: list[Trouble] = []
    for thing in things:
        if within_s and thing.ends - now < within_s:
            left = thing.ends - now
            when = f"ends in {_span(left)}" if left > 0 else f"ended {_span(-left)} ago"
            found.append(
                Trouble(
                    key=f"{Rule.EXPIRY}:{thing.id}", rule=Rule.EXPIRY, error=f"{thing.what} {when}; {thing.remedy}",
                    since=now, node=thing.node, pool=thing.pool,
                )
            )  # fmt: skip
    return found + ended(Rule.EXPIRY, found, open_keys, now, "it was renewed, or is used no more")


def ended(
    rule: Rule, found: Sequence[Trouble], open_keys: Collection[str], now: float, how: str
) -> list[Trouble | Over]:
    """Issues of a rule whose trouble was not found again."""
    still = {trouble.key for trouble in found}
    return [Over(key, now, how) for key in open_keys if key.startswith(f"{rule}:") and key not in still]


def tell_at(last_told: float | None, now: float, quiet_s: float) -> float:
    """When the opening of an issue is told: now, or when the quiet time since its key was told last is over. By then
    it may have closed again, and nobody is bothered."""
    return now if last_told is None else max(now, last_told + quiet_s)


class Notified(StrEnum):
    """How the telling of an opening stands."""

    UNTRIED = "untried"  # it waits for its time
    TRIED = "tried"  # it was told, or perhaps


def tells_end(opening: Notified, *, wants_recovery: bool) -> bool:
    """Whether the end of an issue is told: to who may have heard of its beginning."""
    return wants_recovery and opening is Notified.TRIED


def carrier(bridges: Sequence[tuple[str, str]], trouble_pool: str, pools_in_trouble: Collection[str]) -> str | None:
    """The bridge that carries a mail about trouble.

    Args:
        bridges: name and pool of each, in the order of the target.
        trouble_pool: pool the trouble is in; empty for none.
        pools_in_trouble: pools with open issues: taken only when there is no better one.

    Returns:
        Its name; None when all lead into the pool in trouble.
    """
    fit = [(name, pool) for name, pool in bridges if not trouble_pool or pool != trouble_pool]
    well = [name for name, pool in fit if pool not in pools_in_trouble]
    return next(iter([*well, *(name for name, _ in fit)]), None)


def _window(seconds: float) -> str:
    return {3600.0: "an hour", 86400.0: "a day"}.get(seconds, _span(seconds))


def _span(seconds: float) -> str:
    """`47 s`, `16 min`, `3 h`, `12 days`."""
    for size, word in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size or (word == "min" and seconds >= size):
            return f"{int(seconds // size)} {word}"
    return f"{int(seconds)} s"
