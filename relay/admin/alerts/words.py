"""An issue in words, and the body of a webhook. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from relay.admin.alerts.rules import Rule
from relay.admin.alerts.store import Issue

OPENED, CLOSED = "opened", "closed"

TEST = "test"
"""Key of what is no issue but a test."""


@dataclass(frozen=True, slots=True)
class Words:
    """`subject` is one line."""

    subject: str
    body: str


_WHAT = {
    Rule.CAP: "a cap is nearly used up",
    Rule.QUEUE: "mail waits too long",
    Rule.EXPIRY: "something expires",
    Rule.SPOOL: "a worker takes no mail",
}


def title(issue: Issue) -> str:
    """A line for lists."""
    if issue.key == TEST:
        return "this is a test of alerts"
    match issue.rule:
        case Rule.NODE:
            return f"node {issue.node} is deactivated"
        case Rule.RELOAD:
            return "a reload was undone" if issue.key.endswith("returned") else "a reload failed"
        case Rule.CAP | Rule.EXPIRY if issue.node:
            return f"{_WHAT[issue.rule]}: node {issue.node}"
        case Rule.QUEUE:
            return f"{_WHAT[issue.rule]}: pool {issue.pool}"
        case _:
            return _WHAT[Rule(issue.rule)]


def words(issue: Issue, what: str, hostname: str) -> Words:
    lines = [f"{title(issue)}.", "", f"Error:  {issue.error}"]
    if issue.last_error != issue.error:
        lines.append(f"Last:   {issue.last_error}")
    for label, value in (("Node:   ", issue.node), ("Pool:   ", issue.pool), ("Since:  ", _moment(issue.since))):
        if value:
            lines.append(f"{label}{value}")
    if what == CLOSED and issue.until is not None:
        lines += [f"Until:  {_moment(issue.until)}", f"Ended:  {issue.how}"]
    source = f"Issue {issue.number} of the relay" if issue.number else "The relay"
    lines += ["", f"{source} {hostname}."]
    mark = "over: " if what == CLOSED else ""
    subject = "".join(char if char.isprintable() else " " for char in f"[relay {hostname}] {mark}{title(issue)}")
    return Words(subject[:200], "\n".join(lines) + "\n")


def payload(issue: Issue, what: str) -> dict[str, Any]:
    """`data` of the webhook event `alert.opened` or `alert.closed`."""
    return {"what": what, **issue_row(issue)}


def issue_row(issue: Issue) -> dict[str, Any]:
    """As the API and the dashboard show it."""
    return {
        "number": issue.number,
        "rule": str(issue.rule),
        "title": title(issue),
        "state": "open" if issue.until is None else "closed",
        "node": issue.node,
        "pool": issue.pool,
        "error": issue.error,
        "last_error": issue.last_error,
        "since": issue.since,
        "until": issue.until,
        "how": issue.how,
    }


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
