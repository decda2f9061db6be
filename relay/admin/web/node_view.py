"""A node as pages show it. Pure, over the rows of the services."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Bar:
    """Fill of a cap. `free_at`: when there is room again, None while there is."""

    window_s: float
    used: int
    limit: int
    free_at: float | None
    source: str

    @property
    def percent(self) -> int:
        return min(100, round(100 * self.used / self.limit)) if self.limit else 100

    @property
    def tone(self) -> str:
        return "bad" if self.used >= self.limit else "warn" if self.used >= 0.8 * self.limit else "ok"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """
    Attributes:
        state: one word; tone: `ok`, `warn`, `bad` or `idle`.
        why: what keeps it from being used, in the upstream's words; until: when that may end, epoch seconds.
    """

    name: str
    pool: str
    type: str
    state: str
    tone: str
    why: str
    until: float | None
    next_check: float | None
    since: float | None
    in_flight: int
    bars: tuple[Bar, ...]
    sent: int
    delivered: int
    bounced: int
    deferred: int
    uncertain: int

    @property
    def is_watched(self) -> bool:
        """Deactivated, and tested until it is well."""
        return self.state == "inactive" and self.next_check is not None


def node_view(row: Mapping[str, Any]) -> NodeView:
    """
    Args:
        row: of `Nodes.list` (with `state`), or of `Overview.nodes`.
    """
    state = row["state"] if "state" in row and "status" not in row else row
    if state is None:
        return NodeView(
            name=row["name"], pool=row["pool"], type=row["type"], state="not running", tone="idle",
            why="the running relay does not have it yet", until=None, next_check=None, since=None, in_flight=0, bars=(),
            sent=0, delivered=0, bounced=0, deferred=0, uncertain=0,
        )  # fmt: skip
    counts = state["counts"]
    word, tone, why, until = _standing(state)
    return NodeView(
        name=row["name"],
        pool=row["pool"],
        type=row["type"],
        state=word,
        tone=tone,
        why=why,
        until=until,
        next_check=state["next_check"],
        since=state["since"],
        in_flight=state.get("attempts", 0),
        bars=tuple(
            Bar(cap["window_s"], cap["used"], cap["limit"], cap["free_at"], cap["source"]) for cap in state["caps"]
        ),
        sent=counts.get("sent", 0),
        delivered=counts.get("delivered", 0),
        bounced=counts.get("refused", 0),
        deferred=counts.get("deferred", 0),
        uncertain=counts.get("uncertain", 0),
    )


def _standing(state: Mapping[str, Any]) -> tuple[str, str, str, float | None]:
    match state["status"]:
        case "inactive":
            return "inactive", "bad", str(state["test_status"]), state["next_check"]
        case "paused":
            by = f" (by {state['paused_by']})" if state["paused_by"] else ""
            return "paused", "idle", f"{state['pause_reason']}{by}", state["paused_until"]
        case _ if state["cool_until"]:
            return "cooling", "warn", str(state["cool_reason"]), state["cool_until"]
        case _ if state["unavailable"]:
            return "cooling", "warn", str(state["unavailable"]), None
    full = [cap for cap in state["caps"] if cap["free_at"]]
    if full:
        return "at its cap", "warn", "", max(cap["free_at"] for cap in full)
    return "active", "ok", "", None
