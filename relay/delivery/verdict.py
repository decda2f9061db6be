"""What the test of a node's connection says about the node. Pure."""

from __future__ import annotations

from enum import StrEnum

from relay.outcome import Outcome, Scope, Status


class Verdict(StrEnum):
    WELL = "well"
    SLOWER = "slower"  # it knows us, and asks for a slower pace: well, and cooling
    FAILED = "failed"
    NOTHING = "nothing"  # our own trouble: says nothing about a node that is active


def verdict_of(outcome: Outcome) -> Verdict:
    """By the rule that an upstream which says "slower" is never broken, and that ours is not its fault."""
    if outcome.status is Status.DELIVERED:
        return Verdict.WELL
    if outcome.scope is Scope.QUOTA:
        return Verdict.SLOWER
    if outcome.status is Status.DEFERRED and outcome.scope is Scope.MESSAGE:
        return Verdict.NOTHING
    return Verdict.FAILED
