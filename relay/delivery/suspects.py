"""Which message is to blame when the process dies again and again: a decision over crash counts.

A crash with many attempts open blames nobody: one of them may be poison, or somebody pulled the plug. So a message that
was open twice is tried alone after the next start, before all others; when the process dies during that, the message
is known to be why (R32). One that kills slowly, long after others were started beside it, is set aside by its count.

Pure.
"""

from __future__ import annotations

from enum import StrEnum

SUSPECT = 2
"""Crashes after which a message is tried alone."""

POISON = 3
"""Crashes and unforeseen failures after which a message is set aside, when it alone can have been the reason."""

CERTAIN = 6
"""Crashes after which it is set aside whatever else was going on."""


class Verdict(StrEnum):
    BYSTANDER = "bystander"
    SUSPECT = "suspect"
    POISON = "poison"


def judge(crashes: int, *, open_attempts: int) -> Verdict:
    """What to think of a message whose attempt was open when the process died.

    Args:
        crashes: how often that has happened to it, the last time included.
        open_attempts: how many were open the last time, its own included.
    """
    if crashes >= (POISON if open_attempts <= 1 else CERTAIN):
        return Verdict.POISON
    return Verdict.SUSPECT if crashes >= SUSPECT else Verdict.BYSTANDER
