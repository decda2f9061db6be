"""The story of a message in words: one step for each event. Pure.

The words of upstreams are handed on as they came; templates escape them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relay.admin.web.words import clock, octets, plural, span

SHOWN_RECIPIENTS = 20

_TONES = {"chosen": "ok", "eligible": "ok"}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that was considered. `verdict`: `chosen`, `eligible`, or why it was skipped."""

    node: str
    verdict: str
    reason: str

    @property
    def tone(self) -> str:
        return _TONES.get(self.verdict, "idle")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """
    Attributes:
        answer: what the upstream said, word for word.
        facts: further names and values.
        times: how often in a row; `at` is the first and `last_at` the last of them (epoch seconds).
    """

    name: str
    tone: str
    title: str
    at: float
    last_at: float
    answer: str = ""
    detail: str = ""
    took_ms: float | None = None
    node: str = ""
    candidates: tuple[Candidate, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    times: int = 1


def steps(story: Sequence[Mapping[str, Any]]) -> list[Step]:
    found: list[Step] = []
    for event in story:
        step = _step(event)
        if found and step.name == "route.held" == found[-1].name:
            before = found.pop()
            step = _again(step, before)
        found.append(step)
    return found


def _again(step: Step, before: Step) -> Step:
    return Step(
        name=step.name, tone=step.tone, title=step.title, at=before.at, last_at=step.at, detail=step.detail,
        candidates=step.candidates, facts=step.facts, times=before.times + 1,
    )  # fmt: skip


def candidates(lines: Iterable[Any]) -> tuple[Candidate, ...]:
    """Of a route: triples of node, verdict and reason."""
    return tuple(Candidate(str(line[0]), str(line[1]), str(line[2])) for line in lines)


_ATTEMPTS = {
    "attempt.delivered": ("ok", "Taken by {node}"),
    "attempt.deferred": ("warn", "Put off by {node}"),
    "attempt.refused": ("bad", "Refused by {node}"),
    "attempt.uncertain": ("warn", "No clear answer from {node}: it may have arrived"),
}

_TITLES = {
    "route.held": ("warn", "Waits: no node may take it"),
    "message.failed": ("bad", "Refused for good"),
    "message.expired": ("bad", "Given up by age"),
    "message.quarantined": ("bad", "Set aside by the relay"),
    "message.dropped": ("bad", "Removed by an operator; the sender is not told"),
    "message.recovered": ("warn", "The relay ended during an attempt: a second copy may arrive"),
    "dsn.created": ("idle", "The sender is told"),
    "dsn.suppressed": ("idle", "The sender is not told"),
}

_SAID = frozenset(
    {"event", "at", "level", "route", "answer", "took_ms", "node", "why", "until", "recipients", "id", "session"}
    | {"attempted"}
)


def _step(event: Mapping[str, Any]) -> Step:
    name, at = str(event["event"]), float(event["at"])
    facts = tuple(
        (key.removesuffix("_s").replace("_", " "), _plain(key, value))
        for key, value in event.items()
        if key not in _SAID and value not in ("", None, [], 0, False)
    )
    recipients = _list(event.get("recipients", ()))
    shared: dict[str, Any] = {
        "name": name, "at": at, "last_at": at, "candidates": candidates(event.get("route", ())), "facts": facts,
    }  # fmt: skip
    if name == "message.accepted":
        return Step(
            **{**shared, "facts": tuple(fact for fact in facts if fact[0] not in ("sender", "size", "subject"))},
            tone="ok",
            title=f"Taken from {event.get('sender') or '<>'}, {octets(int(event.get('size', 0)))}",
            detail=f"for {recipients}",
        )
    if name in _ATTEMPTS:
        tone, title = _ATTEMPTS[name]
        offered = "" if event.get("attempted", True) else "; nothing was offered to it"
        return Step(
            **shared, tone=tone, title=title.format(node=event.get("node", "?")), node=str(event.get("node", "")),
            answer=str(event.get("answer", "")), took_ms=event.get("took_ms"),
            detail=f"for {recipients}{offered}",
        )  # fmt: skip
    if name == "route.held":
        until = event.get("until")
        why = "\n".join(str(line) for line in event.get("why", ()))
        shown = clock(float(until)) if isinstance(until, int | float) else ""
        return Step(
            **shared, tone="warn", title=f"Waits until {shown}: no node may take it" if shown else _TITLES[name][1],
            detail=why,
        )  # fmt: skip
    tone, title = _TITLES.get(name, ("bad" if event.get("level") == "error" else "idle", name))
    detail = str(event.get("why", "")) or (f"for {recipients}" if recipients else "")
    return Step(**shared, tone=tone, title=title, detail=detail)


def ended(story: Sequence[Mapping[str, Any]]) -> str:
    """What became of a message that has left the queue; empty when the story does not tell."""
    fate: dict[str, str] = {}
    words = {"attempt.delivered": "delivered", "message.expired": "given up"}
    for event in story:
        for recipient in event.get("recipients", ()):
            if event["event"] in words:
                fate[str(recipient)] = words[str(event["event"])]
            elif event["event"] == "message.failed" and isinstance(recipient, Mapping):
                fate[str(recipient.get("address", ""))] = "refused"
    found = [
        f"{word} for {plural(sum(each == word for each in fate.values()), 'recipient')}"
        for word in dict.fromkeys(fate.values())
    ]
    if any(event["event"] == "message.dropped" for event in story):
        found.append("removed by an operator")
    return ", ".join(found)


def _plain(key: str, value: Any) -> str:
    if key.endswith("_s") and isinstance(value, int | float):
        return span(float(value))
    if isinstance(value, list | tuple):
        return ", ".join(_plain("", each) for each in value[:SHOWN_RECIPIENTS])
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return str(value)


def _list(values: Iterable[Any]) -> str:
    words = [
        f"{value.get('address', '')} ({value.get('code') or ''} {value.get('text', '')})"
        if isinstance(value, Mapping)
        else str(value)
        for value in values
    ]
    more = len(words) - SHOWN_RECIPIENTS
    return ", ".join(words[:SHOWN_RECIPIENTS]) + (f" and {more} more" if more > 0 else "")
